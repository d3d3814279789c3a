"""Limits of keys: what gets through in any minute, whatever the order of requests."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.base.quota import DAY_S, LEASE_S, NO_LIMITS, Limits, Usage

NOON = 20_000 * DAY_S + DAY_S / 2


@given(
    limit=st.integers(1, 20),
    pauses=st.lists(st.floats(0, 10), min_size=1, max_size=80),
)
def test_no_minute_sees_more_than_twice_a_limit_and_none_after_the_first_more_than_it(limit, pauses):
    usage, now, granted = Usage(), NOON, []
    for index, pause in enumerate(pauses):
        now += pause
        verdict = usage.take(Limits(requests_per_minute=limit), str(index), now)
        if verdict.refused is None:
            granted.append(now)
        else:
            assert verdict.refused == "requests"
            assert 0 < verdict.retry_after_s <= 60
            again = Usage.of_row(json.loads(json.dumps(usage.as_row())))
            later = now + verdict.retry_after_s + 1e-6
            assert again.take(Limits(requests_per_minute=limit), "again", later).refused is None
    # A full bucket, and what flowed in since: never more.
    for begin in granted:
        span = [at for at in granted if begin <= at]
        for count, at in enumerate(span, 1):
            assert count <= limit + (at - begin) * limit / 60 + 1e-6


def test_rooms_are_what_openai_tells():
    limits, usage = Limits(requests_per_minute=60, tokens_per_minute=600), Usage()
    verdict = usage.take(limits, "a", NOON)
    assert verdict.requests == (60, 59, 1.0)
    assert verdict.tokens == (600, 600, 0.0)
    usage.settle(limits, "a", 150, NOON)
    verdict = usage.take(limits, "b", NOON + 5)
    assert verdict.requests == (60, 59, 1.0)
    assert verdict.tokens == (600, 500, 10.0)


def test_tokens_are_taken_when_they_are_known_and_owed_past_the_limit():
    limits, usage = Limits(tokens_per_minute=60), Usage()
    for name in "ab":
        assert usage.take(limits, name, NOON).refused is None
        usage.settle(limits, name, 60, NOON) if name == "b" else None
    usage.settle(limits, "a", 60, NOON)
    refused = usage.take(limits, "c", NOON)
    assert (refused.refused, refused.retry_after_s, refused.tokens) == ("tokens", 61.0, (60, 0, 120.0))
    assert usage.take(limits, "c", NOON + 60).refused == "tokens"
    assert usage.take(limits, "c", NOON + 61).refused is None


def test_a_days_tokens_end_with_the_day():
    limits, usage = Limits(tokens_per_day=100), Usage()
    assert usage.take(limits, "a", NOON).refused is None
    usage.settle(limits, "a", 100, NOON)
    refused = usage.take(limits, "b", NOON + 10)
    assert (refused.refused, refused.retry_after_s) == ("day", DAY_S / 2 - 10)
    assert usage.take(limits, "b", NOON + DAY_S / 2).refused is None


@given(st.lists(st.one_of(st.just(None), st.integers(0, 5)), max_size=60), st.integers(1, 4))
def test_no_more_run_at_a_time_than_may(steps, limit):
    limits, usage, running = Limits(concurrent=limit), Usage(), []
    for index, step in enumerate(steps):
        if step is None:
            refused = usage.take(limits, str(index), NOON).refused
            assert refused == ("concurrent" if len(running) >= limit else None)
            if refused is None:
                running.append(str(index))
        elif running:
            usage.settle(limits, running.pop(step % len(running)), 1, NOON)
        assert len(usage.running) == len(running) <= limit


def test_a_request_whose_gateway_died_gives_its_place_back():
    limits, usage = Limits(concurrent=1), Usage()
    usage.take(limits, "a", NOON)
    assert usage.take(limits, "b", NOON + LEASE_S - 1).refused == "concurrent"
    assert usage.take(limits, "b", NOON + LEASE_S).refused is None


def test_a_clock_that_goes_back_gives_nothing_away():
    limits, usage = Limits(requests_per_minute=1, tokens_per_day=1), Usage()
    usage.take(limits, "a", NOON)
    usage.settle(limits, "a", 1, NOON)
    assert usage.take(limits, "b", NOON - DAY_S).refused == "day"
    assert usage.take(Limits(requests_per_minute=1), "b", NOON - 30).refused == "requests"


def test_without_limits_nothing_is_refused():
    usage = Usage()
    for index in range(100):
        assert usage.take(NO_LIMITS, str(index), NOON).refused is None
    assert not NO_LIMITS


@pytest.mark.parametrize("row", [[], [1], None, [1, 2, 3, 4, 5, 6], ["a", 0, 0, 0, 0, {}], {"a": 1}])
def test_rows_that_are_none_are_refused(row):
    with pytest.raises((TypeError, ValueError)):
        Usage.of_row(row)
