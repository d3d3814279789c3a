"""The HTTP face: OpenAI's paths, health and metrics, served by uvicorn in the event loop that is already there."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from actors.base.errors import Conflict, InvalidArgument, Unauthenticated, Unavailable
from cluster.gateway import anthropic, openapi, responses, responses_stored
from cluster.gateway.answers import CHAT, COMPLETION, Shape, dumps, embeddings, model_row, session_page, session_row
from cluster.gateway.asgi import Endpoint, ErrorBody, EventStream, Handler, Reply
from cluster.gateway.auth import Gate
from cluster.gateway.begin import begin
from cluster.gateway.bodies import parse
from cluster.gateway.caller import Caller
from cluster.gateway.choices import Choices
from cluster.gateway.config import GatewayConfig
from cluster.gateway.connections import bounded
from cluster.gateway.errors import UnknownParameter, body_of
from cluster.gateway.extension import PRIORITIES
from cluster.gateway.feedback import Feedback
from cluster.gateway.health import Health
from cluster.gateway.limits import MAX_SESSIONS_LISTED, check_session
from cluster.gateway.models import Models
from cluster.gateway.openai import (
    UNSUPPORTED_CHAT,
    UNSUPPORTED_COMPLETIONS,
    ChatBody,
    CompletionBody,
    EmbeddingBody,
    FeedbackBody,
    Generating,
    chat_request,
    complete_request,
    embedding_texts,
    feedback_request,
)
from cluster.gateway.prompt import GenerateMessage
from cluster.gateway.quotas import RATE_LIMIT_HEADERS, Quotas
from cluster.gateway.requests import Requests
from cluster.gateway.responses_output import Writer
from cluster.gateway.server_tools import listed, page
from protos.gen import inference_pb2, memory_pb2

BACKLOG = 2048


class Api:
    """The handlers, and the app made of them."""

    def __init__(
        self,
        requests: Requests,
        models: Models,
        health: Health,
        gate: Gate,
        quotas: Quotas,
        metrics: Callable[[], Awaitable[bytes]],
        feedback: Feedback,
        others: Sequence[Callable[[Callable[..., Route]], list[Route]]],
    ) -> None:
        self._requests = requests
        self._models = models
        self._health = health
        self._gate = gate
        self._quotas = quotas
        self._metrics = metrics
        self._feedback = feedback
        self._others = others

    def app(self) -> Starlette:
        """The ASGI app."""
        config, telemetry = self._requests.config, self._requests.telemetry

        def route(
            path: str, method: str, handler: Handler, *, keyed: bool = True, error_body: ErrorBody = body_of
        ) -> Route:
            admit = self._admit if keyed else _anyone
            endpoint = Endpoint(path, handler, admit, self._quotas.take, config, telemetry, error_body)
            return Route(path, endpoint, methods=[method])

        routes = [
            route("/v1/chat/completions", "POST", self.chat),
            route("/v1/completions", "POST", self.complete),
            route("/v1/messages", "POST", self.message, error_body=anthropic.error_body),
            route("/v1/responses", "POST", self.respond),
            route("/v1/responses/{response}", "GET", self.get_response),
            route("/v1/responses/{response}", "DELETE", self.delete_response),
            route("/v1/responses/{response}/input_items", "GET", self.list_input),
            route("/v1/embeddings", "POST", self.embed),
            route("/v1/feedback", "POST", self.feedback),
            route("/v1/russet/sessions", "GET", self.list_sessions),
            route("/v1/russet/sessions/{session:path}", "GET", self.get_session),
            route("/v1/russet/sessions/{session:path}", "DELETE", self.delete_session),
            route("/v1/russet/tools", "GET", self.list_tools),
            *(each for routes in self._others for each in routes(route)),
            route("/v1/models", "GET", self.list_models),
            route("/v1/models/{model:path}", "GET", self.get_model),
            route("/health", "GET", self.health, keyed=False),
            route("/ready", "GET", self.ready, keyed=False),
            route("/metrics", "GET", self.metrics, keyed=False),
            route("/version", "GET", self.version, keyed=False),
            route("/openapi.json", "GET", self.openapi, keyed=False),
        ]
        cors = Middleware(
            CORSMiddleware,
            allow_origins=list(config.cors_origins),
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after", *RATE_LIMIT_HEADERS],
        )
        return Starlette(
            routes=routes,
            middleware=[cors] if config.cors_origins else [],
            exception_handlers={HTTPException: _no_such_route},
        )

    async def chat(self, request: Request, body: bytes, caller: Caller) -> Reply | EventStream:
        """POST /v1/chat/completions."""
        parsed = parse(body, ChatBody, UNSUPPORTED_CHAT)
        return await self._generate(CHAT, chat_request(parsed), parsed, request, caller)

    async def complete(self, request: Request, body: bytes, caller: Caller) -> Reply | EventStream:
        """POST /v1/completions."""
        parsed = parse(body, CompletionBody, UNSUPPORTED_COMPLETIONS)
        return await self._generate(COMPLETION, complete_request(parsed), parsed, request, caller)

    async def message(self, request: Request, body: bytes, caller: Caller) -> Reply | EventStream:
        """POST /v1/messages, as Anthropic has it."""
        parsed = parse(body, anthropic.MessagesBody, anthropic.UNSUPPORTED_MESSAGES)
        message = anthropic.messages_request(parsed)
        _apply_headers(message, request)
        generation = begin(self._requests, message, caller)
        headers = [(b"request-id", generation.id.encode())]
        if parsed.stream:
            return await EventStream.open(anthropic.events(generation), headers, anthropic.error_body)
        return Reply(await anthropic.answer(generation), headers=headers)

    async def respond(self, request: Request, body: bytes, caller: Caller) -> Reply | EventStream:
        """POST /v1/responses."""
        parsed = parse(body, responses.ResponsesBody, responses.UNSUPPORTED_RESPONSES)
        message, previous = responses.responses_request(parsed)
        if request.headers.get("x-russet-session"):
            raise InvalidArgument(
                "X-Russet-Session is set; responses have sessions of their own: accepted is previous_response_id",
                param="X-Russet-Session",
            )
        _apply_headers(message, request)
        generation = begin(self._requests, message, caller)
        check = partial(responses.check_previous, previous=previous)
        writer = Writer(generation, responses.repeated(parsed), check, responses.search_of(parsed, message))
        headers = [(b"x-request-id", generation.id.encode())]
        if parsed.stream:
            return await EventStream.open(writer.events(), headers)
        return Reply(await writer.whole(), headers=headers)

    async def get_response(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/responses/{id}: a stored one, the newest of its conversation."""
        for name in request.query_params:
            raise UnknownParameter(f"unknown parameter: {name[:80]}", param=name[:80])
        return Reply((await self._stored(request, caller)).response.encode())

    async def list_input(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/responses/{id}/input_items: what the model read before it."""
        return Reply(dumps(responses_stored.input_page(await self._stored(request, caller), request.query_params)))

    async def delete_response(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """DELETE /v1/responses/{id}, and with it its conversation, once the request that this answers has ended."""
        session = await self._stored(request, caller)
        deleted = await self._requests.sessions.delete(caller.tenant, session.session_id)
        return Reply(dumps({"id": request.path_params["response"], "object": "response", "deleted": deleted}))

    async def _stored(self, request: Request, caller: Caller) -> memory_pb2.Session:
        return await responses_stored.read(self._requests.sessions, caller.tenant, request.path_params["response"])

    async def embed(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """POST /v1/embeddings."""
        parsed = parse(body, EmbeddingBody)
        asked = inference_pb2.EmbedRequest(model=parsed.model, texts=embedding_texts(parsed))
        if parsed.dimensions is not None:
            asked.dimensions = parsed.dimensions
        reply = await self._models.embed(asked)
        caller.spent.tokens += reply.prompt_tokens
        return Reply(embeddings(reply, parsed.encoding_format))

    async def feedback(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """POST /v1/feedback: {response_id, rating, outcome, correction, label, comment}."""
        reply = await self._feedback.take(feedback_request(parse(body, FeedbackBody)), caller)
        return Reply(dumps({"found": reply.found} | ({"change": reply.change} if reply.change else {})))

    async def list_sessions(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/russet/sessions?limit=N: the caller's, most recent first."""
        limit = request.query_params.get("limit", "100")
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= MAX_SESSIONS_LISTED):
            raise InvalidArgument(f"limit is {limit[:40]!r}; accepted is 1 to {MAX_SESSIONS_LISTED}", param="limit")
        rows = [session_row(session) for session in await self._requests.sessions.list(caller.tenant, int(limit))]
        return Reply(dumps({"object": "list", "data": rows}))

    async def get_session(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/russet/sessions/{id}: one with its messages."""
        session_id = request.path_params["session"]
        return Reply(dumps(session_page(await self._requests.sessions.show(caller.tenant, session_id))))

    async def delete_session(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """DELETE /v1/russet/sessions/{id}, once the request that it answers has ended."""
        session_id = request.path_params["session"]
        found = await self._requests.sessions.delete(caller.tenant, session_id)
        return Reply(dumps({"id": session_id, "object": "session", "deleted": found}))

    async def list_tools(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/russet/tools: those that the gateway itself can run, and where they come from."""
        return Reply(dumps(page(await listed(self._requests.tools))))

    async def list_models(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/models."""
        rows = [model_row(card) for card in await self._models.cards()]
        return Reply(dumps({"object": "list", "data": rows}))

    async def get_model(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/models/{id}."""
        return Reply(dumps(model_row(await self._models.card(request.path_params["model"]))))

    async def health(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /health: 200 where a token comes out, 503 with the reason where none does."""
        await self._health.check()
        return Reply(dumps({"status": "ok"}))

    async def ready(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /ready: 200 where a replica takes requests."""
        table = await self._requests.routes.refresh()
        ready = sum(replica.available for replica in table.replicas)
        if not ready:
            raise Unavailable(f"none of {len(table.replicas)} known replicas takes requests")
        return Reply(dumps({"status": "ready", "replicas": ready}))

    async def metrics(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /metrics, in Prometheus's text format."""
        return Reply(await self._metrics(), kind=b"text/plain; version=0.0.4; charset=utf-8")

    async def version(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /version."""
        return Reply(dumps({"name": "russet", "version": _version()}))

    async def openapi(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /openapi.json."""
        return Reply(_openapi())

    async def _generate(
        self, shape: Shape, message: GenerateMessage, body: Generating, request: Request, caller: Caller
    ) -> Reply | EventStream:
        if body.stream_options is not None and not body.stream:
            raise InvalidArgument(
                "stream_options is set without stream; accepted with stream = true", param="stream_options"
            )
        _apply_headers(message, request)
        choices = Choices(self._requests, message, caller)
        headers = [(b"x-request-id", choices.first.id.encode())]
        if body.stream:
            include_usage = body.stream_options is not None and body.stream_options.include_usage
            alone = len(choices.generations) == 1
            events = (
                shape.events(choices.first, include_usage) if alone else shape.choice_events(choices, include_usage)
            )
            return await EventStream.open(events, headers)
        await choices.answer()
        return Reply(shape.answer(choices), headers=headers)

    def _admit(self, request: Request) -> Caller:
        if len(given := request.headers.getlist("authorization")) > 1:
            raise Unauthenticated("there are several Authorization headers; accepted is one")
        authorization = given[0] if given else None
        if authorization is None and (key := request.headers.get("x-api-key")) is not None:
            authorization = f"Bearer {key}"  # as Anthropic's clients send it
        return self._gate.admit(authorization, request.headers.get("x-russet-tenant"))


@cache
def _openapi() -> bytes:
    return dumps(openapi.document(_version()))


def _version() -> str:
    try:
        return version("russet")
    except PackageNotFoundError:
        return "source"  # run from a checkout that was never installed


def _anyone(request: Request) -> Caller:
    return Caller()


def _apply_headers(message: GenerateMessage, request: Request) -> None:
    """X-Russet-Session and X-Russet-Priority, where the body does not say."""
    session = request.headers.get("x-russet-session")
    if session and not message.session_id:
        check_session(session)
        message.session_id = session
    priority = request.headers.get("x-russet-priority")
    if priority and not message.priority:
        if priority.lower() not in PRIORITIES:
            raise InvalidArgument(
                f"X-Russet-Priority is {priority[:40]!r}; accepted are {', '.join(PRIORITIES)}",
                param="X-Russet-Priority",
            )
        message.priority = PRIORITIES[priority.lower()]


async def _no_such_route(request: Request, error: Exception) -> Response:
    """404 and 405 in OpenAI's shape."""
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path[:200]}"
    code, message = {
        404: ("not_found", f"there is no {where}"),
        405: ("method_not_allowed", f"there is no {where}; this path takes another method"),
    }.get(error.status_code, ("http_error", error.detail))
    shape = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return Response(dumps({"error": shape}), error.status_code, error.headers, "application/json")


class HttpServer:
    """uvicorn without its signal handlers, on a port of our own."""

    def __init__(self, app: Starlette, settings: GatewayConfig) -> None:
        self._host, self._port, self._tls = settings.host, settings.port, settings.tls
        tls = self._tls
        config = uvicorn.Config(
            app,
            ssl_context_factory=(lambda config, default: tls.followed_context()) if tls is not None else None,
            http=bounded(settings.head_timeout_s),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=max(1, round(settings.shutdown_grace_s)),
        )
        self._server = _Uvicorn(config)
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Listen; returns the base URL. Raises Conflict where the port is taken, InvalidArgument for no TLS files."""
        if self._tls is not None:
            self._tls.context()
        listener = listen(self._host, self._port)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="http")
        port = listener.getsockname()[1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._tls else 'http'}://{host}:{port}"

    async def stop(self) -> None:
        """Take no more requests, let those that run end within the grace, then cancel them."""
        if self._serving is None:
            return
        self._server.should_exit = True
        await self._serving
        await asyncio.gather(*self._server.server_state.tasks, return_exceptions=True)


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to whoever runs this process."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises Conflict where the port is taken, InvalidArgument where the address is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"HTTP port {port} on {host} is taken by another program; choose another with --port or gateway.port"
            ) from error
        raise InvalidArgument(
            f"cannot listen on {host} port {port}: {error.strerror or error}; see gateway.host and --port",
            param="gateway.host",
        ) from error
    # asyncio sets this only where a socket names its protocol, which create_server's do not; a stream's second write
    # would wait 40 ms for the client's delayed acknowledgement of its first. Accepted connections inherit it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setblocking(False)
    return listener
