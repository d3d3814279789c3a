"""Models that the router chooses: what the gateway tells it, what it does with what it is told, and explanations."""

from typing import Any

import pytest

from actors.base.errors import NotFound
from protos.gen.router_pb2 import LabelScore, ModelChoice, Near

BODY = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
CHOICE = ModelChoice(
    router="topics",
    shares=[LabelScore(label="tiny", confidence=0.75), LabelScore(label="other", confidence=0.25)],
    confidence=0.75,
    temperature=0.5,
    top_p=0.25,
    context=512,
    neighbours=[Near(text="hello there", label="tiny", similarity=0.5)],
    patterns=["p1", "p2"],
    pattern="p1",
)


@pytest.mark.parametrize("model", ["auto", "router:topics"])
async def test_the_router_gets_the_question_and_its_choice_is_kept(world: Any, model: str) -> None:
    scheduler = await world.replica()
    world.router.choice = CHOICE
    await world.start()
    answer = await world.client().post("/v1/chat/completions", json=BODY | {"model": model, "temperature": 0.125})
    assert answer.json()["model"] == "tiny"
    assert {each.text for each in world.router.routed} == {"hello"}
    # What the router says of sampling is told, not done.
    sampling = scheduler.requests[-1].sampling
    assert (sampling.temperature, sampling.top_p) == (0.125, 1)
    await world.until(lambda: world.memory.entries and world.learner.trajectories)
    (entry,), (trajectory,) = world.memory.entries, world.learner.trajectories
    assert [(each.model, each.probability) for each in entry.models] == [("tiny", 0.75), ("other", 0.25)]
    assert (list(trajectory.patterns_retrieved), trajectory.pattern_used) == (["p1", "p2"], "p1")


async def test_a_model_that_is_named_is_nobodys_choice(world: Any) -> None:
    scheduler = await world.replica()
    await world.start()
    await world.client().post("/v1/chat/completions", json=BODY | {"model": "tiny"})
    assert {each.text for each in world.router.routed} == {""}
    assert scheduler.requests[-1].sampling.temperature == 1


async def test_a_budget_of_time_is_weighed_or_refused(world: Any) -> None:
    await world.replica()
    await world.start()
    client = world.client()
    await client.post("/v1/chat/completions", json=BODY | {"russet": {"latency_budget_ms": 250}})
    assert world.router.routed[-1].latency_budget_ms == 250
    named = await client.post("/v1/chat/completions", json=BODY | {"model": "tiny", "russet": {"latency_budget_ms": 9}})
    assert (named.status_code, named.json()["error"]["param"]) == (400, "russet.latency_budget_ms")


async def test_a_route_is_explained_and_nothing_runs(world: Any) -> None:
    scheduler = await world.replica()
    world.router.choice = CHOICE
    await world.start()
    told = (await world.client().post("/v1/router/explain", json={"text": "hello", "model": "router:topics"})).json()
    assert (told["model"], told["alias"], told["confidence"]) == ("tiny", None, 0.75)
    assert [each["replica"] for each in told["candidates"]] == ["tiny-0"]
    assert told["choice"]["router"] == "topics"
    assert told["choice"]["shares"][0] == {"label": "tiny", "probability": 0.75}
    assert told["choice"]["neighbours"] == [{"text": "hello there", "label": "tiny", "similarity": 0.5}]
    assert told["explanation"] == ["it was the first"]
    assert all(each.dry for each in world.router.routed)
    assert not scheduler.requests
    assert not world.memory.entries


async def test_a_router_that_is_not_there_is_named(world: Any) -> None:
    await world.replica()
    await world.start()
    world.router.refuse = lambda request: NotFound("there is no router 'x'", param="model")
    answer = await world.client().post("/v1/chat/completions", json=BODY | {"model": "router:x"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "model")


async def test_while_the_router_is_away_its_choice_is_the_default(world: Any) -> None:
    await world.replica()
    await world.start()
    await world.gateway._routes.refresh()
    await world.servers["router"].stop(0)
    answer = (await world.client().post("/v1/chat/completions", json=BODY | {"model": "router:topics"})).json()
    assert answer["model"] == "tiny"
    said = answer["russet"]["route"]["explanation"]
    assert said[0] == "no model was chosen by router:topics; tiny is the default"
