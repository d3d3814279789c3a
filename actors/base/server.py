"""Serve services: the same handlers in process, on a unix socket and on TCP, with health and reflection."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection
from opentelemetry import trace

from actors.base import inproc
from actors.base.channel import MAX_MESSAGE_BYTES
from actors.base.errors import METADATA_KEY, Conflict, Internal, RussetError, encode, mapping_of, shortened
from actors.base.security import ServerTls
from actors.base.sockets import answers
from actors.base.telemetry import REQUEST, REQUEST_KEY, Telemetry, extracted

OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Two servers on one port would share its calls at random; a taken port must be an error.
    ("grpc.so_reuseport", 0),
    # Clients ping idle streams every 10 s (channel.py); by default a server takes that for abuse.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    # While no call runs that interval is two hours, and who just streamed may still ping: never hang up for it.
    ("grpc.http2.max_ping_strikes", 0),
)
log = logging.getLogger(__name__)
Register = Callable[[Any, Any], None]


class Server:
    """Serves `services` (pairs of the generated add_XServicer_to_server and a servicer) under `name`.

    `tcp` is host:port (port 0 picks one), with TLS alone where `security` is given; `unix` a socket path, which only
    this user may open. Either may be None. Always reachable as inproc:NAME. `spans` gives each call that is part of a
    trace a span, where the services have none of their own.
    """

    def __init__(
        self,
        name: str,
        services: Sequence[tuple[Register, Any]],
        *,
        tcp: str | None = None,
        unix: str | None = None,
        security: ServerTls | None = None,
        spans: Telemetry | None = None,
    ) -> None:
        self.name = name
        self._tcp = tcp
        self._unix = unix
        self._security = security
        self._services = _Services(spans if spans is not None and spans.tracing else None)
        for register, servicer in services:
            register(servicer, self._services)
        self._inproc = inproc.InprocServer(name, self._services.methods())
        self._grpc: aio.Server | None = None
        self._health = HealthServicer()
        self._serving = True

    async def start(self) -> list[str]:
        """Listen; returns the addresses, cheapest first. Raises Conflict where name, port or socket is taken."""
        inproc.register(self._inproc)
        try:
            listening = await self._listen() if self._tcp or self._unix else []
        except BaseException:
            inproc.unregister(self._inproc)
            if self._grpc is not None:
                await self._grpc.stop(None)
            raise
        return [f"inproc:{self.name}", *listening]

    async def _listen(self) -> list[str]:
        self._grpc = server = aio.server(options=OPTIONS)
        names = (*self._services.handlers, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
        for service, handlers in self._services.handlers.items():
            check = self._security.check if self._security is not None else None
            wrapped = {method: _over_grpc(handler, check) for method, handler in handlers.items()}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, wrapped),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
        addresses = []
        if self._unix:
            self._bind_unix(server, self._unix)
            addresses.append(f"unix:{self._unix}")
        if self._tcp:
            host = self._tcp.rpartition(":")[0]
            addresses.append(f"tcp:{host}:{self._bind_tcp(server, self._tcp)}")
        await server.start()
        await self.set_serving(self._serving)
        return addresses

    async def set_serving(self, serving: bool) -> None:
        """What gRPC health says from now on (SERVING or NOT_SERVING) of every service here; SERVING at first.

        Calls are answered either way: this is for those who choose whom to call, and whom to restart.
        """
        self._serving = serving
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", *self._services.handlers):
            await self._health.set(service, status)

    def _bind_tcp(self, server: aio.Server, address: str) -> int:
        try:
            if self._security is not None:
                return server.add_secure_port(address, self._security.server_credentials())
            return server.add_insecure_port(address)
        except RuntimeError as error:
            raise Conflict(
                f"{self.name} cannot listen on {address}: {error}; stop what uses the port, or choose another"
            ) from None

    def _bind_unix(self, server: aio.Server, path: str) -> None:
        # gRPC would remove the socket of a server that lives as readily as one left behind.
        if answers(path):
            raise Conflict(f"{self.name} cannot listen on {path}: another process serves there; stop it first")
        try:
            server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            raise Conflict(
                f"{self.name} cannot listen on {path}: {error}; expected a path of under 100 characters in a directory "
                "that this user may write"
            ) from None
        os.chmod(path, 0o600)

    async def stop(self, grace_s: float = 5.0) -> None:
        """Refuse new calls, let those in flight end for `grace_s` seconds, then cancel them."""
        inproc.unregister(self._inproc)
        endings = [self._inproc.stop(grace_s)]
        if self._grpc is not None:
            await self._health.enter_graceful_shutdown()
            endings.append(self._grpc.stop(grace_s))
        await asyncio.gather(*endings)


class _Services:
    """Stands in for a grpc server, to learn what the generated add_..._to_server functions register."""

    def __init__(self, spans: Telemetry | None) -> None:
        self.handlers: dict[str, dict[str, Any]] = {}
        self._spans = spans

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Registered twice by the generated code; the other form below names the service."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """A service and its methods."""
        if self._spans is not None:
            handlers = {name: _spanned(handler, service, name, self._spans) for name, handler in handlers.items()}
        self.handlers[service] = handlers

    def methods(self) -> dict[str, inproc.Method]:
        """By path, for calls in process."""
        return {
            f"/{service}/{name}": inproc.Method(
                _behavior(handler), handler.request_streaming, handler.response_streaming
            )
            for service, handlers in self.handlers.items()
            for name, handler in handlers.items()
        }


def _spanned(handler: Any, service: str, method: str, telemetry: Telemetry) -> Any:
    """The handler with a span around each call that belongs to a trace; streams, which watch, are left alone."""
    if handler.request_streaming or handler.response_streaming:
        return handler
    name, behavior = f"{service}/{method}", _behavior(handler)
    attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}

    async def unary(request: Any, context: Any) -> Any:
        if not trace.get_current_span().get_span_context().is_valid:
            return await behavior(request, context)
        with telemetry.span(name, attributes, trace.SpanKind.SERVER):
            return await behavior(request, context)

    return grpc.unary_unary_rpc_method_handler(unary, handler.request_deserializer, handler.response_serializer)


def _behavior(handler: Any) -> Any:
    if handler.response_streaming:
        return handler.stream_stream if handler.request_streaming else handler.unary_stream
    return handler.stream_unary if handler.request_streaming else handler.unary_unary


def _over_grpc(handler: Any, check: Callable[[Any], None] | None) -> Any:
    """The handler as grpc shall call it: inside the caller's trace, its errors as status and trailing metadata.

    `check` refuses callers who may not call.
    """
    behavior = _behavior(handler)

    async def unary(request: Any, context: aio.ServicerContext) -> Any:
        with extracted(_metadata(context)):
            _remember_request(context)
            try:
                if check is not None:
                    check(context)
                return await behavior(request, context)
            except Exception as error:
                await _abort(context, error)

    async def stream(request: Any, context: aio.ServicerContext) -> AsyncIterator[Any]:
        with extracted(_metadata(context)):
            _remember_request(context)
            try:
                if check is not None:
                    check(context)
                replies = behavior(request, context)
                async with contextlib.aclosing(replies):
                    async for reply in replies:
                        yield reply
            except Exception as error:
                await _abort(context, error)

    wrappers = {
        (False, False): (grpc.unary_unary_rpc_method_handler, unary),
        (False, True): (grpc.unary_stream_rpc_method_handler, stream),
        (True, True): (grpc.stream_stream_rpc_method_handler, stream),
    }
    make, wrapped = wrappers[handler.request_streaming, handler.response_streaming]
    return make(wrapped, handler.request_deserializer, handler.response_serializer)


def _metadata(context: aio.ServicerContext) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in context.invocation_metadata() or ()]


def _remember_request(context: aio.ServicerContext) -> None:
    """For this call's log lines: a call has a context of its own."""
    REQUEST.set(next((str(value) for key, value in _metadata(context) if key == REQUEST_KEY), ""))


async def _abort(context: aio.ServicerContext, error: Exception) -> None:
    if isinstance(error, aio.AbortError):
        raise error
    if not isinstance(error, RussetError):
        log.error("handler failed", exc_info=error)
        error = Internal(f"{type(error).__name__}: {error}")
    await context.abort(mapping_of(error).grpc, shortened(error.message), ((METADATA_KEY, encode(error)),))
