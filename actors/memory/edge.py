"""Collections in embedded Qdrant: in this process, persisted, for one process at a time.

Similarity is searched in an index of our own (`index`), derived from what is stored: Qdrant's takes minutes to build,
and holds the interpreter lock meanwhile, see docs/adr/0022-similarity-search.md.
"""

import contextlib
import json
import logging
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import qdrant_edge as qdrant
from numpy.typing import NDArray

from actors.base.errors import Conflict, Internal, InvalidArgument
from actors.base.files import write_whole
from actors.memory.index import VectorIndex, holds
from actors.memory.index_file import IndexFile
from actors.memory.store import PAGE, VECTOR, Entry, Schema, Where, check_width

log = logging.getLogger(__name__)
AT_ONCE = 32
"""Entries written in one go, 2 ms: the binding holds the interpreter lock meanwhile, so a search waits for each."""
SWITCH_INTERVAL_S = 0.0005
ON_LOOP = 200_000
"""Entries up to which a search takes about a millisecond; to hand it to a thread costs a tenth of one, and more where
that waits for the interpreter lock."""
FLUSH_ENTRIES = 8192
"""Written between two flushes: what a start after a kill replays, and all that Qdrant's log of writes grows to (about
32 MiB of 384 dimensions). A flush takes 0.04 to 0.2 s."""
NEVER_KB = 1 << 40
"""A size that no segment reaches: what is deleted is taken out, but no HNSW index is built."""
MOST_DELETED = 0.5
"""Share of entries that may be deleted and still take space after a start. Taking them out takes 60 us for each that
stays."""


class EdgeStore:
    """The collections in a directory."""

    def __init__(self, directory: Path) -> None:
        self.shown = str(directory)
        self._directory = directory
        # A search gives the interpreter lock up with every pass over its rows, and one who writes would keep it.
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))

    def collection(self, schema: Schema) -> "EdgeCollection":
        """See `EdgeCollection`."""
        return EdgeCollection(self._directory, schema)

    def close(self) -> None:
        """Nothing is held beside the collections."""


