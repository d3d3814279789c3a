"""Named routers through a real server, with a memory that keeps patterns and embeds by the words of a text."""

import asyncio

import pytest

from actors.base.errors import InvalidArgument, NotFound, Unavailable
from protos.gen.router_pb2 import (
    ClassifyRequest,
    DeleteRouterRequest,
    ListRoutersRequest,
    PruneRouterRequest,
    TrainRouterRequest,
)
from tests.actors.router.semantic.shop import FRUIT, TOOLS, Running, examples_of


async def test_a_trained_router_labels_unseen_texts(running: Running) -> None:
    reply = await running.train()
    assert list(reply.router.labels) == ["fruit", "tool"]
    assert (reply.router.examples, reply.changed) == (24, 24)
    assert reply.router.accuracy > 0.9
    told = await running.stub.Classify(ClassifyRequest(tenant="t", router="shop", text="sell the pear"))
    assert told.label == "fruit"
    assert told.confidence > 0.5
    assert [each.label for each in told.alternatives] == ["tool"]
    assert told.confidence + told.alternatives[0].confidence == pytest.approx(1, abs=1e-4)
    assert "pear" in told.neighbours[0].text
    assert told.in_scope == (told.scope_score >= told.scope_threshold)


async def test_a_router_is_rebuilt_from_memory_to_the_same_answers(running: Running) -> None:
    await running.train()
    asked = ClassifyRequest(tenant="t", router="shop", text="sell the pear")
    before = await running.stub.Classify(asked)
    embedded = running.memory.embedded
    await running.again()
    assert running.memory.embedded == embedded, "rebuilding embeds nothing again"
    after = await running.stub.Classify(asked)
    assert after.label == before.label
    assert after.confidence == pytest.approx(before.confidence, abs=0.1)


async def test_examples_are_added_and_relabelled_live(running: Running) -> None:
    await running.train()
    hats = [f"wear the {kind} hat" for kind in ("big", "old", "red", "blue", "tall", "flat")]
    added = await running.stub.AddExamples(examples_of("t", "shop", hat=hats))
    assert added.router.examples == 30
    assert await running.label("wear the hat") == "hat"
    relabelled = await running.stub.AddExamples(examples_of("t", "shop", cap=hats))
    assert relabelled.router.examples == 30
    assert list(relabelled.router.labels) == ["cap", "fruit", "tool"]
    await running.again()
    assert await running.label("wear the hat") == "cap"


async def test_training_anew_forgets_what_was_there(running: Running) -> None:
    await running.train()
    await running.train(night=["sleep long", "sleep well"], day=["wake up", "wake early"])
    assert {text for _, _, text in running.memory.patterns} == {"sleep long", "sleep well", "wake up", "wake early"}


async def test_pruning_by_text_by_label_and_by_likeness(running: Running) -> None:
    await running.train(fruit=FRUIT, tool=[*TOOLS, "swing  the big  hammer"], hat=["wear a hat", "wear the hat"])
    merged = await running.stub.PruneRouter(PruneRouterRequest(tenant="t", router="shop", merge_above=0.999))
    assert merged.changed == 1, "two texts of the same words are one example"
    reply = await running.stub.PruneRouter(
        PruneRouterRequest(tenant="t", router="shop", texts=[FRUIT[0], "not there"], labels=["hat"])
    )
    assert reply.changed == 3
    assert list(reply.router.labels) == ["fruit", "tool"]
    await running.again()
    assert running.service.registry.get("t", "shop").examples.keys() == {*FRUIT[1:], *TOOLS}


async def test_no_tenant_sees_another_s(running: Running) -> None:
    await running.train(tenant="a")
    with pytest.raises(NotFound, match="there is no router 'shop'; there are: agents"):
        await running.label("eat the pear", tenant="b")
    listed = await running.stub.ListRouters(ListRoutersRequest(tenant="b"))
    assert [card.router for card in listed.routers] == ["agents"]
    assert not (await running.stub.DeleteRouter(DeleteRouterRequest(tenant="b", router="shop"))).found
    assert await running.label("eat the pear", tenant="a") == "fruit"


async def test_a_deleted_router_is_gone_for_good(running: Running) -> None:
    await running.train()
    assert (await running.stub.DeleteRouter(DeleteRouterRequest(tenant="t", router="shop"))).found
    assert not running.memory.patterns
    with pytest.raises(NotFound):
        await running.label("eat the pear")


async def test_what_ships_answers_while_memory_is_away_and_is_not_deleted(running: Running) -> None:
    running.memory.away = True
    await running.stop()
    await running.start()
    listed = await running.stub.ListRouters(ListRoutersRequest(tenant="t"))
    assert [(card.router, card.shipped, len(card.labels)) for card in listed.routers] == [("agents", True, 13)]
    with pytest.raises(Unavailable, match="rebuilt"):
        await running.label("eat the pear")
    running.memory.away = False
    async with asyncio.timeout(30):
        await running.service.registry.restored()
    assert not (await running.stub.DeleteRouter(DeleteRouterRequest(tenant="t", router="agents"))).found
    with pytest.raises(InvalidArgument, match="comes with Russet"):
        await running.stub.PruneRouter(PruneRouterRequest(tenant="t", router="agents", labels=["coder"]))


async def test_vectors_of_another_embedder_are_refused_by_name(running: Running) -> None:
    with pytest.raises(InvalidArgument, match="all-MiniLM-L6-v2, and memory's is words"):
        await running.label("Review the login form", router="agents")


@pytest.mark.parametrize(
    ("request_of", "says"),
    [
        (examples_of("t", ""), "router ''"),
        (examples_of("t", "a/b", x=["x", "y"], y=["z", "w"]), "without /"),
        (examples_of("t", "shop"), "0 examples"),
        (examples_of("t", "shop", a=["x", " "], b=["y"]), r"examples\[1\].text is empty"),
        (examples_of("t", "shop", a=["x", "z"]), "two labels"),
        (examples_of("t", "shop", **{"a" * 300: ["x"]}), "300 characters"),
    ],
)
async def test_what_cannot_be_trained_is_refused(running: Running, request_of: TrainRouterRequest, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        await running.stub.TrainRouter(request_of)
    assert not running.memory.patterns
