"""OpenAI's Responses API over the same path: its bodies to Russet's messages, answers and events in its shapes.

A stored response is the newest turn of a session of its own, whose id is the response's id up to the last dot; what
follows the dot is how many turns it has with this answer. So `previous_response_id` goes on with the conversation
without sending it again, from its newest response. Text alone so far: what else there is, is refused by name.
"""

import json
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from actors.base.errors import Conflict, InvalidArgument, NotFound
from cluster.gateway.answer_format import JsonSchema, ResponseFormat, grammar_of
from cluster.gateway.answer_stream import AnswerStream
from cluster.gateway.answers import dumps, extension
from cluster.gateway.bodies import ANY, Body, kind_of
from cluster.gateway.errors import UnsupportedParameter
from cluster.gateway.extension import Extension, apply_extension
from cluster.gateway.limits import MAX_SESSION_CHARS, ROLES, check
from protos.gen import inference_pb2

UNSUPPORTED_RESPONSES: dict[str, tuple[Any, ...]] = {
    "background": (None, False),
    "context_management": (None,),
    "conversation": (None,),
    "include": (None, []),
    "max_tool_calls": (ANY,),
    "parallel_tool_calls": (ANY,),
    "prompt": (None,),
    "prompt_cache_key": (ANY,),
    "prompt_cache_retention": (ANY,),
    "reasoning": (None,),
    "safety_identifier": (ANY,),
    "service_tier": (None, "auto", "default"),
    "stream_options": (None,),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
    "truncation": (None, "disabled"),
    "user": (ANY,),
}
PREFIX = "resp_"
_TEXT_PARTS = ("input_text", "output_text", "text")


