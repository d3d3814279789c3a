"""What a format is: how one family of models writes calls."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from actors.base.grammar import embedded
from cluster.gateway.tools.events import Parser
from protos.gen import inference_pb2

Literal = Callable[[str], str]
"""A text as a grammar has it, with special tokens for those of its parts that are such."""
LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""Of arguments: as models were shown them."""
NO_PARAMETERS = '{"type":"object","properties":{},"additionalProperties":false}'


class Syntax(NamedTuple):
    """What stands around calls: literal texts.

    marker opening call closing between marker opening call closing         one call a group
    marker opening call between call closing                                several within a group
    """

    marker: str = ""
    """A group begins with it wherever it stands; empty where one stands at the beginning of an answer alone."""
    opening: str = ""
    between: str = ""
    closing: str = ""
    within: bool = False
    several: bool = True
    """Whether these models write more than one call in an answer."""
    specials: tuple[str, ...] = ()
    """Parts of these texts that a vocabulary may have as special tokens."""


class Format(Protocol):
    """One family's."""

    name: str
    syntax: Syntax
    tail: str
    """What stands after a call's arguments."""
    instructions: str
    """How to write calls, for models whose own template does not tell them."""

    def head(self, name: str) -> str:
        """What stands before a call's arguments."""
        ...

    def arguments(self, label: str, tool: inference_pb2.Tool, literal: Literal) -> list[str]:
        """A call's arguments as the rule `label` in Lark's syntax, and the rules that it needs.

        Raises InvalidArgument where the format cannot be held to the tool's schema.
        """
        ...

    def begins(self, names: Sequence[str]) -> str:
        """Where there is no marker: a regular expression for the beginning that only a call has."""
        ...

    def written(self, name: str, arguments: str) -> str:
        """A call as the model would have written it. `arguments`: a JSON object."""
        ...

    def parser(self, names: frozenset[str], *, certain: bool) -> Parser:
        """Reads an answer. `names`: the tools there are. `certain`: a grammar holds the model to valid calls."""
        ...


class WithJson(ABC):
    """What formats have in common whose arguments are JSON objects."""

    tail = ""

    @abstractmethod
    def head(self, name: str) -> str:
        """See Format."""

    def arguments(self, label: str, tool: inference_pb2.Tool, literal: Literal) -> list[str]:
        """See Format."""
        return [f"{label}: {embedded(tool.parameters or NO_PARAMETERS, LAYOUT)}"]

    def begins(self, names: Sequence[str]) -> str:
        """See Format."""
        return re.escape(self.head("NAME")).replace("NAME", f"({'|'.join(names)})").replace("/", r"\/")

    def written(self, name: str, arguments: str) -> str:
        """See Format."""
        return f"{self.head(name)}{arguments}{self.tail}"


class JsonCalls(WithJson):
    """Calls that are JSON objects with a name and, under `key`, arguments."""

    key = "arguments"
    tail = "}"

    def head(self, name: str) -> str:
        """See Format."""
        return f'{{"name": "{name}", "{self.key}": '
