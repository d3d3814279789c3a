"""The router as gateways and schedulers see it: through a real server, in process and over TCP."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from actors.base.channel import connect
from actors.base.errors import InvalidArgument, NotFound, Unavailable
from actors.base.server import Server
from actors.base.telemetry import Telemetry
from actors.router.config import RouterConfig
from actors.router.service import RouterService
from protos.gen.router_pb2 import HeartbeatRequest, ListReplicasRequest, ReportRequest, RouteRequest
from protos.gen.router_pb2_grpc import RouterStub, add_RouterServicer_to_server
from protos.gen.scheduler_pb2 import ReplicaLoad


class Clock:
    """Time that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Running:
    """A router behind a server, what drives its clock, and a stub to it."""

    def __init__(self, config: RouterConfig) -> None:
        self.clock = Clock()
        self.telemetry = Telemetry("router")
        self.service = RouterService(config, self.telemetry, self.clock)
        self.sequence = 0
        self.stub: RouterStub

    async def beat(self, replica_id: str, model: str = "small", leaving: bool = False, **load) -> bool:
        """Heartbeat of an idle, ready replica, but for `load`; returns whether it was known."""
        self.sequence += 1
        full = {"ready": True, "pages_total": 1000, "page_size": 16, "queue_limit": 64, "epoch": 1} | load
        request = HeartbeatRequest(
            replica_id=replica_id,
            addresses=[f"tcp:{replica_id}:1"],
            model=model,
            isa_class="arm64-neon" if replica_id.endswith("arm") else "x86-avx512vnni",
            sequence=self.sequence,
            incarnation="i1",
            leaving=leaving,
            load=ReplicaLoad(**full),
        )
        return (await self.stub.Heartbeat(request)).known

    async def route(self, model: str = "small", **more) -> list[str]:
        """Ids of the candidates, best first."""
        reply = await self.stub.Route(RouteRequest(model=model, prompt_tokens=512, **more))
        return [candidate.replica_id for candidate in reply.candidates]


