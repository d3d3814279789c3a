"""Models that the router chooses: by a named router, by the cost router, and the default where neither can say."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from actors.base.errors import NotFound
from actors.base.telemetry import Telemetry
from actors.router import choosing
from actors.router.choosing import Chooser, Question
from actors.router.config import RouterConfig
from actors.router.fastgrnn.features import Constraints, Served
from actors.router.fastgrnn.registry import Registry as CostRouters
from actors.router.fleet import Replica
from actors.router.history import History
from actors.router.question import question_of, served_of
from actors.router.service import RouterService
from protos.gen.inference_pb2 import PRIORITY_CRITICAL
from protos.gen.router_pb2 import HeartbeatRequest, OutcomeRequest, RouteReply, RouteRequest
from protos.gen.scheduler_pb2 import ReplicaLoad
from tests.actors.router.semantic.shop import FRUIT, Running

SERVED = (Served("small", 1.0), Served("large", 8.0))
EASY = "What color is the sky on a clear day?\n"
HARD = (
    "A water tank holds 600 liters. It is filled at 45 liters per minute by one pump and drained at 20 liters per "
    "minute by a leak, while a second pump adds 12 liters every 3 minutes. How many minutes does it take to fill 75 % "
    "of it, and how much water was lost by then?"
)


def question(asked: str, text: str = EASY, request_id: str = "r1", **more) -> Question:
    return Question(
        **{
            "request_id": request_id,
            "asked": asked,
            "tenant": "t",
            "session_id": "",
            "text": text,
            "constraints": Constraints(),
        }
        | more
    )


class Both:
    """A chooser, and the named routers it asks."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.cost = CostRouters(running.service.registry._memory)
        self.chooser = Chooser(running.service, self.cost, learned=True)

    async def model(self, *args, **more) -> str:
        chosen = await self.chooser.choose(question(*args, **more), SERVED, "large")
        assert chosen is not None
        return chosen.model


@pytest_asyncio.fixture
async def both(running: Running) -> AsyncIterator[Both]:
    await running.train("t", "by-topic", small=FRUIT, large=[text.replace("pear", "theorem") for text in FRUIT])
    yield Both(running)


async def test_the_label_of_a_named_router_is_the_model(both: Both) -> None:
    assert await both.model("router:by-topic", "eat the big pear") == "small"
    assert await both.model("router:by-topic", "eat the big theorem", request_id="r2") == "large"
    chosen = await both.chooser.choose(question("router:by-topic", "peel the big pear", "r3"), SERVED, "large")
    assert chosen.reasons[0].startswith("router by-topic says small with confidence")
    assert [label for label, _ in chosen.probabilities] == ["small", "large"]
    assert chosen.pattern in chosen.patterns
    # And what becomes of the request reaches the example that decided.
    told = await both.running.stub.Outcome(OutcomeRequest(tenant="t", id="r3", outcome=1))
    assert "peel the big pear" in told.change


async def test_a_named_router_that_cannot_decide_leaves_the_default_and_says_why(both: Both) -> None:
    with pytest.raises(NotFound, match="there is no router 'other'") as refused:
        await both.model("router:other")
    assert refused.value.param == "model"
    silent = await both.chooser.choose(question("router:by-topic", "", "r2"), SERVED, "large")
    assert (silent.model, silent.reasons) == (
        "large",
        ("router by-topic reads text, and there is none: large is the default",),
    )
    both.running.memory.deaf = True
    away = await both.chooser.choose(question("router:by-topic", "eat it", "r3"), SERVED, "large")
    assert away.model == "large"
    assert "did not decide" in away.reasons[0]


async def test_memory_that_takes_too_long_is_not_waited_for(both: Both, monkeypatch) -> None:
    monkeypatch.setattr(choosing, "EMBED_S", 0.02)
    both.running.memory.hold = asyncio.Event()
    named = await both.chooser.choose(question("router:by-topic", "eat it", "r1"), SERVED, "large")
    assert "memory took more than 0.02 s" in named.reasons[0]
    auto = await both.chooser.choose(question("auto", HARD, "r2"), SERVED, "large")
    assert auto.reasons[-1] == "without its embedding, by its form alone"
    both.running.memory.hold.set()


