"""Policies: versioned, searchable by type and meaning, watched by those who cache them."""

import asyncio
import base64
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence

from actors.base.errors import InvalidArgument, Unavailable
from actors.memory import limits
from actors.memory.store import Collection, Entry, Where
from protos.gen import memory_pb2

KEYWORDS = ("type", "policy_id")
INTEGERS = ("created_ms",)
TYPES = ("quantization", "router", "ewc", "pattern", "draft", "adapter")
SOURCES = ("instant", "background", "deep", "federated", "manual")
WATCH_BACKLOG = 1000
PARAMETER_BYTES = 256 << 10
_IDS = uuid.UUID("0f9c1f9e-4b0d-4c55-8f57-2d6f7f2a7d10")


class _Watcher:
    """Changes that one watch stream has not sent yet. One that cannot keep up is told so, rather than missing some."""

    def __init__(self) -> None:
        self.changes: asyncio.Queue[memory_pb2.Policy] = asyncio.Queue(WATCH_BACKLOG)
        self.behind = False

    def tell(self, policy: memory_pb2.Policy) -> None:
        """Queue a change."""
        try:
            self.changes.put_nowait(policy)
        except asyncio.QueueFull:
            self.behind = True


class Policies:
    """The policy store. Writers get a version; watchers get every policy, then every change."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._lock = asyncio.Lock()
        self._watchers: set[_Watcher] = set()

    async def put(self, policy: memory_pb2.Policy) -> int:
        """Insert, or replace with the next version, which is returned. The type of an id stays what it was first."""
        _check(policy, self._collection.schema.width)
        stored = memory_pb2.Policy()
        stored.CopyFrom(policy)
        # A caller that goes away must not let the next writer in while this write still runs.
        return await asyncio.shield(self._put(stored))

    async def _put(self, stored: memory_pb2.Policy) -> int:
        async with self._lock:
            found = await asyncio.to_thread(self._collection.get, [_point(stored.id)])
            before = _policy(found[0]) if found else memory_pb2.Policy(type=stored.type, created_ms=stored.created_ms)
            if before.type != stored.type:
                raise InvalidArgument(
                    f"policy {stored.id} is of type {before.type}, not {stored.type}; use another id", param="type"
                )
            now_ms = int(time.time() * 1000)
            stored.version = before.version + 1
            stored.created_ms = before.created_ms or now_ms
            stored.last_accessed_ms = stored.last_accessed_ms or now_ms
            await asyncio.to_thread(self._collection.upsert, [_entry(stored)])
            for watcher in self._watchers:
                watcher.tell(stored)
        return stored.version

    async def search(
        self, kind: str, policy_id: str, embedding: Sequence[float], limit: int
    ) -> list[tuple[memory_pb2.Policy, float]]:
        """By id, by similarity, or newest first; of one type or of all."""
        if kind:
            _check_type(kind)
        limits.vector(embedding, self._collection.schema.width, "embedding")
        equals = {name: value for name, value in (("type", kind), ("policy_id", policy_id)) if value}
        if embedding:
            found = await asyncio.to_thread(self._collection.search, embedding, limit, Where(equals))
            return [(_policy(entry), score) for entry, score in found]
        entries = await asyncio.to_thread(self._collection.scan, Where(equals), limit, "created_ms")
        return [(_policy(entry), 1.0) for entry in entries]

    async def watch(self, types: Sequence[str]) -> AsyncIterator[memory_pb2.Policy]:
        """Every policy of `types` (none: all), then every change, until the caller goes.

        Raises Unavailable where the caller took too little too slowly to be told everything: watch again.
        """
        wanted = frozenset(types)
        for kind in wanted:
            _check_type(kind)
        watcher = _Watcher()
        self._watchers.add(watcher)
        try:
            sent: dict[str, int] = {}
            for where in [Where({"type": kind}) for kind in sorted(wanted)] or [Where()]:
                pages = self._collection.pages(where)
                while page := await asyncio.to_thread(next, pages, None):
                    for policy in map(_policy, page):
                        sent[policy.id] = policy.version
                        yield policy
            while not watcher.behind:
                policy = await watcher.changes.get()
                if policy.version > sent.get(policy.id, 0) and (not wanted or policy.type in wanted):
                    sent[policy.id] = policy.version
                    yield policy
            raise Unavailable(f"more than {WATCH_BACKLOG} policy changes wait for this watcher; watch again")
        finally:
            self._watchers.discard(watcher)


def _check(policy: memory_pb2.Policy, width: int) -> None:
    limits.name(policy.id, "id")
    _check_type(policy.type)
    if policy.source not in SOURCES:
        raise InvalidArgument(f"policy source {policy.source!r}; one of {', '.join(SOURCES)}", param="source")
    limits.share(policy.confidence, "confidence")
    limits.vector(policy.embedding, width, "embedding")
    limits.size(len(policy.parameters.encode()), PARAMETER_BYTES, f"parameters of policy {policy.id}")
    try:
        parameters = json.loads(policy.parameters or "{}")
    except ValueError as error:
        raise InvalidArgument(f"parameters of policy {policy.id} are not JSON: {error}", param="parameters") from None
    if not isinstance(parameters, dict):
        raise InvalidArgument(
            f"parameters of policy {policy.id} are a JSON {type(parameters).__name__}; accepted: an object",
            param="parameters",
        )


def _check_type(kind: str) -> None:
    if kind not in TYPES:
        raise InvalidArgument(f"policy type {kind!r}; one of {', '.join(TYPES)}", param="type")


def _point(policy_id: str) -> str:
    return str(uuid.uuid5(_IDS, policy_id))


def _entry(policy: memory_pb2.Policy) -> Entry:
    blob = base64.b64encode(policy.SerializeToString()).decode()
    payload = {"type": policy.type, "policy_id": policy.id, "created_ms": policy.created_ms, "blob": blob}
    return Entry(_point(policy.id), payload, list(policy.embedding) or None)


def _policy(entry: Entry) -> memory_pb2.Policy:
    return memory_pb2.Policy.FromString(base64.b64decode(entry.payload["blob"]))
