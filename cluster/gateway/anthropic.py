"""Anthropic's Messages API over the same path: its bodies to Russet's messages, answers and errors in its shapes.

Images, documents, thinking, prefilled answers and the tools that Anthropic itself runs are refused by name.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal

from pydantic import Field

from actors.base.errors import InvalidArgument, RussetError, mapping_of
from cluster.gateway.answer_stream import AnswerStream
from cluster.gateway.answers import dumps, extension, ran
from cluster.gateway.anthropic_messages import messages_of
from cluster.gateway.bodies import Body, content_text
from cluster.gateway.errors import UnsupportedParameter
from cluster.gateway.extension import Extension, apply_extension, route_key
from cluster.gateway.limits import check, check_stop
from cluster.gateway.tools.check import NAME
from cluster.gateway.tools.reader import Delta
from protos.gen import inference_pb2

UNSUPPORTED_MESSAGES: dict[str, tuple[Any, ...]] = {
    "container": (None,),
    "context_management": (None,),
    "mcp_servers": (None, []),
    "output_config": (None,),
    "service_tier": (None, "auto", "standard_only"),
    "thinking": (None, {"type": "disabled"}),
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


MODES = {
    "auto": inference_pb2.ToolChoice.TOOL_CHOICE_AUTO,
    "any": inference_pb2.ToolChoice.TOOL_CHOICE_REQUIRED,
    "tool": inference_pb2.ToolChoice.TOOL_CHOICE_REQUIRED,
    "none": inference_pb2.ToolChoice.TOOL_CHOICE_NONE,
}


class AnthropicTool(Body):
    """A tool that the client runs."""

    type: Literal["custom"] | None = None
    name: str = Field(pattern=NAME)
    input_schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None
    cache_control: Any = None


class ToolChoice(Body):
    """Whether a tool is called, and which."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Metadata(Body):
    """Who the client's user is."""

    user_id: str | None = None


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
    tools: list[AnthropicTool] | None = None
    tool_choice: ToolChoice | None = None
    metadata: Metadata | None = None
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
    user = route_key(body.metadata.user_id if body.metadata else None)
    request = inference_pb2.ChatRequest(model=body.model, decoding=decoding, route_key=user)
    if body.system is not None:
        request.messages.add(role="system", content=content_text(body.system, "system"))
    for index, message in enumerate(body.messages):
        request.messages.extend(messages_of(message, f"messages[{index}]"))
    if request.messages[-1].role == "assistant":
        raise UnsupportedParameter(
            "messages ends with an assistant message, an answer to go on with, which is not supported; accepted is a "
            "user message at the end",
            param=f"messages[{len(body.messages) - 1}].role",
        )
    request.tools.extend(map(_tool, body.tools or []))
    if body.tool_choice is not None:
        _choose(body.tool_choice, request)
    apply_extension(request, body.russet)
    return request


def _tool(asked: AnthropicTool) -> inference_pb2.Tool:
    return inference_pb2.Tool(
        name=asked.name,
        description=asked.description or "",
        parameters=json.dumps(asked.input_schema, ensure_ascii=False),
        strict=bool(asked.strict),
    )


def _choose(asked: ToolChoice, request: inference_pb2.ChatRequest) -> None:
    """Put tool_choice into the request."""
    if (asked.name is not None) != (asked.type == "tool"):
        raise InvalidArgument(
            f"tool_choice is of type {asked.type!r} and its name is {asked.name!r}; accepted is a name with the type "
            "'tool' alone",
            param="tool_choice.name",
        )
    request.tool_choice.mode = MODES[asked.type]
    request.tool_choice.name = asked.name or ""
    if asked.disable_parallel_tool_use is not None:
        request.parallel_tool_calls = not asked.disable_parallel_tool_use


