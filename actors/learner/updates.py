"""What memory and router have yet to be told: a bounded queue, sent one by one, again while either is away."""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence

from actors.base.errors import DeadlineExceeded, Internal, QueueFull, RussetError, Unavailable
from actors.base.telemetry import Telemetry
from actors.learner.config import LearnerConfig
from actors.learner.instant import Change, Credit, Edges, Failed, Recalled, Worked
from protos.gen import memory_pb2, router_pb2
from protos.gen.memory_pb2_grpc import MemoryStub
from protos.gen.router_pb2_grpc import SemanticStub

log = logging.getLogger(__name__)
PASSING = (Unavailable, DeadlineExceeded, QueueFull, Internal)


class Updates:
    """Brings changes to memory, and outcomes to the named routers, in order.

    A change whose call broke off is sent again, so that it may count twice: weights are clamped and steps small, while
    those lost with every restart of memory would add up.
    """

    def __init__(self, config: LearnerConfig, memory: MemoryStub, semantic: SemanticStub, telemetry: Telemetry) -> None:
        self._config = config
        self._memory = memory
        self._semantic = semantic
        self._waiting: deque[Change] = deque()
        self._arrived = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._task: asyncio.Task[None] | None = None
        self.edges = 0
        self.dropped = 0
        self.credited = 0
        """Outcomes that a router took."""
        self._edges_total = telemetry.counter("russet_learner_edges_total", "Edge updates that memory took")
        self._retries_total = telemetry.counter("russet_learner_retries_total", "Updates that had to be sent again")
        self._dropped_total = telemetry.counter(
            "russet_learner_updates_dropped_total", "Updates lost to a full queue, or refused by memory"
        )

    def start(self) -> None:
        """Begin to send."""
        self._task = asyncio.create_task(self._send_forever(), name="learner updates")

    async def stop(self) -> None:
        """End; what memory has not taken by now is lost with this process, and the log says how much."""
        if self._waiting:
            log.warning("%d updates that memory has not taken are lost", len(self._waiting))
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def flush(self) -> None:
        """Return when memory has taken, or refused, everything put so far."""
        await self._drained.wait()

    def put(self, changes: Sequence[Change]) -> None:
        """Queue changes; a full queue drops its oldest."""
        for change in changes:
            if len(self._waiting) >= self._config.queue:
                self._waiting.popleft()
                self._drop()
            self._waiting.append(change)
        if self._waiting:
            self._drained.clear()
            self._arrived.set()

    async def _send_forever(self) -> None:
        while True:
            await self._arrived.wait()
            while self._waiting:
                change = self._waiting[0]
                try:
                    await self._send(change)
                except PASSING as error:
                    self._retries_total.inc()
                    log.warning("memory took no update (%s); %d wait", error, len(self._waiting))
                    await asyncio.sleep(self._config.retry_s)
                    continue
                except RussetError as error:
                    self._drop()
                    log.error("memory will never take this update: %s", error)
                # A full queue may have dropped it while it was being sent.
                if self._waiting and self._waiting[0] is change:
                    self._waiting.popleft()
            self._arrived.clear()
            self._drained.set()

    async def _send(self, change: Change) -> None:
        match change:
            case Edges(tenant, updates, nodes):
                request = memory_pb2.UpdateEdgesRequest(tenant=tenant, updates=updates, nodes=nodes)
                await self._memory.UpdateEdges(request)
                self.edges += len(updates)
                self._edges_total.inc(len(updates))
            case Credit(tenant, answer, outcome, label):
                told = router_pb2.OutcomeRequest(tenant=tenant, id=answer, outcome=outcome, label=label)
                self.credited += (await self._semantic.Outcome(told)).found
            case Worked(procedure, embedding):
                kept = memory_pb2.PutProcedureRequest(procedure=procedure, embedding=embedding)
                await self._memory.PutProcedure(kept)
            case Failed(tenant, answer):
                await self._memory.DeleteProcedure(memory_pb2.DeleteProcedureRequest(tenant=tenant, id=answer))
            case Recalled(tenant, ids, outcome):
                used = memory_pb2.CreditProceduresRequest(tenant=tenant, ids=ids, outcome=outcome)
                await self._memory.CreditProcedures(used)

    def _drop(self) -> None:
        self.dropped += 1
        self._dropped_total.inc()
