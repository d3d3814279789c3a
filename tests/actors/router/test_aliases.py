"""Aliases as the router keeps them: put live, kept by memory, watched, counted, and used by Route."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from actors.base.channel import connect
from actors.base.errors import InvalidArgument, NotFound, Unavailable
from actors.base.server import Server
from actors.base.telemetry import Telemetry
from actors.router.config import RouterConfig
from actors.router.service import RouterService
from actors.router.variants import Sum
from protos.gen import memory_pb2, memory_pb2_grpc
from protos.gen.inference_pb2 import Alias, AliasTarget
from protos.gen.router_pb2 import (
    DeleteAliasRequest,
    HeartbeatRequest,
    ListAliasesRequest,
    ListReplicasRequest,
    Outcome,
    PutAliasRequest,
    ReportOutcomesRequest,
    RouteReply,
    RouteRequest,
)
from protos.gen.router_pb2_grpc import RouterStub, add_RouterServicer_to_server
from protos.gen.scheduler_pb2 import ReplicaLoad


class Memory(memory_pb2_grpc.MemoryServicer):
    """Keeps policies and tells them to who watches; may be away."""

    def __init__(self) -> None:
        self.policies: dict[str, memory_pb2.Policy] = {}
        self.changed = asyncio.Event()
        self.gone: list[memory_pb2.Policy] = []
        self.away = False
        self.watched = asyncio.Event()

    def put(self, policy: memory_pb2.Policy) -> int:
        stored = memory_pb2.Policy()
        stored.CopyFrom(policy)
        stored.version = self.policies[policy.id].version + 1 if policy.id in self.policies else 1
        self.policies[policy.id] = stored
        self.changed.set()
        return stored.version

    async def PutPolicy(self, request: Any, context: Any) -> memory_pb2.PutPolicyReply:
        if self.away:
            raise Unavailable("memory is away")
        return memory_pb2.PutPolicyReply(version=self.put(request.policy))

    async def DeletePolicy(self, request: Any, context: Any) -> memory_pb2.DeletePolicyReply:
        if self.away:
            raise Unavailable("memory is away")
        found = self.policies.pop(request.id, None)
        if found is not None:
            found.gone = True
            self.gone.append(found)
            self.changed.set()
        return memory_pb2.DeletePolicyReply(found=found is not None)

    async def SearchPolicies(self, request: Any, context: Any) -> memory_pb2.SearchPoliciesReply:
        if self.away:
            raise Unavailable("memory is away")
        found = [policy for policy in self.policies.values() if policy.id == request.id]
        return memory_pb2.SearchPoliciesReply(policies=[memory_pb2.ScoredPolicy(policy=policy) for policy in found])

    async def WatchPolicies(self, request: Any, context: Any) -> AsyncIterator[memory_pb2.Policy]:
        told: dict[str, int] = {}
        listed = False
        while True:
            self.changed.clear()
            while self.gone:
                yield self.gone.pop(0)
            for policy in reversed(list(self.policies.values())):  # outcomes before their alias
                if policy.version > told.get(policy.id, 0) or not listed:
                    told[policy.id] = policy.version
                    yield policy
            if not listed:
                yield memory_pb2.Policy()
                listed = True
            self.watched.set()
            await self.changed.wait()

    async def ReadPatterns(self, request: Any, context: Any) -> AsyncIterator[memory_pb2.Patterns]:
        for _ in ():
            yield memory_pb2.Patterns()

    async def Status(self, request: Any, context: Any) -> memory_pb2.StatusReply:
        return memory_pb2.StatusReply(embedder="none", width=2)


class Running:
    """A router over a memory of its own; restarted with start()."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.servers: list[Server] = []
        self.channels: list[Any] = []
        self.now = 0.0
        self.sequence = 0
        self.service: RouterService
        self.stub: RouterStub

    async def start(self, config: RouterConfig | None = None, *, memory: bool = True) -> RouterStub:
        if not self.servers:
            self.servers.append(Server("memory", [(memory_pb2_grpc.add_MemoryServicer_to_server, self.memory)]))
            self.channels.append(connect((await self.servers[0].start())[0]))
        stub = memory_pb2_grpc.MemoryStub(self.channels[0]) if memory else None
        self.service = RouterService(config or RouterConfig(), Telemetry("router"), lambda: self.now, stub)
        await self.service.start()
        self.servers.append(Server("router", [(add_RouterServicer_to_server, self.service)]))
        self.channels.append(connect((await self.servers[-1].start())[0]))
        self.stub = RouterStub(self.channels[-1])
        if memory:
            await self.memory.watched.wait()
        for model in ("a", "b"):
            await self.beat(model)
        return self.stub

    async def halt(self) -> None:
        await self.channels.pop().close()
        await self.servers.pop().stop(0)
        await self.service.stop()
        self.memory.watched.clear()

    async def beat(self, model: str, ready: bool = True) -> None:
        self.sequence += 1
        load = ReplicaLoad(ready=ready, pages_total=1000, page_size=16, queue_limit=64, epoch=1)
        state = HeartbeatRequest(replica_id=f"{model}-0", addresses=["tcp:x:1"], model=model, load=load)
        state.sequence, state.incarnation = self.sequence, "i"
        await self.stub.Heartbeat(state)

    async def put(self, name: str, **weights: float) -> Alias:
        targets = [AliasTarget(model=model, weight=weight) for model, weight in weights.items()]
        return (await self.stub.PutAlias(PutAliasRequest(alias=Alias(name=name, targets=targets)))).alias

    async def route(self, model: str, **more: Any) -> RouteReply:
        return await self.stub.Route(RouteRequest(model=model, prompt_tokens=8, **more))

    async def listed(self) -> dict[str, Alias]:
        return {alias.name: alias for alias in (await self.stub.ListAliases(ListAliasesRequest())).aliases}


