"""What a request asks of the form of its answer: refused here, by keyword and place, before anything is generated.

A grammar is compiled as a worker will compile it, in a thread, and what came of it is remembered by its content.
"""

import asyncio
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llguidance import LLMatcher

from actors.base.conformance import BYTES
from actors.base.errors import InvalidArgument
from actors.base.grammar import parsed_schema, reason, source
from actors.base.schema import escaped, places
from cluster.gateway.catalog import ModelView
from protos.gen import inference_pb2

KEPT = 1024
"""Grammars whose outcome is remembered."""
THREADS = 2
MAX_REASON_CHARS = 500
KINDS = {"json_schema": "JSON schema", "regex": "regular expression", "lark": "Lark grammar", "gbnf": "GBNF grammar"}


class Grammars:
    """Which grammars can be enforced."""

    def __init__(self, timeout_s: float) -> None:
        """`timeout_s`: longest that one may take to compile."""
        self._timeout_s = timeout_s
        self._refusals: OrderedDict[bytes, str | None] = OrderedDict()
        """By content: why it is refused, or None."""
        self._pool = ThreadPoolExecutor(THREADS, "gateway-grammar")

    async def check(self, decoding: inference_pb2.Decoding, view: ModelView) -> None:
        """Raises InvalidArgument that names what the model's answer cannot be held to, and where it is."""
        if not decoding.HasField("grammar"):
            return
        grammar = decoding.grammar
        check_ends(view, param_of(grammar))
        if (why := await self.refusal(grammar)) is not None:
            what = KINDS.get(grammar.WhichOneof("language") or "", "grammar")
            called = f" {grammar.name!r}" if grammar.name else ""
            raise InvalidArgument(f"the {what}{called} is refused: {why}", param=param_of(grammar))

    async def refusal(self, grammar: inference_pb2.Grammar) -> str | None:
        """Why it cannot be enforced; None where it can."""
        written = grammar.SerializeToString(deterministic=True)
        key = hashlib.sha256(written).digest()
        if key not in self._refusals:
            loop = asyncio.get_running_loop()
            try:
                async with asyncio.timeout(self._timeout_s):
                    self._refusals[key] = await loop.run_in_executor(self._pool, refusal, grammar)
            except TimeoutError:
                self._refusals[key] = f"it does not compile within {self._timeout_s:g} s; accepted are simpler ones"
            if len(self._refusals) > KEPT:
                self._refusals.popitem(last=False)
        self._refusals.move_to_end(key)
        return self._refusals[key]

    def close(self) -> None:
        """End the threads; what still compiles ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def check_ends(view: ModelView, param: str) -> None:
    """Refuse to hold the answer of a model that cannot end one."""
    if not view.vocabulary.eos_ids:
        raise InvalidArgument(
            f"{view.model.id} has no token that ends an answer, so none can be held to a grammar", param=param
        )


def only_unenforceable(why: str) -> bool:
    """Whether a refusal is of a schema that is sound, but says more than can be enforced."""
    return _UNENFORCEABLE.search(why) is not None


_UNENFORCEABLE = re.compile(r"^Unimplemented keys|^Unknown format|not supported|only supported")


def param_of(grammar: inference_pb2.Grammar) -> str:
    """What HTTP's clients call it."""
    return "response_format" if grammar.WhichOneof("language") == "json_schema" else "russet.grammar"


def refusal(grammar: inference_pb2.Grammar) -> str | None:
    """Why the grammar cannot be enforced; None where it can."""
    try:
        written = source(grammar)
    except InvalidArgument as error:
        return error.message
    failed, messages = LLMatcher.validate_grammar_with_warnings(written)
    if failed:
        why = reason(messages[0])
    else:
        matcher = LLMatcher(BYTES, written, log_level=0)
        if not matcher.is_error() and any(matcher.compute_bitmask()) and not matcher.is_error():
            return None
        why = reason(matcher.get_error()) or "nothing satisfies it"
    if grammar.WhichOneof("language") == "json_schema":
        schema = parsed_schema(grammar.json_schema)
        place = place_of(schema, why) if isinstance(schema, dict) else None
        why = f"{why} (at {place})" if place else why
    return why if len(why) <= MAX_REASON_CHARS else f"{why[:MAX_REASON_CHARS]}..."


_Finder = Callable[[str, Mapping[str, Any]], str | None]


def _with(keyword: str, holds: Callable[[Any, str], bool]) -> _Finder:
    """Finds a schema whose `keyword` has a value that fits what the message says."""
    return lambda said, schema: keyword if keyword in schema and holds(schema[keyword], said) else None


def _with_all(said: str, schema: Mapping[str, Any]) -> str | None:
    named = json.loads(said)
    return named[0] if all(name in schema for name in named) else None


_REASONS: tuple[tuple[re.Pattern[str], _Finder], ...] = (
    (re.compile(r"Unimplemented keys: (\[.*\])", re.S), _with_all),
    (re.compile(r"Unknown format: (.*)", re.S), _with("format", lambda value, said: value == said.strip())),
    (re.compile(r"oneOf constraints(.*)", re.S), _with("oneOf", lambda value, said: True)),
    (re.compile(r"Invalid type: (\S*)"), _with("type", lambda value, said: said in str(value))),
    (re.compile(r"Pointer '([^']*)'"), _with("$ref", lambda value, said: str(value).endswith(said))),
    (re.compile(r"Resource '([^']*)'"), _with("$ref", lambda value, said: said.rstrip("#") in str(value))),
    (re.compile(r"required property '(.*?)' is unsat"), _with("required", lambda value, said: said in value)),
    (re.compile(r"regex parse error:\n +(.*?)\n"), _with("pattern", lambda value, said: str(value) in said)),
    (re.compile(r"min/maxProperties(.*)", re.S), _with("minProperties", lambda value, said: True)),
    (re.compile(r"min/maxProperties(.*)", re.S), _with("maxProperties", lambda value, said: True)),
)


def place_of(schema: dict[str, Any], why: str) -> str | None:
    """Where a schema has what llguidance says it cannot enforce: a JSON pointer with the keyword, or None.

    llguidance names the keyword, or its value, and not the place.
    """
    for said, finder in _REASONS:
        if (match := said.search(why)) is None:
            continue
        for place in places(schema):
            if (keyword := finder(match[1], place.schema)) is not None:
                return f"{place.pointer}/{escaped(keyword)}"
    return None
