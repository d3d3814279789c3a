"""What a request's tools mean for one model: the prompt's tools, what the answer is held to, how it is read."""

import asyncio
import json
from typing import NamedTuple

from actors.base.errors import InvalidArgument
from cluster.gateway.catalog import ModelView
from cluster.gateway.grammars import Grammars, check_ends, only_unenforceable
from cluster.gateway.tools.check import callable_tools, is_held, must_call
from cluster.gateway.tools.grammar import Wanted, lark, literals, special_ids
from cluster.gateway.tools.reader import CallReader
from protos.gen import inference_pb2

_PLAIN = {"type", "properties", "required", "$defs", "definitions", "title", "description", "$schema"}
_ANY_OBJECT = '{"type":"object"}'


class ToolPlan(NamedTuple):
    """One request's, for one model."""

    grammar: inference_pb2.Grammar | None
    """What the answer is held to; None where it is free."""
    shown: frozenset[int]
    """Special tokens that are part of calls: their text is read."""
    names: frozenset[str]
    view: ModelView

    def reader(self) -> CallReader:
        """Reads one answer from its beginning."""
        format = self.view.tool_use.format
        return CallReader(format.parser(self.names, certain=self.grammar is not None))


async def plan_of(request: inference_pb2.ChatRequest, view: ModelView, grammars: Grammars) -> ToolPlan | None:
    """None where the answer calls no tools. Raises InvalidArgument that names what cannot be had."""
    tools = callable_tools(request)
    if not tools:
        return None
    format = (await asyncio.to_thread(lambda: view.tool_use)).format  # a template may take its time
    shown = frozenset(special_ids(view.vocabulary, format.syntax).values())
    plan = ToolPlan(None, shown, frozenset(tool.name for tool in tools), view)
    decoding = request.decoding
    free = decoding.ignore_eos or decoding.min_tokens or not view.vocabulary.eos_ids
    if free and not is_held(request):
        return plan
    forced, several = must_call(request), not request.HasField("parallel_tool_calls") or request.parallel_tool_calls
    held = [await _held_to(tool, request, grammars, view) for tool in tools]
    wanted = Wanted(held, not forced, several, _content(request, view))
    check_ends(view, "tools")
    spelled = inference_pb2.Grammar(lark=lark(format, wanted, literals(None, format.syntax)))
    if (why := await grammars.refusal(spelled)) is not None:
        raise InvalidArgument(f"an answer cannot be held to these tools together: {why}", param="tools")
    exact = lark(format, wanted, literals(view.vocabulary, format.syntax))
    return plan._replace(grammar=inference_pb2.Grammar(lark=exact, close=decoding.grammar.close))


async def _held_to(
    tool: inference_pb2.Tool, request: inference_pb2.ChatRequest, grammars: Grammars, view: ModelView
) -> inference_pb2.Tool:
    """The tool with what its arguments are held to.

    Of a tool that need not be called, and is not strict, that may be less than its schema: what cannot be enforced is
    left to the model. Raises InvalidArgument otherwise.
    """
    if not tool.parameters:
        return tool
    parameters = inference_pb2.Grammar(json_schema=tool.parameters)
    why = await grammars.refusal(parameters)
    if why is None:
        return inference_pb2.Tool(name=tool.name, parameters=closed(tool.parameters))
    if tool.strict or must_call(request) or not only_unenforceable(why):
        index = [each.name for each in request.tools].index(tool.name)
        raise InvalidArgument(
            f"the parameters of the tool {tool.name!r} are refused: {why}", param=f"tools[{index}].parameters"
        )
    return inference_pb2.Tool(name=tool.name, parameters=_ANY_OBJECT)


def closed(parameters: str) -> str:
    """The schema without arguments that it does not name, where it leaves open whether there may be others."""
    schema = json.loads(parameters)
    if not schema.keys() <= _PLAIN or not set(schema.get("required", ())) <= schema.get("properties", {}).keys():
        return parameters
    return json.dumps(schema | {"type": "object", "additionalProperties": False})


def _content(request: inference_pb2.ChatRequest, view: ModelView) -> inference_pb2.Grammar | None:
    """What text must be where the answer is text. Raises InvalidArgument where both cannot be had."""
    grammar, format = request.decoding.grammar, view.tool_use.format
    language = grammar.WhichOneof("language")
    if language is None or must_call(request):
        return None
    if not format.syntax.marker:
        raise InvalidArgument(
            f"response_format is given with tools that the model may call, which it does in the {format.name} format: "
            "an answer of JSON could not be told from a call; accepted is one of the two, or a tool_choice",
            param="response_format",
        )
    return grammar
