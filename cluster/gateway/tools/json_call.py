"""A call written as a JSON object with a name and arguments: Hermes, SmolLM, Llama and Mistral write such."""

import json
import re
from typing import NamedTuple

from cluster.gateway.tools.events import Arguments, Begun, Ended, Event

ARGUMENT_KEYS = ("arguments", "parameters")
_HEAD = re.compile(r'\{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*\{')
_SPACE = re.compile(r"[ \t\r\n]*")


class Written(NamedTuple):
    """A call as it stands in a text: its arguments are a JSON object, as written where that is strict JSON."""

    name: str
    arguments: str


class JsonSpan:
    """Finds the end of a JSON object or array in a text that comes in pieces."""

    def __init__(self) -> None:
        self.depth = 0
        self._in_string = False
        self._escaped = False

    def advance(self, text: str, at: int, end: int, floor: int) -> int:
        """Read text[at:end], or until brackets are `floor` deep again; the place after what was read."""
        for place in range(at, end):
            character = text[place]
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                if character == '"':
                    self._in_string = False
                elif character == "\\":
                    self._escaped = True
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self.depth += 1
            elif character in "}]":
                self.depth -= 1
                if self.depth == floor:
                    return place + 1
        return end


def call_of(text: str, names: frozenset[str]) -> Written | None:
    """The call that a JSON object is; None where it is none, or of no tool in `names`."""
    try:
        members = _members(text)
    except (ValueError, RecursionError):
        return None
    name = members.get("name")
    if name is None or not isinstance(name.value, str) or name.value not in names:
        return None
    given = next((members[key] for key in ARGUMENT_KEYS if key in members), None)
    arguments = "{}" if given is None or given.value is None else _object(given)
    return None if arguments is None else Written(name.value, arguments)


class _Member(NamedTuple):
    text: str
    value: object


def _members(text: str) -> dict[str, _Member]:
    """An object's members with the text of their values. Raises ValueError for anything else."""
    if not isinstance(_LENIENT.decode(text), dict):
        raise ValueError("it is no object")
    members: dict[str, _Member] = {}
    at = _skip(text, text.index("{") + 1)
    while text[at] != "}":
        key, at = _LENIENT.raw_decode(text, at)
        at = _skip(text, _skip(text, at) + 1)  # a colon
        value, end = _LENIENT.raw_decode(text, at)
        members[key] = _Member(text[at:end], value)
        at = _skip(text, end)
        at = _skip(text, at + 1) if text[at] == "," else at
    return members


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _object(given: _Member) -> str | None:
    """Arguments as JSON text: the model's own where it is strict JSON; some models write it into a string."""
    value = given.value
    if isinstance(value, str):
        return value if is_object(value) else None
    if not isinstance(value, dict):
        return None
    return given.text if is_object(given.text) else json.dumps(value, ensure_ascii=False)


def is_object(text: str) -> bool:
    """Whether it is a JSON object, strictly."""
    try:
        return isinstance(json.loads(text, parse_constant=_no_constant), dict)
    except (ValueError, RecursionError):
        return False


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


_LENIENT = json.JSONDecoder(strict=False, parse_constant=_no_constant)
"""Takes line breaks within strings, which weak models write."""


class CallObject:
    """Reads one call's object from its opening brace on.

    {"name": "f", "arguments": {"a": 1}}
    |-------- head ------------|- told -||
    """

    def __init__(self, names: frozenset[str], *, certain: bool) -> None:
        """`certain`: a grammar holds the model to a valid call, so it is told of while it is being written."""
        self._names = names
        self._span = JsonSpan()
        self._read = self._head if certain else self._rest
        self.raw = ""
        self.done = False
        self.begun = False
        """Whether it was told of."""
        self.events: list[Event] = []

    def feed(self, text: str, at: int) -> int:
        """Read from `at` on; the place after what belongs to the object."""
        while at < len(text) and not self.done:
            at = self._read(text, at)
        return at

    def ended(self) -> Written | None:
        """Once it is done without having been told of: the call, or None where it is none."""
        return call_of(self.raw, self._names)

    def _head(self, text: str, at: int) -> int:
        at = self._take(text, at, at + 1)
        if self._span.depth == 2 and text[at - 1] == "{":
            head = _HEAD.fullmatch(self.raw)
            if head is not None and head[1] in self._names:
                self.begun, self._read = True, self._arguments
                self.events += [Begun(head[1]), Arguments("{")]
        self.done = self._span.depth == 0
        return at

    def _arguments(self, text: str, at: int) -> int:
        end = self._take(text, at, len(text), floor=1)
        self.events.append(Arguments(text[at:end]))
        if self._span.depth == 1:
            self.events.append(Ended())
            self._read = self._rest
        return end

    def _rest(self, text: str, at: int) -> int:
        end = self._take(text, at, len(text))
        self.done = self._span.depth == 0
        return end

    def _take(self, text: str, at: int, end: int, floor: int = 0) -> int:
        """Read up to `end`, or until brackets are `floor` deep again."""
        end = self._span.advance(text, at, end, floor)
        self.raw += text[at:end]
        return end