class TextFormat(Body):
    """What the answer must be; a JSON Schema's fields stand beside its type."""

    type: Literal["text", "json_object", "json_schema"]
    name: str = Field(default="schema", pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class Text(Body):
    """How the answer's text is to be."""

    format: TextFormat = TextFormat(type="text")
    verbosity: Literal["medium"] | None = None


class ResponsesBody(Body):
    """POST /v1/responses."""

    model: str = ""
    input: Any
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    store: bool | None = None
    text: Text = Text()
    previous_response_id: str | None = None
    metadata: dict[str, str] | None = None
    russet: Extension | None = None


@dataclass(frozen=True)
class Previous:
    """The response that a request goes on from: its session, and the turns that this has then."""

    session_id: str
    turns: int


def responses_request(body: ResponsesBody) -> tuple[inference_pb2.ChatRequest, Previous | None]:
    """The same request as a message, and what it follows. Raises InvalidArgument naming what is wrong."""
    if body.max_output_tokens is not None:
        check("max_tokens", body.max_output_tokens, "max_output_tokens")
    sampling = inference_pb2.Sampling(temperature=body.temperature, top_p=body.top_p)
    decoding = inference_pb2.Decoding(
        sampling=sampling, max_tokens=body.max_output_tokens, grammar=_grammar(body.text.format)
    )
    request = inference_pb2.ChatRequest(model=body.model, decoding=decoding)
    if body.instructions:
        request.messages.add(role="system", content=body.instructions)
    request.messages.extend(_messages(body.input))
    apply_extension(request, body.russet)
    if request.session_id:
        raise UnsupportedParameter(
            "russet.session_id is set; responses have sessions of their own: accepted is previous_response_id",
            param="russet.session_id",
        )
    previous = _previous(body.previous_response_id) if body.previous_response_id else None
    if previous is None:
        request.session_id = PREFIX + secrets.token_hex(12) if body.store is not False else ""
        return request, None
    if body.store is False:
        raise UnsupportedParameter(
            "store is false with previous_response_id: the answer becomes part of that conversation; accepted is true",
            param="store",
        )
    if any(message.role == "assistant" for message in request.messages):
        raise UnsupportedParameter(
            "input holds an assistant's message beside previous_response_id; accepted are the new messages alone, or "
            "the whole conversation without previous_response_id",
            param="input",
        )
    request.session_id = previous.session_id
    return request, previous


def check_previous(generation: AnswerStream, previous: Previous | None) -> None:
    """Refuse to go on from a response that is not there any more, or not the newest of its conversation.

    To be called once the generation has begun. Raises NotFound or Conflict.
    """
    if previous is None or generation.stored_turns == previous.turns:
        return
    named = f"{previous.session_id}.{previous.turns}"
    if not generation.stored_turns:
        raise NotFound(f"there is no response {named}: it was not stored, or it expired", param="previous_response_id")
    raise Conflict(
        f"{named} is not the newest response of its conversation: {previous.session_id}.{generation.stored_turns} is, "
        "and only from there it can go on",
        param="previous_response_id",
    )


class Writer:
    """Writes one response, whole or as events."""

    def __init__(self, generation: AnswerStream, body: ResponsesBody, previous: Previous | None) -> None:
        self._generation = generation
        self._body = body
        self._previous = previous
        self._item_id = f"msg_{secrets.token_hex(12)}"
        self._sequence = 0

    async def whole(self) -> bytes:
        """The answer in one piece."""
        async with aclosing(self._checked()) as deltas:
            async for _ in deltas:
                pass
        return dumps(self._ended())

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The answer as it comes. The first item is the opening and the text's beginning."""
        async with aclosing(self._checked()) as deltas:
            first = await anext(deltas, "")
            begun = self._response("in_progress", [])
            yield (
                self._event("response.created", response=begun)
                + self._event("response.in_progress", response=begun)
                + self._event("response.output_item.added", output_index=0, item=self._item("in_progress", None))
                + self._event("response.content_part.added", **self._place(), part=_text(""))
                + (self._delta(first) if first else b"")
            )
            async for delta in deltas:
                yield self._delta(delta)
        ended, text = self._ended(), "".join(self._generation.text)
        yield (
            self._event("response.output_text.done", **self._place(), text=text, logprobs=[])
            + self._event("response.content_part.done", **self._place(), part=_text(text))
            + self._event("response.output_item.done", output_index=0, item=ended["output"][0])
            + self._event(f"response.{ended['status']}", response=ended)
        )

    async def _checked(self) -> AsyncGenerator[str, None]:
        async with aclosing(self._generation.texts()) as deltas:
            first = True
            async for delta in deltas:
                if first:
                    check_previous(self._generation, self._previous)
                    first = False
                yield delta
            if first:
                check_previous(self._generation, self._previous)

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = dumps({"type": kind, "sequence_number": self._sequence, **fields})
        self._sequence += 1
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"

    def _delta(self, text: str) -> bytes:
        return self._event("response.output_text.delta", **self._place(), delta=text, logprobs=[])

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    def _item(self, status: str, text: str | None) -> dict[str, Any]:
        content = [] if text is None else [_text(text)]
        return {"type": "message", "id": self._item_id, "status": status, "role": "assistant", "content": content}

    def _ended(self) -> dict[str, Any]:
        """The response at its end."""
        cut = self._generation.finish == inference_pb2.FINISH_LENGTH
        status = "incomplete" if cut else "completed"
        response = self._response(status, [self._item(status, "".join(self._generation.text))])
        counts = self._generation.usage
        response["incomplete_details"] = {"reason": "max_output_tokens"} if cut else None
        response["usage"] = {
            "input_tokens": counts.prompt_tokens,
            "input_tokens_details": {"cached_tokens": counts.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": counts.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": counts.prompt_tokens + counts.completion_tokens,
        }
        return response

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        generation, body = self._generation, self._body
        return {
            "id": f"{generation.session_id}.{generation.turns}" if generation.session_id else generation.id,
            "object": "response",
            "created_at": generation.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": generation.model,
            "output": output,
            "parallel_tool_calls": True,
            "previous_response_id": body.previous_response_id,
            "store": body.store is not False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": body.text.format.model_dump(by_alias=True, exclude_unset=True)},
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": None,
            "russet": extension(generation),
        }


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _grammar(asked: TextFormat) -> inference_pb2.Grammar | None:
    if asked.type != "json_schema":
        return grammar_of(ResponseFormat(type=asked.type))
    if asked.schema_ is None:
        raise InvalidArgument("text.format.schema is missing", param="text.format.schema")
    named = JsonSchema(name=asked.name, schema=asked.schema_, strict=asked.strict)
    return grammar_of(ResponseFormat(type=asked.type, json_schema=named))


def _previous(response_id: str) -> Previous:
    session_id, _, turns = response_id.rpartition(".")
    known = session_id.startswith(PREFIX) and len(session_id) <= MAX_SESSION_CHARS
    if not (known and turns.isascii() and turns.isdigit() and len(turns) <= 9):
        raise InvalidArgument(
            f"previous_response_id is {response_id[:80]!r}; accepted is the id of a stored response",
            param="previous_response_id",
        )
    return Previous(session_id, int(turns))


def _messages(given: Any) -> list[inference_pb2.Message]:
    if isinstance(given, str):
        return [inference_pb2.Message(role="user", content=given)]
    if not isinstance(given, list) or not given:
        raise InvalidArgument(
            f"input is {kind_of(given)}; accepted is a text or a non-empty list of messages", param="input"
        )
    return [_message(item, f"input[{index}]") for index, item in enumerate(given)]


def _message(item: Any, where: str) -> inference_pb2.Message:
    if not isinstance(item, dict):
        raise InvalidArgument(f"{where} is {kind_of(item)}; accepted is a message", param=where)
    if item.get("type", "message") != "message":
        kind = json.dumps(item["type"])[:80]
        raise UnsupportedParameter(f"{where}.type = {kind} is not supported; accepted is 'message'", param=where)
    for key in item.keys() - {"type", "role", "content", "id", "status"}:
        raise UnsupportedParameter(f"{where}.{key[:80]} is not supported; leave it out", param=f"{where}.{key[:80]}")
    role = item.get("role")
    if role not in ROLES or role == "tool":
        accepted = ", ".join(known for known in ROLES if known != "tool")
        raise InvalidArgument(
            f"{where}.role is {json.dumps(role)[:80]}; accepted are {accepted}", param=f"{where}.role"
        )
    content = item.get("content")
    if isinstance(content, list) and content:
        content = "".join(_part(part, f"{where}.content[{index}]") for index, part in enumerate(content))
    if not isinstance(content, str):
        raise InvalidArgument(
            f"{where}.content is {kind_of(content)}; accepted is a text or a non-empty list of text parts",
            param=f"{where}.content",
        )
    return inference_pb2.Message(role="system" if role == "developer" else role, content=content)


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in _TEXT_PARTS:
        named = json.dumps(kind if isinstance(part, dict) else part)[:80]
        accepted = ", ".join(_TEXT_PARTS)
        raise UnsupportedParameter(f"{where} is of type {named}, not supported; accepted are {accepted}", param=where)
    for key in part.keys() - {"type", "text", "annotations", "logprobs"}:
        raise UnsupportedParameter(f"{where}.{key[:80]} is not supported; leave it out", param=f"{where}.{key[:80]}")
    if not isinstance(part.get("text"), str):
        raise InvalidArgument(f"{where}.text is {kind_of(part.get('text'))}; accepted is a text", param=f"{where}.text")
    return part["text"]