async def test_what_is_out_of_scope_goes_to_the_default(both: Both) -> None:
    strangers = [(f"{word} and nothing else {at}", "") for at, word in enumerate(["qua", "zog", "fnord", "blip"] * 3)]
    await both.running.service.registry.put("t", "by-topic", strangers, replace=False)
    chosen = await both.chooser.choose(question("router:by-topic", "zog and nothing else 77"), SERVED, "large")
    assert chosen.model == "large"
    assert "out of scope" in chosen.reasons[-1]


async def test_auto_is_the_cheapest_model_that_is_likely_enough(both: Both) -> None:
    chosen = await both.chooser.choose(question("auto", EASY), SERVED, "")
    assert chosen.model in ("small", "large")
    assert sum(share for _, share in chosen.probabilities) == pytest.approx(1)
    assert 0 <= chosen.temperature <= 2
    assert 0 <= chosen.top_p <= 1
    assert chosen.context >= 256
    # Whatever it says of the question, hard limits hold.
    narrow = (Served("small", 1.0, context_length=128), SERVED[1])
    long = question("auto", EASY, "r2", constraints=Constraints(prompt_tokens=100, max_tokens=100))
    assert (await both.chooser.choose(long, narrow, "")).model == "large"


async def test_of_models_that_cost_the_same_the_default_answers(both: Both) -> None:
    alike = (Served("a", 1.0), Served("b", 1.0))
    for default in ("a", "b"):
        chosen = await both.chooser.choose(question("auto", EASY, f"r-{default}"), alike, default)
        assert chosen is not None
        assert chosen.model == default


async def test_a_request_keeps_its_choice(both: Both) -> None:
    first = await both.chooser.choose(question("auto", EASY), SERVED, "large")
    assert await both.chooser.choose(question("auto", HARD), SERVED[:1], "small") is first


async def test_a_session_carries_its_state_from_turn_to_turn(both: Both) -> None:
    async def confidences(session: str) -> list[float]:
        turns = [question("auto", EASY, f"{session}{at}", session_id=session) for at in range(3)]
        return [(await both.chooser.choose(turn, SERVED, "large")).confidence for turn in turns]

    carried = await confidences("s")
    assert len(set(carried)) == 3
    assert await confidences("other") == carried
    assert await confidences("") == [carried[0]] * 3


@pytest.mark.parametrize("served", [SERVED[:1], ()])
async def test_without_a_choice_there_is_nothing_to_decide(both: Both, served: tuple[Served, ...]) -> None:
    assert await both.chooser.choose(question("auto"), served, "small") is None
    assert await both.chooser.choose(question("auto", " ", "r2"), SERVED, "small") is None
    unlearned = Chooser(both.running.service, both.cost, learned=False)
    assert await unlearned.choose(question("auto", EASY, "r3"), SERVED, "small") is None


class Fleet:
    """A router over the memory, with replicas of a small and of a large model."""

    def __init__(self, running: Running, **config: str) -> None:
        self.service = RouterService(
            RouterConfig(**config), Telemetry("router"), memory=running.service.registry._memory
        )

    async def start(self) -> None:
        await self.service.start()
        await self.service.semantic.registry.restored()
        for at, model in enumerate(("small", "small", "large")):
            load = ReplicaLoad(ready=True, pages_total=100, page_size=16, queue_limit=8, running_limit=4, running=at)
            beat = HeartbeatRequest(
                replica_id=f"{model}-{at}",
                addresses=["tcp:x:1"],
                model=model,
                load=load,
                sequence=1,
                incarnation="i",
                weight_bytes=100 if model == "small" else 900,
                context_length=2048,
            )
            await self.service.Heartbeat(beat, None)

    async def route(self, model: str, **more) -> RouteReply:
        return await self.service.Route(RouteRequest(model=model, tenant="t", **more), None)


@pytest_asyncio.fixture
async def fleet(both: Both) -> AsyncIterator[Fleet]:
    fleet = Fleet(both.running)
    await fleet.start()
    yield fleet
    await fleet.service.stop()


