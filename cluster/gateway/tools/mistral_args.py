"""Mistral from 2025 on: each call is a special token, a name and the arguments. (mistral-common, tokenizers v11, v13)

[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}
"""

import re
from functools import partial

from cluster.gateway.tools.events import Arguments, Begun, Ended, Event, Parser, call
from cluster.gateway.tools.formats import Syntax, WithJson
from cluster.gateway.tools.groups import GroupParser
from cluster.gateway.tools.json_call import JsonSpan, is_object
from cluster.gateway.tools.mistral import MARKER

ARGS, CALL_ID = "[ARGS]", "[CALL_ID]"
_HEAD = re.compile(r"\s*([A-Za-z0-9_-]{1,64})(?:\[CALL_ID\][A-Za-z0-9_-]{0,64})?\[ARGS\]\s*\{")
MAX_HEAD = 256
"""Characters that may stand before the arguments."""


class MistralArgs(WithJson):
    """See Format."""

    name = "mistral-args"
    syntax = Syntax(MARKER, specials=(MARKER, ARGS, CALL_ID))
    instructions = (
        "To call a tool, write its name and its arguments as a JSON object after marks, and nothing else:\n"
        f'{MARKER}tool_name{ARGS}{{"argument": "value"}}'
    )

    def parser(self, names: frozenset[str], *, certain: bool) -> Parser:
        """See Format."""
        return GroupParser(MARKER, "", partial(_ArgsGroup, names, certain=certain))

    def head(self, name: str) -> str:
        """See Format."""
        return f"{name}{ARGS}"


class _ArgsGroup:
    """One call: a name, perhaps an id, and an object."""

    def __init__(self, names: frozenset[str], *, certain: bool) -> None:
        self._names, self._certain = names, certain
        self.done = self.failed = self.told = False
        self.events: list[Event] = []
        self.left = ""
        self._span = JsonSpan()
        self._name = ""
        self._arguments = ""

    def feed(self, text: str, at: int) -> int:
        """See Group."""
        while at < len(text) and not (self.done or self.failed):
            at = self._object(text, at) if self._name else self._head(text, at)
        return at

    def cut(self) -> None:
        """See Group: nothing closes it but its object."""

    def _head(self, text: str, at: int) -> int:
        self.left += text[at]
        if text[at] == "{":
            head = _HEAD.fullmatch(self.left)
            if head is None or head[1] not in self._names:
                self.failed = True
            else:
                self._span.advance("{", 0, 1, 0)
                self._name, self._arguments = head[1], "{"
                self._tell([Begun(self._name), Arguments("{")])
        self.failed |= len(self.left) > MAX_HEAD
        return at + 1

    def _object(self, text: str, at: int) -> int:
        end = self._span.advance(text, at, len(text), 0)
        self.left += text[at:end]
        self._arguments += text[at:end]
        self._tell([Arguments(text[at:end])])
        if self._span.depth == 0:
            self._tell([Ended()])
            if not self._certain and is_object(self._arguments):
                self._certain = True
                self._tell(call(self._name, self._arguments))
            self.done = self.told
            self.failed = not self.told
        return end

    def _tell(self, events: list[Event]) -> None:
        """What is not certain yet is told of at the end."""
        if self._certain:
            self.events += events
            self.told, self.left = True, ""
