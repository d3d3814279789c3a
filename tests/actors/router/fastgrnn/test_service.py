"""The cost router through a real server: it scores, trains behind its gate, and is found again in memory."""

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from actors.base.channel import connect
from actors.base.errors import InvalidArgument, TooLarge, Unavailable
from actors.base.server import Server
from actors.base.telemetry import Telemetry
from actors.router.fastgrnn.service import MAX_PROMPTS, MAX_TEXT, CostService
from protos.gen import memory_pb2, memory_pb2_grpc
from protos.gen.memory_pb2_grpc import MemoryStub
from protos.gen.router_pb2 import CostRow, GetCostRequest, ScoreRequest, TrainCostRequest
from protos.gen.router_pb2_grpc import CostStub, add_CostServicer_to_server

WIDTH = 48
NAMES = ("Ann", "Bob", "Cy", "Dee", "Eve", "Flo")


class FakeMemory(memory_pb2_grpc.MemoryServicer):
    """Keeps policies and streams them; a text's vector is the sum of its words'."""

    def __init__(self) -> None:
        self.policies: list[memory_pb2.Policy] = []
        self.away = False
        self.told = asyncio.Event()

    async def Embed(self, request: memory_pb2.EmbedRequest, context: Any) -> memory_pb2.EmbedReply:
        if self.away:
            raise Unavailable("memory is away")
        rows = np.zeros((len(request.texts), WIDTH), np.float32)
        for row, text in zip(rows, request.texts, strict=True):
            for word in text.split():
                row += np.random.default_rng(zlib.crc32(word.encode())).normal(size=WIDTH)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return memory_pb2.EmbedReply(model="words", values=rows.ravel(), width=WIDTH)

    async def PutPolicy(self, request: memory_pb2.PutPolicyRequest, context: Any) -> memory_pb2.PutPolicyReply:
        if self.away:
            raise Unavailable("memory is away")
        self.policies.append(request.policy)
        return memory_pb2.PutPolicyReply(version=1)

    async def WatchPolicies(self, request: Any, context: Any) -> AsyncIterator[memory_pb2.Policy]:
        for policy in self.policies:
            yield policy
        self.told.set()
        await asyncio.Event().wait()


class Running:
    """A memory, and a router on it that may be started again."""

    def __init__(self, name: str) -> None:
        self.name, self.memory = name, FakeMemory()
        self.stub: CostStub

    async def start(self) -> None:
        self.memory.told.clear()
        servers = (memory_pb2_grpc.add_MemoryServicer_to_server, self.memory)
        self.servers = [Server(f"{self.name}-memory", [servers])]
        await self.servers[0].start()
        self.channels = [connect(f"inproc:{self.name}-memory")]
        self.service = CostService(MemoryStub(self.channels[0]), Telemetry("router"))
        await self.service.start()
        self.servers.append(Server(f"{self.name}-router", [(add_CostServicer_to_server, self.service)]))
        await self.servers[1].start()
        self.channels.append(connect(f"inproc:{self.name}-router"))
        self.stub = CostStub(self.channels[1])

    async def stop(self) -> None:
        await self.servers[1].stop(0)
        await self.service.stop()
        await self.servers[0].stop(0)
        for channel in self.channels:
            await channel.close()

    async def version(self, tenant: str = "t") -> int:
        return (await self.stub.GetCost(GetCostRequest(tenant=tenant))).version


