"""Pythonic: an answer that is a list of calls with named arguments. (Llama 3.2 and 4, ToolACE, Gorilla's BFCL prompt)

[f(a=1, b="x"), g()]
"""

import ast
import json
import keyword
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

from actors.base.errors import InvalidArgument
from actors.base.grammar import embedded, parsed_schema
from cluster.gateway.tools.events import Event, Parser, call
from cluster.gateway.tools.formats import LAYOUT, Literal, Syntax
from cluster.gateway.tools.groups import GroupParser
from cluster.gateway.tools.json_call import Written
from protos.gen import inference_pb2

START = "<|python_start|>"
"""Llama 4 writes it before a list; the special token after it has no text."""
MAX_CHARS = 64 << 10
"""Of a list of calls."""
_CONSTANTS = {"true": True, "false": False, "null": None}
_SHARED = ("$defs", "definitions")
_ROOT_KEYWORDS = {"type", "properties", "required", "additionalProperties", "$defs", "definitions", "$schema", "title",
                  "description", "$id", "examples"}  # fmt: skip
"""Of a schema's root: what can be said of named arguments, or says nothing of values."""


class Pythonic:
    """See Format."""

    name = "pythonic"
    tail = ")"
    syntax = Syntax(opening="[", between=", ", closing="]", within=True, specials=(START,))
    instructions = (
        "To call tools, write a list of calls with named arguments, and nothing else:\n"
        '[tool_name(argument="value"), other_tool_name(argument=1)]'
    )

    def parser(self, names: frozenset[str], *, certain: bool) -> Parser:
        """See Format. A call is told of when its list has ended: its arguments are JSON only then."""
        return GroupParser(START, "[", partial(_ListGroup, names))

    def head(self, name: str) -> str:
        """See Format."""
        return f"{name}("

    def begins(self, names: Sequence[str]) -> str:
        """See Format."""
        return rf"\[({'|'.join(names)})\("

    def arguments(self, label: str, tool: inference_pb2.Tool, literal: Literal) -> list[str]:
        """See Format. Required ones come first; each value is JSON."""
        schema = _checked(tool)
        required, shared = schema.get("required", []), {key: schema[key] for key in _SHARED if key in schema}
        properties = schema.get("properties", {})
        names = sorted(properties, key=lambda name: name not in required)  # stable: otherwise as declared
        lines, each = [], [f"{label}_{place}" for place in range(len(names))]
        for rule, name in zip(each, names, strict=True):
            part = properties[name]
            part = embedded(json.dumps({**shared, **part} if isinstance(part, dict) else part), LAYOUT)
            lines.append(f"{rule}: {literal(f'{name}=')} {part}")
        first = len(required)
        after = [f'", " {rule}' if place < first else f'(", " {rule})?' for place, rule in enumerate(each)]
        begun = [" ".join([rule, *after[place + 1 :]]) for place, rule in enumerate(each)]
        given = begun[0] if first else " | ".join([*begun, '""'])
        return [*lines, f"{label}: {given}"]

    def written(self, name: str, arguments: str) -> str:
        """See Format."""
        return f"{name}({', '.join(f'{key}={value!r}' for key, value in json.loads(arguments).items())})"


def _checked(tool: inference_pb2.Tool) -> dict[str, Any]:
    """The schema, where named arguments can be held to it."""
    schema = parsed_schema(tool.parameters) if tool.parameters else {}
    assert isinstance(schema, dict)
    if others := sorted(schema.keys() - _ROOT_KEYWORDS):
        raise InvalidArgument(
            f"the parameters of {tool.name!r} have {others[0]!r} at their root, to which named arguments cannot be "
            f"held; accepted are {', '.join(sorted(_ROOT_KEYWORDS))}",
            param="tools",
        )
    properties = schema.get("properties", {})
    for name in [*properties, *schema.get("required", [])]:
        if name not in properties or not name.isidentifier() or keyword.iskeyword(name):
            raise InvalidArgument(
                f"the parameters of {tool.name!r} have the argument {name[:80]!r}; accepted are properties that are "
                "Python's names",
                param="tools",
            )
    return schema


class _ListGroup:
    """A list of calls, read when its bracket closes."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self.done = self.failed = self.told = False
        self.events: list[Event] = []
        self.left = ""
        self._depth = 0
        self._quote = ""
        self._escaped = False

    def feed(self, text: str, at: int) -> int:
        """See Group."""
        for place in range(at, len(text)):
            if self._closes(text[place]):
                self.left += text[at : place + 1]
                found = calls_of(self.left.strip(), self._names)
                self.failed = found is None
                for each in found or ():
                    self.events += call(*each)
                    self.done, self.told, self.left = True, True, ""
                return place + 1
        self.left += text[at:]
        self.failed = len(self.left) > MAX_CHARS
        return len(text)

    def cut(self) -> None:
        """See Group: an open list is no calls."""

    def _closes(self, character: str) -> bool:
        if self._escaped:
            self._escaped = False
        elif self._quote:
            self._escaped = character == "\\"
            self._quote = "" if character == self._quote else self._quote
        elif character in "\"'":
            self._quote = character
        elif character in "([{":
            self._depth += 1
        elif character in ")]}":
            self._depth -= 1
            return self._depth <= 0
        return False


def calls_of(text: str, names: frozenset[str]) -> list[Written] | None:
    """The calls that a list in brackets is; None where it is none, or one of them is of no tool in `names`."""
    calls: list[Written] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a model's strings may have escapes that Python does not know
            body = ast.parse(text, mode="eval").body
        for each in body.elts if isinstance(body, ast.List) else ():
            name = (ast.get_source_segment(text, each) or "").partition("(")[0].strip()
            node: ast.expr = each
            while isinstance(node, ast.BinOp):  # a name with hyphens reads as a difference
                node = node.right
            if name not in names or not isinstance(node, ast.Call) or node.args:
                return None
            given = {_named(keyword): _value(keyword.value) for keyword in node.keywords}
            if len(given) < len(node.keywords):
                return None
            calls.append(Written(name, json.dumps(given, ensure_ascii=False, allow_nan=False)))
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None
    return calls or None


def _named(argument: ast.keyword) -> str:
    if argument.arg is None:
        raise ValueError("it spreads a mapping")
    return argument.arg


def _value(node: ast.expr) -> Any:
    """A literal, Python's or JSON's. Raises ValueError for anything else."""
    match node:
        case ast.Constant(value=str() as text):
            return text.encode("utf-16", "surrogatepass").decode("utf-16")  # JSON writes a character as two escapes
        case ast.Constant(value=bool() | int() | float() | None as value):
            return value
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_value(part) for part in parts]
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {_key(key): _value(value) for key, value in zip(keys, values, strict=True)}
        case _:
            raise ValueError("it is no literal")


def _key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError("a key is no text")
