"""The learner: holds what happened, credits patterns and edges, and waits out a memory that is away."""

import asyncio
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.base.channel import connect
from actors.base.errors import InvalidArgument, Unavailable
from actors.base.server import Server
from actors.base.telemetry import Telemetry
from actors.learner.config import LearnerConfig
from actors.learner.service import LearnerService
from actors.learner.trajectories import Ring
from protos.gen import inference_pb2, learner_pb2, memory_pb2, router_pb2
from protos.gen.learner_pb2 import RecordRequest, StatusRequest, Trajectory
from protos.gen.memory_pb2_grpc import MemoryServicer, MemoryStub, add_MemoryServicer_to_server
from protos.gen.router_pb2_grpc import SemanticServicer, SemanticStub, add_SemanticServicer_to_server


class Memory(MemoryServicer, SemanticServicer):
    """A test instrument, memory and router in one: keeps edges and outcomes, and can be away."""

    def __init__(self) -> None:
        self.edges: dict[tuple[str, str, str], float] = {}
        self.outcomes: list[tuple[str, float | None, str]] = []
        self.away = False
        self.refused = asyncio.Event()

    def _here(self) -> None:
        if self.away:
            self.refused.set()
            raise Unavailable("memory is away")

    async def UpdateEdges(self, request, context):
        self._here()
        for edge in request.updates:
            key = (edge.source, edge.target, edge.kind)
            self.edges[key] = min(max(self.edges.get(key, 0) * edge.factor + edge.add, 0), 1)
        return memory_pb2.UpdateEdgesReply()

    async def Outcome(self, request, context):
        self._here()
        assert request.tenant == "acme"
        outcome = request.outcome if request.HasField("outcome") else None
        self.outcomes.append((request.id, outcome, request.label))
        return router_pb2.OutcomeReply(found=True)


@pytest.fixture
async def memory():
    memory = Memory()
    servicers = [(add_MemoryServicer_to_server, memory), (add_SemanticServicer_to_server, memory)]
    server = Server(f"memory-{uuid4().hex}", servicers)
    (address,) = await server.start()
    memory.address = address
    yield memory
    await server.stop(0)


@pytest.fixture
async def learner(memory):
    config = LearnerConfig(trajectories=5, retry_s=0.01)
    channel = connect(memory.address)
    service = LearnerService(config, MemoryStub(channel), SemanticStub(channel), Telemetry("learner"))
    await service.start()
    yield service
    await service.stop()


def trajectory(at: int, **more) -> Trajectory:
    return Trajectory(id=f"r{at}", tenant="acme", session_id="s", finish="stop", **more)


async def record(learner, *trajectories) -> None:
    await learner.Record(RecordRequest(trajectories=trajectories), None)


async def test_the_oldest_is_dropped_and_counted(learner):
    await record(learner, *(trajectory(at) for at in range(7)), trajectory(6))
    status = await learner.Status(StatusRequest(), None)
    assert (status.recorded, status.dropped, status.held, status.capacity) == (7, 2, 5, 5)
    newest = (await learner.ListTrajectories(learner_pb2.ListTrajectoriesRequest(limit=2), None)).trajectories
    assert [each.id for each in newest] == ["r6", "r5"]


@given(st.integers(1, 6), st.lists(st.integers(0, 12), max_size=40))
def test_ring_holds_the_newest_distinct(capacity: int, arrivals: list[int]):
    ring, seen = Ring(capacity), []
    for at in arrivals:
        known = ring.get(f"r{at}") is not None
        assert ring.add(trajectory(at)) != known
        if not known:
            seen.append(f"r{at}")
    assert [each.id for each in ring.newest(100)] == seen[::-1][:capacity]
    assert (ring.recorded, ring.dropped) == (len(seen), max(len(seen) - capacity, 0))


async def test_feedback_finds_what_is_held(learner):
    await record(learner, trajectory(0))
    rate = inference_pb2.FeedbackRequest(tenant="acme", response_id="r0", rating=-1)
    assert (await learner.Feedback(rate, None)).found
    assert learner.ring.get("r0").rating == -1
    for tenant, name in (("acme", "r9"), ("other", "r0"), ("", "r0")):
        told = inference_pb2.FeedbackRequest(tenant=tenant, response_id=name, rating=1)
        assert not (await learner.Feedback(told, None)).found
    assert learner.ring.get("r0").rating == -1
    with pytest.raises(InvalidArgument, match="rating is 2"):
        await learner.Feedback(inference_pb2.FeedbackRequest(tenant="acme", response_id="r0", rating=2), None)


async def test_a_named_router_hears_of_each_outcome(learner, memory):
    await record(learner, trajectory(0, pattern_used="p"), trajectory(1))
    await learner.flush()
    assert memory.outcomes == [("r0", 1.0, "")]
    for told in ({"rating": -1}, {"outcome": "partial"}, {"label": "other"}, {"comment": "fine"}):
        await learner.Feedback(inference_pb2.FeedbackRequest(tenant="acme", response_id="r0", **told), None)
    await learner.flush()
    assert memory.outcomes[1:] == [("r0", 0.0, ""), ("r0", 0.5, ""), ("r0", None, "other")]


async def test_feedback_that_says_what_should_have_been_is_kept(learner):
    await record(learner, trajectory(0))
    told = inference_pb2.FeedbackRequest(
        tenant="acme", response_id="r0", outcome="failure", correction="Paris", label="geography"
    )
    assert (await learner.Feedback(told, None)).found
    await record(learner, trajectory(0))
    held = learner.ring.get("r0")
    assert (held.outcome, held.correction, held.label) == ("failure", "Paris", "geography")
    assert not held.HasField("rating")
    with pytest.raises(InvalidArgument, match="outcome is 'great'; accepted is success, recovered, partial, failure"):
        await learner.Feedback(inference_pb2.FeedbackRequest(tenant="acme", response_id="r0", outcome="great"), None)


async def test_edges_follow_use(learner, memory):
    await record(learner, trajectory(0, patterns_retrieved=["p", "q"], pattern_used="p", follows="r-1"))
    await learner.flush()
    used = {target: weight for (_, target, kind), weight in memory.edges.items() if kind == "used"}
    assert used["pattern:p"] == pytest.approx(0.05)
    assert used["pattern:q"] == 0
    assert ("query:r0", "query:r-1", "follows") in memory.edges


async def test_nothing_is_lost_while_memory_is_away(learner, memory):
    memory.away = True
    await record(learner, *(trajectory(at, follows=f"r{at - 1}") for at in range(4)))
    await memory.refused.wait()
    assert not memory.edges
    memory.away = False
    await learner.flush()
    assert len([key for key in memory.edges if key[2] == "follows"]) == 4


async def test_malformed_trajectories_are_refused_whole(learner):
    with pytest.raises(InvalidArgument, match="id of 0"):
        await record(learner, trajectory(0), Trajectory(tenant="acme"))
    assert len(learner.ring) == 0
