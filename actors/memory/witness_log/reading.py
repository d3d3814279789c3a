"""Queries of the witness log, each within a tenant unless an operator asks for all.

Store and archive are read as one, by time; the archive only where a range is given that reaches it.
"""

import asyncio
import math
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.base.errors import InvalidArgument, NotFound
from actors.memory import limits
from actors.memory.chain import point_id, record
from actors.memory.store import Collection, Entry, Where
from actors.memory.witness_log.archive import Archive
from actors.memory.witness_log.embedding import Embed
from actors.memory.witness_log.figures import Figures, spikes
from actors.memory.witness_log.files import WitnessFiles
from protos.gen import memory_pb2

MOST_LOOKED_AT = 500_000
"""Entries of a range that aggregates and spikes are told of; a longer range is refused."""
FAILED_LOOKED_AT = 1000
"""Newest failures of a range whose errors are compared with another."""
SHAPES_KEPT = 1024
FACTOR = 3.0
_VARYING = re.compile(r"0x[0-9a-fA-F]+|[0-9a-fA-F]{8,}|\d+")


class Scope(Protocol):
    """What every query has: whose entries, and of when (Unix milliseconds, inclusive; 0 is open)."""

    tenant: str
    all_tenants: bool
    from_ms: int
    to_ms: int


