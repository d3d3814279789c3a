"""Which tools, and which calls in a conversation, a request may carry; every API checks by it."""

import re
from collections.abc import Sequence
from typing import Any

from actors.base.errors import InvalidArgument
from actors.base.grammar import parsed_schema
from cluster.gateway.tools.json_call import is_object
from protos.gen import inference_pb2

MAX_TOOLS = 128
MAX_CALLS = 128
"""Of one message."""
MAX_ID_CHARS = 256
MAX_DESCRIPTION_CHARS = 16 << 10
MAX_PARAMETERS_BYTES = 256 << 10
"""Of all tools together."""
NAME = r"^[a-zA-Z0-9_-]{1,64}$"
_NAME = re.compile(NAME)


def callable_tools(request: inference_pb2.ChatRequest) -> list[inference_pb2.Tool]:
    """The tools that an answer may call."""
    choice = request.tool_choice
    if choice.name:
        return [tool for tool in request.tools if tool.name == choice.name]
    return [] if choice.mode == inference_pb2.ToolChoice.TOOL_CHOICE_NONE else list(request.tools)


def must_call(request: inference_pb2.ChatRequest) -> bool:
    """Whether an answer has to call one."""
    choice = request.tool_choice
    return bool(choice.name) or choice.mode == inference_pb2.ToolChoice.TOOL_CHOICE_REQUIRED


def is_held(request: inference_pb2.ChatRequest) -> bool:
    """Whether something is asked of calls that only a grammar can give."""
    tools = callable_tools(request)
    single = request.HasField("parallel_tool_calls") and not request.parallel_tool_calls
    return bool(tools) and (single or must_call(request) or any(tool.strict for tool in tools))


def check_tools(request: inference_pb2.ChatRequest) -> None:
    """Refuse tools, and a choice among them, that cannot be. Raises InvalidArgument naming the parameter."""
    tools = request.tools
    if len(tools) > MAX_TOOLS:
        raise InvalidArgument(f"tools has {len(tools)} tools; accepted are up to {MAX_TOOLS}", param="tools")
    names: set[str] = set()
    for index, tool in enumerate(tools):
        _check_tool(tool, f"tools[{index}]")
        if tool.name in names:
            raise InvalidArgument(
                f"tools[{index}].name is {tool.name!r}, as another's is; accepted are different names",
                param=f"tools[{index}].name",
            )
        names.add(tool.name)
    size = sum(len(tool.parameters) for tool in tools)
    if size > MAX_PARAMETERS_BYTES:
        raise InvalidArgument(
            f"the parameters of all tools have {size} bytes; accepted are up to {MAX_PARAMETERS_BYTES}", param="tools"
        )
    _check_choice(request, sorted(names))


def _check_tool(tool: inference_pb2.Tool, where: str) -> None:
    if not _NAME.match(tool.name):
        raise InvalidArgument(
            f"{where}.name is {tool.name[:80]!r}; accepted are 1 to 64 letters, digits, '_' and '-'",
            param=f"{where}.name",
        )
    if len(tool.description) > MAX_DESCRIPTION_CHARS:
        raise InvalidArgument(
            f"{where}.description has {len(tool.description)} characters; accepted are up to {MAX_DESCRIPTION_CHARS}",
            param=f"{where}.description",
        )
    if not tool.parameters:
        return
    schema: Any = parsed_schema(tool.parameters)
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        kind = schema.get("type") if isinstance(schema, dict) else schema
        raise InvalidArgument(
            f'{where}.parameters is of type {kind!r}; accepted is a JSON Schema of an object ("type": "object")',
            param=f"{where}.parameters",
        )