@pytest_asyncio.fixture(params=["inproc", "tcp"])
async def router(request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    """A router that knows nobody."""
    running = Running(RouterConfig())
    server = Server("router", [(add_RouterServicer_to_server, running.service)], tcp="127.0.0.1:0")
    await running.service.start()
    addresses = await server.start()
    channel = connect(addresses[0 if request.param == "inproc" else -1])
    running.stub = RouterStub(channel)
    yield running
    await channel.close()
    await server.stop(grace_s=0)
    await running.service.stop()


async def test_the_least_loaded_is_first_and_the_rest_follow(router):
    await router.beat("a", running=8)
    await router.beat("b", running=2)
    await router.beat("c", running=4)
    assert await router.route() == ["b", "c", "a"]


async def test_a_session_it_does_not_know_goes_where_memory_says_it_was(router):
    """The router was restarted: what it remembered of sessions is gone, what memory has of them is not."""
    await router.beat("a")
    await router.beat("b")
    assert (await router.route(session_id="s"))[0] == "a"
    await router.beat("a")
    assert (await router.route(session_id="s", session_replica="b"))[0] == "b"
    await router.stub.Report(ReportRequest(replica_id="a", session_id="s", succeeded=True))
    await router.beat("b")
    assert (await router.route(session_id="s", session_replica="b"))[0] == "a"


async def test_a_model_that_is_unloaded_is_gone_at_once_and_comes_back_with_a_replica(router):
    await router.beat("a", model="small")
    await router.beat("b", model="tiny")
    going = HeartbeatRequest(replica_id="a", model="small", addresses=["x"], incarnation="i1", sequence=99)
    going.unloading = True
    going.load.CopyFrom(ReplicaLoad(ready=True, draining=True))
    await router.stub.Heartbeat(going)
    with pytest.raises(NotFound, match="model 'small' was unloaded; these are served: tiny"):
        await router.route("small")
    table = await router.stub.ListReplicas(ListReplicasRequest())
    assert (list(table.retired), table.default_model) == (["small"], "tiny")
    # What has begun there is not told that its model is unknown while the replica ends its answers.
    with pytest.raises(Unavailable, match="a is draining"):
        await router.route("small", settled="small", begun=True)
    await router.beat("c", model="small")
    assert await router.route("small") == ["c"]


async def test_a_default_that_is_unloaded_is_followed_by_another():
    running = Running(RouterConfig(default_model="big"))
    server = Server("router", [(add_RouterServicer_to_server, running.service)])
    running.stub = RouterStub(connect((await server.start())[0]))
    await running.beat("a", model="small")
    await running.beat("b", model="big")
    assert await running.route("") == ["b"]
    going = HeartbeatRequest(replica_id="b", model="big", addresses=["x"], incarnation="i1", sequence=99)
    going.unloading = True
    await running.stub.Heartbeat(going)
    assert await running.route("auto") == ["a"]
    await server.stop(grace_s=0)


async def test_a_candidate_carries_what_the_gateway_needs(router):
    await router.beat("a", epoch=7)
    reply = await router.stub.Route(RouteRequest(model="small", prompt_tokens=100))
    [candidate] = reply.candidates
    assert (reply.model, candidate.replica_id, list(candidate.addresses)) == ("small", "a", ["tcp:a:1"])
    assert (candidate.epoch, candidate.isa_class) == (7, "x86-avx512vnni")
    assert candidate.score == pytest.approx(sum(candidate.terms.values()))
    assert reply.explanation[0].startswith("a is chosen: ")
    assert reply.confidence == 1


async def test_requests_between_two_heartbeats_spread(router):
    for replica in ("a", "b", "c"):
        await router.beat(replica)
    chosen = [(await router.route())[0] for _ in range(12)]
    assert {replica: chosen.count(replica) for replica in "abc"} == {"a": 4, "b": 4, "c": 4}


async def test_the_turns_of_a_session_follow_each_other_faster_than_heartbeats_and_stay(router):
    await router.beat("a")
    await router.beat("b")
    for turn in range(5):
        assert (await router.route(session_id="s", request_id=f"q{turn}"))[0] == "a"
        await router.stub.Report(ReportRequest(request_id=f"q{turn}", replica_id="a", session_id="s", succeeded=True))


@pytest.mark.parametrize("asked", ["", "auto"])
async def test_no_model_asked_for_is_the_default(router, asked):
    await router.beat("a", model="tiny")
    await router.beat("b", model="small")
    reply = await router.stub.Route(RouteRequest(model=asked))
    assert reply.model == "small"
    assert reply.explanation[0] == "no model was asked for; small is the default"
    assert (await router.stub.ListReplicas(ListReplicasRequest())).default_model == "small"


async def test_a_configured_default_that_still_loads_is_not_replaced():
    running = Running(RouterConfig(default_model="big"))
    server = Server("router", [(add_RouterServicer_to_server, running.service)])
    running.stub = RouterStub(connect((await server.start())[0]))
    await running.beat("a", model="small")
    for asked in ("", "auto", "big"):
        with pytest.raises(Unavailable, match="no replica of big is ready"):
            await running.route(asked)
    await running.beat("b", model="big")
    assert await running.route("") == ["b"]
    await server.stop(grace_s=0)


async def test_an_unknown_model_is_not_found_and_the_served_ones_are_named(router):
    await router.beat("a", model="small")
    await router.beat("b", model="tiny", ready=False)
    with pytest.raises(NotFound, match="'huge' is not served here; these are: small, tiny") as raised:
        await router.route("huge")
    assert raised.value.param == "model"


async def test_a_router_that_has_heard_of_nobody_says_come_back(router):
    for asked in ("", "small"):
        with pytest.raises(Unavailable, match="none has announced itself yet") as raised:
            await router.route(asked)
        assert raised.value.retry_after_s == 1


async def test_nobody_ready_is_unavailable_and_says_why_of_each(router):
    await router.beat("a")
    router.clock.now += 4
    await router.beat("b", ready=False)
    await router.beat("c", draining=True)
    await router.beat("d")
    with pytest.raises(Unavailable) as raised:
        await router.route(exclude=["d"])
    assert raised.value.retry_after_s == 1
    assert "a was not heard from for 4 s, b is loading, c is draining, d has just failed" in str(raised.value)


async def test_a_goodbye_takes_effect_at_once(router):
    await router.beat("a")
    await router.beat("b")
    await router.beat("a", leaving=True)
    assert await router.route() == ["b"]


async def test_a_session_stays_with_its_replica_until_others_are_far_less_loaded(router):
    await router.beat("a")
    await router.beat("b")
    report = ReportRequest(replica_id="b", session_id="s", tenant="t", succeeded=True, ttft_ms=50, tpot_ms=0)
    await router.stub.Report(report)
    await router.beat("b", running=8)
    assert (await router.route(session_id="s", tenant="t"))[0] == "b"
    await router.beat("b", running=8)
    assert (await router.route(session_id="s", tenant="other"))[0] == "a"
    await router.beat("a")
    await router.beat("b", running=40)
    assert (await router.route(session_id="s", tenant="t"))[0] == "a"


async def test_a_prefix_goes_where_its_pages_are(router):
    await router.beat("a")
    await router.beat("b")
    hashes = list(range(1, 33))
    await router.stub.Report(ReportRequest(replica_id="b", prefix_hashes=hashes, succeeded=True))
    reply = await router.stub.Route(RouteRequest(model="small", prompt_tokens=600, prefix_hashes=hashes))
    assert reply.candidates[0].replica_id == "b"
    terms = reply.candidates[0].terms
    assert terms["prompt"] + terms["prefix"] == pytest.approx(-(600 - 512), rel=1e-3)
    assert terms["prefix"] == pytest.approx(512)


async def test_failures_move_requests_away_and_leave_no_affinity(router):
    await router.beat("a")
    await router.beat("b")
    for _ in range(5):
        await router.stub.Report(ReportRequest(replica_id="a", session_id="s", succeeded=False))
    assert (await router.route(session_id="s"))[0] == "b"


async def test_the_isa_class_asked_for_comes_first(router):
    await router.beat("a")
    await router.beat("z-arm", running=3)
    assert (await router.route())[0] == "a"
    assert (await router.route(isa_class="arm64-neon"))[0] == "z-arm"


async def test_list_replicas_is_the_table(router):
    assert await router.beat("a") is False
    assert await router.beat("a") is True
    router.clock.now += 2
    await router.beat("b", ready=False)
    rows = (await router.stub.ListReplicas(ListReplicasRequest())).replicas
    assert [(row.state.replica_id, row.available, row.age_s) for row in rows] == [("a", True, 2), ("b", False, 0)]
    assert rows[0].since_s > 1_700_000_000


async def test_a_heartbeat_without_an_address_is_refused(router):
    with pytest.raises(InvalidArgument, match="'a'"):
        await router.stub.Heartbeat(HeartbeatRequest(replica_id="a", model="m"))


async def test_outcomes_are_counted(router):
    await router.beat("a")
    await router.route()
    with pytest.raises(NotFound):
        await router.route("huge")
    with pytest.raises(Unavailable):
        await router.route(exclude=["a"])
    text = router.telemetry.render().decode()
    for outcome in ("routed", "unknown_model", "unavailable"):
        assert f'russet_router_decisions_total{{outcome="{outcome}"}} 1.0' in text
    assert "russet_router_decision_seconds_count 1.0" in text


states = st.fixed_dictionaries(
    {
        "running": st.integers(0, 64),
        "ready": st.booleans(),
        "draining": st.booleans(),
        "age_s": st.sampled_from([0.0, 2.9, 3.0, 10.0]),
        "excluded": st.booleans(),
        "model": st.sampled_from(["small", "tiny"]),
    }
)


@given(st.dictionaries(st.text("abcd", min_size=1, max_size=2), states, min_size=1, max_size=6))
async def test_never_routes_to_the_stale_draining_loading_excluded_or_another_model(fleet):
    running = Running(RouterConfig())
    for replica_id, state in sorted(fleet.items(), key=lambda item: -item[1]["age_s"]):
        running.clock.now = -state["age_s"]
        load = ReplicaLoad(ready=state["ready"], draining=state["draining"], running=state["running"])
        beat = HeartbeatRequest(
            replica_id=replica_id, addresses=["tcp:x:1"], model=state["model"], sequence=1, load=load
        )
        await running.service.Heartbeat(beat, None)
    running.clock.now = 0.0
    fit = {
        replica_id
        for replica_id, state in fleet.items()
        if state["ready"]
        and not state["draining"]
        and not state["excluded"]
        and state["age_s"] < 3
        and state["model"] == "small"
    }
    request = RouteRequest(
        model="small", exclude=[replica_id for replica_id, state in fleet.items() if state["excluded"]]
    )
    try:
        reply = await running.service.Route(request, None)
    except (NotFound, Unavailable):
        assert not fit
    else:
        assert {candidate.replica_id for candidate in reply.candidates} == fit