@pytest_asyncio.fixture
async def running() -> AsyncIterator[Running]:
    running = Running()
    yield running
    await running.halt()
    for channel in running.channels:
        await channel.close()
    for server in running.servers:
        await server.stop(0)


def session_of(model: str, reply: dict[str, str]) -> str:
    return next(session for session, found in reply.items() if found == model)


async def test_an_alias_put_is_routed_by_at_once_and_survives_a_restart(running: Running) -> None:
    await running.start()
    alias = await running.put("gpt-4o-mini", b=1)
    assert (alias.source, alias.targets[0].ready) == ("api", True)
    for _ in range(2):
        reply = await running.route("gpt-4o-mini")
        assert (reply.model, reply.alias, reply.explanation[0]) == (
            "b", "gpt-4o-mini", "gpt-4o-mini is an alias of b",
        )  # fmt: skip
        await running.halt()
        await running.start()
    told = (await running.stub.ListReplicas(ListReplicasRequest())).aliases
    assert [(alias.name, alias.targets[0].model) for alias in told] == [("gpt-4o-mini", "b")]


async def test_another_routers_change_is_heard(running: Running) -> None:
    await running.start()
    parameters = json.dumps({"models": {"a": 1.0}, "max_failures": 0.5})
    running.memory.put(memory_pb2.Policy(id="alias:x", type="router", parameters=parameters))
    running.memory.put(memory_pb2.Policy(id="alias:broken", type="router", parameters="{}"))
    running.memory.put(memory_pb2.Policy(id="another's", type="router", parameters="[]"))
    running.memory.watched.clear()
    await running.memory.watched.wait()
    assert (await running.route("x")).model == "a"
    assert list(await running.listed()) == ["x"]


async def test_what_was_deleted_while_nobody_watched_is_gone(running: Running) -> None:
    await running.start()
    await running.put("x", a=1)
    await running.put("y", a=1)
    assert (await running.stub.DeleteAlias(DeleteAliasRequest(name="y"))).found
    assert set(running.memory.policies) == {"alias:x"}
    await running.halt()
    running.memory.policies.clear()
    await running.start()
    assert await running.listed() == {}


async def test_the_configurations_aliases_hold_under_those_put(running: Running) -> None:
    config = RouterConfig(aliases={"one": "a", "two": {"models": {"a": 1, "b": 3}}})  # type: ignore
    await running.start(config)
    assert (await running.listed())["one"].source == "config"
    await running.put("one", b=1)
    assert (await running.route("one")).model == "b"
    assert (await running.stub.DeleteAlias(DeleteAliasRequest(name="one"))).found
    assert (await running.route("one")).model == "a"
    with pytest.raises(InvalidArgument, match="is the configuration's"):
        await running.stub.DeleteAlias(DeleteAliasRequest(name="one"))
    assert not (await running.stub.DeleteAlias(DeleteAliasRequest(name="none"))).found


@pytest.mark.parametrize(
    ("name", "weights", "error", "said"),
    [
        ("x", {"nobody": 1}, NotFound, "'nobody', which is not served here; these are: a, b"),
        ("x", {"a": -1}, InvalidArgument, "models.a is -1"),
        ("x", {"a": float("nan")}, InvalidArgument, "models.a"),
        ("x", {"a": 0, "b": 0}, InvalidArgument, "all weights are 0"),
        ("x", {}, InvalidArgument, "models"),
        ("auto", {"a": 1}, InvalidArgument, "accepted as a name"),
        ("", {"a": 1}, InvalidArgument, "accepted as a name"),
        ("n" * 129, {"a": 1}, InvalidArgument, "accepted as a name"),
    ],
)
async def test_what_cannot_be_is_refused(running: Running, name: str, weights: Any, error: Any, said: str) -> None:
    await running.start()
    with pytest.raises(error, match=said):
        await running.put(name, **weights)
    assert await running.listed() == {}


async def test_without_memory_nothing_is_half_changed(running: Running) -> None:
    await running.start()
    await running.put("x", a=1)
    running.memory.away = True
    with pytest.raises(Unavailable, match="memory is away"):
        await running.put("x", b=1)
    assert (await running.route("x")).model == "a"


