"""The learner's updates against a real memory actor: in order, patient, and never held up by one that is refused."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import ValidationError

from actors.base.channel import connect
from actors.base.errors import InvalidArgument
from actors.base.server import Server
from actors.base.telemetry import Telemetry
from actors.learner.config import LearnerConfig
from actors.learner.instant import Credit, Edges, Failed, Recalled, Worked, changes_of, changes_of_feedback
from actors.learner.service import LearnerService
from actors.memory.config import MemoryConfig
from actors.memory.service import MemoryService
from protos.gen.inference_pb2 import FeedbackRequest
from protos.gen.learner_pb2 import RecordRequest, StatusRequest, Trajectory
from protos.gen.learner_pb2_grpc import LearnerStub, add_LearnerServicer_to_server
from protos.gen.memory_pb2 import ListProceduresRequest, NeighbourhoodRequest, NeighboursRequest
from protos.gen.memory_pb2_grpc import MemoryStub, add_MemoryServicer_to_server
from protos.gen.router_pb2 import OutcomeReply
from protos.gen.router_pb2_grpc import SemanticServicer, SemanticStub, add_SemanticServicer_to_server


class Router(SemanticServicer):
    """A test instrument: takes outcomes, or refuses them for good."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, float]] = []
        self.refuses = False

    async def Outcome(self, request, context):
        if self.refuses:
            raise InvalidArgument("never")
        self.outcomes.append((request.id, request.outcome))
        return OutcomeReply(found=True)


class Pair:
    """A learner, and a memory that can be taken away and brought back on the same unix socket."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._memory: tuple[Server, MemoryService] | None = None
        channel = connect(f"unix:{place}/memory.sock")
        self.memory = MemoryStub(channel)
        self.telemetry = Telemetry("learner")
        self.router = Router()
        config = LearnerConfig(retry_s=0.05, queue=20)
        self.service = LearnerService(config, self.memory, SemanticStub(channel), self.telemetry)
        self.learner: LearnerStub

    async def come(self) -> None:
        config = MemoryConfig(directory=self._place / "memory", key_file=self._place / "key")
        service = MemoryService(config, Telemetry("memory"))
        await service.start()
        servicers = [(add_MemoryServicer_to_server, service), (add_SemanticServicer_to_server, self.router)]
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

    async def edges(self, node: str) -> dict[str, float]:
        found = await self.memory.Neighbours(NeighboursRequest(tenant="t", node=node))
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
    assert await pair.edges("session:s") == {"query:r1": 1, "query:r2": 1, "pattern:p": 0.1, "pattern:q": 0}
    await pair.go()
    await pair.record("r3", follows="r2", patterns_retrieved=["p"], finish="stop")
    await pair.refused()
    await pair.come()
    await pair.service.flush()
    assert (await pair.edges("session:s"))["pattern:p"] == 0.08
    assert await pair.edges("query:r3") == {"query:r2": 0.5}
    status = await pair.learner.Status(StatusRequest())
    assert (status.recorded, status.edges_updated) == (3, 9)
    assert pair.metric("russet_learner_updates_dropped_total") == 0


async def test_what_becomes_of_routes_reaches_the_router_once_it_is_there(pair):
    """Outcomes wait their turn: the request's own, then what the rating says."""
    await pair.record("r1", pattern_used="p", finish="stop")
    assert (await pair.learner.Feedback(FeedbackRequest(tenant="t", response_id="r1", rating=-1))).found
    await pair.refused()
    await pair.come()
    await pair.service.flush()
    assert pair.router.outcomes == [("r1", 1.0), ("r1", 0.0)]
    await pair.record("bad", pattern_used="p", finish="error")
    await pair.record("gone", pattern_used="p", finish="cancelled")
    await pair.service.flush()
    assert pair.router.outcomes[2:] == [("bad", 0.0)]
    assert (await pair.learner.Status(StatusRequest())).patterns == 3


async def test_an_update_that_memory_will_never_take_holds_up_nothing(pair):
    await pair.come()
    pair.router.refuses = True
    await pair.record("r1", pattern_used="odd", finish="stop")
    await pair.record("r2", finish="stop")
    async with asyncio.timeout(20):
        await pair.service.flush()
    assert pair.metric("russet_learner_updates_dropped_total") == 1
    assert "query:r2" in await pair.edges("session:s")


async def test_a_full_queue_drops_its_oldest_and_counts(pair):
    await pair.record(*(f"r{at}" for at in range(30)), finish="stop")
    await pair.refused()
    assert pair.metric("russet_learner_updates_dropped_total") == 10
    await pair.come()
    await pair.service.flush()
    assert set(await pair.edges("session:s")) == {f"query:r{at}" for at in range(10, 30)}


