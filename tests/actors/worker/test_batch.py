"""The choice of a step's tokens, as a function of the rows' state."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from actors.worker.batch import choose

row = st.tuples(st.integers(1, 60), st.integers(0, 60), st.integers(0, 80)).map(
    lambda r: (max(r[0], r[1] % r[0] + 1), r[1] % r[0], r[2])
)
rows_strategy = st.lists(row, min_size=1, max_size=12)


def columns(rows: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    known, computed, limit = (np.array(column, np.int32) for column in zip(*rows, strict=True))
    return known, computed, limit


def expected(rows: list[tuple[int, int, int]], step_tokens: int) -> list[int]:
    """The rule of worker.proto without a target, one row at a time."""
    counts = [0] * len(rows)
    for index, (known, computed, limit) in enumerate(rows):
        if known - computed == 1 and computed < limit:
            counts[index] = 1
    left = max(step_tokens - sum(counts), 0)
    prompts = [
        index for index, (known, computed, limit) in enumerate(rows) if known - computed > 1 and computed < limit
    ]
    turns = [(index, max(left // 2, 1)) for index in prompts[:1]]
    turns += [(index, left) for index in sorted(prompts, key=lambda index: rows[index][0] - rows[index][1])]
    for index, most in turns:
        known, computed, limit = rows[index]
        count = min(known - computed - counts[index], limit - computed - counts[index], left, most)
        counts[index] += count
        left -= count
    return counts


@given(rows_strategy, st.integers(1, 100))
def test_decode_first_then_half_for_the_first_prompt_and_the_rest_for_the_shortest(
    rows: list[tuple[int, int, int]], step_tokens: int
) -> None:
    assert choose(*columns(rows), step_tokens).tolist() == expected(rows, step_tokens)


@given(rows_strategy, st.integers(1, 100))
def test_budget_and_limits_hold(rows: list[tuple[int, int, int]], step_tokens: int) -> None:
    known, computed, limit = columns(rows)
    counts = choose(known, computed, limit, step_tokens)
    decoding = int(((known - computed == 1) & (computed < limit)).sum())
    assert counts.sum() <= max(step_tokens, decoding)
    assert (counts >= 0).all()
    assert (computed + counts <= np.maximum(np.minimum(known, limit), computed)).all()


@given(rows_strategy, st.integers(1, 100))
def test_no_row_starves_within_a_plan(rows: list[tuple[int, int, int]], step_tokens: int) -> None:
    """Whatever the budget, every row reaches its limit: decoding rows run out of lease, then prompts get the step."""
    known, computed, limit = columns(rows)
    for _ in range(int(np.maximum(limit, known).sum()) + 1):
        counts = choose(known, computed, limit, step_tokens)
        if not counts.any():
            break
        computed = computed + counts
        known = known + ((computed == known) & (counts > 0))
    assert (computed >= limit).all()


def test_decoding_rows_run_even_past_the_budget() -> None:
    counts = choose(*columns([(5, 4, 9)] * 6 + [(20, 0, 20)]), 4)
    assert counts.tolist() == [1] * 6 + [0]


def test_a_prompt_takes_what_decoding_rows_leave() -> None:
    counts = choose(*columns([(30, 0, 64), (5, 4, 9), (30, 0, 64)]), 40)
    assert counts.tolist() == [30, 1, 9]


def test_half_goes_to_the_first_prompt_and_the_rest_to_the_shortest() -> None:
    counts = choose(*columns([(900, 0, 900), (5, 4, 9), (300, 0, 300), (20, 0, 20)]), 101)
    assert counts.tolist() == [50, 1, 30, 20]
