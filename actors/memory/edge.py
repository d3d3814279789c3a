"""Collections in embedded Qdrant: an HNSW index in this process, persisted, for one process at a time."""

import json
from collections.abc import Sequence
from pathlib import Path

import qdrant_edge as qdrant

from actors.base.errors import Conflict, InvalidArgument
from actors.memory.config import MemoryConfig
from actors.memory.store import Entry, Schema, Where

VECTOR = "text"


class EdgeCollection:
    """One collection; see `store.Collection`.

    Raises InvalidArgument on opening data of another width or embedder (naming both), Conflict where another
    process holds it.
    """

    def __init__(self, directory: Path, schema: Schema, config: MemoryConfig) -> None:
        self.schema = schema
        self._ef = config.hnsw_ef_search
        path = directory / schema.name
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        identity = path / "identity.json"
        mine = {"width": schema.width, "embedder": schema.embedder, "metric": "cosine"}
        if identity.exists():
            theirs = json.loads(identity.read_text())
            if theirs != mine:
                raise InvalidArgument(
                    f"collection {schema.name} in {path} was made with {theirs}, this process embeds with {mine}; "
                    "use that embedder again, or another memory.directory"
                )
        self._shard = self._open(path / "shard", config)
        identity.write_text(json.dumps(mine))

    def _open(self, path: Path, config: MemoryConfig) -> qdrant.EdgeShard:
        hnsw = qdrant.HnswIndexConfig(
            m=config.hnsw_m, ef_construct=config.hnsw_ef_construct, full_scan_threshold=10_000, max_indexing_threads=1
        )
        if path.exists():
            try:
                return qdrant.EdgeShard.load(str(path))
            except Exception as error:
                if "WouldBlock" in str(error):
                    raise Conflict(
                        f"{path} is open in another process; stop it, or use another memory.directory"
                    ) from None
                raise InvalidArgument(f"{path} cannot be read ({error}); restore it, or move it away") from None
        path.mkdir(mode=0o700)
        vectors = qdrant.EdgeVectorParams(size=self.schema.width, distance=qdrant.Distance.Cosine)
        shard = qdrant.EdgeShard.create(str(path), qdrant.EdgeConfig(vectors={VECTOR: vectors}, hnsw_config=hnsw))
        kinds = (
            (self.schema.keywords, qdrant.PayloadSchemaType.Keyword),
            (self.schema.integers, qdrant.PayloadSchemaType.Integer),
            (self.schema.floats, qdrant.PayloadSchemaType.Float),
        )
        for names, kind in kinds:
            for name in names:
                shard.update(qdrant.UpdateOperation.create_field_index(name, kind))
        return shard

    def upsert(self, entries: Sequence[Entry]) -> None:
        """See `store.Collection`."""
        points = []
        for entry in entries:
            if entry.vector is not None and len(entry.vector) != self.schema.width:
                raise InvalidArgument(
                    f"a vector of width {len(entry.vector)} for collection {self.schema.name}, "
                    f"whose width is {self.schema.width} ({self.schema.embedder})"
                )
            vector = {} if entry.vector is None else {VECTOR: list(entry.vector)}
            points.append(qdrant.Point(entry.id, vector, entry.payload))
        self._shard.update(qdrant.UpdateOperation.upsert_points(points))

    def get(self, ids: Sequence[str]) -> list[Entry]:
        """See `store.Collection`."""
        return [Entry(str(record.id), record.payload or {}) for record in self._shard.retrieve(list(ids), True, False)]

    def delete(self, ids: Sequence[str]) -> None:
        """See `store.Collection`."""
        self._shard.update(qdrant.UpdateOperation.delete_points(list(ids)))

    def search(self, vector: Sequence[float], limit: int, where: Where) -> list[tuple[Entry, float]]:
        """See `store.Collection`."""
        if len(vector) != self.schema.width:
            raise InvalidArgument(
                f"a query of width {len(vector)} for collection {self.schema.name} of width {self.schema.width}"
            )
        request = qdrant.QueryRequest(
            limit=limit,
            query=qdrant.Query.Nearest(list(vector), using=VECTOR),
            filter=_filter(where),
            with_payload=True,
            params=qdrant.SearchParams(hnsw_ef=self._ef),
        )
        return [(Entry(str(point.id), point.payload or {}), point.score) for point in self._shard.query(request)]

    def scan(self, where: Where, limit: int, newest_by: str) -> list[Entry]:
        """See `store.Collection`."""
        order = qdrant.OrderBy(newest_by, qdrant.Direction.Desc)
        request = qdrant.ScrollRequest(limit=limit, filter=_filter(where), with_payload=True, order_by=order)
        records, _ = self._shard.scroll(request)
        return [Entry(str(record.id), record.payload or {}) for record in records]

    def count(self) -> int:
        """See `store.Collection`."""
        return self._shard.count(qdrant.CountRequest())

    def close(self) -> None:
        """See `store.Collection`."""
        self._shard.flush()
        self._shard.close()


def _filter(where: Where) -> qdrant.Filter | None:
    conditions = [qdrant.FieldCondition(key, match=qdrant.MatchValue(value)) for key, value in where.equals.items()]
    conditions += [
        qdrant.FieldCondition(key, range=qdrant.RangeFloat(gte=low, lte=high))
        for key, (low, high) in where.between.items()
    ]
    return qdrant.Filter(must=conditions) if conditions else None
