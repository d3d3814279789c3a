"""Conversations: all of them persisted, those in use copied to the hot tier, both encrypted with the cluster key."""

import asyncio
import base64
import logging
import time
import uuid
from hashlib import sha256

from actors.base.errors import Internal, InvalidArgument, Unavailable
from actors.base.keys import Keyring
from actors.memory import limits
from actors.memory.config import MemoryConfig
from actors.memory.hot import HotTier
from actors.memory.store import Collection, Entry, Where
from protos.gen import memory_pb2

log = logging.getLogger(__name__)
KEYWORDS = ("tenant", "session_id")
INTEGERS = ("last_active_ms",)
STRIPES = 64
_IDS = uuid.UUID("5d1fbb38-8a3f-4c64-a2f5-4a1a1c1b9a55")


class Sessions:
    """Put, get, list and delete; every call names its tenant, and no key or query reaches across tenants.

    The persisted copy is the truth, the hot one only faster: without the hot tier every call still works.
    """

    def __init__(self, config: MemoryConfig, collection: Collection, hot: HotTier, keyring: Keyring) -> None:
        self._config = config
        self._collection = collection
        self._hot = hot
        self._keyring = keyring
        # Writers of a session, and readers that copy it to the hot tier, take turns: an old copy never lands on a new.
        self._turns = [asyncio.Lock() for _ in range(STRIPES)]

    async def put(self, session: memory_pb2.Session) -> None:
        """Replace a session; its first `created_ms` stays. Persisted when it returns."""
        owner = _Owner(session.tenant, session.session_id)
        limits.name(session.model, "model", empty=True)
        limits.name(session.replica_id, "replica_id", empty=True)
        limits.metadata(session.metadata)
        limits.vector(session.embedding, self._collection.schema.width, "embedding")
        stored = memory_pb2.Session()
        stored.CopyFrom(session)
        del stored.turns[: -self._config.session_turns]
        limits.size(
            stored.ByteSize(), self._config.session_bytes, f"session {owner.session_id}", "memory.session_bytes"
        )
        stored.last_active_ms = stored.last_active_ms or int(time.time() * 1000)
        # A caller that goes away must not stop it halfway, with an older copy left in the hot tier.
        await asyncio.shield(self._put(owner, stored))

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
            await self._copy(owner, sealed)

    async def get(self, tenant: str, session_id: str) -> memory_pb2.Session | None:
        """The session, from the hot tier where it is there."""
        owner = _Owner(tenant, session_id)
        try:
            sealed = await self._hot.ask(lambda client: client.get(self._key(owner)))
        except Unavailable as error:
            log.info("session read from disk: %s", error)
            sealed = None
        if not isinstance(sealed, bytes):
            async with self._turn(owner):
                found = await asyncio.to_thread(self._collection.get, [owner.point])
                if not found:
                    return None
                sealed = base64.b64decode(found[0].payload["sealed"])
                await self._copy(owner, sealed)
        return self._open(owner, sealed)

    async def list(self, tenant: str, limit: int) -> list[memory_pb2.Session]:
        """A tenant's sessions, most recent first, without their turns."""
        limits.name(tenant, "tenant", empty=True)
        return await asyncio.to_thread(self._list, tenant, limit)

    async def delete(self, tenant: str, session_id: str) -> bool:
        """Forget a session everywhere. False where there was none."""
        return await asyncio.shield(self._delete(_Owner(tenant, session_id)))

    async def _delete(self, owner: "_Owner") -> bool:
        async with self._turn(owner):
            found = bool(await asyncio.to_thread(self._collection.get, [owner.point]))
            await asyncio.to_thread(self._collection.delete, [owner.point])
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
            sessions.append(session)
        return sessions

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


class _Owner:
    """Who a session belongs to, and the names that follow from it. Lengths keep two owners from one name."""

    def __init__(self, tenant: str, session_id: str) -> None:
        limits.name(tenant, "tenant", empty=True)
        limits.name(session_id, "session_id")
        self.session_id = session_id
        self.context = b"session\0%d\0" % len(tenant.encode()) + tenant.encode() + session_id.encode()
        self.digest = sha256(self.context).hexdigest()
        self.point = str(uuid.uuid5(_IDS, self.digest))
