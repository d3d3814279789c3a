"""What becomes of decisions of named routers: examples gain and lose weight, labels are learned, both outlast it."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.base.errors import InvalidArgument
from actors.router.semantic import standing
from actors.router.semantic.decisions import KEPT, Decided, Decisions, Seen
from actors.router.semantic.neighbours import Found, votes
from protos.gen.router_pb2 import ClassifyReply, ClassifyRequest, OutcomeReply, OutcomeRequest
from tests.actors.router.semantic.shop import FRUIT, Running

TEXT = "eat the big pear"


async def _ask(running: Running, text: str = TEXT) -> ClassifyReply:
    return await running.stub.Classify(ClassifyRequest(tenant="t", router="shop", text=text))


async def _told(running: Running, decision: ClassifyReply, tenant: str = "t", **told) -> OutcomeReply:
    return await running.stub.Outcome(OutcomeRequest(tenant=tenant, id=decision.id, **told))


async def test_outcomes_change_what_the_example_that_decided_is_worth_and_memory_keeps_it(running: Running) -> None:
    await running.train()
    for _ in range(30):
        reply = await _told(running, await _ask(running), outcome=0)
        assert reply.found
        assert TEXT in reply.change
    await running.service.outcomes.flush()
    kept = running.memory.patterns["t", "shop", TEXT]
    assert kept.uses == 30
    assert kept.success == pytest.approx(0.5 * 0.99**30)
    sure = (await _ask(running)).confidence
    await running.again()
    assert running.service.registry.get("t", "shop").examples[TEXT].uses == 30
    assert (await _ask(running)).confidence == pytest.approx(sure, abs=1e-5)


async def test_an_example_that_misleads_is_outvoted_in_the_end(running: Running) -> None:
    # It is called fruit, and everything else that swings is a tool.
    odd = "swing the old pear"
    tools = [f"swing the {size} {thing}" for size in ("old", "new", "big") for thing in ("hammer", "saw", "axe")]
    await running.train(fruit=[odd, *FRUIT], tool=tools)
    router = running.service.registry.get("t", "shop")
    before = router.classifier.classify(await running.service.registry.query(router, odd))
    for _ in range(400):
        running.service.registry.credit(("t", "shop"), odd, 0.0)
    after = router.classifier.classify(await running.service.registry.query(router, odd))
    assert dict(after.ranked)["fruit"] < dict(before.ranked)["fruit"]


async def test_a_label_that_is_told_is_learned(running: Running) -> None:
    await running.train()
    asked = "rent the huge crane"
    for label in ("tool", "tool"):
        decision = await _ask(running, asked)
        await _told(running, decision, label=label)
        await running.service.outcomes.flush()
    assert running.memory.patterns["t", "shop", asked].label == "tool"
    assert await running.label(asked) == "tool"
    assert (await _ask(running, asked)).neighbours[0].text == asked
    # And it is taken back the same way: the text repeats the example, whose label changes.
    await _told(running, await _ask(running, asked), label="fruit")
    await running.service.outcomes.flush()
    assert running.memory.patterns["t", "shop", asked].label == "fruit"


async def test_what_memory_does_not_take_is_written_once_it_does(running: Running) -> None:
    await running.train()
    running.memory.refuses = 2
    await _told(running, await _ask(running), outcome=1)
    async with asyncio.timeout(20):
        await running.service.outcomes.flush()
    assert running.memory.refuses == 0
    assert running.memory.patterns["t", "shop", TEXT].uses == 1


async def test_a_decision_is_of_its_tenant_and_known_for_a_while(running: Running) -> None:
    await running.train()
    decision = await _ask(running)
    assert not (await _told(running, decision, tenant="other", outcome=1)).found
    assert not (await running.stub.Outcome(OutcomeRequest(tenant="t", id="route-x", outcome=1))).found
    with pytest.raises(InvalidArgument, match="neither outcome nor label"):
        await _told(running, decision)
    with pytest.raises(InvalidArgument, match="outcome is 2"):
        await _told(running, decision, outcome=2)
    decisions = Decisions()
    for at in range(KEPT + 1):
        decisions.keep(str(at), Decided("t", "r", "x", "l", ()))
    assert decisions.find("t", "0") is None
    assert decisions.find("t", str(KEPT)) is not None


def test_the_nearest_example_of_the_label_answers_for_a_decision() -> None:
    near = (Seen("a", "other", 0.97), Seen("b", "mine", 0.9), Seen("c", "mine", 0.85))
    decided = Decided("t", "r", "text", "mine", near)
    assert decided.by == near[1]
    assert decided.repeated == near[0]
    assert decided.pattern == decided.patterns[1]
    far = Decided("t", "r", "text", "mine", (Seen("c", "mine", 0.75),))
    assert (far.by, far.repeated, far.pattern) == (None, None, "")


@given(st.floats(0, 1), st.lists(st.floats(0, 1), max_size=50))
def test_success_stays_a_share_and_weight_between_none_and_double(success: float, outcomes: list[float]) -> None:
    for uses, outcome in enumerate(outcomes):
        before = success
        success = standing.credited(success, outcome)
        assert 0 <= success <= 1
        assert abs(success - outcome) <= abs(before - outcome) + 1e-12
        assert 0 <= standing.weight(success, uses) <= 2


def test_few_uses_count_in_part() -> None:
    assert standing.weight(standing.UNTRIED, 100) == 1
    weights = [standing.weight(0.1, uses) for uses in range(8)]
    assert weights[0] == 1
    assert weights[:6] == sorted(weights[:6], reverse=True)
    assert weights[5] == weights[7] == pytest.approx(0.2)


def test_votes_of_examples_that_nobody_believes_count_for_nothing() -> None:
    found = Found(np.array([[0, 1]]), np.array([[0.9, 0.9]], np.float32))
    targets = np.array([0, 1])
    doubted = votes(found, targets, 2, np.array([0, 1], np.float32))
    assert doubted[0, 1] > votes(found, targets, 2)[0, 1] > doubted[0, 0]
    none = votes(found, targets, 2, np.zeros(2, np.float32))
    assert np.exp(none[0]) == pytest.approx([0.5, 0.5])
