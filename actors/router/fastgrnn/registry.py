"""The cost routers that serve, one a tenant and one that ships, and memory, which keeps their versions."""

import asyncio
import hashlib
import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from actors.base.errors import DeadlineExceeded, InvalidArgument, Unavailable
from actors.router.fastgrnn.cost import CostRouter
from actors.router.fastgrnn.fitting import Row, fit
from actors.router.fastgrnn.gate import Verdict, gate
from actors.router.fastgrnn.stored import dump, parse, shipped
from actors.router.policy_watch import watch
from protos.gen import memory_pb2
from protos.gen.memory_pb2_grpc import MemoryStub

log = logging.getLogger(__name__)
POLICY = "cost/"
EMBED_BATCH = 256
EMBED_TIMEOUT_S, MEMORY_TIMEOUT_S = 300.0, 30.0


class Serving(NamedTuple):
    """A router and its version; 0 is the one that ships."""

    version: int
    router: CostRouter


class Registry:
    """Who is answered by which router. Candidates are trained one at a time, in a thread of their own."""

    def __init__(self, memory: MemoryStub) -> None:
        self._memory = memory
        self._shipped = Serving(0, shipped())
        self._own: dict[str, Serving] = {}
        self._trainer = ThreadPoolExecutor(1, thread_name_prefix="cost-trainer")
        self._training = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        self._seen: set[str] = set()

    async def start(self) -> None:
        """Begin to take over what memory has; the one that ships answers meanwhile."""
        self._watching = asyncio.create_task(watch(self._memory, self._take), name="cost routers")

    async def stop(self) -> None:
        """End."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        self._trainer.shutdown(cancel_futures=True)

    def serving(self, tenant: str) -> Serving:
        """What answers this tenant."""
        return self._own.get(tenant, self._shipped)

    async def embedded(self, prompts: Sequence[str]) -> tuple[str, NDArray[np.float32]]:
        """The embedder's identity and vectors [n, width]. Raises what memory raises."""
        model, rows = "", []
        for start in range(0, len(prompts), EMBED_BATCH):
            request = memory_pb2.EmbedRequest(texts=prompts[start : start + EMBED_BATCH])
            reply = await self._memory.Embed(request, timeout=EMBED_TIMEOUT_S)
            model = reply.model
            rows.append(np.array(reply.values, np.float32).reshape(-1, reply.width))
        return model, np.concatenate(rows)

    async def vectors(self, router: CostRouter, prompts: Sequence[str]) -> NDArray[np.float32] | None:
        """Of prompts, as `router` reads them; None where memory is away or has another embedder."""
        try:
            model, vectors = await self.embedded(prompts)
        except (Unavailable, DeadlineExceeded) as error:
            log.warning("scored by the form of the prompts alone: %s", error.message)
            return None
        return vectors if model == router.projection.embedder else None

    async def train(self, tenant: str, rows: Sequence[Row], margin: float) -> Verdict:
        """A candidate, gated; where it passes, memory keeps it and it serves. Raises InvalidArgument for bad rows."""
        async with self._training:
            embedder, vectors = await self.embedded([row.prompt for row in rows])
            current = self.serving(tenant)
            loop = asyncio.get_running_loop()
            candidate, verdict = await loop.run_in_executor(
                self._trainer, _candidate, rows, vectors, embedder, current.router, margin
            )
            if verdict.passed:
                await self._promote(tenant, Serving(current.version + 1, candidate), verdict)
            return verdict

    async def _promote(self, tenant: str, serving: Serving, verdict: Verdict) -> None:
        policy = memory_pb2.Policy(
            id=f"{POLICY}{hashlib.blake2b(tenant.encode(), digest_size=12).hexdigest()}/{serving.version}",
            type="router",
            parameters=json.dumps(
                {
                    "tenant": tenant,
                    "version": serving.version,
                    "verdict": verdict.reasons,
                    "router": json.loads(dump(serving.router)),
                }
            ),
            confidence=min(1.0, max(0.0, 0.5 + verdict.over_current.low)),
            source="manual",
        )
        await self._memory.PutPolicy(memory_pb2.PutPolicyRequest(policy=policy), timeout=MEMORY_TIMEOUT_S)
        self._take(policy)

    def _take(self, policy: memory_pb2.Policy) -> None:
        """Serve the router of `policy` if it is a newer one. Raises ValueError, KeyError or TypeError for none."""
        if not policy.id.startswith(POLICY) or policy.id in self._seen:
            return
        self._seen.add(policy.id)
        told = json.loads(policy.parameters)
        try:
            tenant, version, router = str(told["tenant"]), int(told["version"]), parse(json.dumps(told["router"]))
        except InvalidArgument as error:
            raise ValueError(error.message) from None
        if version > self.serving(tenant).version:
            self._own[tenant] = Serving(version, router)


def _candidate(
    rows: Sequence[Row], vectors: NDArray[np.float32], embedder: str, current: CostRouter, margin: float
) -> tuple[CostRouter, Verdict]:
    # Threads of BLAS wait for each other actively: on a machine that also serves models they cost more than they bring.
    with threadpool_limits(1):
        trained = fit(rows, vectors, embedder, current)
        known = current.projection.embedder == embedder
        now = current.score([row.prompt for row in rows], vectors if known else None)[trained.rows]
    small = np.array([rows[place].small for place in trained.rows])
    large = np.array([rows[place].large for place in trained.rows])
    return trained.router, gate(trained.odds, now, small, large, margin)
