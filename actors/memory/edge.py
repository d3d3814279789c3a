"""Collections in embedded Qdrant: in this process, persisted, for one process at a time.

Similarity is searched in an index of our own (`index`), derived from what is stored: Qdrant's takes minutes to build,
and holds the interpreter lock meanwhile, see docs/adr/0022-similarity-search.md.
"""

import contextlib
import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import qdrant_edge as qdrant

from actors.base.errors import Conflict, Internal, InvalidArgument
from actors.base.files import write_whole
from actors.memory import index_file
from actors.memory.index import VectorIndex, holds
from actors.memory.store import PAGE, VECTOR, Entry, Schema, Where, check_width

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
        self._index_path = path / "index.npz"
        self._index = VectorIndex(schema) if schema.searched else None
        if self._index is not None:
            self._fill(self._index)

    def upsert(self, entries: Sequence[Entry]) -> None:
        """See `store.Collection`."""
        points = []
        for entry in entries:
            if entry.vector is not None:
                check_width(self.schema, entry.vector)
            vector: dict[str, qdrant.NamedVector] = {} if entry.vector is None else {VECTOR: list(entry.vector)}
            points.append(qdrant.Point(entry.id, vector, entry.payload))
        with self._writing:
            with self._named():
                self._shard.update(qdrant.UpdateOperation.upsert_points(points))
            if self._index is not None:
                self._index.put(entries)
            self._wrote(len(entries))

    def get(self, ids: Sequence[str], *, vectors: bool = False) -> list[Entry]:
        """See `store.Collection`."""
        with self._named():
            records = self._shard.retrieve(list(ids), True, vectors)
        return [_entry(record) for record in records]

    def delete(self, ids: Sequence[str]) -> None:
        """See `store.Collection`."""
        with self._writing:
            with self._named():
                self._shard.update(qdrant.UpdateOperation.delete_points(list(ids)))
            if self._index is not None:
                self._index.remove(ids)
            self._wrote(len(ids))

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
            return self._shard.count(qdrant.CountRequest())

    def close(self) -> None:
        """See `store.Collection`."""
        with self._named():
            self._shard.flush()
            self._shard.close()
        if self._index is not None:
            index_file.write(self._index, self._index_path)

    def _wrote(self, count: int) -> None:
        self._unflushed += count
        if self._unflushed >= FLUSH_ENTRIES:
            with self._named():
                self._shard.flush()
            self._unflushed = 0

    def _fill(self, index: VectorIndex) -> None:
        """With every vector that is stored."""
        with self._named():
            having = qdrant.Filter(must=[qdrant.HasVectorCondition(VECTOR)])
            entries = self._shard.count(qdrant.CountRequest(filter=having))
        if not index_file.take(index, self._index_path, entries):
            for page in self.pages(Where(), vectors=True):
                index.put(page)

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
