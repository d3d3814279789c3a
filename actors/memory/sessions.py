"""Conversations: all of them persisted, those in use copied to the hot tier, everywhere encrypted with the cluster key.

put ──> persisted ──> Valkey ──> this process        get <── this process <── Valkey <── persisted
                                 idle for session_idle_s: leaves both        idle for session_keep_s: forgotten
"""

import asyncio
import base64
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from functools import cached_property
from hashlib import sha256

from actors.base.errors import Internal, InvalidArgument, Unavailable
from actors.base.keys import Keyring
from actors.memory import limits
from actors.memory.config import MemoryConfig
from actors.memory.hot import HotTier
from actors.memory.live import LiveSessions
from actors.memory.store import Collection, Entry, Where
from protos.gen import memory_pb2

log = logging.getLogger(__name__)
KEYWORDS = ("tenant", "session_id")
INTEGERS = ("last_active_ms",)
STRIPES = 64
SWEEP = 1000
"""Idle sessions looked up at once."""
LONGEST_PAUSE_S = 600.0
_IDS = uuid.UUID("5d1fbb38-8a3f-4c64-a2f5-4a1a1c1b9a55")


class Sessions:
    """Put, get, list and delete; every call names its tenant, and no key or query reaches across tenants.

    The persisted copy is the truth, the hot one only faster: without the hot tier every call still works.
    """

    def __init__(
        self,
        config: MemoryConfig,
        collection: Collection,
        hot: HotTier,
        keyring: Keyring,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives Unix seconds."""
        self._config = config
        self._collection = collection
        self._hot = hot
        self._keyring = keyring
        self._clock = clock
        self._live = LiveSessions(config.session_idle_s, clock)
        self._count = collection.count()
        self._sweeping: asyncio.Task[None] | None = None
        # Writers of a session, and readers that copy it to the hot tier, take turns: an old copy never lands on a new.
        self._turns = [asyncio.Lock() for _ in range(STRIPES)]

    def start(self) -> None:
        """Begin to forget sessions that are idle for too long."""
        self._sweeping = asyncio.create_task(self._sweep(), name="sessions")

    async def stop(self) -> None:
        """End it."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)

    async def put(self, session: memory_pb2.Session) -> None:
        """Replace a session; its first `created_ms` stays. Persisted when it returns."""
        owner = _Owner(session.tenant, session.session_id)
        limits.name(session.model, "model", empty=True)
        limits.name(session.replica_id, "replica_id", empty=True)
        limits.metadata(session.metadata)
        limits.vector(session.embedding, self._collection.schema.width, "embedding")
        stored = memory_pb2.Session()
        stored.CopyFrom(session)
        _shorten(stored, self._config.session_turns)
        if stored.ByteSize() > self._config.session_bytes:
            del stored.token_ids[:]
        limits.size(
            stored.ByteSize(), self._config.session_bytes, f"session {owner.session_id}", "memory.session_bytes"
        )
        stored.turn_count = len(stored.turns)
        stored.last_active_ms = stored.last_active_ms or int(self._clock() * 1000)
        # A caller that goes away must not stop it halfway, with an older copy left in the hot tier.
        await asyncio.shield(self._put(owner, stored))
        while self._count > self._config.session_limit:
            (oldest,) = await asyncio.to_thread(self._collection.scan, Where(), 1, "last_active_ms", descending=False)
            await self.delete(oldest.payload["tenant"], oldest.payload["session_id"])

    async def _put(self, owner: "_Owner", stored: memory_pb2.Session) -> None:
        async with self._turn(owner):
            before = await asyncio.to_thread(self._collection.get, [owner.point])
            stored.created_ms = (
                before[0].payload["created_ms"] if before else stored.created_ms or stored.last_active_ms
            )
            sealed = self._keyring.seal(stored.SerializeToString(), owner.context)
            payload = {
                "tenant": stored.tenant,
                "session_id": stored.session_id,
                "created_ms": stored.created_ms,
                "last_active_ms": stored.last_active_ms,
                "sealed": base64.b64encode(sealed).decode(),
            }
            point = Entry(owner.point, payload, list(stored.embedding) or None)
            await asyncio.to_thread(self._collection.upsert, [point])
            self._count += not before
            self._live.put(owner.digest, sealed)
            await self._copy(owner, sealed)

    async def get(self, tenant: str, session_id: str) -> memory_pb2.Session | None:
        """The session, from the hot tier where it is there."""
        owner = _Owner(tenant, session_id)
        sealed = self._live.get(owner.digest)
        if sealed is None:
            async with self._turn(owner):
                sealed = await self._hot_copy(owner)
                if sealed is None:
                    found = await asyncio.to_thread(self._collection.get, [owner.point])
                    if not found:
                        return None
                    sealed = base64.b64decode(found[0].payload["sealed"])
                    await self._copy(owner, sealed)
                self._live.put(owner.digest, sealed)
        return self._open(owner, sealed)

    async def list(self, tenant: str, limit: int) -> list[memory_pb2.Session]:
        """A tenant's sessions, most recent first, without what they say."""
        limits.name(tenant, "tenant", empty=True)
        return await asyncio.to_thread(self._list, tenant, limit)

    async def nearest(self, tenant: str, embedding: Sequence[float], limit: int) -> Sequence[memory_pb2.ScoredSession]:
        """A tenant's sessions by the cosine of their last user turn, each with that turn and what follows it alone."""
        limits.name(tenant, "tenant", empty=True)
        if not embedding:
            raise InvalidArgument("embedding is empty; accepted is that of a text", param="embedding")
        limits.vector(embedding, self._collection.schema.width, "embedding")
        return await asyncio.to_thread(self._nearest, tenant, embedding, limit)

    def _nearest(self, tenant: str, embedding: Sequence[float], limit: int) -> Sequence[memory_pb2.ScoredSession]:
        scored = []
        for entry, similarity in self._collection.search(embedding, limit, Where({"tenant": tenant})):
            session = self._open(_Owner(tenant, entry.payload["session_id"]), base64.b64decode(entry.payload["sealed"]))
            users = [at for at, turn in enumerate(session.turns) if turn.role == "user"]
            del session.turns[: users[-1] if users else len(session.turns)]
            del session.token_ids[:]
            session.ClearField("response")
            scored.append(memory_pb2.ScoredSession(session=session, similarity=similarity))
        return scored

    async def delete(self, tenant: str, session_id: str) -> bool:
        """Forget a session everywhere. False where there was none."""
        return await asyncio.shield(self._delete(_Owner(tenant, session_id)))

    async def sweep(self) -> int:
        """Forget every session idle for session_keep_s; how many that were."""
        before_ms = int((self._clock() - self._config.session_keep_s) * 1000)
        idle = Where(between={"last_active_ms": (None, before_ms)})
        forgotten = 0
        while entries := await asyncio.to_thread(self._collection.scan, idle, SWEEP, "last_active_ms"):
            for entry in entries:
                owner = _Owner(entry.payload["tenant"], entry.payload["session_id"])
                forgotten += await asyncio.shield(self._delete(owner, before_ms))
            await asyncio.sleep(0)
        return forgotten

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(self._config.session_keep_s / 10, LONGEST_PAUSE_S))
            try:
                forgotten = await self.sweep()
            except Internal:
                log.exception("idle sessions could not be looked up; trying again later")
                continue
            if forgotten:
                log.info("forgot %d sessions idle for %g s", forgotten, self._config.session_keep_s)

    async def _delete(self, owner: "_Owner", idle_since_ms: float = float("inf")) -> bool:
        async with self._turn(owner):
            entries = await asyncio.to_thread(self._collection.get, [owner.point])
            found = bool(entries) and entries[0].payload["last_active_ms"] <= idle_since_ms
            if entries and not found:
                return False  # It was used meanwhile.
            await asyncio.to_thread(self._collection.delete, [owner.point])
            self._count -= found
            self._live.drop(owner.digest)
            try:
                await self._hot.ask(lambda client: client.delete(self._key(owner)))
            except Unavailable as error:
                # The outage began a new generation: the copy is out of reach, and expires.
                log.info("deleted session's copy left to expire: %s", error)
        return found

    def _list(self, tenant: str, limit: int) -> "list[memory_pb2.Session]":
        sessions = []
        for entry in self._collection.scan(Where({"tenant": tenant}), limit, "last_active_ms"):
            session = self._open(_Owner(tenant, entry.payload["session_id"]), base64.b64decode(entry.payload["sealed"]))
            del session.turns[:]
            del session.token_ids[:]
            session.ClearField("response")
            sessions.append(session)
        return sessions

    async def _hot_copy(self, owner: "_Owner") -> bytes | None:
        try:
            copy = await self._hot.ask(lambda client: client.get(self._key(owner)))
        except Unavailable as error:
            log.info("session read from disk: %s", error)
            return None
        # One sealed with a key that was dropped meanwhile is none; what is persisted was sealed anew.
        return copy if isinstance(copy, bytes) and self._keyring.knows(copy) else None

    async def _copy(self, owner: "_Owner", sealed: bytes) -> None:
        try:
            idle_ms = int(self._config.session_idle_s * 1000)
            await self._hot.ask(lambda client: client.set(self._key(owner), sealed, px=max(idle_ms, 1)))
        except Unavailable as error:
            log.info("session kept on disk only: %s", error)

    def _turn(self, owner: "_Owner") -> asyncio.Lock:
        return self._turns[int(owner.digest[:8], 16) % STRIPES]

    def _key(self, owner: "_Owner") -> str:
        return f"russet:session:{self._hot.generation}:{owner.digest}"

    def _open(self, owner: "_Owner", sealed: bytes) -> memory_pb2.Session:
        # The context binds the text to its owner: a blob copied under another tenant's key does not open.
        try:
            return memory_pb2.Session.FromString(self._keyring.open(sealed, owner.context))
        except InvalidArgument as error:
            raise Internal(f"session {owner.session_id} cannot be opened: {error}") from None


def context_of(tenant: str, session_id: str) -> bytes:
    """What a session is sealed with, beside the key."""
    return _Owner(tenant, session_id).context


class _Owner:
    """Who a session belongs to, and the names that follow from it. Lengths keep two owners from one name."""

    def __init__(self, tenant: str, session_id: str) -> None:
        limits.name(tenant, "tenant", empty=True)
        limits.name(session_id, "session_id")
        self.session_id = session_id
        self.context = b"session\0%d\0" % len(tenant.encode()) + tenant.encode() + session_id.encode()
        self.digest = sha256(self.context).hexdigest()

    @cached_property
    def point(self) -> str:
        """Its id in the collection."""
        return str(uuid.uuid5(_IDS, self.digest))


def _shorten(session: memory_pb2.Session, most: int) -> None:
    """Drop the oldest turns past `most`, but not the system messages that a conversation begins with."""
    leading = next((at for at, turn in enumerate(session.turns) if turn.role not in ("system", "developer")), 0)
    first = min(leading, most - 1)
    del session.turns[first : max(first, len(session.turns) - (most - first))]
