"""Puts found passages in the order that usage suggests, in vector stores where that was shown to be better.

A store's verdict is of questions asked before whose answers used a passage of it: of each, ranked as it would be were
it asked now, with nothing known of itself, the used passage's reciprocal rank by usage less that by similarity. Usage
has a say where the mean is above zero with 97.5 % confidence. Verdicts are taken beside serving, one at a time.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import numpy as np

from actors.base.errors import RussetError
from actors.base.passages import node_of
from actors.base.telemetry import Telemetry
from actors.memory.graph import Graph
from actors.memory.reranking.attention import Weights, scores
from actors.memory.reranking.evidence import Lead, evidence_of, leads_of
from protos.gen import documents_pb2, memory_pb2

log = logging.getLogger(__name__)
POOL = 50
"""Passages nearest to a question that are put in order."""
NEAREST, FIRST, SECOND = 16, 16, 4
"""Questions begun from, and edges followed."""
QUESTIONS, LEAST_QUESTIONS = 200, 30
"""A verdict is of so many at most, the newest, and at least."""
CONFIDENCE = 1.96
LEAST_WEIGHT = 0.25
"""Of an edge to a passage that answered a question: less is one that was rated badly or long ago."""
VERDICT_S = 600.0
"""A verdict is taken anew when somebody searches and it is older."""

Search = Callable[[Sequence[float], str, Sequence[str], int], Awaitable[list[documents_pb2.Chunk]]]
"""The chunks nearest to a vector: of a tenant, in vector stores, so many."""


class Verdict(NamedTuple):
    """Of usage beside similarity, for a vector store."""

    questions: int
    gain: float
    """Mean difference of reciprocal ranks."""
    error: float
    """Its standard error."""
    at_s: float

    @property
    def better(self) -> bool:
        """Whether usage has a say."""
        return self.questions >= LEAST_QUESTIONS and self.gain - CONFIDENCE * self.error > 0


class Reranker:
    """Orders chunks; holds the verdicts, which a restart has to be given anew."""

    def __init__(
        self,
        graph: Graph,
        weights: Weights,
        search: Search,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._graph = graph
        self._weights = weights
        self._search = search
        self._clock = clock
        self._verdicts: dict[tuple[str, str], Verdict] = {}
        self._judging: asyncio.Task[None] | None = None
        self._ordered = telemetry.counter("russet_documents_reranked_total", "Searches whose order usage had a say in")

    async def stop(self) -> None:
        """End the verdict that is being taken."""
        if self._judging is not None:
            self._judging.cancel()
            await asyncio.gather(self._judging, return_exceptions=True)

    def has_a_say(self, tenant: str, stores: Sequence[str]) -> bool:
        """Whether usage is better than similarity in all of these stores. Has an old verdict taken anew, beside."""
        now = self._clock()
        for store in stores:
            verdict = self._verdicts.get((tenant, store))
            idle = self._judging is None or self._judging.done()
            if idle and (verdict is None or now - verdict.at_s > VERDICT_S):
                self._judging = asyncio.create_task(self._judge_quietly(tenant, store), name="reranking")
        return all((found := self._verdicts.get((tenant, store))) is not None and found.better for store in stores)

    async def ordered(
        self, tenant: str, stores: Sequence[str], embedding: Sequence[float], chunks: Sequence[documents_pb2.Chunk]
    ) -> list[documents_pb2.Chunk]:
        """Chunks that were found by similarity, the likeliest to be used first."""
        leads = await self._leads(tenant, stores, embedding)
        self._ordered.inc()
        return [chunks[at] for at in self._order(chunks, leads)]

    async def judge(self, tenant: str, store: str) -> Verdict:
        """Take a store's verdict."""
        gains = []
        for name, vector in await self._graph.nodes.newest(tenant, "query", QUESTIONS):
            used = {
                edge.target
                for edge in await self._graph.edges.neighbours(tenant, name, "used", 64)
                if edge.weight >= LEAST_WEIGHT
            }
            if not used:
                continue
            chunks = await self._search(vector, tenant, [store], POOL)
            plain = next((at for at, chunk in enumerate(chunks) if node_of(chunk) in used), None)
            if plain is None:
                continue
            order = self._order(chunks, await self._leads(tenant, [store], vector, without=name))
            placed = next(at for at, place in enumerate(order) if node_of(chunks[place]) in used)
            gains.append(1 / (placed + 1) - 1 / (plain + 1))
        count = len(gains)
        error = float(np.std(gains, ddof=1)) / count**0.5 if count > 1 else 0.0
        verdict = Verdict(count, float(np.mean(gains)) if gains else 0.0, error, self._clock())
        self._verdicts[tenant, store] = verdict
        log.info("vector store %s: %s%s", store, verdict, ": usage has a say" if verdict.better else "")
        return verdict

    def _order(self, chunks: Sequence[documents_pb2.Chunk], leads: dict[str, list[Lead]]) -> list[int]:
        evidence = evidence_of([node_of(chunk) for chunk in chunks], [chunk.score for chunk in chunks], leads)
        return np.argsort(-scores(self._weights, evidence), kind="stable").tolist()

    async def _leads(
        self, tenant: str, stores: Sequence[str], embedding: Sequence[float], without: str = ""
    ) -> dict[str, list[Lead]]:
        nodes = [f"store:{store}" for store in stores]
        reply = await self._graph.neighbourhood(
            memory_pb2.NeighbourhoodRequest(
                tenant=tenant,
                nodes=nodes,
                embedding=embedding,
                nearest=NEAREST + bool(without),
                first=FIRST,
                second=SECOND,
                onward=["used"],
            )
        )
        nearest = {near.name: near.similarity for near in reply.nearest}
        return leads_of(nearest, reply.edges, nodes, without)

    async def _judge_quietly(self, tenant: str, store: str) -> None:
        try:
            await self.judge(tenant, store)
        except RussetError as error:
            log.info("vector store %s stays in the order it has: %s", store, error)
