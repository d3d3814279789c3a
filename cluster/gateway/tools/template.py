"""What a chat template does with tools, found by trying it, and conversations made so that it renders all of them.

A template may know tools or not, and may know calls and their results or not. What it does not know is written into
the texts of messages that it does know: nothing of a conversation is lost.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.base.errors import InvalidArgument
from cluster.gateway.tools.formats import NO_PARAMETERS, Format
from protos.gen import inference_pb2

Rendered = Mapping[str, Any]
"""A message as templates take it."""
Render = Callable[[Sequence[Rendered], Sequence[Rendered] | None], str]
"""Messages and tools to a prompt. Raises InvalidArgument where the template refuses."""

_NEEDLE = "russet_probe"
_ID_CHARS = 9
"""Mistral's templates take ids of exactly so many letters and digits."""


@dataclass(frozen=True)
class ToolUse:
    """How a model's conversations have tools in them."""

    format: Format
    takes_tools: bool
    """Whether its template renders the tools that it is given."""
    takes_calls: bool
    """Whether it renders an assistant's calls and the messages with their results."""
    takes_system: bool
    arguments_as_text: bool
    """Whether it wants a call's arguments as JSON text; otherwise as an object."""

    def messages(
        self, messages: Sequence[inference_pb2.Message], tools: Sequence[inference_pb2.Tool]
    ) -> tuple[list[Rendered], list[Rendered] | None]:
        """A conversation, and tools, as the template is given them. `tools`: those that may be called now."""
        names = {call.id: call.name for message in messages for call in message.tool_calls}
        rendered: list[Rendered] = []
        for message in messages:
            self._add(rendered, message, names)
        if not tools:
            return rendered, None
        if self.takes_tools:
            return rendered, [described(tool) for tool in tools]
        return self._instructed(rendered, tools), None

    def _add(self, rendered: list[Rendered], message: inference_pb2.Message, names: Mapping[str, str]) -> None:
        content = plain(message)
        role = content["role"]
        if message.tool_calls:
            if self.takes_calls:
                content["tool_calls"] = [self._call(call) for call in message.tool_calls]
            else:
                content["content"] = f"{message.content}{written(self.format, message.tool_calls)}"
        elif role == "tool" and self.takes_calls:
            content |= {"tool_call_id": short_id(message.tool_call_id)}
            content.setdefault("name", names.get(message.tool_call_id, ""))
        elif role == "tool":
            content["content"] = f"<tool_response>\n{message.content}\n</tool_response>"
            content["role"] = "user"
            if rendered and rendered[-1].get("results"):  # one user message for all results: roles alternate
                content["content"] = f"{rendered.pop()['content']}\n{content['content']}"
            content["results"] = True
        rendered.append(content)

    def _call(self, call: inference_pb2.ToolCall) -> Rendered:
        arguments = call.arguments if self.arguments_as_text else json.loads(call.arguments or "{}")
        return {
            "id": short_id(call.id),
            "type": "function",
            "function": {"name": call.name, "arguments": arguments},
        }

    def _instructed(self, rendered: list[Rendered], tools: Sequence[inference_pb2.Tool]) -> list[Rendered]:
        """With the tools in the system message, or in the first one where the template takes no system message."""
        text = instructions(self.format, tools)
        if rendered and (rendered[0]["role"] == "system" or not self.takes_system):
            first = dict(rendered[0])
            first["content"] = f"{first['content']}\n\n{text}" if first["content"] else text
            return [first, *rendered[1:]]
        return [{"role": "system", "content": text}, *rendered]


def plain(message: inference_pb2.Message) -> dict[str, Any]:
    """A message without its calls."""
    role = "system" if message.role == "developer" else message.role
    named = {"name": message.name} if message.HasField("name") else {}
    return {"role": role, "content": message.content, **named}


def written(format: Format, calls: Sequence[inference_pb2.ToolCall]) -> str:
    """Calls as the model would have written them."""
    syntax = format.syntax
    each = [format.written(call.name, call.arguments or "{}") for call in calls]
    if syntax.within:
        return f"{syntax.marker}{syntax.opening}{syntax.between.join(each)}{syntax.closing}"
    return syntax.between.join(f"{syntax.marker}{syntax.opening}{one}{syntax.closing}" for one in each)


def described(tool: inference_pb2.Tool) -> Rendered:
    """A tool as OpenAI's requests and chat templates have it."""
    parameters = json.loads(tool.parameters or NO_PARAMETERS)
    about = {"description": tool.description} if tool.description else {}
    return {"type": "function", "function": {"name": tool.name, **about, "parameters": parameters}}


def instructions(format: Format, tools: Sequence[inference_pb2.Tool]) -> str:
    """What a model is told of tools where its own template does not do it."""
    lines = "\n".join(json.dumps(described(tool), ensure_ascii=False) for tool in tools)
    return (
        "You may call tools to answer. Their descriptions, one JSON object a line:\n"
        f"<tools>\n{lines}\n</tools>\n\n"
        f"{format.instructions}\n\n"
        "Where no tool helps, answer in words."
    )


def short_id(call_id: str) -> str:
    """An id that every template takes: nine letters and digits, the same for the same id."""
    if len(call_id) == _ID_CHARS and call_id.isalnum() and call_id.isascii():
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:_ID_CHARS]


def tool_use(render: Render, format: Format) -> ToolUse:
    """Try a template with tools, calls and results in a conversation."""
    user = {"role": "user", "content": "?"}
    tool = described(inference_pb2.Tool(name=_NEEDLE, description="d"))

    def shows(messages: Sequence[Rendered], tools: Sequence[Rendered] | None, *wanted: str) -> bool:
        try:
            text = render(messages, tools)
        except InvalidArgument:
            return False
        return all(part in text for part in wanted)

    def called(arguments: object) -> list[Rendered]:
        function = {"name": "f", "arguments": arguments}
        call = {"id": "abcdefghi", "type": "function", "function": function}
        result = {"role": "tool", "content": "result_probe", "name": "f", "tool_call_id": "abcdefghi"}
        return [user, {"role": "assistant", "content": "", "tool_calls": [call]}, result]

    as_object = shows(called({_NEEDLE: 1}), [tool], f'"{_NEEDLE}": 1', "result_probe")
    as_text = shows(called(f'{{"{_NEEDLE}": 1}}'), [tool], f'"{_NEEDLE}": 1', "result_probe")
    return ToolUse(
        format=format,
        takes_tools=shows([user], [tool], _NEEDLE),
        takes_calls=as_object or as_text,
        takes_system=shows([{"role": "system", "content": _NEEDLE}, user], None, _NEEDLE),
        arguments_as_text=as_text and not as_object,
    )
