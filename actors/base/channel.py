"""Reach a service: one stub interface over in-process calls, unix sockets and TCP.

Calls raise RussetErrors, have deadlines (unary ones by default), are retried only where their proto says that they may
be, and are cancelled on the other side when its task, its iterator or `cancel()` ends it here.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import MethodOptions
from grpc import aio

from actors.base import inproc
from actors.base.errors import METADATA_KEY, DeadlineExceeded, Internal, InvalidArgument, Unreachable, decode
from actors.base.security import Security, Version, own
from actors.base.sockets import answers
from actors.base.telemetry import propagated

MAX_MESSAGE_BYTES = 64 << 20
UNARY_TIMEOUT_S = 30.0
ATTEMPTS = 4
FIRST_PAUSE_S = 0.05
LOOK_S = 1.0
"""Between looks at the certificate files, seconds."""
RETIRED_S = 86_400.0
"""Longest that calls go on over a connection that showed an earlier certificate."""
OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A restarted service is found again within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
    # A node that lost its power closes no connection: a stream to it ends when a ping stays unanswered.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)
Target = str | Sequence[str] | Callable[[], Awaitable[Sequence[str]]]
Transport = inproc.InprocServer | aio.Channel


class Method(NamedTuple):
    """A method as the generated stub describes it."""

    path: str
    kind: str
    serializer: Any
    deserializer: Any


def connect(target: Target, *, security: Security | None = None) -> "Channel":
    """A channel to `target`: an address, several of one service (cheapest first), or a function that looks them up.

    Addresses are inproc:NAME, unix:PATH and tcp:HOST:PORT; `security` is for TCP, by default what this process adopted.
    Nothing is opened until the first call. A function is asked again when the service does not answer where it was.
    """
    return Channel(target, security)


class Channel:
    """What the generated stubs take as a channel."""

    def __init__(self, target: Target, security: Security | None = None) -> None:
        self._target = [target] if isinstance(target, str) else target
        self._security = security
        self._transport: Transport | None = None
        self._shown: Version = ()
        """The certificate files that the transport was opened with; none where it shows none."""
        self._looked_s = 0.0
        self._failed: set[str] = set()
        self._address = ""
        self._addresses: tuple[str, ...] = ()
        self._opening = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """The address in use, empty before the first call."""
        return self._address

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses of the service as last looked up, none before the first call."""
        return self._addresses

    async def close(self) -> None:
        """End its calls and connections."""
        transport, self._transport = self._transport, None
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        if isinstance(transport, aio.Channel):
            await transport.close()

    def current(self) -> Transport | None:
        """The open transport, if there is one. One of an old certificate ends with the calls that it carries."""
        transport = self._transport
        if self._shown and transport is not None and (now := time.monotonic()) - self._looked_s > LOOK_S:
            self._looked_s = now
            if (security := self._security or own()) is not None and security.version() != self._shown:
                self._transport, self._shown = None, ()
                self._retire(transport, RETIRED_S)
                return None
        return None if isinstance(transport, inproc.InprocServer) and not transport.open else transport

    async def transport(self) -> Transport:
        """The open transport, opening the cheapest address that can be reached. Raises Unreachable where none can."""
        async with self._opening:
            if (transport := self.current()) is not None:
                return transport
            addresses = list(await self._target() if callable(self._target) else self._target)
            self._addresses = tuple(addresses)
            self._failed &= set(addresses)
            candidates = [address for address in addresses if address not in self._failed]
            if not candidates:
                candidates, self._failed = addresses, set()
            for address in candidates:
                security = (self._security or own()) if address.startswith("tcp:") else None
                shown = security.version() if security is not None else ()
                if (transport := _open(address, security)) is not None:
                    self._transport, self._address, self._shown = transport, address, shown
                    return transport
        raise Unreachable(f"no service at {', '.join(addresses) or 'any address'} yet", retry_after_s=1)

    def forget(self, transport: Transport) -> None:
        """`transport` did not answer: the next call tries another address, or asks for them again."""
        if transport is self._transport:
            self._failed.add(self._address)
            self._transport, self._shown = None, ()
            self._retire(transport, UNARY_TIMEOUT_S)

    def _retire(self, transport: Transport, grace_s: float) -> None:
        if isinstance(transport, aio.Channel):
            # Beside what goes on: streams that a stopping server lets end may end.
            task = asyncio.ensure_future(transport.close(grace=grace_s))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def unary_unary(self, path: str, request_serializer: Any, response_deserializer: Any, **_: Any) -> Any:
        """A callable (request, timeout=, metadata=) -> awaitable reply."""
        method = Method(path, "unary_unary", request_serializer, response_deserializer)
        attempts = ATTEMPTS if _may_repeat(path) else 1

        async def call(request: Any, *, timeout: float | None = UNARY_TIMEOUT_S, metadata: inproc.Metadata = ()) -> Any:
            clock = asyncio.get_running_loop().time
            deadline = clock() + timeout if timeout is not None else None
            for attempt in range(1, attempts + 1):
                left = max(0.0, deadline - clock()) if deadline is not None else None
                try:
                    return await Stream(self, method, request, left, metadata).only()
                except Unreachable:
                    pause_s = FIRST_PAUSE_S * 2 ** (attempt - 1)
                    if attempt == attempts or (deadline is not None and clock() + pause_s >= deadline):
                        raise
                await asyncio.sleep(pause_s)
            raise AssertionError("the last attempt returns or raises")

        return call

    def unary_stream(self, path: str, request_serializer: Any, response_deserializer: Any, **_: Any) -> Any:
        """A callable (request, timeout=, metadata=) -> Stream of replies."""
        return self._streaming(Method(path, "unary_stream", request_serializer, response_deserializer))

    def stream_stream(self, path: str, request_serializer: Any, response_deserializer: Any, **_: Any) -> Any:
        """A callable (async iterator of requests, timeout=, metadata=) -> Stream of replies."""
        return self._streaming(Method(path, "stream_stream", request_serializer, response_deserializer))

    def _streaming(self, method: Method) -> Any:
        def call(request: Any, *, timeout: float | None = None, metadata: inproc.Metadata = ()) -> Stream:
            return Stream(self, method, request, timeout, metadata)

        return call


