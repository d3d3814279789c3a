"""SmolLM2: a list of objects between tags. (HuggingFaceTB/SmolLM2, text/finetuning's function calling; Apache-2.0)

<tool_call>[{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]</tool_call>
"""

from cluster.gateway.tools.formats import Syntax
from cluster.gateway.tools.hermes import CLOSE, OPEN, Hermes


class SmolLM(Hermes):
    """See Format. It is read as Hermes is, which takes lists too."""

    name = "smollm"
    syntax = Syntax(OPEN, opening="[", closing=f"]{CLOSE}", between=", ", within=True, specials=(OPEN, CLOSE))
    instructions = (
        "To call tools, write a JSON list of calls between tags, and nothing else:\n"
        f'{OPEN}[{{"name": "tool_name", "arguments": {{"argument": "value"}}}}]{CLOSE}'
    )
