"""Conversations that memory keeps: read before a turn, written after it, one turn at a time.

    messages sent ── follow ──> what the model reads ──> answer ──> keep ──> unwritten ── write ──> memory
                       ^                                                        │                     │
                       └──────────────────── turns so far <─── read ────────────┴─────────────────────┘

A session is unwritten until memory has it, and is read from here meanwhile: a request that comes right after an answer
sees it. Requests without a session ask nothing of memory.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from weakref import WeakValueDictionary

from actors.base.errors import Conflict, NotFound
from cluster.gateway.config import GatewayConfig
from protos.gen import inference_pb2, memory_pb2
from protos.gen.memory_pb2_grpc import MemoryStub

READ_TIMEOUT_S = 2.0
Key = tuple[str, str]
"""Tenant and session id."""


class Sessions:
    """The sessions of this gateway's callers; no call reaches across tenants."""

    def __init__(self, config: GatewayConfig, memory: MemoryStub) -> None:
        self._memory = memory
        self._wait_s = config.session_wait_s
        self._limit = config.record_queue
        self._unwritten: OrderedDict[Key, memory_pb2.Session] = OrderedDict()
        self._turns: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()
        self._writing = asyncio.Lock()
        """Held while memory is told: a deletion is not overtaken by a turn that was on its way."""

    @contextlib.asynccontextmanager
    async def turn(self, tenant: str, session_id: str) -> AsyncGenerator[None, None]:
        """Requests of one session take turns, in the order they come.

        Raises Conflict where those before take longer than gateway.session_wait_s.
        """
        lock = self._turns.setdefault((tenant, session_id), asyncio.Lock())
        try:
            async with asyncio.timeout(self._wait_s):
                await lock.acquire()
        except TimeoutError:
            raise Conflict(
                f"session {session_id[:80]!r} still answers a request that came {self._wait_s:g} s ago or earlier; "
                "wait for its end, or use another session",
                param="session_id",
                retry_after_s=1.0,
            ) from None
        try:
            yield
        finally:
            lock.release()

    async def read(self, tenant: str, session_id: str) -> memory_pb2.Session | None:
        """The session as its last answer left it, or None. Raises Unavailable where memory is away."""
        if (session := self._unwritten.get((tenant, session_id))) is not None:
            return session
        request = memory_pb2.GetSessionRequest(tenant=tenant, session_id=session_id)
        reply = await self._memory.GetSession(request, timeout=READ_TIMEOUT_S)
        return reply.session if reply.HasField("session") else None

    def keep(self, session: memory_pb2.Session) -> None:
        """An answer ended: from now on this is the session. Returns at once; `write` tells memory."""
        key = (session.tenant, session.session_id)
        self._unwritten[key] = session
        self._unwritten.move_to_end(key)
        if len(self._unwritten) > self._limit:
            self._unwritten.popitem(last=False)

    async def write(self, session: memory_pb2.Session, embedding: Sequence[float]) -> None:
        """Tell memory of a session that was kept, unless a later turn or a deletion took its place."""
        key = (session.tenant, session.session_id)
        async with self._writing:
            if self._unwritten.get(key) is not session:
                return
            written = memory_pb2.Session()
            written.CopyFrom(session)
            written.embedding.extend(embedding)
            await self._memory.PutSession(memory_pb2.PutSessionRequest(session=written))
            if self._unwritten.get(key) is session:
                del self._unwritten[key]

    async def list(self, tenant: str, limit: int) -> list[inference_pb2.Session]:
        """A tenant's sessions, most recent first."""
        reply = await self._memory.ListSessions(memory_pb2.ListSessionsRequest(tenant=tenant, limit=limit))
        found = {session.session_id: session for session in reply.sessions}
        found.update({name: session for (owner, name), session in self._unwritten.items() if owner == tenant})
        newest = sorted(found.values(), key=lambda session: session.last_active_ms, reverse=True)
        return [card(session) for session in newest[: limit or len(newest)]]

    async def show(self, tenant: str, session_id: str) -> inference_pb2.Session:
        """One with its messages. Raises NotFound."""
        session = await self.read(tenant, session_id)
        if session is None:
            raise _unknown(session_id)
        shown = card(session)
        shown.messages.extend(message_of(turn) for turn in session.turns)
        return shown

    async def delete(self, tenant: str, session_id: str) -> bool:
        """Forget a session, once the request that it answers has ended. False where there was none."""
        request = memory_pb2.DeleteSessionRequest(tenant=tenant, session_id=session_id)
        async with self.turn(tenant, session_id), self._writing:
            reply = await self._memory.DeleteSession(request)
            unwritten = self._unwritten.pop((tenant, session_id), None)
        return reply.found or unwritten is not None


def card(session: memory_pb2.Session) -> inference_pb2.Session:
    """What clients are told of a session, without its messages."""
    return inference_pb2.Session(
        session_id=session.session_id,
        model=session.model,
        replica=session.replica_id,
        created_ms=session.created_ms,
        last_active_ms=session.last_active_ms,
        turns=session.turn_count,
        kv_tokens=session.kv.tokens,
        kv_format=session.kv.format,
        kv_tier=session.kv.tier,
    )


def message_of(turn: memory_pb2.Turn) -> inference_pb2.Message:
    """A turn as a message."""
    name = turn.name if turn.HasField("name") else None
    return inference_pb2.Message(
        role=turn.role,
        content=turn.content,
        name=name,
        tool_calls=turn.tool_calls,
        tool_call_id=turn.tool_call_id,
    )


def _unknown(session_id: str) -> NotFound:
    shown = repr(session_id[:80])
    return NotFound(f"there is no session {shown}; it never was, was deleted, or expired", param="session_id")
