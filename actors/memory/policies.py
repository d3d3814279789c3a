"""Policies: versioned, searchable by type and meaning, watched by those who cache them.

One that expires is forgotten then, as if it were deleted; whoever watches is told.
"""

import asyncio
import base64
import contextlib
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence

from actors.base.errors import InvalidArgument, RussetError, Unavailable
from actors.memory import limits
from actors.memory.store import Collection, Entry, Where
from protos.gen import memory_pb2

log = logging.getLogger(__name__)
KEYWORDS = ("type", "policy_id")
INTEGERS = ("created_ms", "expires_ms")
TYPES = ("quantization", "router", "ewc", "pattern", "draft", "adapter")
SOURCES = ("instant", "background", "deep", "federated", "manual")
WATCH_BACKLOG = 1000
PARAMETER_BYTES = 256 << 10
RETRY_S = 5.0
"""Pause before what has expired is deleted again, where the store did not take it."""
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
        self._expiring: dict[str, int] = {}
        """By id: when those expire that do, Unix milliseconds."""
        self._changed = asyncio.Event()
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to forget what expires."""
        pages = self._collection.pages(Where(between={"expires_ms": (1, None)}))
        while page := await asyncio.to_thread(next, pages, None):
            self._expiring.update((policy.id, policy.expires_ms) for policy in map(_policy, page))
        self._sweeping = asyncio.create_task(self._sweep(), name="policies")

    async def stop(self) -> None:
        """End."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)

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
            stored.gone = False
            await asyncio.to_thread(self._collection.upsert, [_entry(stored)])
            self._expiring.pop(stored.id, None)
            if stored.expires_ms:
                self._expiring[stored.id] = stored.expires_ms
                self._changed.set()
            self._tell(stored)
        return stored.version

    async def delete(self, policy_id: str) -> bool:
        """Forget one; False where there is none."""
        limits.name(policy_id, "id")
        return await asyncio.shield(self._delete(policy_id))

    async def _delete(self, policy_id: str, expired_by_ms: float = float("inf")) -> bool:
        """Forget one, unless it was put again meanwhile to expire later than `expired_by_ms`."""
        async with self._lock:
            if self._expiring.get(policy_id, 0) > expired_by_ms:
                return False
            found = await asyncio.to_thread(self._collection.get, [_point(policy_id)])
            if found:
                await asyncio.to_thread(self._collection.delete, [_point(policy_id)])
            self._expiring.pop(policy_id, None)
            for gone in map(_policy, found):
                gone.gone = True
                self._tell(gone)
        return bool(found)

    def _tell(self, policy: memory_pb2.Policy) -> None:
        for watcher in self._watchers:
            watcher.tell(policy)

    async def _sweep(self) -> None:
        while True:
            self._changed.clear()
            now_ms = time.time() * 1000
            over = [policy_id for policy_id, when in self._expiring.items() if when <= now_ms]
            try:
                for policy_id in over:
                    await self._delete(policy_id, now_ms)
            except RussetError:
                log.exception("%d expired policies are not deleted yet; trying again in %g s", len(over), RETRY_S)
                await asyncio.sleep(RETRY_S)
                continue
            next_ms = min(self._expiring.values(), default=None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if next_ms is None else max(0.0, next_ms / 1000 - time.time())):
                    await self._changed.wait()

    async def search(
        self, kind: str, policy_id: str, embedding: Sequence[float], limit: int
    ) -> list[tuple[memory_pb2.Policy, float]]:
        """By id, by similarity, or newest first; of one type or of all."""
        if kind:
            _check_type(kind)
        limits.vector(embedding, self._collection.schema.width, "embedding")
        equals = {name: value for name, value in (("type", kind), ("policy_id", policy_id)) if value}
        if embedding:
            search = self._collection.search
            if self._collection.at_once:
                found = search(embedding, limit, Where(equals))
            else:
                found = await asyncio.to_thread(search, embedding, limit, Where(equals))
            return [(policy, score) for entry, score in found for policy in _holding([entry])]
        entries = await asyncio.to_thread(self._collection.scan, Where(equals), limit, "created_ms")
        return [(policy, 1.0) for policy in _holding(entries)]

    async def watch(self, types: Sequence[str]) -> AsyncIterator[memory_pb2.Policy]:
        """Every policy of `types` (none: all), then one without id, then every change, until the caller goes.

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
                    for policy in _holding(page):
                        sent[policy.id] = policy.version
                        yield policy
            yield memory_pb2.Policy()
            while not watcher.behind:
                policy = await watcher.changes.get()
                if wanted and policy.type not in wanted:
                    continue
                if policy.gone:
                    if sent.pop(policy.id, 0):
                        yield policy
                elif policy.version > sent.get(policy.id, 0):
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
    if policy.expires_ms and policy.expires_ms <= time.time() * 1000:
        raise InvalidArgument(
            f"expires_ms of policy {policy.id} is {policy.expires_ms}, which is past; accepted: 0 for never, or later",
            param="expires_ms",
        )
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
    payload["expires_ms"] = policy.expires_ms
    return Entry(_point(policy.id), payload, list(policy.embedding) or None)


def _policy(entry: Entry) -> memory_pb2.Policy:
    return memory_pb2.Policy.FromString(base64.b64decode(entry.payload["blob"]))


def _holding(entries: Iterable[Entry]) -> list[memory_pb2.Policy]:
    """The policies of entries, without those that have expired and wait to be deleted."""
    now_ms = time.time() * 1000
    return [policy for policy in map(_policy, entries) if not 0 < policy.expires_ms <= now_ms]
