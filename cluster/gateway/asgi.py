"""HTTP by hand where it matters: bodies bounded as they arrive, clients watched as they wait, errors in one shape."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

from opentelemetry.trace import SpanKind
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from actors.base.errors import InvalidArgument, RussetError, TooLarge, Unavailable, mapping_of
from actors.base.telemetry import Telemetry, extracted
from cluster.gateway.caller import Caller
from cluster.gateway.config import GatewayConfig
from cluster.gateway.errors import body_of, headers_of
from cluster.gateway.quotas import Grant

log = logging.getLogger(__name__)

Headers = Sequence[tuple[bytes, bytes]]
ErrorBody = Callable[[BaseException], bytes]
"""How an API writes errors."""
JSON = (b"content-type", b"application/json")
LINGER_S = 1.0
CLOSED = 499
"""Status in the metrics where the client left before its answer began (nginx's convention)."""
STOPPING = Unavailable("the gateway is stopping; ask again", retry_after_s=1)
GOODBYE_S = 1.0


class Reply:
    """A whole body."""

    def __init__(
        self, body: bytes, *, status: int = 200, headers: Headers = (), kind: bytes = b"application/json"
    ) -> None:
        self.status = status
        self._body = body
        self._headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *headers]

    def add(self, headers: Headers) -> None:
        """More headers."""
        self._headers += headers

    async def send(self, send: Send) -> None:
        """Write it."""
        await send({"type": "http.response.start", "status": self.status, "headers": self._headers})
        await send({"type": "http.response.body", "body": self._body})


class EventStream:
    """Server-sent events, each item of `events` one or more of them as bytes.

    The first item is taken before the status is sent (see `open`), so that what fails until then has a status of its
    own; a later error becomes an `error` event.
    """

    status = 200

    def __init__(
        self, first: bytes, events: AsyncGenerator[bytes, None], headers: Headers, error_body: ErrorBody
    ) -> None:
        self._first = first
        self._events = events
        self._error_body = error_body
        self._headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache"), *headers]

    @classmethod
    async def open(
        cls, events: AsyncGenerator[bytes, None], headers: Headers = (), error_body: ErrorBody = body_of
    ) -> "EventStream":
        """Wait for the first item."""
        return cls(await anext(events), events, headers, error_body)

    def add(self, headers: Headers) -> None:
        """More headers."""
        self._headers += headers

    async def send(self, send: Send) -> None:
        """Write events until there are no more."""
        try:
            async with aclosing(self._events) as events:
                await send({"type": "http.response.start", "status": 200, "headers": self._headers})
                await send({"type": "http.response.body", "body": self._first, "more_body": True})
                async for event in events:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
        except asyncio.CancelledError:
            await _say_goodbye(self._end(send, STOPPING))
            raise
        except Exception as error:  # the status is out: say it in the stream
            _log(error)
            await self._end(send, error)
        else:
            await send({"type": "http.response.body", "body": b""})

    async def _end(self, send: Send, error: Exception) -> None:
        event = b"event: error\ndata: " + self._error_body(error) + b"\n\n"
        await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


Handler = Callable[[Request, bytes, Caller], Awaitable[Reply | EventStream]]
Admit = Callable[[Request], Caller]
Take = Callable[[Caller], Awaitable[Grant | None]]
"""Raises RateLimited where a limit of the caller's key is met."""