def _check_choice(request: inference_pb2.ChatRequest, names: Sequence[str]) -> None:
    choice = request.tool_choice
    if choice.mode not in inference_pb2.ToolChoice.Mode.values():
        raise InvalidArgument(f"tool_choice.mode is {choice.mode}; accepted are 0 to 2", param="tool_choice")
    if choice.name and choice.name not in names:
        known = ", ".join(names) or "none, since there are no tools"
        raise InvalidArgument(f"tool_choice names {choice.name[:80]!r}; accepted are {known}", param="tool_choice")
    if choice.name and choice.mode == inference_pb2.ToolChoice.TOOL_CHOICE_NONE:
        raise InvalidArgument(f"tool_choice names {choice.name!r} and is none; give one", param="tool_choice")
    if must_call(request) and not names:
        raise InvalidArgument("tool_choice is required without tools; accepted are auto and none", param="tool_choice")
    language = request.decoding.grammar.WhichOneof("language")
    if callable_tools(request) and language not in (None, "json_schema"):
        raise InvalidArgument(
            f"russet.grammar ({language}) is given with tools that the answer may call; accepted is one of the two, or "
            "response_format",
            param="russet.grammar",
        )
    if is_held(request):
        for name in ("ignore_eos", "min_tokens"):
            if getattr(request.decoding, name):
                raise InvalidArgument(
                    f"{name} is set, but what is asked of tool calls (tool_choice, strict, parallel_tool_calls) says "
                    "where an answer ends; accepted is one of the two",
                    param=name,
                )


def check_calls(message: inference_pb2.Message, where: str) -> None:
    """Refuse what a message cannot say of tools. Raises InvalidArgument naming the parameter."""
    if message.tool_calls and message.role != "assistant":
        raise InvalidArgument(
            f"{where}.tool_calls is in a message of role {message.role!r}; accepted is 'assistant'",
            param=f"{where}.tool_calls",
        )
    if len(message.tool_calls) > MAX_CALLS:
        raise InvalidArgument(
            f"{where}.tool_calls has {len(message.tool_calls)} calls; accepted are up to {MAX_CALLS}",
            param=f"{where}.tool_calls",
        )
    ids: set[str] = set()
    for index, call in enumerate(message.tool_calls):
        at = f"{where}.tool_calls[{index}]"
        if not 1 <= len(call.id) <= MAX_ID_CHARS or call.id in ids:
            problem = "which another call has" if call.id in ids else f"of {len(call.id)} characters"
            raise InvalidArgument(
                f"{at}.id is {call.id[:80]!r}, {problem}; accepted are different ids of 1 to {MAX_ID_CHARS} characters",
                param=f"{at}.id",
            )
        ids.add(call.id)
        if not _NAME.match(call.name):
            raise InvalidArgument(
                f"{at}.name is {call.name[:80]!r}; accepted are 1 to 64 letters, digits, '_' and '-'",
                param=f"{at}.name",
            )
        if call.arguments and not is_object(call.arguments):
            raise InvalidArgument(
                f"{at}.arguments is {call.arguments[:80]!r}; accepted is a JSON object as text", param=f"{at}.arguments"
            )
    if message.tool_call_id and message.role != "tool":
        raise InvalidArgument(
            f"{where}.tool_call_id is in a message of role {message.role!r}; accepted is 'tool'",
            param=f"{where}.tool_call_id",
        )
    if message.role == "tool" and not message.tool_call_id:
        raise InvalidArgument(
            f"{where}.tool_call_id is missing; accepted is the id of the call whose result this is",
            param=f"{where}.tool_call_id",
        )


def check_results(messages: Sequence[inference_pb2.Message], sent: int) -> None:
    """Refuse a tool's message that answers no call before it. The first messages may be a session's, the last are sent.

    `sent`: how many were. Raises InvalidArgument naming the message as it was sent.
    """
    open_calls: dict[str, bool] = {}
    for place, message in enumerate(messages):
        open_calls.update({call.id: True for call in message.tool_calls})
        if message.role != "tool" or not message.tool_call_id:
            continue
        if not open_calls.get(message.tool_call_id):
            index = max(0, place - (len(messages) - sent))
            waiting = ", ".join(repr(call) for call, unanswered in open_calls.items() if unanswered)
            problem = "was answered already" if message.tool_call_id in open_calls else "is of no call before it"
            raise InvalidArgument(
                f"messages[{index}].tool_call_id is {message.tool_call_id[:80]!r}, which {problem}; accepted are the "
                f"ids of calls that wait for their result: {waiting[:400] or 'there are none'}",
                param=f"messages[{index}].tool_call_id",
            )
        open_calls[message.tool_call_id] = False
