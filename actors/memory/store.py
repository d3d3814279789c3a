"""What a collection offers, whatever keeps it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Value = str | int | bool


@dataclass(frozen=True)
class Schema:
    """A collection's identity, checked on open: vectors of `width` from `embedder`, compared by cosine."""

    name: str
    width: int
    embedder: str
    keywords: tuple[str, ...] = ()
    integers: tuple[str, ...] = ()
    floats: tuple[str, ...] = ()


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

    def upsert(self, entries: Sequence[Entry]) -> None:
        """Insert or replace by id, all or none. On return it outlives this process, though not yet the machine.

        Another width is an InvalidArgument naming both. A store that fails raises Internal, here and below.
        """
        ...

    def get(self, ids: Sequence[str]) -> list[Entry]:
        """Those of `ids` that are there, without vectors."""
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

    def pages(self, where: Where) -> Iterator[list[Entry]]:
        """All of them, some at a time, in no order that means anything."""
        ...

    def count(self) -> int:
        """All entries."""
        ...

    def close(self) -> None:
        """Flush and release."""
        ...
