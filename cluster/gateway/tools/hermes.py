"""Hermes and Qwen: an object between tags for each call. (NousResearch/Hermes-Function-Calling; Qwen2.5, Qwen3)

<tool_call>
{"name": "f", "arguments": {"a": 1}}
</tool_call>
"""

from functools import partial

from cluster.gateway.tools.events import Parser
from cluster.gateway.tools.formats import JsonCalls, Syntax
from cluster.gateway.tools.groups import GroupParser, JsonGroup

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class Hermes(JsonCalls):
    """See Format."""

    name = "hermes"
    syntax = Syntax(OPEN, opening="\n", closing=f"\n{CLOSE}", between="\n", specials=(OPEN, CLOSE))
    instructions = (
        "To call a tool, write a JSON object with its name and arguments between tags, and nothing else:\n"
        f'{OPEN}\n{{"name": "tool_name", "arguments": {{"argument": "value"}}}}\n{CLOSE}'
    )

    def parser(self, names: frozenset[str], *, certain: bool) -> Parser:
        """See Format. A list within the tags is read as well, and a closing tag that is missing at the end."""
        return GroupParser(OPEN, "", partial(JsonGroup, names, CLOSE, certain=certain))
