"""Placement by what was learned: from reports, of replicas that differ, and with reports that are wrong."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.base.telemetry import Telemetry
from actors.router.config import RouterConfig
from actors.router.fleet import Fleet
from actors.router.placement import Chosen, Placement
from protos.gen.router_pb2 import HeartbeatRequest, ReportRequest, RouteRequest
from protos.gen.scheduler_pb2 import ReplicaLoad
from tests.actors.router import per_replica
from tests.actors.router.per_replica import Scored, rows

CONFIG = RouterConfig(explore_deviations=0)


def ranked(chosen: Chosen) -> list[Scored]:
    """Candidates, best first."""
    return rows(chosen.ranking, chosen.views)


class Replicas:
    """A table of idle replicas, the placement over it, and their clock."""

    def __init__(self, **chips: str) -> None:
        self.now_s = 0.0
        self.fleet = Fleet(CONFIG, Telemetry("router"), lambda: self.now_s)
        self.placement = Placement(CONFIG, self.fleet, lambda: self.now_s)
        self.beats = self.asked = 0
        for name, chip in chips.items():
            self.beat(name, chip)

    def beat(self, name: str, chip: str = "x86", **load: float) -> None:
        """A heartbeat."""
        self.beats += 1
        full = {"ready": True, "pages_total": 1000, "page_size": 16, "queue_limit": 64} | load
        self.fleet.heard(
            HeartbeatRequest(
                replica_id=name,
                model="m",
                isa_class=chip,
                sequence=self.beats,
                incarnation=name,
                load=ReplicaLoad(**full),
            )
        )

    def ask(self, only: str = "", **more) -> Chosen:
        """Where a request of 1000 tokens goes; `only` one replica is ready."""
        self.asked += 1
        ready = [replica for replica in self.fleet.replicas() if not only or replica.replica_id == only]
        request = RouteRequest(request_id=f"q{self.asked}", model="m", prompt_tokens=1000, **more)
        return self.placement.choose(ready, request)

    def answer(self, name: str, ttft_ms: float, **more) -> None:
        """The last request that was asked for went so, half a second later."""
        self.now_s += 0.5
        full = {"succeeded": True, "prompt_tokens": 1000, "tpot_ms": 10} | more
        self.placement.answered(ReportRequest(request_id=f"q{self.asked}", replica_id=name, ttft_ms=ttft_ms, **full))

    def serve(self, name: str, ttft_ms: float, times: int = 20) -> None:
        """So many requests went to this replica."""
        for _ in range(times):
            self.ask(only=name)
            self.answer(name, ttft_ms)

    def waits(self, **more) -> dict[str, float]:
        """What each would make a request wait, as scored."""
        return {each.view.replica_id: -each.score for each in ranked(self.ask(**more))}


def test_the_replica_that_was_faster_is_chosen():
    replicas = Replicas(a="x86", b="x86")
    replicas.serve("a", 3000)
    replicas.serve("b", 300)
    assert replicas.ask().replica_id == "b"


def test_a_new_replica_is_taken_to_be_as_those_of_its_chip():
    replicas = Replicas(slow="x86", fast="arm64")
    replicas.serve("slow", 8000, 40)
    replicas.serve("fast", 200, 40)
    replicas.beat("new-slow", "x86")
    replicas.beat("new-fast", "arm64")
    waits = replicas.waits()
    assert waits["new-slow"] > 3 * waits["new-fast"]
    replicas.beat("stranger", "riscv", prefill_tokens_per_s=100)
    assert replicas.waits()["stranger"] > 10_000, "by what it says of itself"


def test_a_restarted_replica_begins_with_its_kind():
    replicas = Replicas(a="x86", b="x86")
    replicas.serve("a", 9000, 40)
    before = replicas.waits()["a"]
    replicas.fleet.heard(
        HeartbeatRequest(
            replica_id="a", model="m", isa_class="arm64", sequence=1, incarnation="a2", load=ReplicaLoad(ready=True)
        )
    )
    assert replicas.waits()["a"] < before / 2


def test_cache_that_turns_out_not_to_be_there_is_counted_on_less():
    replicas = Replicas(a="x86", b="x86")
    hashes = list(range(1, 51))

    def saved() -> float:
        [scored] = [each for each in ranked(replicas.ask(prefix_hashes=hashes)) if each.view.replica_id == "a"]
        return scored.view.prefix_tokens

    replicas.ask(only="a")
    replicas.answer("a", 1000, prefix_hashes=hashes)
    assert saved() == 800
    for _ in range(30):
        replicas.ask(only="a", prefix_hashes=hashes)
        replicas.answer("a", 1000, prefix_hashes=hashes, cached_tokens=0)
    assert saved() < 300


def test_a_session_that_goes_on_finds_its_last_answer_cached_and_one_that_was_edited_does_not():
    replicas = Replicas(a="x86", b="x86")
    hashes = list(range(1, 51))
    replicas.ask(only="b", session_id="s")
    replicas.answer("b", 800, session_id="s", prompt_tokens=800, completion_tokens=120, prefix_hashes=hashes)
    goes_on = ranked(replicas.ask(session_id="s", prefix_hashes=[*hashes, 99]))[0]
    assert (goes_on.view.replica_id, goes_on.view.prefix_tokens, goes_on.view.session_tokens) == ("b", 800, 120)
    edited = ranked(replicas.ask(session_id="s", prefix_hashes=[*hashes[:20], *range(100, 130)]))
    [view] = [each.view for each in edited if each.view.replica_id == "b"]
    assert (view.prefix_tokens, view.session_tokens) == (320, 0)


def test_where_counting_requests_foretells_far_better_the_load_decides_until_predictions_do_again():
    replicas = Replicas(a="x86", b="x86")
    replicas.serve("a", 1000, 30)
    assert replicas.ask().predicted
    trust = replicas.placement.forecasts.trust("m")
    for _ in range(60):
        trust.heard(predicted_ms=10_000, counted_ms=1000, measured_ms=1000)
    fallen = replicas.ask()
    assert not fallen.predicted
    assert all("requests" in each.terms or not each.view.requests for each in ranked(fallen))
    for _ in range(200):
        trust.heard(predicted_ms=1000, counted_ms=1500, measured_ms=1000)
    assert replicas.ask().predicted


def test_a_request_that_was_sent_twice_teaches_nothing():
    replicas = Replicas(a="x86")
    replicas.serve("a", 1000)
    replicas.beat("a")
    before = replicas.waits()["a"]
    replicas.ask()
    replicas.asked -= 1
    replicas.ask()
    replicas.answer("a", 60_000)
    replicas.beat("a")
    assert math.isclose(replicas.waits()["a"], before, rel_tol=0.05)


floats = st.floats(width=32, allow_nan=True, allow_infinity=True)
reports = st.lists(
    st.tuples(st.sampled_from("ab"), floats, floats, st.integers(0, 2**32 - 1), st.floats(-1e6, 1e6), st.booleans()),
    max_size=40,
)


@settings(max_examples=50, deadline=None)
@given(reports)
def test_whatever_reports_say_and_clocks_do_every_replica_is_ranked_by_a_finite_score(given_reports):
    replicas = Replicas(a="x86", b="x86")
    for name, ttft_ms, tpot_ms, tokens, jump_s, lost in given_reports:
        replicas.ask()
        if not lost:
            replicas.answer(name, ttft_ms, tpot_ms=tpot_ms, prompt_tokens=tokens, cached_tokens=tokens // 2)
        replicas.now_s += jump_s
        for replica in ("a", "b"):
            replicas.beat(replica)
    all_of_them = ranked(replicas.ask())
    assert sorted(each.view.replica_id for each in all_of_them) == ["a", "b"]
    assert all(math.isfinite(value) for each in all_of_them for value in (each.score, *each.terms.values()))


@settings(max_examples=20, deadline=None)
@given(reports)
def test_replicas_of_which_the_same_was_heard_are_chosen_alike(given_reports):
    def chosen() -> list[str]:
        replicas = Replicas(a="x86", b="x86")
        names = []
        for name, ttft_ms, tpot_ms, _, _, _ in given_reports:
            names.append(replicas.ask().replica_id)
            replicas.answer(name, ttft_ms, tpot_ms=tpot_ms)
        return names

    assert chosen() == chosen()


happenings = st.lists(
    st.tuples(
        st.integers(0, 4),  # of which replica a report comes, or a heartbeat
        st.floats(1, 60_000),
        st.integers(0, 2000),
        st.sampled_from(["", "s", "t"]),
        st.integers(0, 40),
        st.booleans(),
        st.floats(0, 1),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(happenings, st.integers(0, 3000), st.sampled_from(["", "s"]), st.sampled_from(["", "r1"]), st.integers(0, 60))
def test_all_replicas_at_once_are_ranked_as_one_by_one(happened, prompt_tokens, session, last, pages):
    replicas = Replicas(r0="x86", r1="x86", r2="arm64", r3="arm64", r4="x86")
    for at, ttft_ms, tokens, session_id, hashes, well, later_s in happened:
        name = f"r{at}"
        replicas.ask(only=name, session_id=session_id, prefix_hashes=range(1, hashes + 1))
        if well:
            replicas.answer(
                name, ttft_ms, session_id=session_id, prompt_tokens=tokens, cached_tokens=tokens // 3,
                completion_tokens=hashes, prefix_hashes=range(1, hashes + 1), tpot_ms=ttft_ms / 50,
            )  # fmt: skip
        else:
            replicas.answer(name, 0, succeeded=False)
            replicas.beat(name, "x86", running=hashes, waiting=tokens // 500, queue_limit=2, pages_used=hashes * 25)
        replicas.now_s += later_s
    request = RouteRequest(
        model="m", prompt_tokens=prompt_tokens, session_id=session, session_replica=last,
        prefix_hashes=range(1, pages + 1), isa_class="arm64", dry=True,
    )  # fmt: skip
    ready = replicas.fleet.replicas()
    told = ranked(replicas.placement.choose(ready, request))
    alone = per_replica.choose(replicas.placement, ready, request, replicas.now_s)
    assert [each.view.replica_id for each in told] == [each.view.replica_id for each in alone]
    for one, other in zip(told, alone, strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-9)
        assert one.terms == pytest.approx(other.terms, rel=1e-9, abs=1e-9)
        assert one.view[1:5] == pytest.approx(other.view[1:5], rel=1e-12)
        assert one.view[5:] == other.view[5:]