class Endpoint:
    """An ASGI app around one handler: admits the caller, reads the body, runs the handler, stops it when the client
    is gone."""

    def __init__(
        self,
        name: str,
        handler: Handler,
        admit: Admit,
        take: Take,
        config: GatewayConfig,
        telemetry: Telemetry,
        error_body: ErrorBody = body_of,
    ) -> None:
        self._name = name
        self._error_body = error_body
        self._handler = handler
        self._admit = admit
        self._take = take
        self._config = config
        self._telemetry = telemetry
        self._requests = telemetry.counter(
            "russet_gateway_requests_total", "HTTP requests answered", labels=("endpoint", "status")
        )
        self._seconds = telemetry.histogram(
            "russet_gateway_request_seconds", "Arrival to the end of the answer", labels=("endpoint",)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        began = time.monotonic()
        status = CLOSED
        grant: Grant | None = None
        request = Request(scope, receive)
        try:
            try:
                caller = self._admit(request)
                grant = await self._take(caller)
                body = await read_body(request, self._config)
            except RussetError as error:
                refusal = self._refusal(error, [(b"connection", b"close")])
                await _linger(request, self._config)
                status = refusal.status
                return await refusal.send(send)
            if body is not None:
                headers = grant.headers if grant is not None else ()
                status = await self._serve(request, body, caller, headers, send)
        except (
            asyncio.CancelledError
        ):  # the grace at stop is over: what ran has said so, and uvicorn would log a defect
            log.info("stopped a request to %s that did not end within the grace", self._name)
        finally:
            if grant is not None:
                grant.settle()
            self._requests.labels(endpoint=self._name, status=str(status)).inc()
            self._seconds.labels(endpoint=self._name).observe(time.monotonic() - began)

    async def _serve(self, request: Request, body: bytes, caller: Caller, headers: Headers, send: Send) -> int:
        """The status sent, or CLOSED."""
        work = asyncio.create_task(self._answer(request, body, caller, headers, send))
        gone = asyncio.create_task(_gone(request.receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else CLOSED
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _answer(self, request: Request, body: bytes, caller: Caller, headers: Headers, send: Send) -> int:
        attributes = {"http.request.method": request.method, "http.route": self._name}
        with (
            extracted(request.headers.items()),
            self._telemetry.span(f"{request.method} {self._name}", attributes, SpanKind.SERVER) as span,
        ):
            try:
                reply = await self._handler(request, body, caller)
            except asyncio.CancelledError:
                await _say_goodbye(self._refusal(STOPPING).send(send))
                raise
            except Exception as error:  # everything becomes an answer; what is not ours is logged
                _log(error)
                reply = self._refusal(error)
            reply.add(headers)
            span.set_attribute("http.response.status_code", reply.status)
            await reply.send(send)
            return reply.status

    def _refusal(self, error: BaseException, headers: Headers = ()) -> Reply:
        """`error` as a whole answer."""
        return Reply(self._error_body(error), status=mapping_of(error).http, headers=[*headers_of(error), *headers])


async def _say_goodbye(sending: Awaitable[None]) -> None:
    """Tell a client why its answer ends: the gateway stops. Who left hears nothing, who reads nothing is given up."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GOODBYE_S):
            await sending


async def read_body(request: Request, config: GatewayConfig) -> bytes | None:
    """The whole body; None where the client left. Raises TooLarge, and InvalidArgument for one that trickles in."""
    limit = config.max_body_bytes
    try:
        announced = int(request.headers.get("content-length") or 0)
    except ValueError as error:
        raise InvalidArgument("Content-Length is no number") from error
    if announced > limit:
        raise TooLarge(f"the body has {announced} bytes; accepted are up to {limit}")
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(config.body_timeout_s):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    return None
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > limit:
                    raise TooLarge(f"the body has more than {limit} bytes, which is all that is accepted")
                chunks.append(chunk)
                if not message.get("more_body"):
                    return b"".join(chunks)
    except TimeoutError as error:
        raise InvalidArgument(
            f"the body did not arrive within {config.body_timeout_s:g} s; {size} bytes of it did"
        ) from error


async def _linger(request: Request, config: GatewayConfig) -> None:
    """Throw away some of the unread body: a connection closed under a sending client is reset, and its answer lost."""
    size = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while size < 4 * config.max_body_bytes:
                message = await request.receive()
                size += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return


async def _gone(receive: Receive) -> None:
    """Return when the client has disconnected."""
    while True:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            return


def _log(error: BaseException) -> None:
    if not isinstance(error, RussetError) or mapping_of(error).http == 500:
        log.error("request failed", exc_info=error)
