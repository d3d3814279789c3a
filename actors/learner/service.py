"""The learner's servicer: records at once, and brings memory up to date beside it."""

from typing import Any

from actors.base.errors import InvalidArgument
from actors.base.feedback import check_feedback
from actors.base.telemetry import Telemetry
from actors.learner.config import LearnerConfig
from actors.learner.instant import changes_of, changes_of_feedback
from actors.learner.trajectories import Ring
from actors.learner.updates import Updates
from protos.gen import inference_pb2, learner_pb2, learner_pb2_grpc
from protos.gen.memory_pb2_grpc import MemoryStub
from protos.gen.router_pb2_grpc import SemanticStub

MAX_NAME = 256
MAX_PATTERNS = 64
MAX_LIST = 1000
MAX_PROCEDURES = 64
MAX_PASSAGES, MAX_NODE = 64, 640
MAX_TEXT = {"question": 4_000, "answer": 100_000}
"""Characters that memory takes of a procedure."""


class LearnerService(learner_pb2_grpc.LearnerServicer):
    """Holds trajectories; credits the patterns that routed them; strengthens and weakens edges. See learner.proto."""

    def __init__(self, config: LearnerConfig, memory: MemoryStub, semantic: SemanticStub, telemetry: Telemetry) -> None:
        self._config = config
        self.ring = Ring(config.trajectories)
        self.updates = Updates(config, memory, semantic, telemetry)
        self._feedback = 0
        self._recorded_total = telemetry.counter("russet_learner_trajectories_total", "Trajectories recorded")
        self._feedback_total = telemetry.counter("russet_learner_feedback_total", "Feedback received")

    async def start(self) -> None:
        """Begin to bring memory up to date."""
        self.updates.start()

    async def stop(self) -> None:
        """End; updates that memory has not taken by now are lost with this process."""
        await self.updates.stop()

    async def flush(self) -> None:
        """Return when memory knows everything recorded so far."""
        await self.updates.flush()

    async def Record(self, request: learner_pb2.RecordRequest, context: Any) -> learner_pb2.RecordReply:
        """Hold finished requests; all of them, or none where one is malformed."""
        for trajectory in request.trajectories:
            _check(trajectory)
        for trajectory in request.trajectories:
            if self.ring.add(trajectory):
                self._recorded_total.inc()
                self.updates.put(changes_of(trajectory, self._config))
        return learner_pb2.RecordReply()

    async def Feedback(self, request: inference_pb2.FeedbackRequest, context: Any) -> inference_pb2.FeedbackReply:
        """Say how good a held answer of the tenant's is: its route is credited again, and what worked kept."""
        check_feedback(request)
        trajectory = self.ring.get(request.response_id)
        if trajectory is None or trajectory.tenant != request.tenant:
            return inference_pb2.FeedbackReply(found=False)
        if request.HasField("rating"):
            trajectory.rating = request.rating
        for name in ("outcome", "correction", "label"):
            if told := getattr(request, name):
                setattr(trajectory, name, told)
        self._feedback += 1
        self._feedback_total.inc()
        self.updates.put(changes_of_feedback(trajectory, request))
        return inference_pb2.FeedbackReply(found=True)

    async def Status(self, request: learner_pb2.StatusRequest, context: Any) -> learner_pb2.StatusReply:
        """Counts."""
        return learner_pb2.StatusReply(
            recorded=self.ring.recorded,
            dropped=self.ring.dropped,
            held=len(self.ring),
            capacity=self.ring.capacity,
            feedback=self._feedback,
            edges_updated=self.updates.edges,
            patterns=self.updates.credited,
        )

    async def ListTrajectories(
        self, request: learner_pb2.ListTrajectoriesRequest, context: Any
    ) -> learner_pb2.ListTrajectoriesReply:
        """The newest."""
        if request.limit > MAX_LIST:
            raise InvalidArgument(f"limit {request.limit}; accepted: 1 to {MAX_LIST}, 0 for 100", param="limit")
        return learner_pb2.ListTrajectoriesReply(trajectories=self.ring.newest(request.limit or 100))


def _check(trajectory: learner_pb2.Trajectory) -> None:
    """Refuse what memory would refuse later, when nobody listens any more."""
    for name in ("id", "tenant", "session_id", "follows", "pattern_used"):
        value = getattr(trajectory, name)
        if len(value) > MAX_NAME or (name == "id" and not value):
            raise InvalidArgument(f"{name} of {len(value)} characters; accepted: 1 to {MAX_NAME}", param=name)
    retrieved = trajectory.patterns_retrieved
    if len(retrieved) > MAX_PATTERNS or any(not 1 <= len(pattern) <= MAX_NAME for pattern in retrieved):
        raise InvalidArgument(
            f"{len(retrieved)} patterns retrieved; accepted: {MAX_PATTERNS} at most, of 1 to {MAX_NAME} characters",
            param="patterns_retrieved",
        )
    if len(trajectory.procedures) > MAX_PROCEDURES:
        raise InvalidArgument(
            f"{len(trajectory.procedures)} procedures; accepted: {MAX_PROCEDURES} at most", param="procedures"
        )
    for name in ("passages", "passages_used", "stores"):
        names = getattr(trajectory, name)
        if len(names) > MAX_PASSAGES or any(not 1 <= len(each) <= MAX_NODE for each in names):
            raise InvalidArgument(
                f"{len(names)} {name}; accepted: {MAX_PASSAGES} at most, of 1 to {MAX_NODE} characters", param=name
            )
    for name, most in MAX_TEXT.items():
        if len(getattr(trajectory, name)) > most:
            raise InvalidArgument(
                f"{name} of {len(getattr(trajectory, name))} characters; accepted: {most} at most", param=name
            )
    check_feedback(trajectory)
