"""Policies: versioned, searchable by type and meaning, watched by those who cache them."""

import asyncio
import base64
import time
import uuid
from collections.abc import AsyncIterator, Sequence

from actors.base.errors import InvalidArgument
from actors.memory.store import Collection, Entry, Where
from protos.gen import memory_pb2

KEYWORDS = ("type", "policy_id")
INTEGERS = ("created_ms",)
TYPES = ("quantization", "router", "ewc", "pattern", "draft", "adapter")
SOURCES = ("instant", "background", "deep", "federated", "manual")
WATCH_BACKLOG = 1000
LIST_LIMIT = 10_000
_IDS = uuid.UUID("0f9c1f9e-4b0d-4c55-8f57-2d6f7f2a7d10")


class Policies:
    """The policy store. Writers get a version; watchers get every policy, then every change."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._lock = asyncio.Lock()
        self._watchers: set[asyncio.Queue[memory_pb2.Policy]] = set()

    async def put(self, policy: memory_pb2.Policy) -> int:
        """Insert, or replace with the next version, which is returned."""
        if policy.type not in TYPES:
            raise InvalidArgument(f"policy type {policy.type!r}; one of {', '.join(TYPES)}", param="type")
        if policy.source not in SOURCES:
            raise InvalidArgument(f"policy source {policy.source!r}; one of {', '.join(SOURCES)}", param="source")
        if not policy.id:
            raise InvalidArgument("a policy needs an id", param="id")
        stored = memory_pb2.Policy()
        stored.CopyFrom(policy)
        async with self._lock:
            existing = await asyncio.to_thread(self._collection.get, [_point(policy.id)])
            stored.version = _policy(existing[0]).version + 1 if existing else 1
            stored.created_ms = stored.created_ms or int(time.time() * 1000)
            await asyncio.to_thread(self._collection.upsert, [_entry(stored)])
        for watcher in self._watchers:
            if not watcher.full():
                watcher.put_nowait(stored)
        return stored.version

    async def search(
        self, kind: str, policy_id: str, embedding: Sequence[float], limit: int
    ) -> list[tuple[memory_pb2.Policy, float]]:
        """By id, by similarity, or newest first; of one type or of all."""
        equals = {name: value for name, value in (("type", kind), ("policy_id", policy_id)) if value}
        if embedding:
            found = await asyncio.to_thread(self._collection.search, embedding, limit, Where(equals))
            return [(_policy(entry), score) for entry, score in found]
        entries = await asyncio.to_thread(self._collection.scan, Where(equals), limit, "created_ms")
        return [(_policy(entry), 1.0) for entry in entries]

    async def watch(self, types: Sequence[str]) -> AsyncIterator[memory_pb2.Policy]:
        """Every policy of `types` (none: all), then every change, until the caller goes."""
        changes: asyncio.Queue[memory_pb2.Policy] = asyncio.Queue(WATCH_BACKLOG)
        self._watchers.add(changes)
        try:
            seen: dict[str, int] = {}
            for policy, _ in await self.search("", "", (), LIST_LIMIT):
                seen[policy.id] = policy.version
                if not types or policy.type in types:
                    yield policy
            while True:
                policy = await changes.get()
                if policy.version > seen.get(policy.id, 0) and (not types or policy.type in types):
                    seen[policy.id] = policy.version
                    yield policy
        finally:
            self._watchers.discard(changes)


def _point(policy_id: str) -> str:
    return str(uuid.uuid5(_IDS, policy_id))


def _entry(policy: memory_pb2.Policy) -> Entry:
    blob = base64.b64encode(policy.SerializeToString()).decode()
    payload = {"type": policy.type, "policy_id": policy.id, "created_ms": policy.created_ms, "blob": blob}
    return Entry(_point(policy.id), payload, list(policy.embedding) or None)


def _policy(entry: Entry) -> memory_pb2.Policy:
    return memory_pb2.Policy.FromString(base64.b64decode(entry.payload["blob"]))