class Stream:
    """The replies of one call: `async for`, `cancel()`, or `aclose()`. Dropping it cancels the call.

    The call begins with the first read.
    """

    def __init__(
        self, channel: Channel, method: Method, request: Any, timeout: float | None, metadata: inproc.Metadata
    ) -> None:
        self._channel = channel
        self._method = method
        self._request = request
        self._timeout = timeout
        self._metadata = metadata
        self._transport: Transport | None = None
        self._inproc: inproc.InprocCall | None = None
        self._call: Any = None
        self._next: Callable[[], Awaitable[Any]] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._cancelled = False

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Any:
        if self._next is None:
            self._next = await self._start()
        try:
            return await self._next()
        except aio.AioRpcError as error:
            raise self._translate(error) from None

    async def only(self) -> Any:
        """The one reply of a unary call."""
        reply = await self._start()
        try:
            return await reply()
        except aio.AioRpcError as error:
            raise self._translate(error) from None
        except StopAsyncIteration:
            raise Internal(f"{self._method.path} ended without a reply") from None

    async def _start(self) -> Callable[[], Awaitable[Any]]:
        """Begin the call; returns what reads its next message."""
        method, timeout = self._method, self._timeout
        if (transport := self._channel.current()) is None:
            transport, timeout = await self._open()
        if self._cancelled:
            raise asyncio.CancelledError
        self._transport, self._loop = transport, asyncio.get_running_loop()
        if isinstance(transport, inproc.InprocServer):
            self._inproc = transport.start(method.path, self._request, self._metadata, timeout)
            return self._inproc.read
        callable_ = getattr(transport, method.kind)(
            method.path, request_serializer=method.serializer, response_deserializer=method.deserializer
        )
        metadata = aio.Metadata(*self._metadata, *propagated())
        self._call = callable_(self._request, timeout=timeout, metadata=metadata)
        return self._reply if method.kind == "unary_unary" else self._call.__aiter__().__anext__

    async def _reply(self) -> Any:
        return await self._call

    async def _open(self) -> tuple[Transport, float | None]:
        """The channel's transport, and what opening it left of the deadline."""
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(self._timeout):
                transport = await self._channel.transport()
        except TimeoutError:
            raise DeadlineExceeded(f"{self._method.path} found no address within {self._timeout:.3g} s") from None
        return transport, None if self._timeout is None else max(0.0, self._timeout - (clock() - began))

    def _translate(self, error: aio.AioRpcError) -> Exception:
        carried: Any = dict(error.trailing_metadata() or ()).get(METADATA_KEY)
        details = error.details() or ""
        translated = decode(error.code(), f"{self._method.path} at {self._channel.address}: {details}", carried)
        if isinstance(translated, Unreachable) and self._transport is not None:
            self._channel.forget(self._transport)
        return translated

    def cancel(self) -> None:
        """End the call here and its handler there."""
        self._cancelled = True
        if self._inproc is not None:
            self._inproc.cancel()
        elif self._call is not None:
            self._call.cancel()

    async def aclose(self) -> None:
        """The same, as iterators offer it."""
        self.cancel()

    def __del__(self) -> None:
        # A call outlives its handle by itself: its own tasks hold it.
        ended = self._inproc.task.done() if self._inproc is not None else self._call is None or self._call.done()
        if not ended and self._loop is not None and not self._loop.is_closed():
            self.cancel()


def _open(address: str, security: Security | None) -> Transport | None:
    """A transport to `address`, or None where it is not here. Sockets need no TLS: their files have owners."""
    kind, _, rest = address.partition(":")
    if kind == "inproc":
        return inproc.find(rest)
    if kind == "unix":
        return aio.insecure_channel(address, options=OPTIONS) if answers(rest) else None
    if kind != "tcp":
        raise InvalidArgument(f"address {address!r}: expected inproc:NAME, unix:PATH or tcp:HOST:PORT")
    if security is not None:
        options = (*OPTIONS, *security.channel_options)
        return aio.secure_channel(rest, security.channel_credentials(), options=options)
    return aio.insecure_channel(rest, options=OPTIONS)


@cache
def _may_repeat(path: str) -> bool:
    """Whether the proto marks the method as safe to repeat; one whose proto is not here is not."""
    service, _, name = path.removeprefix("/").partition("/")
    with contextlib.suppress(KeyError):
        method = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
        return method.GetOptions().idempotency_level in (MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT)
    return False
