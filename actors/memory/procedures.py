"""What worked before: a tenant's questions with the answers that were rated well or corrected, sealed at rest.

A correction is the answer. Of one question the newest is kept; each lives by its rating, which what became of later
answers moves, and by its place among the newest of its tenant.
"""

import asyncio
import base64
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from actors.base.errors import Internal, InvalidArgument
from actors.base.keys import Keyring
from actors.memory import limits
from actors.memory.store import Collection, Entry, Where
from protos.gen import memory_pb2

KEYWORDS = ("tenant",)
INTEGERS = ("created_ms",)
SOURCES = ("rated", "corrected")
SAME_QUESTION = 0.98
"""Questions with a larger cosine are the same one, asked again."""
LEAST_RATING, RATE = 0.5, 0.3
"""A rating that falls below the first is the end of a procedure; an outcome moves it by this share of the way."""
QUESTION_CHARACTERS, ANSWER_CHARACTERS = 4_000, 100_000
MOST_CREDITED = 64
_IDS = uuid.UUID("8c2f6a0e-9d3b-4a57-9b0f-2f1f5d9f4c61")
Embed = Callable[[Sequence[str]], Awaitable[tuple[NDArray[np.float32], int]]]


class Procedures:
    """Put, search, list, delete and credit; no method reaches across tenants."""

    def __init__(
        self,
        collection: Collection,
        keyring: Keyring,
        embed: Embed,
        most: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """At most `most` of a tenant, 0 for none at all; `clock` gives Unix seconds."""
        self._collection = collection
        self._keyring = keyring
        self._embed = embed
        self._most = most
        self._clock = clock
        self._changing = asyncio.Lock()
        """Held from reading one to writing it."""

    async def put(self, given: memory_pb2.Procedure, embedding: Sequence[float]) -> None:
        """Keep one, in the place of those of the same question; of a tenant the oldest past the most are forgotten."""
        tenant = given.tenant
        _check(given)
        limits.vector(embedding, self._collection.schema.width, "embedding")
        if not self._most:
            return
        vector = list(embedding) or (await self._embed([given.question]))[0][0].tolist()
        kept = memory_pb2.Procedure()
        kept.CopyFrom(given)
        kept.created_ms, kept.last_used_ms, kept.uses = int(self._clock() * 1e3), 0, 0
        async with self._changing:
            await asyncio.to_thread(self._put, tenant, kept, vector)

    async def search(
        self, tenant: str, embedding: Sequence[float], limit: int, least: float
    ) -> list[memory_pb2.ScoredProcedure]:
        """Those whose question is nearest to an embedding, with at least the cosine `least`."""
        limits.name(tenant, "tenant", empty=True)
        if not embedding:
            raise InvalidArgument("embedding is empty; accepted is that of a text", param="embedding")
        limits.vector(embedding, self._collection.schema.width, "embedding")
        limits.share(least, "score_threshold")
        found = await asyncio.to_thread(self._collection.search, list(embedding), limit, Where({"tenant": tenant}))
        return [
            memory_pb2.ScoredProcedure(procedure=self._open(entry), similarity=min(score, 1.0))
            for entry, score in found
            if score >= least
        ]

    async def list(self, tenant: str, limit: int) -> "list[memory_pb2.Procedure]":
        """A tenant's, newest first."""
        limits.name(tenant, "tenant", empty=True)
        found = await asyncio.to_thread(self._collection.scan, Where({"tenant": tenant}), limit, "created_ms")
        return [self._open(entry) for entry in found]

    async def delete(self, tenant: str, id: str) -> bool:
        """Forget one. False where there was none."""
        limits.name(tenant, "tenant", empty=True)
        point = _point(tenant, id)
        async with self._changing:
            found = await asyncio.to_thread(self._collection.get, [point])
            await asyncio.to_thread(self._collection.delete, [point])
        return bool(found)

    async def credit(self, tenant: str, ids: Sequence[str], outcome: float | None) -> None:
        """Count a use of each or, with an `outcome`, move their ratings; one that falls too low is forgotten."""
        limits.name(tenant, "tenant", empty=True)
        if len(ids) > MOST_CREDITED:
            raise InvalidArgument(f"{len(ids)} procedures; accepted are up to {MOST_CREDITED}", param="ids")
        if outcome is not None:
            limits.share(outcome, "outcome")
        async with self._changing:
            await asyncio.to_thread(self._credit, [_point(tenant, id) for id in ids], outcome)

    def _put(self, tenant: str, kept: memory_pb2.Procedure, vector: Sequence[float]) -> None:
        where = Where({"tenant": tenant})
        same = [entry.id for entry, score in self._collection.search(vector, 8, where) if score > SAME_QUESTION]
        if same:
            self._collection.delete(same)
        self._collection.upsert([self._entry(kept, vector)])
        past = self._collection.scan(where, self._most + len(same) + 1, "created_ms")[self._most :]
        if past:
            self._collection.delete([entry.id for entry in past])

    def _credit(self, points: Sequence[str], outcome: float | None) -> None:
        for entry in self._collection.get(points, vectors=True):
            procedure = self._open(entry)
            if outcome is None:
                procedure.uses += 1
                procedure.last_used_ms = int(self._clock() * 1e3)
            else:
                procedure.rating += RATE * (outcome - procedure.rating)
            if procedure.rating < LEAST_RATING:
                self._collection.delete([entry.id])
            else:
                self._collection.upsert([self._entry(procedure, entry.vector or [])])

    def _entry(self, procedure: memory_pb2.Procedure, vector: Sequence[float]) -> Entry:
        point = _point(procedure.tenant, procedure.id)
        sealed = self._keyring.seal(procedure.SerializeToString(), context_of(point))
        payload = {
            "tenant": procedure.tenant,
            "created_ms": procedure.created_ms,
            "sealed": base64.b64encode(sealed).decode(),
        }
        return Entry(point, payload, list(vector))

    def _open(self, entry: Entry) -> memory_pb2.Procedure:
        try:
            said = self._keyring.open(base64.b64decode(entry.payload["sealed"]), context_of(entry.id))
        except InvalidArgument as error:
            raise Internal(f"a procedure cannot be opened: {error}") from None
        return memory_pb2.Procedure.FromString(said)


def context_of(point: str) -> bytes:
    """What the entry with this id is sealed with, beside the key: moved to another's id it does not open."""
    return b"procedure\0" + point.encode()


def _check(given: memory_pb2.Procedure) -> None:
    limits.name(given.tenant, "tenant", empty=True)
    limits.name(given.id, "id")
    limits.name(given.question, "question", most=QUESTION_CHARACTERS)
    limits.name(given.answer, "answer", most=ANSWER_CHARACTERS)
    limits.share(given.rating, "rating")
    if given.source not in SOURCES:
        raise InvalidArgument(f"source is {given.source[:40]!r}; accepted: {', '.join(SOURCES)}", param="source")


def _point(tenant: str, id: str) -> str:
    return str(uuid.uuid5(_IDS, json.dumps([tenant, id])))