@pytest.fixture
async def running(request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    one = Running(f"cost-{request.node.name}")
    await one.start()
    yield one
    await one.stop()


def rows(count: int = 400, seed: int = 0) -> list[CostRow]:
    """Questions of which the large model alone gets most of those that end in a sum, however short they are."""
    rng = np.random.default_rng(seed)
    found = []
    for place in range(count):
        who, sum_asked = NAMES[place % 6], bool(rng.integers(2))
        ask = (
            f"How many are {rng.integers(99)} + {rng.integers(99)}?"
            if sum_asked
            else "Who wrote this, and in what year?"
        )
        weak = rng.random() < (0.2 if sum_asked else 0.8)
        found.append(
            CostRow(prompt=f"{who} asks {place}: {ask}", weak_correct=weak, strong_correct=rng.random() < 0.85)
        )
    return found


async def test_what_ships_scores_at_once_and_without_memory(running: Running) -> None:
    running.memory.away = True
    reply = await running.stub.Score(ScoreRequest(tenant="t", prompts=["What is the capital of France?"] * 12))
    assert (len(reply.p), reply.version, reply.embedded) == (12, 0, False)
    assert len(set(reply.p)) == 1
    assert 0 < reply.p[0] < 1
    assert await running.version() == 0


async def test_a_better_candidate_serves_its_tenant_and_survives_a_restart(running: Running) -> None:
    reply = await running.stub.TrainCost(TrainCostRequest(tenant="t", rows=rows()))
    assert reply.served, reply.reasons
    assert reply.over_current.low > 0
    assert (reply.serving.version, reply.serving.rows, reply.serving.embedder) == (1, 400, "words")
    asked = ScoreRequest(
        tenant="t", prompts=["Ann asks: How many are 3 + 4?", "Ann asks: Who wrote this, and in what year?"]
    )
    before = await running.stub.Score(asked)
    assert before.embedded
    assert before.p[0] < before.p[1]
    assert (await running.version("other"), len(running.memory.policies)) == (0, 1)
    assert running.memory.policies[0].type == "router"
    await running.stop()
    await running.start()
    await running.memory.told.wait()
    async with asyncio.timeout(10):
        while await running.version() != 1:
            await asyncio.sleep(0)
    again = await running.stub.Score(asked)
    assert again.version == 1
    np.testing.assert_allclose(again.p, before.p, atol=0.01)


async def test_one_that_learned_nothing_is_refused_and_the_old_one_goes_on(running: Running) -> None:
    rng = np.random.default_rng(1)
    noise = [
        CostRow(
            prompt=f"{NAMES[n % 6]} asks {n}: why?", weak_correct=rng.random() < 0.6, strong_correct=rng.random() < 0.8
        )
        for n in range(300)
    ]
    reply = await running.stub.TrainCost(TrainCostRequest(tenant="t", rows=noise))
    assert not reply.served
    assert "on 300 rows held out" in reply.reasons[0]
    assert reply.serving.version == 0
    assert not running.memory.policies


async def test_a_policy_that_is_no_router_is_passed_over(running: Running) -> None:
    running.memory.policies = [
        memory_pb2.Policy(id="cost/x/1", type="router", parameters='{"tenant": "t", "version": 1, "router": {}}'),
        memory_pb2.Policy(id="other", type="router", parameters="{}"),
    ]
    await running.stop()
    await running.start()
    await running.memory.told.wait()
    assert await running.version() == 0


@pytest.mark.parametrize(
    ("request_", "error", "says"),
    [
        (ScoreRequest(), InvalidArgument, "0 prompts"),
        (ScoreRequest(prompts=["x"] * (MAX_PROMPTS + 1)), InvalidArgument, "2049 prompts"),
        (ScoreRequest(prompts=["x", " "]), InvalidArgument, r"prompts\[1\] is empty"),
        (ScoreRequest(prompts=["x" * (MAX_TEXT + 1)]), TooLarge, r"prompts\[0\] has 32769"),
        (TrainCostRequest(rows=rows(5)), InvalidArgument, "5 rows; accepted are 200"),
        (TrainCostRequest(rows=rows(), margin=2), InvalidArgument, "margin is 2"),
        (TrainCostRequest(rows=[*rows(), CostRow(prompt="x", temperature=3)]), InvalidArgument, r"temperature is 3"),
        (TrainCostRequest(rows=[CostRow(prompt=f"x {n}") for n in range(200)]), InvalidArgument, "[+]0 more right"),
    ],
)
async def test_what_cannot_be_done_is_refused(running: Running, request_: Any, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        await (running.stub.Score if isinstance(request_, ScoreRequest) else running.stub.TrainCost)(request_)
