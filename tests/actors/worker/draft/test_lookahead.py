"""Gain: what is drafted is bounded, monotonic, and worth its time."""

from hypothesis import given
from hypothesis import strategies as st

from actors.worker.draft.acceptance import ROW_RATE, SOURCES, Acceptance
from actors.worker.draft.lookahead import (
    LENGTHEN,
    MARGIN,
    MOST_LOOKAHEAD,
    MOST_NODES,
    OVERHEAD_MS,
    Price,
    adapted,
    chosen,
    price,
)
from actors.worker.step_cost import StepCost, Work

chance = st.floats(0.01, 0.99)
falling = st.lists(chance, max_size=10).map(lambda chances: sorted(chances, reverse=True))
rows = st.lists(falling, min_size=1, max_size=16)
prices = st.builds(
    Price, expected=st.floats(1, 64), step_ms=st.floats(0.5, 200), node_ms=st.one_of(st.just(0.0), st.floats(1e-3, 50))
)


@given(rows, prices, st.integers(0, MOST_NODES))
def test_no_more_than_there_are_and_no_more_than_the_cap(rows: list[list[float]], of_step: Price, most: int) -> None:
    counts = chosen(rows, of_step, len(rows), most)
    assert len(counts) == len(rows)
    assert all(0 <= count <= len(of_row) for count, of_row in zip(counts, rows, strict=True))
    assert sum(counts) <= most


@given(rows, prices)
def test_what_is_chosen_is_expected_to_bring_more_tokens_a_millisecond(rows: list[list[float]], of_step: Price) -> None:
    counts = chosen(rows, of_step, len(rows))
    if not any(counts):
        return
    expected = of_step.expected + sum(sum(of_row[:count]) for of_row, count in zip(rows, counts, strict=True))
    ms = of_step.step_ms + sum(counts) * of_step.node_ms + OVERHEAD_MS
    assert expected / ms > of_step.expected / of_step.step_ms


@given(rows, prices, st.floats(1, 10))
def test_a_dearer_token_is_never_drafted_more(rows: list[list[float]], of_step: Price, times: float) -> None:
    dearer = of_step._replace(node_ms=of_step.node_ms * times)
    assert sum(chosen(rows, dearer, len(rows))) <= sum(chosen(rows, of_step, len(rows)))


@given(falling, prices, st.floats(0, 0.5))
def test_a_likelier_draft_is_never_shorter(chances: list[float], of_step: Price, more: float) -> None:
    likelier = [min(chance + more, 0.99) for chance in chances]
    assert chosen([likelier], of_step, 1)[0] >= chosen([chances], of_step, 1)[0]


@given(rows, prices)
def test_a_row_without_a_draft_is_not_kept_waiting_for_long(rows: list[list[float]], of_step: Price) -> None:
    counts = chosen([*rows, []], of_step, len(rows) + 1)
    assert sum(counts) * of_step.node_ms <= LENGTHEN * of_step.step_ms * (1 + 1e-9)


@given(prices)
def test_below_its_price_nothing_is_drafted(of_step: Price) -> None:
    low = of_step.least_chance * 0.999
    assert chosen([[low] * 8], of_step, 1) == [0]


def test_more_rows_ask_for_likelier_tokens() -> None:
    cost = StepCost(fixed=2.84, prefill=0.9, row=0.86, attended=0.0)
    bars = [price(cost, Work(0, count, 0)).least_chance for count in (1, 8, 16)]
    assert bars == sorted(bars)
    assert bars[0] < 0.35
    assert bars[1] > 0.6
    assert bars[2] < MARGIN


@given(st.integers(2, 8), st.floats(0, 1))
def test_lookahead_stays_within_two_and_eight(lookahead: int, rate: float) -> None:
    after = adapted(lookahead, rate)
    assert 2 <= after <= MOST_LOOKAHEAD
    assert (after > lookahead) <= (rate > 0.9)
    assert (after < lookahead) <= (rate < 0.5)


@given(st.sampled_from(SOURCES), st.integers(0, 16))
def test_hopeless_tokens_are_given_up_within_some_tries_and_come_back(source: str, level: int) -> None:
    acceptance, shifts = Acceptance(), {}
    tries = 0
    while acceptance.chance(source, level, shifts) > 0.25:
        acceptance.learn(source, level, shifts, 0 - acceptance.chance(source, level, shifts))
        tries += 1
    assert tries <= 8 / ROW_RATE
    for _ in range(100):
        acceptance.learn(source, level, shifts, 0 - acceptance.chance(source, level, shifts))
    tries = 0
    while acceptance.chance(source, level, shifts) < 0.75:
        acceptance.learn(source, level, shifts, 1 - acceptance.chance(source, level, shifts))
        tries += 1
    assert tries <= 10 / ROW_RATE


@given(st.sampled_from(SOURCES), st.lists(st.booleans(), max_size=60))
def test_one_row_hardly_changes_what_others_expect(source: str, taken: list[bool]) -> None:
    acceptance, shifts = Acceptance(), {}
    before = acceptance.chance(source, 8, {})
    for each in taken:
        acceptance.learn(source, 8, shifts, each - acceptance.chance(source, 8, shifts))
    assert abs(acceptance.chance(source, 8, {}) - before) < 0.25