class EdgeCollection:
    """One collection; see `store.Collection`.

    Raises InvalidArgument on opening data of another width or embedder (naming both) or data that cannot be read,
    Conflict where another process holds it.
    """

    def __init__(self, directory: Path, schema: Schema) -> None:
        self.schema = schema
        path = directory / schema.name
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_identity(path, schema)
        if not (path / "shard").exists():
            _create(path, schema)
        self._shard = _load(path / "shard", schema)
        self._unflushed = 0
        with self._named():
            # At the start, while nobody waits: it holds the interpreter lock.
            self._shard.optimize()
        # Writers take turns, so that store and index see writes of one entry in the same order.
        self._writing = threading.Lock()
        self._index = VectorIndex(schema) if schema.searched else None
        if self._index is not None:
            # As versions before named it.
            (path / "index.npz").unlink(missing_ok=True)
            self._file = IndexFile(path / "index.rows", self._index.record)
            self._index = self._filled(self._index)

    @property
    def at_once(self) -> bool:
        """See `store.Collection`."""
        return self.schema.at_hand and self._index is not None and len(self._index) <= ON_LOOP

    def upsert(self, entries: Sequence[Entry]) -> None:
        """See `store.Collection`."""
        for entry in entries:
            if entry.vector is not None:
                check_width(self.schema, entry.vector)
        for start in range(0, len(entries), AT_ONCE):
            some = entries[start : start + AT_ONCE]
            operation = qdrant.UpdateOperation.upsert_points([_point(entry) for entry in some])
            with self._writing:
                self._change(operation, self._index.changes(some) if self._index is not None else None)
                self._wrote(len(some))

    def get(self, ids: Sequence[str], *, vectors: bool = False) -> list[Entry]:
        """See `store.Collection`."""
        with self._named():
            records = self._shard.retrieve(list(ids), True, vectors)
        return [_entry(record) for record in records]

    def delete(self, ids: Sequence[str]) -> None:
        """See `store.Collection`."""
        for start in range(0, len(ids), AT_ONCE):
            some = ids[start : start + AT_ONCE]
            operation = qdrant.UpdateOperation.delete_points(list(some))
            with self._writing:
                self._change(operation, self._index.removals(some) if self._index is not None else None)
                self._wrote(len(some))

    def _change(self, operation: qdrant.UpdateOperation, records: NDArray | None) -> None:
        """Write to the store, and the same to the index."""
        if records is None or self._index is None:
            with self._named():
                self._shard.update(operation)
            return
        self._file.add(records)
        try:
            with self._named():
                self._shard.update(operation)
        except Internal:
            self._file.forget()
            raise
        self._index.apply(records)

    def search(self, vector: Sequence[float], limit: int, where: Where) -> list[tuple[Entry, float]]:
        """See `store.Collection`."""
        check_width(self.schema, vector)
        if self._index is None or not self._index.knows(where):
            return self._search_all(vector, limit, where)
        found = self._index.nearest(vector, limit, where)
        entries = {entry.id: entry for entry in self.get([id_ for id_, _ in found])}
        # One that was deleted or changed since the index answered is not what was asked for.
        return [(entries[id_], score) for id_, score in found if id_ in entries and holds(where, entries[id_].payload)]

    def _search_all(self, vector: Sequence[float], limit: int, where: Where) -> list[tuple[Entry, float]]:
        """By the store itself, which compares every vector: fields that are not the schema's are not in the index."""
        request = qdrant.QueryRequest(
            limit=limit,
            query=qdrant.Query.Nearest(list(vector), using=VECTOR),
            filter=_filter(where),
            with_payload=True,
        )
        with self._named():
            points = self._shard.query(request)
        return [(Entry(str(point.id), point.payload or {}), point.score) for point in points]

    def scan(self, where: Where, limit: int, by: str, *, descending: bool = True) -> list[Entry]:
        """See `store.Collection`."""
        order = qdrant.OrderBy(by, qdrant.Direction.Desc if descending else qdrant.Direction.Asc)
        request = qdrant.ScrollRequest(limit=limit, filter=_filter(where), with_payload=True, order_by=order)
        with self._named():
            records, _ = self._shard.scroll(request)
        return [_entry(record) for record in records]

    def pages(self, where: Where, *, vectors: bool = False) -> Iterator[list[Entry]]:
        """See `store.Collection`."""
        offset = None
        while True:
            request = qdrant.ScrollRequest(
                offset=offset, limit=PAGE, filter=_filter(where), with_payload=True, with_vector=vectors
            )
            with self._named():
                records, offset = self._shard.scroll(request)
            yield [_entry(record) for record in records]
            if offset is None:
                return

    def count(self) -> int:
        """See `store.Collection`."""
        with self._named():
            return self._shard.info().points_count

    def close(self) -> None:
        """See `store.Collection`."""
        with self._named():
            self._shard.flush()
            self._shard.close()
        if self._index is not None:
            self._file.close()

    def _wrote(self, count: int) -> None:
        self._unflushed += count
        if self._unflushed >= FLUSH_ENTRIES:
            with self._named():
                self._shard.flush()
            self._unflushed = 0
            self._tidy()

    def _tidy(self) -> None:
        if self._index is not None and self._file.wasteful(len(self._index)):
            self._file.write(self._index.whole())

    def _filled(self, index: VectorIndex) -> VectorIndex:
        """With every vector that is stored."""
        with self._named():
            having = qdrant.Filter(must=[qdrant.HasVectorCondition(VECTOR)])
            stored = self._shard.count(qdrant.CountRequest(filter=having))
        records = self._file.read()
        if records is not None:
            index.fill(records)
            self._settle(index, records[-AT_ONCE:]["id"].astype(str).tolist())
            if len(index) == stored:
                self._tidy()
                return index
            log.warning(
                "the index of collection %s has %d entries of %d; reading the vectors instead",
                *(self.schema.name, len(index), stored),
            )
            index = VectorIndex(self.schema)
        for page in self.pages(Where(), vectors=True):
            index.put(page)
        self._file.write(index.whole())
        return index

    def _settle(self, index: VectorIndex, ids: Sequence[str]) -> None:
        """Of entries that the process before may not have come to write, believe the store."""
        there = self.get(ids, vectors=True)
        for records in (index.removals(set(ids) - {entry.id for entry in there}), index.changes(there)):
            self._file.add(records)
            index.apply(records)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """The binding raises bare `Exception`: name the collection, and give callers a class that they can catch."""
        try:
            yield
        except Exception as error:
            raise Internal(f"collection {self.schema.name}: {error}") from error


