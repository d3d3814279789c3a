"""Russet's own part of a request, which stands under `russet` in the bodies of every API."""

import hashlib
from typing import Annotated, Literal

from pydantic import Field

from actors.base.errors import InvalidArgument
from actors.base.model_names import AUTO
from cluster.gateway.answer_format import GrammarBody, add_grammar
from cluster.gateway.bodies import Body
from cluster.gateway.limits import check_kv_format, check_session
from cluster.gateway.recall.asked import CONTEXT, PARAM, ContextBody, RetrieveBody, context_message, retrieve_message
from cluster.gateway.reflect.asked import ReflectBody, reflect_message
from cluster.gateway.tools.check import MAX_TOOLS, callable_tools
from protos.gen import inference_pb2

MAX_USER_CHARS = 256
MAX_BUDGET_MS = 3_600_000
PRIORITIES = {
    "low": inference_pb2.PRIORITY_LOW,
    "normal": inference_pb2.PRIORITY_NORMAL,
    "high": inference_pb2.PRIORITY_HIGH,
    "critical": inference_pb2.PRIORITY_CRITICAL,
}


class ServerToolsBody(Body):
    """Tools that the gateway runs for a chat."""

    run: Annotated[list[str], Field(max_length=MAX_TOOLS)] | Literal["all"]
    max_rounds: int | None = Field(None, ge=1, le=32)
    parallel: bool | None = None


class Extension(Body):
    """Russet's own part of a request."""

    session_id: str = ""
    priority: Literal["low", "normal", "high", "critical"] = "normal"
    kv_format: str = ""
    stop_token_ids: list[int] | None = None
    grammar: GrammarBody | None = None
    token_healing: bool | None = None
    close: bool = False
    reflect: ReflectBody | None = None
    retrieve: RetrieveBody | None = None
    context: ContextBody | None = None
    tools: ServerToolsBody | None = None
    latency_budget_ms: float | None = Field(default=None, gt=0, le=MAX_BUDGET_MS)


def route_key(*users: str | None) -> str:
    """What a split between models goes by where there is no session: the client's user, as the API calls it."""
    user = next(filter(None, users), "")
    return user if len(user) <= MAX_USER_CHARS else hashlib.blake2b(user.encode(), digest_size=16).hexdigest()


def apply_extension(
    request: inference_pb2.ChatRequest | inference_pb2.CompleteRequest, asked: Extension | None
) -> None:
    """Put Russet's own part of a body into the request."""
    extension = asked or Extension()
    check_session(extension.session_id)
    check_kv_format(extension.kv_format, "russet.kv_format")
    request.session_id = extension.session_id
    request.kv_format = extension.kv_format
    request.priority = PRIORITIES[extension.priority]
    request.decoding.stop_token_ids.extend(_stop_token_ids(extension))
    if extension.latency_budget_ms is not None:
        if request.model not in AUTO:
            raise InvalidArgument(
                f"russet.latency_budget_ms is for the choice of a model, and {request.model[:80]!r} is asked for; "
                'leave it out, or ask for "auto"',
                param="russet.latency_budget_ms",
            )
        request.latency_budget_ms = extension.latency_budget_ms
    if extension.token_healing:
        if isinstance(request, inference_pb2.ChatRequest):
            raise InvalidArgument(
                "russet.token_healing is for completions: a chat's prompt ends where an answer begins; leave it out",
                param="russet.token_healing",
            )
        request.token_healing = True
    if extension.reflect is not None:
        if isinstance(request, inference_pb2.CompleteRequest):
            raise InvalidArgument("russet.reflect is for chats; leave it out", param="russet.reflect")
        request.reflect.CopyFrom(reflect_message(extension.reflect))
    if isinstance(request, inference_pb2.ChatRequest):
        if extension.retrieve is not None:
            request.retrieve.CopyFrom(retrieve_message(extension.retrieve))
        if extension.context is not None:
            request.context.CopyFrom(context_message(extension.context))
    elif extension.retrieve is not None or extension.context is not None:
        param = PARAM if extension.retrieve is not None else CONTEXT
        raise InvalidArgument(f"{param} is for chats; leave it out", param=param)
    if extension.tools is not None:
        if isinstance(request, inference_pb2.CompleteRequest):
            raise InvalidArgument("russet.tools is for chats; leave it out", param="russet.tools")
        request.server_tools.CopyFrom(_server_tools(extension.tools))
    calls = isinstance(request, inference_pb2.ChatRequest) and (
        bool(callable_tools(request)) or request.HasField("server_tools")
    )
    add_grammar(extension.grammar, extension.close, request.decoding, calls=calls)


def _server_tools(asked: ServerToolsBody) -> inference_pb2.ServerTools:
    return inference_pb2.ServerTools(
        names=[] if asked.run == "all" else asked.run,
        all=asked.run == "all",
        max_rounds=asked.max_rounds or 0,
        one_by_one=asked.parallel is False,
    )


def _stop_token_ids(extension: Extension | None) -> list[int]:
    ids = (extension.stop_token_ids if extension is not None else None) or []
    if wrong := [token for token in ids if not 0 <= token < 1 << 32]:
        raise InvalidArgument(
            f"russet.stop_token_ids has {wrong[0]}; accepted are token ids", param="russet.stop_token_ids"
        )
    return ids
