"""OpenAI's tools, tool_choice and tool_calls as Russet's messages."""

import json
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field

from actors.base.errors import InvalidArgument
from cluster.gateway.bodies import Body, kind_of, shown
from cluster.gateway.errors import UnknownParameter, UnsupportedParameter
from cluster.gateway.tools.check import NAME
from protos.gen import inference_pb2

_MODES = {
    "auto": inference_pb2.ToolChoice.TOOL_CHOICE_AUTO,
    "none": inference_pb2.ToolChoice.TOOL_CHOICE_NONE,
    "required": inference_pb2.ToolChoice.TOOL_CHOICE_REQUIRED,
}


class Function(Body):
    """What a tool does and takes."""

    name: str = Field(pattern=NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(Body):
    """OpenAI's tool of type function."""

    type: Literal["function"]
    function: Function


def tool_of(function: Function) -> inference_pb2.Tool:
    """The same as a message."""
    parameters = "" if function.parameters is None else json.dumps(function.parameters, ensure_ascii=False)
    return inference_pb2.Tool(
        name=function.name,
        description=function.description or "",
        parameters=parameters,
        strict=bool(function.strict),
    )


def choice_of(asked: Any) -> inference_pb2.ToolChoice | None:
    """OpenAI's tool_choice; None where it says nothing. Raises InvalidArgument."""
    if asked is None:
        return None
    if isinstance(asked, str) and asked in _MODES:
        return inference_pb2.ToolChoice(mode=_MODES[asked])
    match asked:
        case {"type": "function", "function": {"name": str(name), **rest}, **more} if not rest and not more and name:
            return inference_pb2.ToolChoice(name=name)
    raise InvalidArgument(
        f"tool_choice is {shown(asked)}; accepted are {', '.join(map(repr, _MODES))} and "
        '{"type": "function", "function": {"name": ...}}',
        param="tool_choice",
    )


def calls_of(given: Any, where: str) -> list[inference_pb2.ToolCall]:
    """An assistant message's tool_calls. Raises InvalidArgument."""
    if given is None:
        return []
    if not isinstance(given, list):
        raise InvalidArgument(f"{where} is {kind_of(given)}; accepted is a list of calls", param=where)
    return [_call(call, f"{where}[{index}]") for index, call in enumerate(given)]


def _call(given: Any, where: str) -> inference_pb2.ToolCall:
    _known(given, {"id", "type", "function"}, where, optional={"index"})
    if given["type"] != "function":
        raise UnsupportedParameter(
            f"{where}.type = {shown(given['type'])} is not supported; accepted is 'function'", param=f"{where}.type"
        )
    function = given["function"]
    _known(function, {"name", "arguments"}, f"{where}.function", optional={"parsed_arguments"})
    texts = {"id": given["id"], "function.name": function["name"], "function.arguments": function["arguments"]}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise InvalidArgument(f"{where}.{name} is {kind_of(value)}; accepted is a text", param=f"{where}.{name}")
    return inference_pb2.ToolCall(id=given["id"], name=function["name"], arguments=function["arguments"])


def _known(value: Any, names: set[str], where: str, optional: set[str]) -> None:
    """Refuse anything but an object with these members."""
    if not isinstance(value, dict):
        raise InvalidArgument(f"{where} is {kind_of(value)}; accepted is an object", param=where)
    for name in sorted(names - value.keys()):
        raise InvalidArgument(f"{where}.{name} is missing", param=f"{where}.{name}")
    for name in value.keys() - names - optional:
        raise UnknownParameter(f"unknown parameter: {where}.{name[:80]}", param=f"{where}.{name[:80]}")


def calls_body(calls: Iterable[inference_pb2.ToolCall]) -> list[dict[str, Any]]:
    """Calls as OpenAI's answers have them."""
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in calls
    ]


def delta_body(delta: inference_pb2.ToolCallDelta) -> dict[str, Any]:
    """A delta as OpenAI's chunks have it."""
    if delta.id:
        function = {"name": delta.name, "arguments": delta.arguments}
        return {"index": delta.index, "id": delta.id, "type": "function", "function": function}
    return {"index": delta.index, "function": {"arguments": delta.arguments}}
