"""The vectors of a collection in memory, with the fields they are filtered by: derived, never the record.

A row is an entry that has a vector; rows lie side by side without gaps, and the last one moves into a deleted one's
place. A search first says which rows it may find (exactly), then takes the nearest of these (see `simhash`).

    where ──> rows ──by bits──> CANDIDATES ──by codes──> limit
"""

import hashlib
import threading
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from actors.memory.simhash import FIRST_WORDS, Hash, Rows, closest, cosines
from actors.memory.store import Entry, Schema, Value, Where

CANDIDATES = 512
"""Compared by their codes, at least."""
CANDIDATES_OF_EACH = 8
"""The same for each that is wanted."""
FIRST_ROWS = 1024
_INTEGERS = np.iinfo(np.int64)


class VectorIndex:
    """Finds entries by similarity. Usable from any thread; those who change it take turns with those who search."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._hash = Hash(schema.width)
        self._lock = threading.Lock()
        self._row_of: dict[str, int] = {}
        self._ids: list[str] = []
        self._codes = np.empty((0, schema.width), np.int16)
        self._scales = np.empty(0, np.float32)
        first = min(FIRST_WORDS, self._hash.words)
        self._front = np.empty((first, 0), np.uint64)
        self._rest = np.empty((0, self._hash.words - first), np.uint64)
        # Of keywords a hash; where an entry lacks the field: 0, the least integer, NaN.
        kinds = ((schema.keywords, "<i8"), (schema.integers, "<i8"), (schema.floats, "<f8"))
        fields = [(name, kind) for names, kind in kinds for name in names]
        self._columns: dict[str, NDArray] = {name: np.empty(0, kind) for name, kind in fields}
        self.record = np.dtype(
            [("id", "S36"), ("there", "?"), ("scale", "<f4")]
            + [("bits", "<u8", (self._hash.words,)), ("codes", "<i2", (schema.width,))]
            + [(f"field {name}", kind) for name, kind in fields]
        )
        """An entry as it stands here; where it is not `there`, an entry that is removed."""

    def __len__(self) -> int:
        return len(self._ids)

    def fill(self, records: NDArray) -> None:
        """Into an empty one: of each entry the last record."""
        last = {id_: at for at, id_ in enumerate(records["id"].tolist())}
        newest = np.fromiter(last.values(), np.intp, len(last))
        newest = newest[records["there"][newest]]
        self._ids = records["id"][newest].astype(str).tolist()
        self._row_of = {id_: row for row, id_ in enumerate(self._ids)}
        bits, first = records["bits"][newest], len(self._front)
        self._front, self._rest = np.ascontiguousarray(bits[:, :first].T), np.ascontiguousarray(bits[:, first:])
        self._codes, self._scales = records["codes"][newest], records["scale"][newest]
        self._columns = {name: records[f"field {name}"][newest] for name in self._columns}

    def whole(self) -> Iterator[NDArray]:
        """Records that fill another like this one, some at a time."""
        for start in range(0, len(self), FIRST_ROWS):
            rows = slice(start, min(start + FIRST_ROWS, len(self)))
            records = np.zeros(rows.stop - start, self.record)
            records["id"], records["there"] = self._ids[rows], True
            records["bits"] = np.concatenate([self._front[:, rows].T, self._rest[rows]], axis=1)
            records["codes"], records["scale"] = self._codes[rows], self._scales[rows]
            for name, column in self._columns.items():
                records[f"field {name}"] = column[rows]
            yield records

    def knows(self, where: Where) -> bool:
        """Whether it has every field that is asked for; only then can it be searched."""
        schema = self._schema
        equals = all(
            name in (schema.keywords if isinstance(value, str) else schema.integers) and not isinstance(value, bool)
            for name, value in where.equals.items()
        )
        return equals and all(name in schema.integers or name in schema.floats for name in where.between)

    def put(self, entries: Sequence[Entry]) -> None:
        """Insert or replace by id, in order; one that has no vector is removed."""
        self.apply(self.changes(entries))

    def changes(self, entries: Sequence[Entry]) -> NDArray:
        """What `put` would change: a record of each entry that it has then, or had."""
        last = {entry.id: entry for entry in entries}
        vectors = [entry for entry in last.values() if entry.vector is not None]
        without = [entry.id for entry in last.values() if entry.vector is None]
        values = np.array([entry.vector for entry in vectors], np.float32).reshape(-1, self._schema.width)
        coded = self._hash.encode(values)
        records = np.zeros(len(vectors), self.record)
        records["id"], records["there"] = [entry.id for entry in vectors], True
        records["bits"], records["codes"], records["scale"] = coded
        for name in self._columns:
            records[f"field {name}"] = self._column(name, vectors)
        gone = self.removals(without)
        return np.concatenate([gone, records]) if len(gone) else records

    def removals(self, ids: Iterable[str]) -> NDArray:
        """The change that makes it forget those that it has."""
        known = [id_ for id_ in ids if id_ in self._row_of]
        records = np.zeros(len(known), self.record)
        records["id"] = known
        return records

    def apply(self, records: NDArray) -> None:
        """Make a change: of each entry one record."""
        ids = [id_.decode() for id_ in records["id"].tolist()]
        there = records["there"]
        kept = records[there]
        with self._lock:
            self._remove([id_ for id_, stays in zip(ids, there, strict=True) if not stays])
            placed = [self._place(id_) for id_, stays in zip(ids, there, strict=True) if stays]
            rows = np.array(placed, np.intp)
            self._reserve(len(self._ids))
            first = len(self._front)
            self._front[:, rows], self._rest[rows] = kept["bits"][:, :first].T, kept["bits"][:, first:]
            self._codes[rows], self._scales[rows] = kept["codes"], kept["scale"]
            for name, column in self._columns.items():
                column[rows] = kept[f"field {name}"]

    def nearest(self, vector: Sequence[float], limit: int, where: Where) -> list[tuple[str, float]]:
        """Ids of entries and their cosine, nearest first. `where` has to be one that it knows."""
        query = np.array(vector, np.float32)
        coded = self._hash.encode(query[None])
        length = float(np.linalg.norm(query))
        if length:
            query /= length
        wanted = max(CANDIDATES, CANDIDATES_OF_EACH * limit)
        with self._lock:
            rows = self._rows(where)
            if (len(self) if rows is None else len(rows)) > wanted:
                rows = closest(self._front[:, : len(self)], self._rest, coded.bits[0], wanted, rows)
            chosen = slice(len(self)) if rows is None else rows
            scores = cosines(self._codes[chosen], self._scales[chosen], query)
            best = np.argsort(-scores, kind="stable")[:limit]
            found = best if rows is None else rows[best]
            return [(self._ids[row], float(score)) for row, score in zip(found, scores[best], strict=True)]

    def _rows(self, where: Where) -> Rows | None:
        """Those that `where` holds for; None for all."""
        if not where.equals and not where.between:
            return None
        holds = np.ones(len(self), bool)
        for name, value in where.equals.items():
            wanted = _hashed(value) if isinstance(value, str) else value
            holds &= self._columns[name][: len(self)] == wanted
        for name, (low, high) in where.between.items():
            column = self._columns[name][: len(self)]
            if name in self._schema.integers:
                holds &= column != _INTEGERS.min
            elif low is None and high is None:
                holds &= ~np.isnan(column)
            if low is not None:
                holds &= column >= low
            if high is not None:
                holds &= column <= high
        return np.flatnonzero(holds)

    def _column(self, name: str, entries: Sequence[Entry]) -> NDArray:
        values = [entry.payload.get(name) for entry in entries]
        if name in self._schema.keywords:
            return np.array([_hashed(value) if isinstance(value, str) else 0 for value in values], np.int64)
        if name in self._schema.integers:
            whole = [value if isinstance(value, int) else _INTEGERS.min for value in values]
            return np.array(whole, np.int64)
        return np.array([value if isinstance(value, int | float) else np.nan for value in values], np.float64)

    def _place(self, id_: str) -> int:
        """The entry's row, a new one at the end where it has none."""
        row = self._row_of.setdefault(id_, len(self._ids))
        if row == len(self._ids):
            self._ids.append(id_)
        return row

    def _remove(self, ids: Sequence[str]) -> None:
        for id_ in ids:
            row = self._row_of.pop(id_, None)
            if row is None:
                continue
            last = self._ids.pop()
            if last == id_:
                continue
            end = len(self._ids)
            self._ids[row], self._row_of[last] = last, row
            self._front[:, row], self._rest[row] = self._front[:, end], self._rest[end]
            self._codes[row], self._scales[row] = self._codes[end], self._scales[end]
            for column in self._columns.values():
                column[row] = column[end]

    def _reserve(self, rows: int) -> None:
        """Room for so many rows; what is there stays."""
        if rows <= len(self._scales):
            return
        room = max(FIRST_ROWS, rows, 3 * len(self._scales) // 2)

        def grown(old: NDArray, axis: int = 0) -> NDArray:
            shape = list(old.shape)
            shape[axis] = room
            new = np.empty(shape, old.dtype)
            new[(slice(None),) * axis + (slice(old.shape[axis]),)] = old
            return new

        self._front, self._rest = grown(self._front, 1), grown(self._rest)
        self._codes, self._scales = grown(self._codes), grown(self._scales)
        self._columns = {name: grown(column) for name, column in self._columns.items()}


def holds(where: Where, payload: dict[str, Value | float]) -> bool:
    """Whether an entry with this payload is one of `where`."""

    def within(name: str, low: float | None, high: float | None) -> bool:
        value = payload.get(name)
        return isinstance(value, int | float) and (low is None or value >= low) and (high is None or value <= high)

    return all(payload.get(name) == value for name, value in where.equals.items()) and all(
        within(name, *bounds) for name, bounds in where.between.items()
    )


def _hashed(value: str) -> int:
    """64 bits, never those of a field that is not there. What is found is compared again, by its own payload."""
    digest = hashlib.blake2b(value.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True) or 1
