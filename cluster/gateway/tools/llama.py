"""Llama 3.1 to 3.3: an answer that is a JSON object calls. (Meta's Llama 3.1 prompt format, JSON based tool calling)

{"name": "f", "parameters": {"a": 1}}
"""

from functools import partial

from cluster.gateway.tools.events import Parser
from cluster.gateway.tools.formats import JsonCalls, Syntax
from cluster.gateway.tools.groups import SPACE, GroupParser, JsonGroup

TAG = "<|python_tag|>"
"""Some answers begin with it, though it is for code."""


class Llama(JsonCalls):
    """See Format."""

    name = "llama"
    key = "parameters"
    syntax = Syntax(several=False, specials=(TAG,))
    instructions = (
        "To call a tool, write a JSON object with its name and parameters, and nothing else:\n"
        '{"name": "tool_name", "parameters": {"argument": "value"}}'
    )

    def parser(self, names: frozenset[str], *, certain: bool) -> Parser:
        """See Format. Several objects with semicolons between them are read too."""
        return GroupParser(TAG, "{", partial(JsonGroup, names, "", certain=certain), between=SPACE + ";")
