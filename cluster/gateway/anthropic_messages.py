"""The conversation of an Anthropic request as Russet's messages: blocks of text, calls of tools, and their results."""

import json
from typing import Any

from actors.base.errors import InvalidArgument
from cluster.gateway.bodies import content_text, kind_of, part_text, shown
from cluster.gateway.errors import UnsupportedParameter
from protos.gen import inference_pb2

_USE = {"type", "id", "name", "input", "cache_control"}
_RESULT = {"type", "tool_use_id", "content", "is_error", "cache_control"}
_CLIENTS_OWN = {"caller", "toolset_name"}
"""Names that the anthropic package may write into a block that it sends back, with null."""


def messages_of(message: dict[str, Any], where: str) -> list[inference_pb2.Message]:
    """A message as one, or as several where it has results of tools: each of these is a message of its own.

    Raises InvalidArgument naming what is wrong.
    """
    for key in message.keys() - {"role", "content"}:
        raise UnsupportedParameter(f"{where}.{key[:80]} is not supported; leave it out", param=f"{where}.{key[:80]}")
    role = message.get("role")
    if role not in ("user", "assistant"):
        what = repr(role)[:80] if isinstance(role, str) else kind_of(role)
        raise InvalidArgument(f"{where}.role is {what}; accepted are user and assistant", param=f"{where}.role")
    content, where = message.get("content"), f"{where}.content"
    if not isinstance(content, list) or not content:
        return [inference_pb2.Message(role=role, content=content_text(content, where))]
    return _assistants(content, where) if role == "assistant" else _users(content, where)


def _assistants(blocks: list[Any], where: str) -> list[inference_pb2.Message]:
    message = inference_pb2.Message(role="assistant")
    for index, block in enumerate(blocks):
        at = f"{where}[{index}]"
        if _type(block) == "tool_use":
            message.tool_calls.append(_use(block, at))
        else:
            message.content += _text(block, at)
    return [message]


def _users(blocks: list[Any], where: str) -> list[inference_pb2.Message]:
    messages: list[inference_pb2.Message] = []
    for index, block in enumerate(blocks):
        at = f"{where}[{index}]"
        if _type(block) == "tool_result":
            messages.append(_result(block, at))
            continue
        text = _text(block, at)
        if not messages or messages[-1].role != "user":
            messages.append(inference_pb2.Message(role="user"))
        messages[-1].content += text
    return messages


def _use(block: dict[str, Any], where: str) -> inference_pb2.ToolCall:
    _known(block, _USE, where)
    for name in ("id", "name"):
        if not isinstance(block.get(name), str):
            raise InvalidArgument(
                f"{where}.{name} is {kind_of(block.get(name))}; accepted is a text", param=f"{where}.{name}"
            )
    given = block.get("input")
    if not isinstance(given, dict):
        raise InvalidArgument(f"{where}.input is {kind_of(given)}; accepted is an object", param=f"{where}.input")
    return inference_pb2.ToolCall(id=block["id"], name=block["name"], arguments=json.dumps(given, ensure_ascii=False))


def _result(block: dict[str, Any], where: str) -> inference_pb2.Message:
    _known(block, _RESULT, where)
    call_id, failed = block.get("tool_use_id"), block.get("is_error", False)
    if not isinstance(call_id, str):
        raise InvalidArgument(
            f"{where}.tool_use_id is {kind_of(call_id)}; accepted is a text", param=f"{where}.tool_use_id"
        )
    if not isinstance(failed, bool | None):
        raise InvalidArgument(f"{where}.is_error is {shown(failed)}; accepted is a boolean", param=f"{where}.is_error")
    content = block.get("content")
    text = "" if content in (None, []) else content_text(content, f"{where}.content")
    # No chat template has a place for it: the model reads of a failure what a person would.
    return inference_pb2.Message(role="tool", tool_call_id=call_id, content=f"Error: {text}" if failed else text)


def _text(block: Any, where: str) -> str:
    if isinstance(block, dict) and block.get("type") != "text":
        kind = shown(block.get("type"))
        raise UnsupportedParameter(
            f"{where}.type = {kind} is not supported here; accepted are 'text', 'tool_use' of the assistant and "
            "'tool_result' of the user",
            param=f"{where}.type",
        )
    return part_text(block, where)


def _type(block: Any) -> Any:
    return block.get("type") if isinstance(block, dict) else None


def _known(block: dict[str, Any], names: set[str], where: str) -> None:
    for key, value in block.items():
        if key not in names and not (key in _CLIENTS_OWN and value is None):
            raise UnsupportedParameter(
                f"{where}.{key[:80]} is not supported; leave it out", param=f"{where}.{key[:80]}"
            )
