"""What a model with tools may write, in llguidance's Lark: calls that are valid, or text in which none begins.

A call's arguments are of the tool's schema and everything around them is literal, so whatever a model draws there is a
call that the format's parser reads. Text is free up to a marker; what follows that is a call.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from actors.base.grammar import embedded
from actors.base.vocabulary import Vocabulary
from cluster.gateway.tools.formats import Format, Literal, Syntax
from protos.gen import inference_pb2

_ANYTHING = "/(?s:.*)/"


class Wanted(NamedTuple):
    """What an answer may be."""

    tools: Sequence[inference_pb2.Tool]
    text: bool
    """Whether it may be text instead, and begin with text."""
    several: bool
    """Whether it may be more than one call."""
    content: inference_pb2.Grammar | None = None
    """What text must be."""


def literals(vocabulary: Vocabulary | None, syntax: Syntax) -> Literal:
    """How texts stand in a grammar over this vocabulary: special tokens by their ids. None: all is spelled out."""
    ids = special_ids(vocabulary, syntax) if vocabulary is not None else {}
    if not ids:
        return json.dumps
    parts = re.compile("(" + "|".join(map(re.escape, ids)) + ")")
    return lambda text: (
        " ".join(f"<[{ids[part]}]>" if part in ids else json.dumps(part) for part in parts.split(text) if part) or '""'
    )


def special_ids(vocabulary: Vocabulary, syntax: Syntax) -> Mapping[str, int]:
    """Which parts of a format's texts are special tokens of the vocabulary."""
    texts = {vocabulary.token_bytes(token): token for token in vocabulary.special_ids}
    return {text: texts[text.encode()] for text in syntax.specials if text.encode() in texts}


def lark(format: Format, wanted: Wanted, literal: Literal) -> str:
    """The grammar. Raises InvalidArgument where the format cannot be held to a tool's schema."""
    syntax = format.syntax
    several = wanted.several and syntax.several
    tools = list(enumerate(wanted.tools))
    lines = [line for place, tool in tools for line in format.arguments(f"arguments_{place}", tool, literal)]
    for label, before in (("first", syntax.opening), ("next", syntax.between)):
        heads = [f"{literal(before + format.head(tool.name))} arguments_{place}" for place, tool in tools]
        lines.append(f"{label}: ({' | '.join(heads)}) {_literal(format.tail, literal)}")
    lines.append(f"group: first {'next*' if several and syntax.within else ''} {_literal(syntax.closing, literal)}")
    beside = f"({literal(syntax.between)})?" if syntax.between and not syntax.within else ""
    again = f"({beside} {_literal(syntax.marker, literal)} group)*" if several and not syntax.within else ""
    lines.append(f"rest: group {again} {beside}")
    lines += _starts(format, wanted, literal)
    return "\n".join(lines) + "\n"


def _starts(format: Format, wanted: Wanted, literal: Literal) -> list[str]:
    marker = format.syntax.marker
    marked = f"{_literal(marker, literal)} rest"
    if not wanted.text:
        return [f"start: {marked}"]
    if wanted.content is not None:
        return [f"start: content | {marked}", f"content: {embedded(wanted.content.json_schema)}"]
    if not marker:
        begins = format.begins([tool.name for tool in wanted.tools])
        return [f"start: TEXT | {marked}", f"TEXT: {_ANYTHING} & ~/{begins}(?s:.*)/"]
    if (spelled := literal(marker)).startswith("<["):
        return [f"start: TEXT | TEXT {spelled} rest", f"TEXT: {_ANYTHING}"]
    return ["start: TEXT | lead rest", f"lead[lazy]: TEXT {spelled}", f"TEXT: {_ANYTHING}"]


def _literal(text: str, literal: Literal) -> str:
    return literal(text) if text else ""
