"""Anthropic's Messages API over the same path: its bodies to Russet's messages, answers and errors in its shapes.

Text alone so far: tools, images, documents, thinking and prefilled answers are refused by name.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal

from actors.base.errors import InvalidArgument, RussetError, mapping_of
from cluster.gateway.answer_stream import AnswerStream
from cluster.gateway.answers import dumps, extension, ran
from cluster.gateway.bodies import ANY, Body, content_text, kind_of
from cluster.gateway.errors import UnsupportedParameter
from cluster.gateway.extension import Extension, apply_extension
from cluster.gateway.limits import check, check_stop
from protos.gen import inference_pb2

UNSUPPORTED_MESSAGES: dict[str, tuple[Any, ...]] = {
    "container": (None,),
    "context_management": (None,),
    "mcp_servers": (None, []),
    "metadata": (ANY,),
    "output_config": (None,),
    "service_tier": (None, "auto", "standard_only"),
    "thinking": (None, {"type": "disabled"}),
    "tool_choice": (None, {"type": "none"}, {"type": "auto"}),
    "tools": (None, []),
}

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""HTTP status -> what Anthropic calls such an error; others are api_error."""


class MessagesBody(Body):
    """POST /v1/messages."""

    model: str = ""
    max_tokens: int
    messages: list[dict[str, Any]]
    system: Any = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stream: bool | None = None
    russet: Extension | None = None


def messages_request(body: MessagesBody) -> inference_pb2.ChatRequest:
    """The same request as a message. Raises InvalidArgument naming what is wrong."""
    if not body.messages:
        raise InvalidArgument("messages is empty; accepted is at least one message", param="messages")
    check("max_tokens", body.max_tokens)
    if body.top_k is not None:
        check("top_k", body.top_k)
    stops = body.stop_sequences or []
    check_stop(stops, "stop_sequences")
    sampling = inference_pb2.Sampling(temperature=body.temperature, top_p=body.top_p, top_k=body.top_k)
    decoding = inference_pb2.Decoding(sampling=sampling, max_tokens=body.max_tokens, stop=stops)
    request = inference_pb2.ChatRequest(model=body.model, decoding=decoding)
    if body.system is not None:
        request.messages.add(role="system", content=content_text(body.system, "system"))
    for index, message in enumerate(body.messages):
        request.messages.append(_message(message, f"messages[{index}]"))
    if request.messages[-1].role == "assistant":
        raise UnsupportedParameter(
            "messages ends with an assistant message, an answer to go on with, which is not supported; accepted is a "
            "user message at the end",
            param=f"messages[{len(body.messages) - 1}].role",
        )
    apply_extension(request, body.russet)
    return request


def _message(message: dict[str, Any], where: str) -> inference_pb2.Message:
    for key in message.keys() - {"role", "content"}:
        raise UnsupportedParameter(f"{where}.{key[:80]} is not supported; leave it out", param=f"{where}.{key[:80]}")
    role = message.get("role")
    if role not in ("user", "assistant"):
        what = repr(role)[:80] if isinstance(role, str) else kind_of(role)
        raise InvalidArgument(f"{where}.role is {what}; accepted are user and assistant", param=f"{where}.role")
    return inference_pb2.Message(role=role, content=content_text(message.get("content"), f"{where}.content"))


def answer(generation: AnswerStream) -> bytes:
    """The answer in one piece, once the generation has ended."""
    content = [{"type": "text", "text": "".join(generation.text)}]
    message = _opening(generation) | {"content": content} | _ending(generation)
    return dumps(message | {"usage": _usage(generation), "russet": extension(generation)})


async def events(generation: AnswerStream) -> AsyncGenerator[bytes, None]:
    """The answer as it comes, as Anthropic's events. The first item is the opening and the text's beginning."""
    async with aclosing(generation.texts()) as deltas:
        first = await anext(deltas, "")
        start = _opening(generation) | {"content": [], "stop_reason": None, "stop_sequence": None}
        start |= {"usage": _usage(generation) | {"output_tokens": 0}, "russet": extension(generation)}
        yield (
            _event("message_start", message=start)
            + _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
            + (_delta(first) if first else b"")
        )
        async for text in deltas:
            yield _delta(text)
    yield (
        _event("content_block_stop", index=0)
        + _event("message_delta", delta=_ending(generation), usage=_usage(generation), **ran(generation))
        + _event("message_stop")
    )


def error_body(error: BaseException) -> bytes:
    """`error` in Anthropic's shape. What is not ours says nothing of its inside; the log does."""
    message = error.message if isinstance(error, RussetError) else "internal error; the gateway's log has the details"
    kind = ERROR_TYPES.get(mapping_of(error).http, "api_error")
    return dumps({"type": "error", "error": {"type": kind, "message": message}})


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + dumps({"type": kind, **fields}) + b"\n\n"


def _delta(text: str) -> bytes:
    return _event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


def _opening(generation: AnswerStream) -> dict[str, Any]:
    return {"id": generation.id, "type": "message", "role": "assistant", "model": generation.model}


def _ending(generation: AnswerStream) -> dict[str, Any]:
    reason: Literal["max_tokens", "stop_sequence", "end_turn"] = "end_turn"
    if generation.finish == inference_pb2.FINISH_LENGTH:
        reason = "max_tokens"
    elif generation.stop_text:
        reason = "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": generation.stop_text or None}


def _usage(generation: AnswerStream) -> dict[str, int]:
    """Anthropic counts what came from the cache apart from the rest of the prompt."""
    counts = generation.usage
    return {
        "input_tokens": counts.prompt_tokens - counts.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counts.cached_tokens,
        "output_tokens": counts.completion_tokens,
    }
