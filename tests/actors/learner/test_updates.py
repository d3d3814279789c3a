"""The learner's updates against a real memory actor: in order, patient, and never held up by one that is refused."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from actors.base.channel import connect
from actors.base.errors import InvalidArgument
from actors.base.server import Server
from actors.base.telemetry import Telemetry
from actors.learner.config import LearnerConfig
from actors.learner.instant import Credit, Edges, changes_of, credit
from actors.learner.service import LearnerService
from actors.memory.config import MemoryConfig
from actors.memory.service import MemoryService
from protos.gen.inference_pb2 import FeedbackRequest
from protos.gen.learner_pb2 import RecordRequest, StatusRequest, Trajectory
from protos.gen.learner_pb2_grpc import LearnerStub, add_LearnerServicer_to_server
from protos.gen.memory_pb2 import NeighboursRequest, Policy, PutPolicyRequest, SearchPoliciesRequest
from protos.gen.memory_pb2_grpc import MemoryStub, add_MemoryServicer_to_server


class Pair:
    """A learner, and a memory that can be taken away and brought back on the same unix socket."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._memory: tuple[Server, MemoryService] | None = None
        channel = connect(f"unix:{place}/memory.sock")
        self.memory = MemoryStub(channel)
        self.telemetry = Telemetry("learner")
        self.service = LearnerService(LearnerConfig(retry_s=0.05, queue=20), self.memory, self.telemetry)
        self.learner: LearnerStub

    async def come(self) -> None:
        config = MemoryConfig(directory=self._place / "memory", key_file=self._place / "key")
        service = MemoryService(config, Telemetry("memory"))
        await service.start()
        servicers = [(add_MemoryServicer_to_server, service)]
        server = Server(f"memory-{uuid4().hex[:8]}", servicers, unix=f"{self._place}/memory.sock")
        await server.start()
        self._memory = server, service

    async def go(self) -> None:
        if self._memory is not None:
            server, service = self._memory
            self._memory = None
            await server.stop(grace_s=1)
            await service.stop()

    async def record(self, *names: str, **more) -> None:
        trajectories = [Trajectory(**{"id": name, "tenant": "t", "session_id": "s"} | more) for name in names]
        await self.learner.Record(RecordRequest(trajectories=trajectories))

    async def put_pattern(self, name: str, **parameters) -> None:
        policy = Policy(id=name, type="pattern", source="manual", parameters=json.dumps(parameters))
        await self.memory.PutPolicy(PutPolicyRequest(policy=policy))

    async def pattern(self, name: str) -> dict:
        found = await self.memory.SearchPolicies(SearchPoliciesRequest(id=name))
        return json.loads(found.policies[0].policy.parameters)

    async def edges(self, node: str) -> dict[str, float]:
        found = await self.memory.Neighbours(NeighboursRequest(node=node))
        return {edge.target: round(edge.weight, 4) for edge in found.edges}

    def metric(self, name: str) -> float:
        return self.telemetry.registry.get_sample_value(name) or 0.0

    async def refused(self) -> None:
        """Return when memory was called in vain once more."""
        before = self.metric("russet_learner_retries_total")
        async with asyncio.timeout(20):
            while self.metric("russet_learner_retries_total") == before:
                await asyncio.sleep(0.01)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    place = Path(tempfile.mkdtemp(prefix="rl-", dir="/tmp"))
    pair = Pair(place)
    await pair.service.start()
    server = Server(f"learner-{uuid4().hex[:8]}", [(add_LearnerServicer_to_server, pair.service)])
    channel = connect(await server.start())
    pair.learner = LearnerStub(channel)
    yield pair
    await channel.close()
    await server.stop(grace_s=1)
    await pair.service.stop()
    await pair.go()
    shutil.rmtree(place, ignore_errors=True)


async def test_all_that_happened_while_memory_was_away_arrives(pair):
    await pair.record("r1", "r2", patterns_retrieved=["p", "q"], pattern_used="p", finish="stop")
    await pair.refused()
    await pair.come()
    await pair.service.flush()
    assert await pair.edges("session:t/s") == {"query:r1": 1, "query:r2": 1, "pattern:p": 0.1, "pattern:q": 0}
    await pair.go()
    await pair.record("r3", follows="r2", patterns_retrieved=["p"], finish="stop")
    await pair.refused()
    await pair.come()
    await pair.service.flush()
    assert (await pair.edges("session:t/s"))["pattern:p"] == 0.08
    assert await pair.edges("query:r3") == {"query:r2": 0.5}
    status = await pair.learner.Status(StatusRequest())
    assert (status.recorded, status.edges_updated) == (3, 9)
    assert pair.metric("russet_learner_updates_dropped_total") == 0


