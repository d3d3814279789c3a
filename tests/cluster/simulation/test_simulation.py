"""The simulated fleet: what a replica is known to do, what traces say, and what the router makes of trouble."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.base.errors import InvalidArgument
from cluster.simulation.replica import Machine, Replica
from cluster.simulation.routers import Russet, rules
from cluster.simulation.run import Change, Clock, Outcome, run
from cluster.simulation.shapes import SHAPES, Turn, conversations, timed
from cluster.simulation.traffic import Arrival, read_trace

ONE = Machine("a", "x86", prefill_tokens_per_s=1000, step_ms=10, row_ms=1, max_rows=4, pages=100)
TURNS = [Turn(40, 100), Turn(90, 30), Turn(200, 60)]


def arrival(number: int, time_s: float = 0.0, prompt: int = 160, output: int = 11, own: int = 0) -> Arrival:
    """A request that shares nothing, but with others of the same `own`."""
    return Arrival(number, time_s, prompt, output, "", (), own or 1000 + number)


def test_a_request_alone_takes_its_prompt_and_a_step_a_token():
    replica = Replica(ONE)
    assert replica.submit(arrival(0), 0.0)
    [served] = replica.advance(10.0)
    assert served.first_s == pytest.approx(0.160 + 0.010)
    assert served.end_s - served.first_s == pytest.approx(10 * 0.011)
    assert served.cached_tokens == 0


def test_a_prompt_that_was_there_before_is_computed_but_for_its_last_page():
    replica = Replica(ONE)
    replica.submit(arrival(0, own=7), 0.0)
    replica.advance(5.0)
    replica.submit(arrival(1, own=7), 5.0)
    [served] = replica.advance(10.0)
    assert served.cached_tokens == 144


def test_rows_and_pages_are_never_more_than_there_are_and_what_does_not_fit_waits():
    replica = Replica(ONE)
    for number in range(10):
        replica.submit(arrival(number, output=200), 0.0)
    served = []
    for tick in range(400):
        served += replica.advance(tick / 10)
        load = replica.load()
        assert load.running <= ONE.max_rows
        assert load.pages_used <= ONE.pages
    assert [each.arrival.number for each in served] == list(range(10))
    assert load.running == load.waiting == load.pages_used == 0


def test_a_full_queue_refuses_and_so_does_a_replica_that_a_request_could_never_fit():
    replica = Replica(ONE._replace(queue_limit=2))
    assert [replica.submit(arrival(number), 0.0) for number in range(3)] == [True, True, False]
    assert not Replica(ONE).submit(arrival(0, prompt=1600), 0.0)


def fleet(count: int = 4) -> list[Machine]:
    """Equal machines."""
    names = "abcdefgh"[:count]
    return [Machine(name, "x86", 2000, 15, 1.0, 16, 2000) for name in names]


def traffic(requests: int, per_s: float, seed: int = 1) -> list[Arrival]:
    """Conversations."""
    return timed(conversations(TURNS, requests, seed), per_s, "poisson", seed)


@pytest.mark.parametrize("rule", ["Russet", *rules(0)])
def test_every_request_is_served_once_or_refused_and_the_same_seed_gives_the_same(rule):
    arrivals = traffic(200, 8.0)
    make = {"Russet": Russet, **rules(3)}[rule]
    outcome = run(fleet(), arrivals, make, 3)
    assert len(outcome.done) + outcome.refused == len(arrivals)
    assert len({done.arrival.number for done in outcome.done}) == len(outcome.done)
    assert all(done.ttft_ms > 0 for done in outcome.done)
    again = run(fleet(), arrivals, {"Russet": Russet, **rules(3)}[rule], 3)
    assert again == outcome


def shares(outcome: Outcome, name: str, from_s: float, to_s: float) -> float:
    """Share of the requests of a time that one replica got."""
    names = [done.replica for done in outcome.done if from_s <= done.arrival.time_s < to_s]
    return names.count(name) / len(names)


def test_a_replica_that_becomes_four_times_slower_is_left_and_found_again():
    arrivals = traffic(2400, 8.0)
    changes = [Change(100.0, "a", 4.0), Change(180.0, "a", 1.0)]
    outcome = run(fleet(), arrivals, Russet, 1, changes)
    before, slow, after = (shares(outcome, "a", *span) for span in ((40, 100), (110, 180), (200, 280)))
    assert before > 0.15
    assert slow < before / 2
    assert after > 0.6 * before


def test_unequal_replicas_get_what_they_can_take():
    machines = [*fleet(2), Machine("slow", "arm64", 300, 90, 6.0, 8, 1000)]
    arrivals = traffic(600, 5.0)
    russet, fair = (run(machines, arrivals, make, 1) for make in (Russet, rules(1)["round-robin"]))
    assert shares(russet, "slow", 0, 1e9) < 0.15
    assert max(done.ttft_ms for done in russet.done) < max(done.ttft_ms for done in fair.done)


class Lying(Russet):
    """Reports get lost, doubled and distorted on their way."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._draw = random.Random(1)

    def answered(self, report) -> None:
        """As it may arrive."""
        draw = self._draw.random()
        if draw < 0.3:
            return
        if draw < 0.6:
            report.ttft_ms = self._draw.choice([float("nan"), float("inf"), -5.0, 0.0, 1e-9, 1e15])
            report.tpot_ms = self._draw.choice([float("nan"), -1.0, 1e15])
            report.cached_tokens = 1 << 31
        super().answered(report)
        if draw > 0.9:
            super().answered(report)


