"""What an answer can be held to so that it meets what is asserted, or most of it. Pure.

A grammar is one itself. Texts that it must contain or lack, and its length, are one together: regular expressions meet
and complement one another in llguidance's Lark. A schema that says what cannot be enforced is held to without that.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from actors.base.grammar import parsed_schema
from cluster.gateway.grammars import place_of
from protos.gen import inference_pb2

BEFORE_CHARS = 1000
WEAKENED = 16
"""Keywords that are given up of one schema."""


def candidates(assertions: Sequence[inference_pb2.Assertion], tokens: int = 0) -> Iterator[inference_pb2.Grammar]:
    """The grammars that an answer may be held to, the one to try first first.

    `tokens`: most that the answer may have, 0 where that is not said. A text that it must contain comes within as many
    characters: unbounded, a model may go on for ever without.
    """
    yield from (each.grammar for each in assertions if each.HasField("grammar"))
    lengths = [each.max_chars for each in assertions if each.HasField("max_chars")]
    terms = [f"/(?s:.{{1,{min(lengths)}}})/" if lengths else "/(?s:.+)/"]
    for each in assertions:
        if each.HasField("contains"):
            before = max(0, min(tokens or BEFORE_CHARS, *lengths, BEFORE_CHARS) - len(each.contains))
            terms.append(f"/(?s:.{{0,{before}}}){_quoted(each.contains)}(?s:.*)/")
        elif each.HasField("lacks"):
            terms.append(f"~/(?s:.*){_quoted(each.lacks)}(?s:.*)/")
    if lengths or len(terms) > 1:
        yield inference_pb2.Grammar(lark=f"start: TEXT\nTEXT: {' & '.join(terms)}")


def weakened(grammar: inference_pb2.Grammar, why: str) -> inference_pb2.Grammar | None:
    """A schema without the keyword that it is refused for; None where that is not to be found, or it is no schema.

    A keyword only ever rules values out, so whatever satisfied the schema satisfies it still.
    """
    if grammar.WhichOneof("language") != "json_schema":
        return None
    schema = parsed_schema(grammar.json_schema)
    place = place_of(schema, why) if isinstance(schema, dict) else None
    if place is None:
        return None
    *path, keyword = [part.replace("~1", "/").replace("~0", "~") for part in place.split("/")[1:]]
    within: Any = schema
    for part in path:
        within = within[int(part)] if isinstance(within, list) else within[part]
    del within[keyword]
    return inference_pb2.Grammar(json_schema=json.dumps(schema))


def _quoted(text: str) -> str:
    """A text as a regular expression between slashes."""
    return re.sub(r"[^\w ]", lambda match: f"\\x{{{ord(match[0]):X}}}", text)