async def test_a_session_stays_and_a_begun_request_has_no_other_model(running: Running) -> None:
    await running.start()
    await running.put("chat", a=1, b=1)
    went = {f"s{n}": (await running.route("chat", tenant="t", session_id=f"s{n}")).model for n in range(20)}
    assert set(went.values()) == {"a", "b"}
    of_b = session_of("b", went)
    assert (await running.route("chat", tenant="t", session_id=of_b)).model == "b"
    await running.beat("b", ready=False)
    other = await running.route("chat", tenant="t", session_id=of_b, settled="b")
    assert other.model == "a"
    assert any("b has no replica that takes requests: a takes its place" in each for each in other.explanation)
    with pytest.raises(Unavailable, match="no replica of b is ready; b-0 is loading"):
        await running.route("chat", tenant="t", session_id=of_b, settled="b", begun=True)
    await running.beat("b")
    # Begun, it goes on where it was, whatever became of the name.
    await running.put("chat", a=1)
    assert (await running.route("chat", tenant="t", session_id=of_b, settled="b", begun=True)).model == "b"


async def test_a_settled_request_stays_though_the_draw_has_changed(running: Running) -> None:
    await running.start()
    await running.put("chat", a=1, b=1)
    replies = [await running.route("chat", request_id=f"q{n}") for n in range(20)]
    assert {reply.model for reply in replies} == {"a", "b"}
    number = next(n for n, reply in enumerate(replies) if reply.model == "a")
    reply = await running.route("chat", request_id=f"q{number}", settled="b")
    assert reply.model == "b"
    assert "it went to b before, and stays there" in reply.explanation


async def test_a_canary_that_fails_is_passed_over_until_that_is_long_ago(running: Running) -> None:
    await running.start()
    await running.put("chat", a=1, b=1)
    went = {f"s{n}": (await running.route("chat", session_id=f"s{n}")).model for n in range(20)}
    of_b = session_of("b", went)
    outcomes = [Outcome(alias="chat", model="b", succeeded=n < 4) for n in range(12)]
    await running.stub.ReportOutcomes(ReportOutcomesRequest(outcomes=outcomes))
    reply = await running.route("chat", session_id=of_b)
    assert reply.model == "a"
    assert "b failed 8 of its last 12 requests: a takes its place" in reply.explanation
    assert [target.failing for target in (await running.listed())["chat"].targets] == [False, True]
    running.now += 121
    await running.beat("a")
    await running.beat("b")
    assert (await running.route("chat", session_id=of_b)).model == "b"


async def test_outcomes_are_counted_by_target_and_survive_a_restart(running: Running) -> None:
    await running.start()
    await running.put("chat", a=1, b=1)
    outcomes = [
        Outcome(alias="chat", model="a", succeeded=True, ttft_ms=100, tpot_ms=10),
        Outcome(alias="chat", model="a", succeeded=True, ttft_ms=300),
        Outcome(alias="chat", model="b", succeeded=False),
        Outcome(alias="chat", model="b", quality=0.5),
        Outcome(alias="chat", model="b", rating=-1),
        Outcome(alias="chat", model="gone", succeeded=True),
        Outcome(alias="gone", model="a", succeeded=True),
    ]
    await running.stub.ReportOutcomes(ReportOutcomesRequest(outcomes=outcomes))
    for _ in range(2):
        a, b = (target.outcomes for target in (await running.listed())["chat"].targets)
        assert (a.requests, a.errors, a.ttft_ms.count, a.ttft_ms.mean, a.ttft_ms.variance) == (2, 0, 2, 200, 20_000)
        assert (a.tpot_ms.count, b.requests, b.errors, b.quality.mean, b.rating.mean) == (1, 1, 1, 0.5, -1)
        await running.halt()
        await running.start()
    # Another target in the place of b: what was known of b is over.
    await running.put("chat", a=1)
    await running.put("chat", a=1, b=1)
    a, b = (target.outcomes for target in (await running.listed())["chat"].targets)
    assert (a.requests, b.requests) == (2, 0)


async def test_an_alias_of_models_that_nobody_serves_is_not_found(running: Running) -> None:
    await running.start(RouterConfig(aliases={"x": "later"}))  # type: ignore
    with pytest.raises(NotFound, match="'x' leads to later, which is not served here; these are: a, b"):
        await running.route("x")


def test_sums_joined_are_the_sums_of_all() -> None:
    numbers, one, two, whole = [3.0, 1.5, -2.0, 8.0, 0.25], Sum(), Sum(), Sum()
    for place, number in enumerate(numbers):
        (one if place < 2 else two).add(number)
        whole.add(number)
    one.join(two)
    told, right = one.message(), whole.message()
    assert told.count == right.count == 5
    assert told.mean == pytest.approx(right.mean)
    assert told.variance == pytest.approx(right.variance)
