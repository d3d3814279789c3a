"""The model of a step's time: right where the world is linear, close on recorded steps, steady when disturbed."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from actors.worker.step_cost import CostModel, StepCost, Work, attended

TRUE = StepCost(fixed=3.2, prefill=0.83, row=1.05, attended=0.00042)

MIX = [
    Work(prefill, rows, 300 * rows + attended(prefill, context))
    for context in (0, 700, 2500)
    for rows in (0, 1, 3, 8)
    for prefill in (0, 9, 20, 64)
    if rows + prefill
]


def taught(cost: StepCost, works: list[Work], rounds: int) -> CostModel:
    model = CostModel()
    for work in works * rounds:
        model.learn(work, cost.step_ms(work))
    return model


def known(model: CostModel) -> StepCost:
    assert model.cost is not None
    return model.cost


@given(
    st.builds(
        StepCost, st.floats(0.05, 100), st.floats(0.001, 20), st.floats(0.001, 20), st.floats(1e-6, 0.01), st.just(0.0)
    )
)
def test_a_linear_world_is_learned(cost: StepCost) -> None:
    model = taught(cost, MIX, rounds=10)
    for work in MIX:
        assert known(model).step_ms(work) == pytest.approx(cost.step_ms(work), rel=0.02)
    assert known(model).error < 0.02


def test_no_coefficient_is_ever_negative() -> None:
    """Times that a straight line fits only with a negative start: the line then begins at zero."""
    model = CostModel()
    for tokens in (10, 20, 40, 80) * 5:
        model.learn(Work(tokens, 0, 0), tokens**1.5)
        assert min(known(model)[:4]) >= 0
    assert known(model).fixed == 0


def test_recorded_steps_are_predicted() -> None:
    """Each from those before it: within 3 % at the median, 9 in 10 within 10 %, once prompts mix with streams."""
    table = np.loadtxt(Path(__file__).with_name("step_times.csv"), delimiter=",")
    model, errors = CostModel(), []
    for prefill, rows, seen, ms in table.tolist():
        work = Work(int(prefill), int(rows), int(seen))
        if model.cost is not None and prefill and rows == 8:
            errors.append(abs(model.cost.step_ms(work) - ms) / ms)
        model.learn(work, ms)
    assert len(errors) > 200
    assert np.median(errors) < 0.03
    assert np.percentile(errors, 90) < 0.1
    assert known(model).error < 0.1


def test_a_disturbed_step_is_forgotten_at_once() -> None:
    model = taught(TRUE, MIX, rounds=10)
    work = Work(20, 8, 3000)
    model.learn(work, 50 * TRUE.step_ms(work))
    assert known(model).step_ms(work) < 1.1 * TRUE.step_ms(work)


def test_a_machine_that_becomes_slower_is_noticed() -> None:
    model = taught(TRUE, MIX, rounds=10)
    work = Work(20, 8, 3000)
    for _ in range(60):
        model.learn(work, 2 * TRUE.step_ms(work))
    assert known(model).step_ms(work) == pytest.approx(2 * TRUE.step_ms(work), rel=0.05)


def test_decoding_alone_forgets_nothing_of_prompts() -> None:
    model = taught(TRUE, MIX, rounds=10)
    for length in range(5000):
        work = Work(0, 8, 8 * (300 + length % 500))
        model.learn(work, TRUE.step_ms(work))
    work = Work(20, 8, 3000)
    assert known(model).step_ms(work) == pytest.approx(TRUE.step_ms(work), rel=0.02)


@given(st.floats(0, 10), st.floats(0, 0.1), st.floats(0.001, 1e5), st.integers(0, 8000))
def test_tokens_within_is_what_chunk_ms_allows(prefill: float, each: float, ms: float, context: int) -> None:
    cost = StepCost(1.0, prefill, 1.0, each)
    tokens = cost.tokens_within(ms, context)
    assume(tokens < 1e9)
    whole = int(tokens)
    assert cost.chunk_ms(whole, context) <= ms * (1 + 1e-9)
    assert cost.chunk_ms(whole + 1, context) > ms * (1 - 1e-9)


def test_free_tokens_are_without_limit_and_no_time_allows_none() -> None:
    assert StepCost(1, 0, 0, 0).tokens_within(5, 10) == float("inf")
    assert TRUE.tokens_within(0, 10) == TRUE.tokens_within(-3, 10) == 0
