"""Named routers through a real server, with a memory that keeps patterns and embeds by the words of a text."""

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from actors.base.channel import connect
from actors.base.errors import InvalidArgument, NotFound, Unavailable
from actors.base.server import Server
from actors.base.telemetry import Telemetry
from actors.router.semantic.service import SemanticService
from protos.gen import memory_pb2, memory_pb2_grpc
from protos.gen.memory_pb2_grpc import MemoryStub, add_MemoryServicer_to_server
from protos.gen.router_pb2 import (
    ClassifyRequest,
    DeleteRouterRequest,
    Example,
    ListRoutersRequest,
    PruneRouterRequest,
    TrainRouterRequest,
)
from protos.gen.router_pb2_grpc import SemanticStub, add_SemanticServicer_to_server

WIDTH = 64
FRUIT = [f"{verb} the {size} pear" for verb in ("eat", "peel", "buy") for size in ("big", "small", "ripe", "green")]
TOOLS = [f"{verb} the {size} hammer" for verb in ("swing", "lift", "lend") for size in ("big", "small", "old", "new")]


class FakeMemory(memory_pb2_grpc.MemoryServicer):
    """Keeps patterns; a text's vector is the sum of its words'."""

    def __init__(self) -> None:
        self.patterns: dict[tuple[str, str, str], memory_pb2.Pattern] = {}
        self.embedded = 0
        self.away = False
        self.model = "words"

    async def Embed(self, request: memory_pb2.EmbedRequest, context: Any) -> memory_pb2.EmbedReply:
        self.embedded += len(request.texts)
        rows = np.zeros((len(request.texts), WIDTH), np.float32)
        for row, text in zip(rows, request.texts, strict=True):
            for word in text.split():
                row += np.random.default_rng(zlib.crc32(word.encode())).normal(size=WIDTH)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return memory_pb2.EmbedReply(model=self.model, values=rows.ravel(), width=WIDTH)

    async def Status(self, request: Any, context: Any) -> memory_pb2.StatusReply:
        return memory_pb2.StatusReply(embedder=self.model, width=WIDTH)

    async def PutPatterns(self, request: memory_pb2.PutPatternsRequest, context: Any) -> memory_pb2.PutPatternsReply:
        self.patterns |= {(each.tenant, each.router, each.text): each for each in request.patterns}
        return memory_pb2.PutPatternsReply()

    async def DeletePatterns(self, request: Any, context: Any) -> memory_pb2.DeletePatternsReply:
        for each in request.patterns:
            self.patterns.pop((each.tenant, each.router, each.text), None)
        return memory_pb2.DeletePatternsReply()

    async def ReadPatterns(self, request: Any, context: Any) -> AsyncIterator[memory_pb2.Patterns]:
        if self.away:
            raise Unavailable("memory is away")
        yield memory_pb2.Patterns(patterns=list(self.patterns.values()))


class Running:
    """A memory, and a router that is started and may be started again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.memory = FakeMemory()
        self.stub: SemanticStub

    async def start(self) -> None:
        self.servers = [Server(f"{self.name}-memory", [(add_MemoryServicer_to_server, self.memory)])]
        await self.servers[0].start()
        self.channels = [connect(f"inproc:{self.name}-memory")]
        self.service = SemanticService(MemoryStub(self.channels[0]), Telemetry("router"))
        await self.service.start()
        self.servers.append(Server(f"{self.name}-router", [(add_SemanticServicer_to_server, self.service)]))
        await self.servers[1].start()
        self.channels.append(connect(f"inproc:{self.name}-router"))
        self.stub = SemanticStub(self.channels[1])

    async def stop(self) -> None:
        await self.servers[1].stop(0)
        await self.service.stop()
        await self.servers[0].stop(0)
        for channel in self.channels:
            await channel.close()

    async def again(self) -> None:
        """A new router on the same memory."""
        await self.stop()
        await self.start()
        await self.service.registry.restored()

    async def train(self, tenant: str = "t", router: str = "shop", **more: list[str]) -> Any:
        """Of FRUIT and TOOLS, or of labels and their texts."""
        return await self.stub.TrainRouter(_request(tenant, router, **(more or {"fruit": FRUIT, "tool": TOOLS})))

    async def label(self, text: str, tenant: str = "t", router: str = "shop") -> str:
        return (await self.stub.Classify(ClassifyRequest(tenant=tenant, router=router, text=text))).label


def _request(tenant: str, router: str, **texts: list[str]) -> TrainRouterRequest:
    examples = [Example(text=text, label=label) for label, of_label in texts.items() for text in of_label]
    return TrainRouterRequest(tenant=tenant, router=router, examples=examples)


@pytest_asyncio.fixture
async def running(request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    one = Running(f"semantic-{request.node.name}")
    await one.start()
    yield one
    await one.stop()


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
    added = await running.stub.AddExamples(_request("t", "shop", hat=hats))
    assert added.router.examples == 30
    assert await running.label("wear the hat") == "hat"
    relabelled = await running.stub.AddExamples(_request("t", "shop", cap=hats))
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
        (_request("t", ""), "router ''"),
        (_request("t", "a/b", x=["x", "y"], y=["z", "w"]), "without /"),
        (_request("t", "shop"), "0 examples"),
        (_request("t", "shop", a=["x", " "], b=["y"]), r"examples\[1\].text is empty"),
        (_request("t", "shop", a=["x", "z"]), "two labels"),
        (_request("t", "shop", **{"a" * 300: ["x"]}), "300 characters"),
    ],
)
async def test_what_cannot_be_trained_is_refused(running: Running, request_of: TrainRouterRequest, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        await running.stub.TrainRouter(request_of)
    assert not running.memory.patterns
