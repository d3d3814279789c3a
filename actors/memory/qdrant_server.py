"""Collections on a Qdrant server, over HTTPS or HTTP: for several nodes, and for more entries than fit beside a model.

Every operation here can be repeated without harm (points have ids of ours), so each is tried again, a bounded number
of times, where the server is away, busy or failing.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from actors.base.errors import Internal, InvalidArgument, PermissionDenied, Unavailable
from actors.memory.config import MemoryConfig
from actors.memory.store import PAGE, VECTOR, Entry, Schema, Where, check_width

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")
TRIES = 4
PAUSE_S = 0.1
"""Before the second try; doubled each time, so that all four take 0.7 s more than their answers."""
LONGEST_PAUSE_S = 2.0
RETRY_AFTER_S = 2.0
REQUEST_BYTES = 8 << 20
"""Of points in one request, about; a Qdrant server refuses 32 MiB."""
FLOAT_BYTES = 22
"""A float32 as JSON, at most."""
HNSW = models.HnswConfigDiff(m=32, ef_construct=200)
SEARCH = models.SearchParams(hnsw_ef=64)


class QdrantServer:
    """A connection to the server; one for all collections, which it names `prefix-name`. Usable from any thread."""

    def __init__(
        self, client: QdrantClient, shown: str, prefix: str, pause: Callable[[float], None] = time.sleep
    ) -> None:
        """`shown` is its address as messages name it; `pause` waits so many seconds."""
        self.client = client
        self.shown = shown
        self._prefix = prefix
        self._pause = pause

    @classmethod
    def connect(cls, config: MemoryConfig) -> "QdrantServer":
        """To memory.server_url. Raises InvalidArgument where a key or certificate cannot be read."""
        key = config.key_of_server()
        certificates: dict[str, Any] = {}
        if config.server_ca_file is not None:
            import ssl

            try:
                certificates["verify"] = ssl.create_default_context(cafile=config.server_ca_file)
            except (OSError, ssl.SSLError) as error:
                raise InvalidArgument(
                    f"memory.server_ca_file {config.server_ca_file} holds no certificates ({error}); accepted: PEM",
                    param="memory.server_ca_file",
                ) from None
        client = QdrantClient(
            url=str(config.server_url),
            port=None,
            api_key=key,
            timeout=config.server_timeout_s,
            # It would warn of a server that is away, which `ask` says better.
            check_compatibility=False,
            **certificates,
        )
        return cls(client, str(config.server_url), config.server_prefix)

    def collection(self, schema: Schema) -> "ServerCollection":
        """Open it, making it where it is not there yet; see `ServerCollection`."""
        return ServerCollection(self, f"{self._prefix}-{schema.name}", schema)

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def ask(self, what: str, call: Callable[[], Answer]) -> Answer:
        """One operation, tried again while the server is away, busy or failing.

        Raises Unavailable where it stays so, PermissionDenied where it wants another key, Internal where it refuses.
        """
        pause_s, why = PAUSE_S, ""
        for left in reversed(range(TRIES)):
            try:
                return call()
            except ResourceExhaustedResponse as error:
                why, asked_s = f"it is busy: {error}", float(error.retry_after_s)
            except ResponseHandlingException as error:
                why, asked_s = f"{type(error.source).__name__}: {error.source}", 0.0
            except UnexpectedResponse as error:
                said = error.content.decode(errors="replace")[:300]
                if error.status_code in (401, 403):
                    raise PermissionDenied(
                        f"Qdrant at {self.shown} refuses our key ({error.status_code}: {said}); "
                        "see memory.server_key_file",
                        param="memory.server_key_file",
                    ) from None
                if error.status_code is not None and error.status_code < 500 and error.status_code != 429:
                    raise Internal(f"{what}: Qdrant at {self.shown} answered {error.status_code}: {said}") from error
                why, asked_s = f"{error.status_code}: {said}", 0.0
            if left:
                log.warning("%s: no answer from Qdrant at %s (%s); trying again", what, self.shown, why)
                self._pause(min(max(pause_s, asked_s), LONGEST_PAUSE_S))
                pause_s *= 2
        raise Unavailable(
            f"{what}: Qdrant at {self.shown} did not answer {TRIES} times, last {why}; check memory.server_url",
            param="memory.server_url",
            retry_after_s=RETRY_AFTER_S,
        )


class ServerCollection:
    """One collection; see `store.Collection`.

    Raises InvalidArgument on opening data of another width, metric or embedder (naming both), Unavailable where the
    server does not answer. A request that is tried again and fails may have been carried out.
    """

    def __init__(self, server: QdrantServer, name: str, schema: Schema) -> None:
        self.schema = schema
        self._server = server
        self._name = name
        if not self._ask(lambda client: client.collection_exists(name)):
            self._create()
        found = self._ask(lambda client: client.get_collection(name))
        self._check_identity(found)
        self._index(set(found.payload_schema))

    @property
    def at_once(self) -> bool:
        """See `store.Collection`."""
        return False

    def upsert(self, entries: Sequence[Entry]) -> None:
        """See `store.Collection`. Larger ones go in several requests, in order: a part may be there after an error."""
        for entry in entries:
            if entry.vector is not None:
                check_width(self.schema, entry.vector)
        for some in _requests(entries):
            points = [
                models.PointStruct(
                    id=entry.id,
                    payload=entry.payload,
                    vector={} if entry.vector is None else {VECTOR: [float(value) for value in entry.vector]},
                )
                for entry in some
            ]
            self._ask(lambda client, points=points: client.upsert(self._name, points, wait=True))

    def get(self, ids: Sequence[str], *, vectors: bool = False) -> list[Entry]:
        """See `store.Collection`."""
        if not ids:
            return []
        records = self._ask(
            lambda client: client.retrieve(self._name, list(ids), with_payload=True, with_vectors=vectors)
        )
        return [_entry(record) for record in records]

    def delete(self, ids: Sequence[str]) -> None:
        """See `store.Collection`."""
        if ids:
            chosen = models.PointIdsList(points=list(ids))
            self._ask(lambda client: client.delete(self._name, chosen, wait=True))

    def search(self, vector: Sequence[float], limit: int, where: Where) -> list[tuple[Entry, float]]:
        """See `store.Collection`. Approximate (HNSW) where the server has built its index, else exact."""
        check_width(self.schema, vector)
        found = self._ask(
            lambda client: client.query_points(
                self._name,
                query=[float(value) for value in vector],
                using=VECTOR,
                query_filter=_filter(where),
                limit=limit,
                with_payload=True,
                search_params=SEARCH,
            )
        )
        return [(Entry(str(point.id), point.payload or {}), point.score) for point in found.points]

    def scan(self, where: Where, limit: int, by: str, *, descending: bool = True) -> list[Entry]:
        """See `store.Collection`."""
        order = models.OrderBy(key=by, direction=models.Direction.DESC if descending else models.Direction.ASC)
        records, _ = self._ask(
            lambda client: client.scroll(
                self._name, scroll_filter=_filter(where), limit=limit, order_by=order, with_payload=True
            )
        )
        return [_entry(record) for record in records]

    def pages(self, where: Where, *, vectors: bool = False) -> Iterator[list[Entry]]:
        """See `store.Collection`."""
        offset: Any = None
        while True:
            records, offset = self._ask(
                lambda client, offset=offset: client.scroll(
                    self._name,
                    scroll_filter=_filter(where),
                    limit=PAGE,
                    offset=offset,
                    with_payload=True,
                    with_vectors=vectors,
                )
            )
            yield [_entry(record) for record in records]
            if offset is None:
                return

    def count(self) -> int:
        """See `store.Collection`."""
        return self._ask(lambda client: client.count(self._name, exact=True)).count

    def close(self) -> None:
        """See `store.Collection`; the connection is the server's to close, and the server keeps what it answered."""

    def _ask(self, call: Callable[[QdrantClient], Answer]) -> Answer:
        return self._server.ask(f"collection {self._name}", lambda: call(self._server.client))

    def _create(self) -> None:
        """The identity is part of the creation, so that a process killed meanwhile leaves none without."""
        params = models.VectorParams(size=self.schema.width, distance=models.Distance.COSINE, hnsw_config=HNSW)
        try:
            self._ask(
                lambda client: client.create_collection(
                    self._name, vectors_config={VECTOR: params}, metadata={"embedder": self.schema.embedder}
                )
            )
        except Internal:
            # Another process was first, or the try that was not answered had made it.
            if not self._ask(lambda client: client.collection_exists(self._name)):
                raise

    def _check_identity(self, found: models.CollectionInfo) -> None:
        vectors = found.config.params.vectors
        own = vectors.get(VECTOR) if isinstance(vectors, dict) else None
        metadata = found.config.metadata or {}
        if own is None or "embedder" not in metadata:
            raise InvalidArgument(
                f"collection {self._name} at {self._server.shown} was not made by Russet, or by a Qdrant older than "
                "1.16 that keeps no metadata; use another memory.server_prefix, or a newer Qdrant",
                param="memory.server_prefix",
            )
        theirs = {"width": own.size, "embedder": metadata["embedder"], "metric": own.distance.value.lower()}
        if theirs != self.schema.identity:
            raise InvalidArgument(
                f"collection {self._name} at {self._server.shown} was made with {theirs}, this process embeds with "
                f"{self.schema.identity}; use that embedder again, or another memory.server_prefix",
                param="memory.server_prefix",
            )

    def _index(self, there: set[str]) -> None:
        """Payload indexes: what is filtered or ordered by. Again on each opening, for a creation that was cut short."""
        kinds = (
            (self.schema.keywords, models.PayloadSchemaType.KEYWORD),
            (self.schema.integers, models.PayloadSchemaType.INTEGER),
            (self.schema.floats, models.PayloadSchemaType.FLOAT),
        )
        for names, kind in kinds:
            for name in set(names) - there:
                self._ask(
                    lambda client, name=name, kind=kind: client.create_payload_index(self._name, name, kind, wait=True)
                )


def _entry(record: models.Record) -> Entry:
    vector: Any = record.vector.get(VECTOR) if isinstance(record.vector, dict) else None
    return Entry(str(record.id), record.payload or {}, vector)


def _requests(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Entries in order, cut where a request would pass PAGE points or REQUEST_BYTES."""
    some: list[Entry] = []
    size = 0
    for entry in entries:
        texts = sum(len(value) for value in entry.payload.values() if isinstance(value, str))
        bytes_ = texts + FLOAT_BYTES * len(entry.vector or ())
        if some and (len(some) == PAGE or size + bytes_ > REQUEST_BYTES):
            yield some
            some, size = [], 0
        some.append(entry)
        size += bytes_
    if some:
        yield some


def _filter(where: Where) -> models.Filter | None:
    conditions: list[models.Condition] = [
        models.FieldCondition(key=key, match=models.MatchValue(value=value)) for key, value in where.equals.items()
    ]
    conditions += [
        models.FieldCondition(key=key, range=models.Range(gte=low, lte=high))
        for key, (low, high) in where.between.items()
    ]
    return models.Filter(must=conditions) if conditions else None
