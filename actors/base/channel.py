"""Reach a service: one stub interface over in-process calls, unix sockets and TCP.

Calls raise RussetErrors, have deadlines (unary ones by default), are retried only where their proto says that they may
be, and are cancelled on the other side when its task, its iterator or `cancel()` ends it here.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import cache
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import MethodOptions
from grpc import aio

from actors.base import inproc
from actors.base.errors import METADATA_KEY, Internal, InvalidArgument, RussetError, Unavailable, decode
from actors.base.telemetry import propagated

MAX_MESSAGE_BYTES = 64 << 20
UNARY_TIMEOUT_S = 30.0
ATTEMPTS = 4
FIRST_PAUSE_S = 0.05
OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A restarted service is found again within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
)
Target = str | Sequence[str] | Callable[[], Awaitable[Sequence[str]]]
Transport = inproc.InprocServer | aio.Channel


def connect(target: Target) -> "Channel":
    """A channel to `target`: an address, several of one service (cheapest first), or a function that looks them up.

    Addresses are inproc:NAME, unix:PATH and tcp:HOST:PORT. Nothing is opened until the first call.
    """
    return Channel(target)


class Channel:
    """What the generated stubs take as a channel."""

    def __init__(self, target: Target) -> None:
        self._target = [target] if isinstance(target, str) else target
        self._transport: Transport | None = None
        self._failed: set[str] = set()
        self._address = ""
        self._opening = asyncio.Lock()

    @property
    def address(self) -> str:
        """The address in use, empty before the first call."""
        return self._address

    async def close(self) -> None:
        """End its calls and connections."""
        transport, self._transport = self._transport, None
        if isinstance(transport, aio.Channel):
            await transport.close()

    async def transport(self) -> Transport:
        """The open transport, opening the cheapest address that can be reached. Raises Unavailable where none can."""
        open_ = self._transport
        if open_ is not None and (not isinstance(open_, inproc.InprocServer) or open_.open):
            return open_
        async with self._opening:
            if self._transport is not None and self._transport is not open_:
                return self._transport
            addresses = list(self._target if not callable(self._target) else await self._target())
            self._failed &= set(addresses)
            candidates = [address for address in addresses if address not in self._failed] or addresses
            self._failed = set() if candidates is addresses else self._failed
            for address in candidates:
                if (transport := _open(address)) is not None:
                    self._transport, self._address = transport, address
                    return transport
        raise Unavailable(f"no service at {', '.join(addresses) or 'any address'} yet", retry_after_s=1)

    def forget(self, transport: Transport) -> None:
        """`transport` did not answer: the next call tries another address, or asks for them again."""
        if transport is self._transport:
            self._failed.add(self._address)
            self._transport = None
            if isinstance(transport, aio.Channel):
                _closing(transport)

    def unary_unary(self, path: str, request_serializer: Any, response_deserializer: Any, **_: Any) -> Any:
        """A callable (request, timeout=, metadata=) -> awaitable reply."""
        retried = ATTEMPTS if _may_repeat(path) else 1

        async def call(request: Any, *, timeout: float | None = UNARY_TIMEOUT_S, metadata: inproc.Metadata = ()) -> Any:
            pause_s = FIRST_PAUSE_S
            for attempt in range(retried):
                stream = Stream(
                    self, path, request, False, request_serializer, response_deserializer, timeout, metadata
                )
                try:
                    return await stream.only()
                except Unavailable:
                    if attempt == retried - 1:
                        raise
                await asyncio.sleep(pause_s)
                pause_s *= 2
            raise AssertionError("unreachable")

        return call

    def unary_stream(self, path: str, request_serializer: Any, response_deserializer: Any, **_: Any) -> Any:
        """A callable (request, timeout=, metadata=) -> Stream of replies."""
        return self._streaming(path, False, request_serializer, response_deserializer)

    def stream_stream(self, path: str, request_serializer: Any, response_deserializer: Any, **_: Any) -> Any:
        """A callable (async iterator of requests, timeout=, metadata=) -> Stream of replies."""
        return self._streaming(path, True, request_serializer, response_deserializer)

    def _streaming(self, path: str, requests: bool, serializer: Any, deserializer: Any) -> Any:
        def call(request: Any, *, timeout: float | None = None, metadata: inproc.Metadata = ()) -> Stream:
            return Stream(self, path, request, requests, serializer, deserializer, timeout, metadata)

        return call


class Stream:
    """The replies of one call: `async for`, `cancel()`, or `aclose()`. Dropping it cancels the call."""

    def __init__(
        self,
        channel: Channel,
        path: str,
        request: Any,
        request_streaming: bool,
        serializer: Any,
        deserializer: Any,
        timeout: float | None,
        metadata: inproc.Metadata,
    ) -> None:
        self._channel = channel
        self._arguments = (path, request, request_streaming, serializer, deserializer, timeout, metadata)
        self._transport: Transport | None = None
        self._inproc: inproc.InprocCall | None = None
        self._call: Any = None
        self._replies: AsyncIterator[Any] | None = None
        self._cancelled = False

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Any:
        if self._transport is None:
            await self._start()
        if self._inproc is not None:
            return await self._inproc.read()
        assert self._replies is not None
        try:
            return await anext(self._replies)
        except aio.AioRpcError as error:
            raise self._translate(error) from None

    async def only(self) -> Any:
        """The one reply of a unary call."""
        await self._start()
        try:
            return await (self._inproc.read() if self._inproc is not None else self._call)
        except aio.AioRpcError as error:
            raise self._translate(error) from None
        except StopAsyncIteration:
            raise Internal(f"{self._arguments[0]} ended without a reply") from None

    async def _start(self) -> None:
        if self._cancelled:
            raise asyncio.CancelledError
        path, request, request_streaming, serializer, deserializer, timeout, metadata = self._arguments
        self._transport = transport = await self._channel.transport()
        if isinstance(transport, inproc.InprocServer):
            self._inproc = transport.start(path, request, metadata, timeout)
            return
        streaming = _method(path).server_streaming
        kinds = {
            (False, False): transport.unary_unary,
            (False, True): transport.unary_stream,
            (True, True): transport.stream_stream,
        }
        multicallable = kinds[request_streaming, streaming](
            path, request_serializer=serializer, response_deserializer=deserializer
        )
        self._call = multicallable(request, timeout=timeout, metadata=aio.Metadata(*metadata, *propagated()))
        if streaming:
            self._replies = self._call.__aiter__()

    def _translate(self, error: aio.AioRpcError) -> RussetError:
        carried = dict(error.trailing_metadata() or ()).get(METADATA_KEY)
        translated = decode(error.code(), error.details() or "", carried)
        if isinstance(translated, Unavailable) and carried is None and self._transport is not None:
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
        if self._inproc is not None and not self._inproc.task.done() and not self._inproc.task.get_loop().is_closed():
            self._inproc.cancel()


def _open(address: str) -> Transport | None:
    kind, _, rest = address.partition(":")
    if kind == "inproc":
        return inproc.find(rest)
    if kind == "unix":
        return aio.insecure_channel(address, options=OPTIONS) if os.path.exists(rest) else None
    if kind == "tcp":
        return aio.insecure_channel(rest, options=OPTIONS)
    raise InvalidArgument(f"address {address!r}: expected inproc:NAME, unix:PATH or tcp:HOST:PORT")


_closings: set[asyncio.Task[None]] = set()


def _closing(channel: aio.Channel) -> None:
    """Close a channel beside what goes on; streams that a stopping server lets end may end."""
    task = asyncio.ensure_future(channel.close(grace=UNARY_TIMEOUT_S))
    _closings.add(task)
    task.add_done_callback(_closings.discard)


@cache
def _method(path: str) -> Any:
    service, _, method = path.removeprefix("/").partition("/")
    return descriptor_pool.Default().FindServiceByName(service).methods_by_name[method]


@cache
def _may_repeat(path: str) -> bool:
    """Whether the proto marks the method as safe to repeat."""
    try:
        level = _method(path).GetOptions().idempotency_level
    except KeyError:
        return False
    return level in (MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT)
