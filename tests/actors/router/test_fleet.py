"""Heartbeats, in and out of order, and what the table says after them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.base.telemetry import Telemetry
from actors.router.config import RouterConfig
from actors.router.fleet import Fleet
from protos.gen.router_pb2 import HeartbeatRequest
from protos.gen.scheduler_pb2 import ReplicaLoad

CONFIG = RouterConfig()


class Clock:
    """Time that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The fleet's clock."""
    return Clock()


@pytest.fixture
def fleet(clock: Clock) -> Fleet:
    """An empty table."""
    return Fleet(CONFIG, Telemetry("router"), clock)


def beat(sequence: int, incarnation: str = "i1", running: int = 0, **more) -> HeartbeatRequest:
    """A heartbeat of replica r."""
    load = ReplicaLoad(
        ready=more.pop("ready", True),
        draining=more.pop("draining", False),
        running=running,
        prefill_backlog_tokens=more.pop("backlog", 0),
    )
    return HeartbeatRequest(
        replica_id="r", model="m", addresses=["tcp:x:1"], sequence=sequence, incarnation=incarnation, load=load, **more
    )


def only(fleet: Fleet):
    """The one replica in the table."""
    [replica] = fleet.replicas()
    return replica


def test_the_first_heartbeat_is_not_known_and_the_next_is(fleet):
    assert fleet.heard(beat(1)) is False
    assert fleet.heard(beat(2)) is True


def test_within_an_incarnation_the_sequence_only_grows(fleet, clock):
    fleet.heard(beat(5, running=5))
    clock.now += 1
    fleet.heard(beat(4, running=4))
    assert only(fleet).state.load.running == 5
    assert fleet.age_s(only(fleet)) == 1
    fleet.heard(beat(6, running=6))
    assert only(fleet).state.load.running == 6
    assert fleet.age_s(only(fleet)) == 0


def test_a_new_incarnation_starts_over_and_the_old_one_cannot_come_back(fleet):
    fleet.heard(beat(50))
    fleet.answered("r", "q", False, 0, 0)
    assert fleet.heard(beat(1, "i2", running=1)) is False
    assert fleet.success(only(fleet)) == 1
    assert fleet.heard(beat(51)) is True
    assert only(fleet).state.incarnation == "i2"


def test_goodbye_removes_at_once_and_for_good(fleet):
    fleet.heard(beat(1))
    fleet.heard(beat(3, leaving=True))
    assert fleet.replicas() == []
    fleet.heard(beat(2))
    assert fleet.replicas() == []
    fleet.heard(beat(1, "i2"))
    fleet.heard(beat(4, leaving=True))
    assert only(fleet).state.incarnation == "i2"


def test_silence_makes_stale_then_forgotten_then_new(fleet, clock):
    fleet.heard(beat(1))
    clock.now += CONFIG.stale_after_s - 0.01
    assert fleet.available(only(fleet))
    clock.now += 0.02
    assert not fleet.available(only(fleet))
    clock.now += CONFIG.forget_after_s
    assert fleet.replicas() == []
    assert fleet.heard(beat(2)) is False
    assert fleet.available(only(fleet))


@pytest.mark.parametrize(("ready", "draining"), [(False, False), (True, True), (False, True)])
def test_loading_and_draining_replicas_are_not_available(fleet, ready, draining):
    fleet.heard(beat(1, ready=ready, draining=draining))
    assert not fleet.available(only(fleet))


def test_what_was_sent_counts_until_it_is_answered_or_the_next_heartbeat(fleet):
    fleet.heard(beat(1))
    for request_id, tokens in (("q1", 100), ("q2", 20), ("", 1), ("", 2)):
        fleet.sent("r", request_id, tokens)
    fleet.sent("nobody", "q3", 1)
    assert sorted(sent.tokens for sent in only(fleet).sent.values()) == [1, 2, 20, 100]
    fleet.answered("r", "q1", True, 1, 1)
    fleet.heard(beat(1))
    assert sorted(sent.tokens for sent in only(fleet).sent.values()) == [1, 2, 20], (
        "a repeated heartbeat tells nothing new"
    )
    fleet.heard(beat(2))
    assert only(fleet).sent == {}


def test_what_is_ahead_is_worked_off_between_heartbeats(fleet, clock):
    fleet.heard(beat(1, backlog=500))
    clock.now += 0.3
    fleet.sent("r", "q1", 1000)
    clock.now += 0.2
    assert only(fleet).tokens_ahead(clock.now, 1000) == pytest.approx(500 - 300 + 1000 - 200)
    # A faster one stood idle before the request came; time that it lacked cannot be made up for.
    assert only(fleet).tokens_ahead(clock.now, 4000) == pytest.approx(1000 - 800)
    assert only(fleet).tokens_ahead(clock.now - 5, 1000) == pytest.approx(500 - 300 + 1000), "a clock that went back"


def test_history_is_an_exponential_mean_and_failures_fade(fleet, clock):
    fleet.heard(beat(1))
    fleet.answered("r", "q", True, 100, 10)
    fleet.answered("r", "q", True, 200, 0)
    fleet.answered("r", "q", False, 0, 0)
    fleet.answered("nobody", "q", True, 1, 1)
    history = only(fleet).history
    rate = CONFIG.history_rate
    assert history.ttft_ms == pytest.approx(100 + rate * 100)
    assert history.tpot_ms == 10
    assert fleet.success(only(fleet)) == pytest.approx(1 - rate)
    clock.now += CONFIG.failure_half_life_s
    assert 1 - history.success_at(clock.now, CONFIG.failure_half_life_s) == pytest.approx(rate / 2)


def test_the_gauges_follow_the_table(clock):
    telemetry = Telemetry("router")
    fleet = Fleet(CONFIG, telemetry, clock)
    fleet.heard(beat(1))
    fleet.answered("r", "q", True, 100, 10)
    fleet.replicas()
    text = telemetry.render().decode()
    assert 'russet_router_replicas{available="yes"} 1.0' in text
    assert 'russet_router_ttft_ms{replica="r"} 100.0' in text
    fleet.heard(beat(2, leaving=True))
    fleet.replicas()
    text = telemetry.render().decode()
    assert 'russet_router_replicas{available="yes"} 0.0' in text
    assert 'replica="r"' not in text


@given(st.lists(st.tuples(st.sampled_from(["i1", "i2", "i3"]), st.integers(1, 9), st.booleans())))
def test_whatever_arrives_a_state_never_goes_back(arrivals):
    fleet = Fleet(CONFIG, Telemetry("router"), Clock())
    over: set[str] = set()
    newest: dict[str, int] = {}
    for incarnation, sequence, leaving in arrivals:
        before = fleet.replicas()
        fleet.heard(beat(sequence, incarnation, leaving=leaving))
        after = fleet.replicas()
        if before and (not after or after[0].state.incarnation != before[0].state.incarnation):
            over.add(before[0].state.incarnation)
        if leaving:
            over.add(incarnation)
        if after:
            now = after[0].state
            assert now.incarnation not in over
            assert now.sequence >= newest.get(now.incarnation, 0)
            newest[now.incarnation] = now.sequence