async def test_a_rating_that_comes_before_memory_knows_the_request(pair):
    """Both count, each once: the request's edges and outcome, then what the rating says."""
    await pair.record("r1", pattern_used="p", finish="stop")
    assert (await pair.learner.Feedback(FeedbackRequest(response_id="r1", rating=-1))).found
    await pair.refused()
    await pair.come()
    await pair.put_pattern("p", success_rate=0.5, note="kept")
    await pair.service.flush()
    assert (await pair.edges("session:t/s"))["pattern:p"] == 0.05
    after = await pair.pattern("p")
    # Put after the first outcome had found no pattern, or before: the rating is credited either way.
    assert after["note"] == "kept"
    assert after["success_rate"] in (pytest.approx(0.99 * 0.5), pytest.approx(0.99 * (0.99 * 0.5 + 0.01)))


async def test_success_follows_outcomes(pair):
    await pair.come()
    await pair.put_pattern("p", success_rate=0.5)
    await pair.record("ok", pattern_used="p", finish="stop")
    await pair.record("bad", pattern_used="p", finish="error")
    await pair.record("gone", pattern_used="p", finish="cancelled")
    await pair.service.flush()
    assert await pair.pattern("p") == {"success_rate": pytest.approx(0.99 * (0.99 * 0.5 + 0.01)), "uses": 2}
    assert (await pair.learner.Status(StatusRequest())).patterns == 1


async def test_an_update_that_memory_will_never_take_holds_up_nothing(pair):
    await pair.come()
    await pair.put_pattern("odd", success_rate="much")
    await pair.record("r1", pattern_used="odd", finish="stop")
    await pair.record("r2", finish="stop")
    async with asyncio.timeout(20):
        await pair.service.flush()
    assert pair.metric("russet_learner_updates_dropped_total") == 1
    assert "query:r2" in await pair.edges("session:t/s")


async def test_a_full_queue_drops_its_oldest_and_counts(pair):
    await pair.record(*(f"r{at}" for at in range(30)), finish="stop")
    await pair.refused()
    assert pair.metric("russet_learner_updates_dropped_total") == 10
    await pair.come()
    await pair.service.flush()
    assert set(await pair.edges("session:t/s")) == {f"query:r{at}" for at in range(10, 30)}


async def test_a_retry_is_recorded_once_and_keeps_its_rating(pair):
    await pair.come()
    await pair.record("r1", patterns_retrieved=["p"], pattern_used="p", finish="stop")
    await pair.learner.Feedback(FeedbackRequest(response_id="r1", rating=0.5))
    await pair.record("r1", patterns_retrieved=["p"], pattern_used="p", finish="stop")
    await pair.service.flush()
    assert pair.service.ring.get("r1").rating == 0.5
    assert (await pair.edges("session:t/s"))["pattern:p"] == 0.05


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.001, 1))
def test_credit_stays_a_share_and_moves_towards_the_outcome(success, outcome, rate):
    policy = Policy(id="p", type="pattern", parameters=json.dumps({"success_rate": success, "uses": 3}))
    parameters = json.loads(credit(policy, outcome, rate).parameters)
    assert parameters["uses"] == 4
    assert 0 <= parameters["success_rate"] <= 1
    assert abs(parameters["success_rate"] - outcome) <= abs(success - outcome) + 1e-12


@pytest.mark.parametrize("parameters", ["[]", "{", '{"success_rate": []}', '{"uses": "many"}'])
def test_a_pattern_without_readable_parameters_is_named(parameters):
    with pytest.raises(InvalidArgument, match="pattern p has no readable parameters"):
        credit(Policy(id="p", parameters=parameters), 1.0, 0.01)


def test_changes_of_a_request_without_session_or_pattern():
    assert changes_of(Trajectory(id="r", finish="stop"), LearnerConfig()) == []


def test_changes_of_a_rated_request_credit_the_rating():
    changes = changes_of(Trajectory(id="r", pattern_used="p", finish="error", rating=1), LearnerConfig())
    assert [type(change) for change in changes] == [Edges, Credit]
    assert changes[1] == Credit("p", 1.0)


def test_a_wrong_setting_is_named():
    with pytest.raises(ValidationError, match="success_rate"):
        LearnerConfig(success_rate=0)