async def test_a_route_by_name_tells_labels_neighbours_and_why(fleet: Fleet) -> None:
    reply = await fleet.route("router:by-topic", text="eat the big theorem", request_id="r1")
    assert reply.model == "large"
    assert [each.replica_id for each in reply.candidates] == ["large-2"]
    assert reply.choice.router == "by-topic"
    assert [each.label for each in reply.choice.shares] == ["large", "small"]
    assert reply.choice.neighbours[0].label == "large"
    assert reply.choice.pattern in reply.choice.patterns
    assert reply.explanation[0].startswith("router by-topic says large")
    assert any(each.startswith("large-2 is chosen") for each in reply.explanation)


async def test_a_label_that_is_not_served_leads_to_the_default(fleet: Fleet) -> None:
    other = [("sing a song", "huge"), ("sing it loud", "huge"), ("sing it again", "huge")]
    await fleet.service.semantic.registry.put("t", "by-topic", other, replace=False)
    reply = await fleet.route("router:by-topic", text="sing a song")
    assert reply.model == "large"  # The first by name.
    assert "but huge is not served: large is the default" in reply.explanation


async def test_auto_tells_what_it_weighed_and_keeps_to_it(fleet: Fleet) -> None:
    reply = await fleet.route("auto", text=EASY, request_id="r1")
    assert {each.label for each in reply.choice.shares} == {"small", "large"}
    assert reply.choice.context >= 256
    assert reply.choice.HasField("temperature")
    again = await fleet.route("auto", text=HARD, request_id="r1", exclude=[reply.candidates[0].replica_id])
    assert (again.model, again.choice) == (reply.model, reply.choice)


async def test_one_that_only_asks_leaves_no_trace(fleet: Fleet) -> None:
    first = await fleet.route("auto", text=EASY, session_id="s", request_id="r1", dry=True)
    assert await fleet.route("auto", text=EASY, session_id="s", request_id="r1", dry=True) == first
    assert all(not replica.sent for replica in fleet.service.fleet.replicas())
    await fleet.route("auto", text=EASY, session_id="s", request_id="r1")
    assert sum(len(replica.sent) for replica in fleet.service.fleet.replicas()) == 1


async def test_without_learning_auto_is_the_default(both: Both) -> None:
    fleet = Fleet(both.running, auto="default", default_model="small")
    await fleet.start()
    reply = await fleet.route("auto", text=HARD)
    assert (reply.model, reply.HasField("choice")) == ("small", False)
    assert reply.explanation[0] == "no model was asked for; small is the default"
    await fleet.service.stop()


def test_what_is_served_has_the_means_of_its_replicas() -> None:
    def replica(model: str, ttft_ms: float, weight: int, context: int) -> Replica:
        state = HeartbeatRequest(replica_id="x", model=model, weight_bytes=weight, context_length=context)
        return Replica(state, 0.0, 0, History(success=0.5, ttft_ms=ttft_ms))

    found = served_of(
        [replica("b", 10, 5, 100), replica("b", 30, 5, 50), replica("b", 0, 5, 100), replica("a", 0, 0, 9)]
    )
    assert found == [Served("a", 1.0, 0.5, 0, 0, 9), Served("b", 5.0, 0.5, 20, 0, 50)]


def test_the_state_of_the_fleet_is_in_the_question() -> None:
    load = ReplicaLoad(pages_used=25, pages_total=100, running=3, running_limit=4, waiting=2)
    asked = RouteRequest(model="auto", text="x" * 9000, prompt_tokens=7, turns=2, priority=PRIORITY_CRITICAL, dry=True)
    found = question_of(asked, [Replica(HeartbeatRequest(load=load), 0.0, 0, History())] * 2)
    assert (found.request_id, len(found.text)) == ("", 8192)
    expected = Constraints(memory_used=0.25, load=0.75, waiting=4, prompt_tokens=7, turns=2, urgent=True)
    assert found.constraints == expected
    assert question_of(asked, []).constraints.load == 0
