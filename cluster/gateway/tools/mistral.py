"""Mistral up to 2024: a special token, then a list of objects. (mistral-common, tokenizers v3 and v7)

[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]
"""

from functools import partial

from cluster.gateway.tools.events import Parser
from cluster.gateway.tools.formats import JsonCalls, Syntax
from cluster.gateway.tools.groups import GroupParser, JsonGroup

MARKER = "[TOOL_CALLS]"


class Mistral(JsonCalls):
    """See Format."""

    name = "mistral"
    syntax = Syntax(MARKER, opening="[", closing="]", between=", ", within=True, specials=(MARKER,))
    instructions = (
        "To call tools, write a JSON list of calls after a mark, and nothing else:\n"
        f'{MARKER}[{{"name": "tool_name", "arguments": {{"argument": "value"}}}}]'
    )

    def parser(self, names: frozenset[str], *, certain: bool) -> Parser:
        """See Format."""
        return GroupParser(MARKER, "", partial(JsonGroup, names, "", certain=certain))
