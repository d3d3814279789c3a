"""What an answer must be, in the language of llguidance, the library that enforces it.

The gateway compiles a grammar to refuse what cannot be enforced; a worker compiles it to enforce it. Both read it here,
so that what the one accepts the other runs.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark

from actors.base.errors import InvalidArgument
from actors.base.schema import narrow_dates
from protos.gen import inference_pb2

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

MAX_BYTES = 512 << 10
"""Of a grammar's message."""
MAX_CHOICES = 4096
ANY_JSON_OBJECT = '{"type":"object"}'

WHITESPACE = r"\x20|\x0A\x20{0,16}"
"""Between the tokens of JSON, once: a space, or a new line and its indentation. Without a bound a weak model may go on
writing white space, which is always allowed, until its tokens are spent."""

_FLEXIBLE: "JsonCompileOptions" = {"whitespace_pattern": WHITESPACE}
_STRICT: "JsonCompileOptions" = {"lenient": False, "coerce_one_of": False}
"""A schema's own x-guidance may not have keywords ignored."""


def source(grammar: inference_pb2.Grammar) -> str:
    """The grammar as llguidance takes it. Raises InvalidArgument where it cannot even be read; compiling finds more."""
    if (size := grammar.ByteSize()) > MAX_BYTES:
        raise InvalidArgument(f"the grammar has {size} bytes; accepted are up to {MAX_BYTES}")
    match grammar.WhichOneof("language"):
        case "json_schema":
            return _from_schema(grammar.json_schema)
        case "regex":
            return LLMatcher.grammar_from_regex(grammar.regex)
        case "choice":
            return _from_choice(list(grammar.choice.texts))
        case "lark":
            return LLMatcher.grammar_from_lark(grammar.lark)
        case "gbnf":
            return _from_gbnf(grammar.gbnf)
        case _:
            raise InvalidArgument("the grammar is empty; accepted are json_schema, regex, choice, lark and gbnf")


def parsed_schema(text: str) -> dict[str, Any] | bool:
    """A schema's document: an object, or a boolean. Raises InvalidArgument for anything else."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"the schema is not valid JSON: {error}") from error
    if not isinstance(schema, dict | bool):
        raise InvalidArgument(f"the schema is {text[:40]!r}; accepted is a JSON object, or true")
    return schema


def _from_schema(text: str) -> str:
    schema = parsed_schema(text)
    if schema is False:
        raise InvalidArgument("the schema is false, which nothing satisfies")
    try:
        document = "{}" if schema is True else json.dumps(schema) if narrow_dates(schema) else text
        return LLMatcher.grammar_from_json_schema(document, defaults=_FLEXIBLE, overrides=_STRICT)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"the schema cannot be read: {error}") from error


def embedded(text: str, layout: Mapping[str, Any] = _FLEXIBLE) -> str:
    """A schema as a part of a Lark grammar, held to as a grammar of its own would be. Raises InvalidArgument.

    `layout`: llguidance's options for what stands between the tokens of JSON.
    """
    schema = parsed_schema(text)
    if not isinstance(schema, dict):
        schema = {} if schema else {"not": {}}
    narrow_dates(schema)
    own = schema.get("x-guidance")
    options = {**layout, **(own if isinstance(own, dict) else {}), **_STRICT}
    return f"%json {json.dumps(schema | {'x-guidance': options})}"


def _from_choice(texts: list[str]) -> str:
    if not 1 <= len(texts) <= MAX_CHOICES:
        raise InvalidArgument(f"choice has {len(texts)} texts; accepted are 1 to {MAX_CHOICES}")
    return LLMatcher.grammar_from_lark("start: " + " | ".join(json.dumps(text) for text in texts))


def _from_gbnf(text: str) -> str:
    try:
        return LLMatcher.grammar_from_lark(gbnf_to_lark(text))
    except Exception as error:  # the library raises bare Exception
        raise InvalidArgument(f"the GBNF grammar cannot be read: {error}") from error


def reason(error: str) -> str:
    """What llguidance says went wrong, without the state that it adds for its own developers."""
    said = error.split("\n<state>")[0].strip()
    return "nothing satisfies it" if said.startswith("NoExtension") else said