def test_lost_doubled_and_senseless_reports_do_little_harm():
    arrivals = traffic(600, 8.0)
    honest, lied = (run(fleet(), arrivals, make, 1) for make in (Russet, Lying))
    mean = [sum(done.ttft_ms for done in outcome.done) / len(outcome.done) for outcome in (honest, lied)]
    assert lied.refused == 0
    assert mean[1] < 1.5 * mean[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_have_the_rate_asked_for_and_turns_in_order(shape):
    arrivals = timed(conversations(TURNS, 4000, 1), 20.0, shape, 1)
    times = [each.time_s for each in arrivals]
    assert times == sorted(times)
    assert len(arrivals) / times[len(times) * 9 // 10] * 0.9 == pytest.approx(20.0, rel=0.35)
    turns: dict[str, int] = {}
    for each in arrivals:
        if each.session:
            assert each.prompt_tokens > turns.get(each.session, 0)
            turns[each.session] = each.prompt_tokens + each.output_tokens


def write(path, lines):
    """JSONL."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_trace_is_read_by_time_with_what_its_requests_share(tmp_path):
    base = {"prompt_tokens": 100, "output_tokens": 5}
    trace = write(
        tmp_path / "t.jsonl",
        [
            {"time_s": 2, **base, "prefix": "p"},
            {"time_s": 1, **base, "prefix": "p", "session": "s", "prefix_tokens": 64},
            {"time_s": 3, **base, "prompt_tokens": 150, "session": "s", "prefix": "p"},
        ],
    )
    first, second, third = (list(each.page_keys(96)) for each in read_trace(trace))
    assert first[:4] == second[:4] == third[:4]
    assert first[4:] == third[4:] != second[4:]


def test_mooncakes_traces_are_read_as_they_are(tmp_path):
    trace = write(
        tmp_path / "t.jsonl",
        [
            {"timestamp": 3000, "input_length": 1200, "output_length": 9, "hash_ids": [4, 5, 6]},
            {"timestamp": 1000, "input_length": 1100, "output_length": 9, "hash_ids": [4, 5, 7]},
        ],
    )
    early, late = read_trace(trace)
    assert (early.time_s, late.time_s) == (1.0, 3.0)
    shared = [one == other for one, other in zip(early.page_keys(1088), late.page_keys(1088), strict=True)]
    assert shared == [True] * 64 + [False] * 4


@settings(max_examples=60)
@given(
    st.one_of(
        st.text(max_size=20),
        st.dictionaries(
            st.sampled_from(["time_s", "prompt_tokens", "output_tokens", "hash_ids", "input_length", "prefix_tokens"]),
            st.one_of(st.none(), st.integers(-5, 5), st.floats(), st.lists(st.none(), max_size=2), st.text(max_size=3)),
        ).map(json.dumps),
    ).filter(lambda line: line.strip())
)
def test_a_line_that_is_no_request_is_named(tmp_path_factory, line):
    path = tmp_path_factory.mktemp("trace") / "t.jsonl"
    path.write_text('{"time_s": 0, "prompt_tokens": 1, "output_tokens": 1}\n' + line.replace("\n", " ") + "\n")
    try:
        arrivals = read_trace(path)
    except InvalidArgument as error:
        if "line 2" not in str(error):
            raise
    else:
        assert len(arrivals) <= 2
        assert all(each.prompt_tokens > 0 and each.time_s >= 0 for each in arrivals)
