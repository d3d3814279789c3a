"""The input of OpenAI's Responses API as Russet's messages: messages, and calls of functions with their results."""

import json
from typing import Any, NoReturn

from actors.base.errors import InvalidArgument
from cluster.gateway.bodies import kind_of
from cluster.gateway.errors import UnsupportedParameter
from cluster.gateway.limits import ROLES
from protos.gen import inference_pb2

_TEXT_PARTS = ("input_text", "output_text", "text")
_MESSAGE = {"type", "role", "content", "id", "status"}
_CALL = {"type", "call_id", "name", "arguments", "id", "status"}
_OUTPUT = {"type", "call_id", "output", "id", "status"}
_CLIENTS_OWN = {"async", "caller", "created_by", "namespace", "phase"}
"""Names that the openai package writes into items that it sends back, with null: they say nothing then."""


def messages_of(given: Any) -> list[inference_pb2.Message]:
    """Messages, oldest first. Neighbouring items of the assistant (text, then calls) are one message of it.

    Raises InvalidArgument naming what is wrong.
    """
    if isinstance(given, str):
        return [inference_pb2.Message(role="user", content=given)]
    if not isinstance(given, list) or not given:
        raise InvalidArgument(
            f"input is {kind_of(given)}; accepted is a text or a non-empty list of items", param="input"
        )
    messages: list[inference_pb2.Message] = []
    for index, item in enumerate(given):
        where = f"input[{index}]"
        if not isinstance(item, dict):
            raise InvalidArgument(f"{where} is {kind_of(item)}; accepted is an object", param=where)
        match item.get("type", "message"):
            case "message":
                messages.append(_message(item, where))
            case "function_call":
                if not (messages and messages[-1].role == "assistant"):
                    messages.append(inference_pb2.Message(role="assistant"))
                messages[-1].tool_calls.append(_call(item, where))
            case "function_call_output":
                messages.append(_result(item, where))
            case "file_search_call":
                continue  # What it found stood in that prompt alone; a search finds it again for this one.
            case other:
                raise UnsupportedParameter(
                    f"{where}.type = {json.dumps(other)[:80]} is not supported; accepted are 'message', "
                    "'function_call', 'function_call_output' and 'file_search_call'",
                    param=f"{where}.type",
                )
    return messages


def _message(item: dict[str, Any], where: str) -> inference_pb2.Message:
    _known(item, _MESSAGE, where)
    role = item.get("role")
    if role not in ROLES or role == "tool":
        accepted = ", ".join(known for known in ROLES if known != "tool")
        raise InvalidArgument(
            f"{where}.role is {json.dumps(role)[:80]}; accepted are {accepted}", param=f"{where}.role"
        )
    content = _text(item.get("content"), f"{where}.content")
    return inference_pb2.Message(role="system" if role == "developer" else role, content=content)


def _call(item: dict[str, Any], where: str) -> inference_pb2.ToolCall:
    _known(item, _CALL, where)
    texts = {name: _given_text(item, name, where) for name in ("call_id", "name", "arguments")}
    return inference_pb2.ToolCall(id=texts["call_id"], name=texts["name"], arguments=texts["arguments"])


def _result(item: dict[str, Any], where: str) -> inference_pb2.Message:
    _known(item, _OUTPUT, where)
    call_id = _given_text(item, "call_id", where)
    return inference_pb2.Message(
        role="tool", tool_call_id=call_id, content=_text(item.get("output"), f"{where}.output")
    )


def _given_text(item: dict[str, Any], name: str, where: str) -> str:
    value = item.get(name)
    return value if isinstance(value, str) else _refuse(f"{where}.{name}", value, "a text")


def _text(content: Any, where: str) -> str:
    """A text, or the texts of parts one after the other."""
    if isinstance(content, list) and content:
        return "".join(_part(part, f"{where}[{index}]") for index, part in enumerate(content))
    return content if isinstance(content, str) else _refuse(where, content, "a text or a non-empty list of text parts")


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in _TEXT_PARTS:
        named = json.dumps(kind if isinstance(part, dict) else part)[:80]
        accepted = ", ".join(_TEXT_PARTS)
        raise UnsupportedParameter(f"{where} is of type {named}, not supported; accepted are {accepted}", param=where)
    _known(part, {"type", "text", "annotations", "logprobs"}, where)
    return _given_text(part, "text", where)


def _known(item: dict[str, Any], names: set[str], where: str) -> None:
    for key, value in item.items():
        if key not in names and not (key in _CLIENTS_OWN and value is None):
            raise UnsupportedParameter(
                f"{where}.{key[:80]} is not supported; leave it out", param=f"{where}.{key[:80]}"
            )


def _refuse(where: str, value: Any, accepted: str) -> NoReturn:
    raise InvalidArgument(f"{where} is {kind_of(value)}; accepted is {accepted}", param=where)
