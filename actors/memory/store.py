"""What a collection offers, whatever keeps it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from actors.base.errors import InvalidArgument

Value = str | int | bool
VECTOR = "text"
"""The name of the vector within a point."""
PAGE = 250
"""Entries of a page, and of a request that writes."""


@dataclass(frozen=True)
class Schema:
    """A collection's identity, checked on open: vectors of `width` from `embedder`, compared by cosine."""

    name: str
    width: int
    embedder: str
    keywords: tuple[str, ...] = ()
    integers: tuple[str, ...] = ()
    floats: tuple[str, ...] = ()
    searched: bool = True
    """Whether its vectors are searched; a collection where they are not is spared an index in memory."""
    at_hand: bool = False
    """Whether an embedded store reads all payloads into the system's memory on opening: the first reading of ten from
    the disk takes 1 ms, half of what a search may."""

    @property
    def identity(self) -> dict[str, Any]:
        """What data has to have been made with to be opened."""
        return {"width": self.width, "embedder": self.embedder, "metric": "cosine"}


@dataclass(frozen=True)
class Entry:
    """A point: a UUID, a payload of plain values, and perhaps a vector."""

    id: str
    payload: dict[str, Any]
    vector: Sequence[float] | None = None


@dataclass(frozen=True)
class Where:
    """Which entries: all `equals` hold, and all `between` (inclusive; None is open)."""

    equals: Mapping[str, Value] = field(default_factory=dict)
    between: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)


class Collection(Protocol):
    """Entries that can be looked up by id, by payload and by similarity. Methods may block: call off the loop."""

    schema: Schema

    @property
    def at_once(self) -> bool:
        """Whether `search` answers from memory within about a millisecond: it may then be called on the loop."""
        ...

    def upsert(self, entries: Sequence[Entry]) -> None:
        """Insert or replace by id, in order. On return it outlives this process, though not yet the machine.

        Another width is an InvalidArgument naming both, and nothing is written. A store that fails raises Internal,
        one that is away Unavailable, here and below; after either, some or all of them may be there.
        """
        ...

    def get(self, ids: Sequence[str], *, vectors: bool = False) -> list[Entry]:
        """Those of `ids` that are there, in any order; their vectors (of length 1) only where asked for."""
        ...

    def delete(self, ids: Sequence[str]) -> None:
        """Remove those that are there."""
        ...

    def search(self, vector: Sequence[float], limit: int, where: Where) -> list[tuple[Entry, float]]:
        """Nearest first, with their cosine."""
        ...

    def scan(self, where: Where, limit: int, by: str, *, descending: bool = True) -> list[Entry]:
        """Entries ordered by the payload field `by`, largest first unless `descending` is false."""
        ...

    def pages(self, where: Where, *, vectors: bool = False) -> Iterator[list[Entry]]:
        """All of them, some at a time, in no order that means anything."""
        ...

    def count(self) -> int:
        """All entries."""
        ...

    def close(self) -> None:
        """Flush and release."""
        ...


class Store(Protocol):
    """Where collections are: a directory of this machine, or a server."""

    shown: str
    """As messages name it."""

    def collection(self, schema: Schema) -> Collection:
        """Open one, making it where it is not there yet. Data of another identity is an InvalidArgument naming both."""
        ...

    def close(self) -> None:
        """After its collections."""
        ...


def check_width(schema: Schema, vector: Sequence[float]) -> None:
    """Raises InvalidArgument, naming both, for a vector of another width than the collection's."""
    if len(vector) != schema.width:
        raise InvalidArgument(
            f"a vector of width {len(vector)} for collection {schema.name}, whose width is {schema.width} "
            f"({schema.embedder})"
        )