class Blocks:
    """The content of one answer as it comes: text, and uses of tools."""

    def __init__(self) -> None:
        self.content: list[dict[str, Any]] = []
        self._pieces: list[str] = []
        """Of the newest block: its text, or its input as JSON."""

    def take(self, delta: Delta) -> bytes:
        """What is told of a delta; an empty text begins a block of which nothing is known yet."""
        told = b""
        kind = "text" if isinstance(delta, str) else "tool_use"
        if not self.content or kind != self.content[-1]["type"] or (not isinstance(delta, str) and delta.id):
            told += self.close() + self._begin(delta)
        piece = delta if isinstance(delta, str) else delta.arguments
        if not piece:
            return told
        self._pieces.append(piece)
        change = {"type": "text_delta", "text": piece}
        if kind == "tool_use":
            change = {"type": "input_json_delta", "partial_json": piece}
        return told + _event("content_block_delta", index=len(self.content) - 1, delta=change)

    def close(self) -> bytes:
        """The newest block is whole. A use that something cut short is left out of the content."""
        if not self.content:
            return b""
        told, block, text = _event("content_block_stop", index=len(self.content) - 1), self.content[-1], self._pieces
        self._pieces = []
        if block["type"] == "text":
            block["text"] = "".join(text)
        else:
            block["input"] = json.loads("".join(text) or "{}")
        return told

    def cut(self) -> bytes:
        """As `close`, where the answer ended by its length."""
        if not self.content or self.content[-1]["type"] == "text":
            return self.close()
        told = _event("content_block_stop", index=len(self.content) - 1)
        try:
            self.close()
        except ValueError:  # its input is no JSON yet: who listened has it as far as it came
            self.content.pop()
        return told

    def _begin(self, delta: Delta) -> bytes:
        block: dict[str, Any] = {"type": "text", "text": ""}
        if not isinstance(delta, str):
            block = {"type": "tool_use", "id": delta.id, "name": delta.name, "input": {}}
        self.content.append(block)
        return _event("content_block_start", index=len(self.content) - 1, content_block=block)


async def answer(generation: AnswerStream) -> bytes:
    """The answer in one piece."""
    blocks = Blocks()
    async with aclosing(generation.deltas()) as deltas:
        async for delta in deltas:
            blocks.take(delta)
    _end(blocks, generation)
    message = _opening(generation) | {"content": blocks.content or [{"type": "text", "text": ""}]}
    return dumps(message | _ending(generation) | {"usage": _usage(generation), "russet": extension(generation)})


async def events(generation: AnswerStream) -> AsyncGenerator[bytes, None]:
    """The answer as it comes, as Anthropic's events. The first item is the opening and the content's beginning."""
    blocks = Blocks()
    async with aclosing(generation.deltas()) as deltas:
        first = await anext(deltas, "")
        start = _opening(generation) | {"content": [], "stop_reason": None, "stop_sequence": None}
        start |= {"usage": _usage(generation) | {"output_tokens": 0}, "russet": extension(generation)}
        yield _event("message_start", message=start) + blocks.take(first)
        async for delta in deltas:
            yield blocks.take(delta)
    yield (
        _end(blocks, generation)
        + _event("message_delta", delta=_ending(generation), usage=_usage(generation), **ran(generation))
        + _event("message_stop")
    )


def _end(blocks: Blocks, generation: AnswerStream) -> bytes:
    return blocks.cut() if generation.finish == inference_pb2.FINISH_LENGTH else blocks.close()


def error_body(error: BaseException) -> bytes:
    """`error` in Anthropic's shape. What is not ours says nothing of its inside; the log does."""
    message = error.message if isinstance(error, RussetError) else "internal error; the gateway's log has the details"
    kind = ERROR_TYPES.get(mapping_of(error).http, "api_error")
    return dumps({"type": "error", "error": {"type": kind, "message": message}})


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + dumps({"type": kind, **fields}) + b"\n\n"


def _opening(generation: AnswerStream) -> dict[str, Any]:
    return {"id": generation.id, "type": "message", "role": "assistant", "model": generation.model}


def _ending(generation: AnswerStream) -> dict[str, Any]:
    reason: Literal["max_tokens", "stop_sequence", "tool_use", "end_turn"] = "end_turn"
    if generation.finish == inference_pb2.FINISH_LENGTH:
        reason = "max_tokens"
    elif generation.finish == inference_pb2.FINISH_TOOL_CALLS:
        reason = "tool_use"
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