class Reader:
    """Answers queries. The store is asked off the loop."""

    def __init__(self, collection: Collection, archive: Archive, files: WitnessFiles, embed: Embed) -> None:
        self._collection, self._archive, self._files, self._embed = collection, archive, files, embed
        self._shapes: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        """Embeddings of errors by their shape."""

    async def query(self, request: memory_pb2.QueryWitnessRequest) -> list[memory_pb2.WitnessRecord]:
        """Newest first; see the proto for what may be asked."""
        _check(request)
        for what in ("quality_below", "slower_than_ms"):
            if request.HasField(what):
                limits.finite([getattr(request, what)], what)
        return await asyncio.to_thread(self._query, request, limits.listed(request.limit, 100))

    def _query(self, request: memory_pb2.QueryWitnessRequest, limit: int) -> list[memory_pb2.WitnessRecord]:
        found = [record(each.payload) for each in self._collection.scan(self._where(request), limit, "sequence")]
        if len(found) < limit:
            found += islice(self._archived(request), limit - len(found))
        return found

    async def similar(self, request: memory_pb2.SimilarWitnessRequest) -> list[memory_pb2.SimilarWitness]:
        """Failed entries whose error, or question, is like the one given; most similar first.

        Raises InvalidArgument where neither or both of text and id are given, NotFound for an id that is not there.
        """
        _check(request)
        limit = limits.listed(request.limit, 10)
        if bool(request.text) == bool(request.id):
            raise InvalidArgument("text and id: accepted is one of them", param="id")
        if request.text:
            question = error = (await self._embed([_shape(request.text)]))[0][0]
        else:
            entry = await asyncio.to_thread(self._entry, request)
            question = None if entry.vector is None else np.array(entry.vector, np.float32)
            message = record(entry.payload).entry.error
            error = (await self._shaped([message]))[_shape(message)] if message else None
        failed = self._failed(request)
        scored: dict[str, memory_pb2.SimilarWitness] = {}

        def meet(entry: Entry, similarity: float, matched: str) -> None:
            before = scored.get(entry.id)
            if (before is None or before.similarity < similarity) and entry.payload["entry_id"] != request.id:
                scored[entry.id] = memory_pb2.SimilarWitness(
                    record=record(entry.payload), similarity=min(similarity, 1.0), matched=matched
                )

        if question is not None:
            search = self._collection.search
            for entry, similarity in await asyncio.to_thread(search, question.tolist(), limit + 1, failed):
                meet(entry, similarity, "question")
        if error is not None:
            newest = await asyncio.to_thread(self._collection.scan, failed, FAILED_LOOKED_AT, "sequence")
            errors = [(entry, record(entry.payload).entry.error) for entry in newest]
            vectors = await self._shaped([message for _, message in errors])
            for entry, message in errors:
                meet(entry, _cosine(error, vectors[_shape(message)]), "error")
        ranked = sorted(scored.values(), key=lambda each: (-each.similarity, -each.record.sequence))
        return ranked[:limit]

    async def slow(self, request: memory_pb2.SlowWitnessRequest) -> memory_pb2.SlowWitnessReply:
        """Entries that took more than `factor` times the median of their model in the range."""
        _check(request)
        factor = request.factor or FACTOR
        if not 1 < factor <= 1e6:
            raise InvalidArgument(f"factor {factor:g}; accepted: more than 1, 0 for {FACTOR:g}", param="factor")
        limit = limits.listed(request.limit, 100)
        return await asyncio.to_thread(self._slow, request, factor, limit)

    def _slow(self, request: memory_pb2.SlowWitnessRequest, factor: float, limit: int) -> memory_pb2.SlowWitnessReply:
        found = spikes(self._looked_at(request), factor, limit)
        return memory_pb2.SlowWitnessReply(spikes=found.spikes, entries=found.entries)

    async def stats(self, request: memory_pb2.WitnessStatsRequest) -> memory_pb2.WitnessStatsReply:
        """Counts, tokens, mean quality and percentiles, by what was asked for."""
        _check(request)
        figures = Figures(request.by)
        return await asyncio.to_thread(self._stats, request, figures)

    def _stats(self, request: memory_pb2.WitnessStatsRequest, figures: Figures) -> memory_pb2.WitnessStatsReply:
        for each in self._looked_at(request):
            figures.add(each.entry)
        return figures.reply()

    def _looked_at(self, scope: Scope) -> Iterator[memory_pb2.WitnessRecord]:
        """All of a range, in no order that means anything. Raises InvalidArgument past MOST_LOOKED_AT."""

        def everything() -> Iterator[memory_pb2.WitnessRecord]:
            for page in self._collection.pages(self._where(scope)):
                yield from (record(entry.payload) for entry in page)
            yield from self._archived(scope)

        for count, each in enumerate(everything()):
            if count >= MOST_LOOKED_AT:
                raise InvalidArgument(
                    f"there are more than {MOST_LOOKED_AT:,} entries in this range; accepted: a shorter one",
                    param="from_ms",
                )
            yield each

    def _archived(self, scope: Scope) -> Iterator[memory_pb2.WitnessRecord]:
        if not (scope.from_ms or scope.to_ms):
            return iter(())
        before = self._files.checkpoint.current.live.next_sequence
        return self._archive.search(lambda entry: matches(scope, entry), scope.from_ms, scope.to_ms, before)

    def _where(self, scope: Scope) -> Where:
        """In the store; what retention has written to the archive counts as gone."""
        return where(scope, self._files.checkpoint.current.live.next_sequence)

    def _failed(self, request: memory_pb2.SimilarWitnessRequest) -> Where:
        chosen = self._where(request)
        return Where({**chosen.equals, "failed": "yes"}, chosen.between)

    def _entry(self, request: memory_pb2.SimilarWitnessRequest) -> Entry:
        found = self._collection.get([point_id(request.id)], vectors=True)
        if not found or not (request.all_tenants or found[0].payload["tenant"] == request.tenant):
            raise NotFound(f"there is no witness entry {request.id[:80]!r}, or it is archived", param="id")
        return found[0]

    async def _shaped(self, errors: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Errors' embeddings by shape; those of errors met before are remembered."""
        shapes = dict.fromkeys(_shape(error) for error in errors)
        new = [shape for shape in shapes if shape not in self._shapes]
        vectors, _ = await self._embed(new)
        fresh = dict(zip(new, vectors, strict=True))
        found = {shape: fresh[shape] if shape in fresh else self._shapes[shape] for shape in shapes}
        self._shapes.update(fresh)
        while len(self._shapes) > SHAPES_KEPT:
            self._shapes.popitem(last=False)
        return found


def where(scope: Any, live: int) -> Where:
    """What the store is asked for, of entries from number `live` on. `matches` says the same of one entry."""
    equals: dict[str, str | int | bool] = {} if scope.all_tenants else {"tenant": scope.tenant}
    between: dict[str, tuple[float | None, float | None]] = {"sequence": (live, None)} if live else {}
    if scope.from_ms or scope.to_ms:
        between["time_ms"] = (scope.from_ms or None, scope.to_ms or None)
    if isinstance(scope, memory_pb2.QueryWitnessRequest):
        named = {"entry_id": scope.id, "model": scope.model, "session_id": scope.session_id}
        equals |= {field: value for field, value in named.items() if value}
        if scope.errors_only:
            equals["failed"] = "yes"
        if scope.HasField("quality_below"):
            between["quality"] = (None, float(np.nextafter(scope.quality_below, -np.inf)))
        if scope.HasField("slower_than_ms"):
            between["total_ms"] = (float(np.nextafter(scope.slower_than_ms, np.inf)), None)
    return Where(equals, between)


def matches(scope: Any, entry: memory_pb2.WitnessEntry) -> bool:
    """Whether an entry is what was asked for: `where`, of one that is not in the store."""
    if not scope.all_tenants and entry.tenant != scope.tenant:
        return False
    if not (scope.from_ms or -math.inf) <= entry.time_ms <= (scope.to_ms or math.inf):
        return False
    if not isinstance(scope, memory_pb2.QueryWitnessRequest):
        return True
    named = ((scope.id, entry.id), (scope.model, entry.model), (scope.session_id, entry.session_id))
    return (
        all(not asked or asked == own for asked, own in named)
        and (not scope.errors_only or bool(entry.error))
        and (not scope.HasField("quality_below") or (entry.HasField("quality") and entry.quality < scope.quality_below))
        and (not scope.HasField("slower_than_ms") or entry.latency.total_ms > scope.slower_than_ms)
    )


def _check(scope: Scope) -> None:
    limits.name(scope.tenant, "tenant", empty=True)
    if scope.from_ms < 0 or scope.to_ms < 0 or (scope.to_ms and scope.from_ms > scope.to_ms):
        raise InvalidArgument(
            f"from {scope.from_ms} to {scope.to_ms}; accepted: Unix milliseconds, the earlier first, 0 for open",
            param="from_ms",
        )


def _shape(error: str) -> str:
    """An error without what differs from one time to the next: numbers and ids."""
    return _VARYING.sub("#", error)[:1000]


def _cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(one @ other / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-12))