def _check_identity(path: Path, schema: Schema) -> None:
    identity, shard = path / "identity.json", path / "shard"
    mine = schema.identity
    if not identity.exists():
        if shard.exists():
            raise InvalidArgument(f"{path} has data but no identity.json; restore it, or move {path} away")
        write_whole(identity, json.dumps(mine).encode())
        return
    try:
        theirs = json.loads(identity.read_text())
    except ValueError as error:
        raise InvalidArgument(f"{identity} is damaged ({error}); restore it, or move {path} away") from None
    if theirs != mine:
        raise InvalidArgument(
            f"collection {schema.name} in {path} was made with {theirs}, this process embeds with {mine}; "
            "use that embedder again, or another memory.directory"
        )


def _create(path: Path, schema: Schema) -> None:
    """Create beside, then rename: a process killed meanwhile leaves nothing that looks like a shard."""
    draft = path / "shard.new"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    shard = qdrant.EdgeShard.create(str(draft), _config(schema))
    kinds = (
        (schema.keywords, qdrant.PayloadSchemaType.Keyword),
        (schema.integers, qdrant.PayloadSchemaType.Integer),
        (schema.floats, qdrant.PayloadSchemaType.Float),
    )
    for names, kind in kinds:
        for name in names:
            shard.update(qdrant.UpdateOperation.create_field_index(name, kind))
    shard.flush()
    shard.close()
    draft.rename(path / "shard")


def _config(schema: Schema) -> qdrant.EdgeConfig:
    vectors = {VECTOR: qdrant.EdgeVectorParams(size=schema.width, distance=qdrant.Distance.Cosine)}
    optimizers = qdrant.EdgeOptimizersConfig(
        deleted_threshold=MOST_DELETED, indexing_threshold=NEVER_KB, max_segment_size=NEVER_KB
    )
    memory = qdrant.Memory.Cached if schema.at_hand else qdrant.Memory.Cold
    return qdrant.EdgeConfig(vectors=vectors, optimizers=optimizers, payload_memory=memory)


def _load(path: Path, schema: Schema) -> qdrant.EdgeShard:
    if not any(path.glob("segments/*/segment.json")):
        # Qdrant would make an empty one of it.
        raise InvalidArgument(f"{path} cannot be read (it has no segments); restore it, or move it away")
    try:
        return qdrant.EdgeShard.load(str(path), _config(schema))
    except Exception as error:
        if "WouldBlock" in str(error):
            raise Conflict(f"{path} is open elsewhere; stop that, or use another memory.directory") from None
        raise InvalidArgument(f"{path} cannot be read ({error}); restore it, or move it away") from None


def _point(entry: Entry) -> qdrant.Point:
    vector: dict[str, qdrant.NamedVector] = {} if entry.vector is None else {VECTOR: list(entry.vector)}
    return qdrant.Point(entry.id, vector, entry.payload)


def _entry(record: qdrant.Record) -> Entry:
    vector: Any = record.vector.get(VECTOR) if isinstance(record.vector, dict) else None
    return Entry(str(record.id), record.payload or {}, vector)


def _filter(where: Where) -> qdrant.Filter | None:
    conditions: list[qdrant.ConditionType] = [
        qdrant.FieldCondition(key, match=qdrant.MatchValue(value)) for key, value in where.equals.items()
    ]
    conditions += [
        qdrant.FieldCondition(key, range=qdrant.RangeFloat(gte=low, lte=high))
        for key, (low, high) in where.between.items()
    ]
    return qdrant.Filter(must=conditions) if conditions else None
