"""Conversations: newest state in the hot tier, all of it persisted, both encrypted with the cluster key."""

import asyncio
import base64
import uuid
from hashlib import sha256

from actors.base.errors import InvalidArgument
from actors.base.keys import Keyring
from actors.memory.config import MemoryConfig
from actors.memory.hot import HotTier
from actors.memory.store import Collection, Entry, Where
from protos.gen import memory_pb2

KEYWORDS = ("tenant", "session_id")
INTEGERS = ("last_active_ms",)
MAX_ID = 256
_IDS = uuid.UUID("5d1fbb38-8a3f-4c64-a2f5-4a1a1c1b9a55")


class Sessions:
    """Put, get, list and delete; every call names its tenant, and no key or query reaches across tenants."""

    def __init__(self, config: MemoryConfig, collection: Collection, hot: HotTier, keyring: Keyring) -> None:
        self._config = config
        self._collection = collection
        self._hot = hot
        self._keyring = keyring

    async def put(self, session: memory_pb2.Session) -> None:
        """Replace a session. Durable when it returns."""
        if not session.session_id or len(session.session_id) > MAX_ID:
            raise InvalidArgument(
                f"session_id of {len(session.session_id)} characters; 1 to {MAX_ID}", param="session_id"
            )
        stored = memory_pb2.Session()
        stored.CopyFrom(session)
        del stored.turns[: -self._config.session_turns]
        sealed = self._seal(stored)
        payload = {
            "tenant": stored.tenant,
            "session_id": stored.session_id,
            "last_active_ms": stored.last_active_ms,
            "sealed": base64.b64encode(sealed).decode(),
        }
        vector = list(stored.embedding) or None
        point = Entry(_point(stored.tenant, stored.session_id), payload, vector)
        await self._remember(stored.tenant, stored.session_id, sealed)
        await asyncio.to_thread(self._collection.upsert, [point])

    async def get(self, tenant: str, session_id: str) -> memory_pb2.Session | None:
        """The session, from the hot tier where it is there."""
        sealed = await self._hot.client.get(_key(tenant, session_id))
        if sealed is None:
            found = await asyncio.to_thread(self._collection.get, [_point(tenant, session_id)])
            if not found:
                return None
            sealed = base64.b64decode(found[0].payload["sealed"])
            await self._remember(tenant, session_id, sealed)
        return self._open(tenant, session_id, sealed)

    async def list(self, tenant: str, limit: int) -> list[memory_pb2.Session]:
        """A tenant's sessions, most recent first, without their turns."""
        found = await asyncio.to_thread(self._collection.scan, Where({"tenant": tenant}), limit, "last_active_ms")
        sessions = []
        for entry in found:
            payload = entry.payload
            session = self._open(tenant, payload["session_id"], base64.b64decode(payload["sealed"]))
            del session.turns[:]
            sessions.append(session)
        return sessions

    async def delete(self, tenant: str, session_id: str) -> bool:
        """Forget a session everywhere. False where there was none."""
        point = _point(tenant, session_id)
        found = bool(await asyncio.to_thread(self._collection.get, [point]))
        await self._hot.client.delete(_key(tenant, session_id))
        await asyncio.to_thread(self._collection.delete, [point])
        return found

    async def _remember(self, tenant: str, session_id: str, sealed: bytes) -> None:
        await self._hot.client.set(_key(tenant, session_id), sealed, px=int(self._config.session_idle_s * 1000))

    def _seal(self, session: memory_pb2.Session) -> bytes:
        return self._keyring.seal(session.SerializeToString(), _context(session.tenant, session.session_id))

    def _open(self, tenant: str, session_id: str, sealed: bytes) -> memory_pb2.Session:
        # The context binds the text to its owner: a blob copied under another tenant's key does not open.
        return memory_pb2.Session.FromString(self._keyring.open(sealed, _context(tenant, session_id)))


def _context(tenant: str, session_id: str) -> bytes:
    return b"session\0" + tenant.encode() + b"\0" + session_id.encode()


def _digest(tenant: str, session_id: str) -> str:
    return sha256(_context(tenant, session_id)).hexdigest()


def _key(tenant: str, session_id: str) -> str:
    return f"russet:session:{_digest(tenant, session_id)}"


def _point(tenant: str, session_id: str) -> str:
    return str(uuid.uuid5(_IDS, _digest(tenant, session_id)))
