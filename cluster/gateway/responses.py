"""OpenAI's Responses API over the same path: its bodies to Russet's messages.

A stored response is the newest turn of a session of its own, whose id is the response's id up to the last dot; what
follows the dot is how many turns it has with this answer. So `previous_response_id` goes on with the conversation
without sending it again, from its newest response.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from actors.base.errors import Conflict, InvalidArgument, NotFound
from cluster.gateway.answer_format import JsonSchema, ResponseFormat, grammar_of
from cluster.gateway.answer_stream import AnswerStream
from cluster.gateway.bodies import ANY, Body, shown
from cluster.gateway.errors import UnsupportedParameter
from cluster.gateway.extension import Extension, apply_extension, route_key
from cluster.gateway.limits import MAX_SESSION_CHARS, check
from cluster.gateway.records import question_of
from cluster.gateway.responses_input import messages_of
from cluster.gateway.responses_search import RESULTS, FileSearchTool, SearchCall, ask_search
from cluster.gateway.tools.bodies import Function, choice_of, tool_of
from cluster.gateway.tools.check import NAME
from protos.gen import inference_pb2

UNSUPPORTED_RESPONSES: dict[str, tuple[Any, ...]] = {
    "background": (None, False),
    "context_management": (None,),
    "conversation": (None,),
    "max_tool_calls": (ANY,),
    "prompt": (None,),
    "prompt_cache_key": (ANY,),
    "prompt_cache_retention": (ANY,),
    "reasoning": (None,),
    "service_tier": (None, "auto", "default"),
    "stream_options": (None,),
    "top_logprobs": (None, 0),
    "truncation": (None, "disabled"),
}
PREFIX = "resp_"


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


class ResponsesTool(Body):
    """A function that the model may call; what chat has under `function` stands beside its type."""

    type: Literal["function"]
    name: str = Field(pattern=NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


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
    tools: list[Annotated[ResponsesTool | FileSearchTool, Field(discriminator="type")]] | None = None
    include: list[Literal["file_search_call.results"]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
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
    request = inference_pb2.ChatRequest(
        model=body.model, decoding=decoding, route_key=route_key(body.user, body.safety_identifier)
    )
    if body.instructions:
        request.messages.add(role="system", content=body.instructions)
    request.messages.extend(messages_of(body.input))
    functions = [tool for tool in body.tools or [] if isinstance(tool, ResponsesTool)]
    searches = [tool for tool in body.tools or [] if isinstance(tool, FileSearchTool)]
    request.tools.extend(tool_of(Function(**tool.model_dump(exclude={"type"}))) for tool in functions)
    if (choice := _choice(body.tool_choice, functions, searches)) is not None:
        request.tool_choice.CopyFrom(choice)
    if body.parallel_tool_calls is not None:
        request.parallel_tool_calls = body.parallel_tool_calls
    apply_extension(request, body.russet)
    ask_search(request, searches if body.tool_choice != "none" else [])
    if request.session_id:
        raise UnsupportedParameter(
            "russet.session_id is set; responses have sessions of their own: accepted is previous_response_id",
            param="russet.session_id",
        )
    previous = named(body.previous_response_id, "previous_response_id") if body.previous_response_id else None
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


def search_of(body: ResponsesBody, request: inference_pb2.ChatRequest) -> SearchCall | None:
    """The search that the response tells of; None where its tools have none."""
    asks = request.HasField("retrieve") and any(isinstance(tool, FileSearchTool) for tool in body.tools or [])
    return SearchCall(question_of(request), RESULTS in (body.include or [])) if asks else None


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


def repeated(body: ResponsesBody) -> dict[str, Any]:
    """What of a request its response repeats."""
    return {
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "store": body.store is not False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": body.text.format.model_dump(by_alias=True, exclude_unset=True)},
        "tool_choice": body.tool_choice or "auto",
        "tools": [tool.model_dump(exclude_none=isinstance(tool, FileSearchTool)) for tool in body.tools or []],
        "top_p": 1.0 if body.top_p is None else body.top_p,
    }


def named(response_id: str, param: str) -> Previous:
    """The stored response that an id names. Raises InvalidArgument for what is no such id."""
    session_id, _, turns = response_id.rpartition(".")
    known = session_id.startswith(PREFIX) and len(session_id) <= MAX_SESSION_CHARS
    if not (known and turns.isascii() and turns.isdigit() and len(turns) <= 9):
        raise InvalidArgument(f"{param} is {response_id[:80]!r}; accepted is the id of a stored response", param=param)
    return Previous(session_id, int(turns))


def _choice(
    asked: Any, functions: Sequence[ResponsesTool], searches: Sequence[FileSearchTool]
) -> inference_pb2.ToolChoice | None:
    """tool_choice, whose function's name stands beside the type here. A search is done anyway, and is a call."""
    match asked:
        case {"type": "file_search", **more} if searches and not more:
            return None
        case "required" if searches and not functions:
            return None
        case {"type": "function", "name": str(name), **more} if name and not more:
            return inference_pb2.ToolChoice(name=name)
        case dict():
            raise InvalidArgument(
                f"tool_choice is {shown(asked)}; accepted are 'none', 'auto', 'required', "
                '{"type": "function", "name": ...} and, with such a tool, {"type": "file_search"}',
                param="tool_choice",
            )
    return choice_of(asked)


def _grammar(asked: TextFormat) -> inference_pb2.Grammar | None:
    if asked.type != "json_schema":
        return grammar_of(ResponseFormat(type=asked.type))
    if asked.schema_ is None:
        raise InvalidArgument("text.format.schema is missing", param="text.format.schema")
    named = JsonSchema(name=asked.name, schema=asked.schema_, strict=asked.strict)
    return grammar_of(ResponseFormat(type=asked.type, json_schema=named))
