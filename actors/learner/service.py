"""The learner's servicer: records at once, and brings memory up to date beside it."""

import asyncio
import logging
from collections import deque
from typing import Any

from actors.base.errors import InvalidArgument, RussetError
from actors.base.telemetry import Telemetry
from actors.learner.config import LearnerConfig
from actors.learner.instant import credit, edges_of, outcome_of
from actors.learner.trajectories import Ring
from protos.gen import inference_pb2, learner_pb2, learner_pb2_grpc, memory_pb2
from protos.gen.memory_pb2_grpc import MemoryStub

RETRY_S = 1.0
log = logging.getLogger(__name__)


class LearnerService(learner_pb2_grpc.LearnerServicer):
    """Holds trajectories; credits the patterns that routed them; strengthens and weakens edges. See learner.proto."""

    def __init__(self, config: LearnerConfig, memory: MemoryStub, telemetry: Telemetry) -> None:
        self._config = config
        self._memory = memory
        self.ring = Ring(config.trajectories)
        self._pending: deque[learner_pb2.Trajectory] = deque(maxlen=config.queue)
        self._arrived = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._task: asyncio.Task[None] | None = None
        self._feedback = 0
        self._edges = 0
        self._credited: set[str] = set()
        self._recorded_total = telemetry.counter("russet_learner_trajectories_total", "Trajectories recorded")
        self._feedback_total = telemetry.counter("russet_learner_feedback_total", "Ratings received")
        self._edges_total = telemetry.counter("russet_learner_edges_total", "Edge updates sent to memory")

    async def start(self) -> None:
        """Begin to bring memory up to date."""
        self._task = asyncio.create_task(self._update_forever(), name="learner")

    async def stop(self) -> None:
        """End; updates that memory has not taken by now are dropped with this process."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def flush(self) -> None:
        """Return when memory knows everything recorded so far."""
        await self._drained.wait()

    async def Record(self, request: learner_pb2.RecordRequest, context: Any) -> learner_pb2.RecordReply:
        """Hold finished requests."""
        for trajectory in request.trajectories:
            if self.ring.add(trajectory):
                self._recorded_total.inc()
                self._queue(trajectory)
        return learner_pb2.RecordReply()

    async def Feedback(self, request: inference_pb2.FeedbackRequest, context: Any) -> inference_pb2.FeedbackReply:
        """Rate an answer that is still held; its pattern is credited again with what the rating says."""
        if not -1 <= request.rating <= 1:
            raise InvalidArgument(f"rating {request.rating}: expected -1 (bad) to 1 (good)", param="rating")
        trajectory = self.ring.get(request.response_id)
        if trajectory is None:
            return inference_pb2.FeedbackReply(found=False)
        trajectory.rating = request.rating
        self._feedback += 1
        self._feedback_total.inc()
        self._queue(trajectory)
        return inference_pb2.FeedbackReply(found=True)

    async def Status(self, request: learner_pb2.StatusRequest, context: Any) -> learner_pb2.StatusReply:
        """Counts."""
        return learner_pb2.StatusReply(
            recorded=self.ring.recorded,
            dropped=self.ring.dropped,
            held=len(self.ring),
            capacity=self.ring.capacity,
            feedback=self._feedback,
            edges_updated=self._edges,
            patterns=len(self._credited),
        )

    async def ListTrajectories(
        self, request: learner_pb2.ListTrajectoriesRequest, context: Any
    ) -> learner_pb2.ListTrajectoriesReply:
        """The newest."""
        return learner_pb2.ListTrajectoriesReply(trajectories=self.ring.newest(request.limit or 100))

    def _queue(self, trajectory: learner_pb2.Trajectory) -> None:
        self._pending.append(trajectory)
        self._drained.clear()
        self._arrived.set()

    async def _update_forever(self) -> None:
        while True:
            await self._arrived.wait()
            while self._pending:
                trajectory = self._pending.popleft()
                try:
                    await self._update(trajectory)
                except RussetError as error:
                    log.warning("memory took no update (%s); %d more wait", error, len(self._pending))
                    if len(self._pending) < self._config.queue:
                        self._pending.appendleft(trajectory)
                    await asyncio.sleep(RETRY_S)
            self._arrived.clear()
            self._drained.set()

    async def _update(self, trajectory: learner_pb2.Trajectory) -> None:
        # A rating comes after the edges of its request were drawn; only the pattern's credit is new.
        if not trajectory.HasField("rating") and (updates := edges_of(trajectory, self._config)):
            await self._memory.UpdateEdges(memory_pb2.UpdateEdgesRequest(updates=updates))
            self._edges += len(updates)
            self._edges_total.inc(len(updates))
        outcome = outcome_of(trajectory)
        if trajectory.pattern_used and outcome is not None:
            await self._credit(trajectory.pattern_used, outcome)

    async def _credit(self, pattern: str, outcome: float) -> None:
        request = memory_pb2.SearchPoliciesRequest(type="pattern", id=pattern, limit=1)
        found = (await self._memory.SearchPolicies(request)).policies
        if found:
            policy = credit(found[0].policy, outcome, self._config.success_rate)
            await self._memory.PutPolicy(memory_pb2.PutPolicyRequest(policy=policy))
            self._credited.add(pattern)