async def test_a_retry_is_recorded_once_and_keeps_its_rating(pair):
    await pair.come()
    await pair.record("r1", patterns_retrieved=["p"], pattern_used="p", finish="stop")
    await pair.learner.Feedback(FeedbackRequest(tenant="t", response_id="r1", rating=0.5))
    await pair.record("r1", patterns_retrieved=["p"], pattern_used="p", finish="stop")
    await pair.service.flush()
    assert pair.service.ring.get("r1").rating == 0.5
    assert (await pair.edges("session:s"))["pattern:p"] == 0.05


def test_changes_of_a_request_without_session_or_pattern():
    assert changes_of(Trajectory(id="r", finish="stop"), LearnerConfig()) == []


def test_changes_of_a_rated_request_credit_the_rating():
    changes = changes_of(Trajectory(id="r", pattern_used="p", finish="error", rating=1), LearnerConfig())
    assert [type(change) for change in changes] == [Edges, Credit]
    assert changes[1] == Credit("", "r", 1.0, "")


def test_a_wrong_setting_is_named():
    with pytest.raises(ValidationError, match="success_rate"):
        LearnerConfig(success_rate=0)


async def test_what_was_rated_well_or_corrected_becomes_a_procedure_and_a_bad_rating_its_end(pair):
    await pair.come()

    async def kept() -> list[tuple[str, str, str]]:
        await pair.service.flush()
        found = await pair.memory.ListProcedures(ListProceduresRequest(tenant="t"))
        return sorted((each.id, each.answer, each.source) for each in found.procedures)

    async def tell(name: str, **told: object) -> None:
        assert (await pair.learner.Feedback(FeedbackRequest(tenant="t", response_id=name, **told))).found

    await pair.record("r1", question="How long does dough rest?", answer="An hour.", finish="stop")
    await pair.record("r2", question="When is high tide?", answer="At noon.", finish="stop")
    assert await kept() == []
    await tell("r1", rating=1)
    await tell("r2", outcome="failure", correction="At six.")
    assert await kept() == [("r1", "An hour.", "rated"), ("r2", "At six.", "corrected")]
    # Answers made with it that turn out badly are its end, as is a bad rating of its own.
    for name, left in (("r3", 2), ("r4", 1)):
        await pair.record(name, question="And today?", answer="At noon.", finish="stop", procedures=["r2"])
        await tell(name, rating=-1)
        assert len(await kept()) == left
    assert await kept() == [("r1", "An hour.", "rated")]
    await tell("r1", rating=0)
    assert await kept() == []


async def test_questions_that_were_answered_become_nodes(pair):
    await pair.come()
    vector = [1.0] + [0.0] * 383
    await pair.record("r1", "r2", finish="stop", query_embedding=vector)
    await pair.record("r3", finish="error", query_embedding=vector)
    await pair.service.flush()
    assert (await pair.edges("query:r1"))["query:r2"] == 1
    near = (await pair.memory.Neighbourhood(NeighbourhoodRequest(tenant="t", embedding=vector))).nearest
    assert {each.name for each in near} == {"query:r1", "query:r2"}


async def test_passages_that_an_answer_used_are_strengthened_and_the_others_weakened(pair):
    await pair.come()
    more = {"passages": ["passage:a", "passage:b"], "passages_used": ["passage:a"], "stores": ["store:s"]}
    await pair.record("r1", "r2", finish="stop", **more)
    await pair.record("r3", finish="error", **more)
    await pair.record("r4", finish="stop", **(more | {"passages_used": ["passage:b"]}))
    await pair.service.flush()
    assert await pair.edges("store:s") == {"passage:a": 0.08, "passage:b": 0.05}
    assert await pair.edges("query:r1") == {"passage:a": 0.5}
    assert await pair.edges("query:r3") == {}
    for name, rating, weight in (("r1", 1, 1.0), ("r2", -1, 0.0)):
        await pair.learner.Feedback(FeedbackRequest(tenant="t", response_id=name, rating=rating))
        await pair.service.flush()
        assert await pair.edges(f"query:{name}") == {"passage:a": weight}


ANSWERED = {"id": "r", "tenant": "t", "question": "Why?", "answer": "So."}


@pytest.mark.parametrize(
    ("answered", "told", "kinds"),
    [
        (ANSWERED, {"rating": 1}, [Worked]),
        (ANSWERED, {"rating": 0.4}, [Failed]),
        (ANSWERED, {"outcome": "partial", "correction": "Thus."}, [Worked]),
        (ANSWERED, {"label": "other"}, []),
        (ANSWERED | {"answer": ""}, {"rating": 1}, []),
        (ANSWERED | {"answer": ""}, {"correction": "Thus."}, [Worked]),
        (ANSWERED | {"question": ""}, {"rating": 1}, []),
        (ANSWERED | {"procedures": ["p"]}, {"rating": 1}, [Worked, Recalled]),
        (ANSWERED | {"procedures": ["p"]}, {"label": "other"}, []),
    ],
)
def test_what_feedback_makes_of_an_answer(answered, told, kinds):
    changes = changes_of_feedback(Trajectory(**answered), FeedbackRequest(**told))
    assert [type(change) for change in changes] == kinds
