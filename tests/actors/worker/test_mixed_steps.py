"""The engine composes steps of decoding rows and prompt chunks that last as long as the target allows.

Time is the decoder's: the engine's clock moves only while a forward runs, by what a made-up machine takes for it.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from actors.worker import engine
from actors.worker.pace import IDLE_STEP_MS
from kernels.decoder import Batch

TARGET_MS = 30.0


def took_ms(batch: Batch) -> float:
    """A machine of 5 ms a step and 1 ms a token, which reads 100 tokens of context in 1 ms."""
    counts = np.diff(batch.row_starts)
    return 5.0 + len(batch.tokens) + 0.01 * float((counts * batch.lengths + counts * (counts + 1) / 2).sum())


@pytest.fixture
def timed(toy, monkeypatch: pytest.MonkeyPatch):
    """The toy decoder, whose forwards take the made-up machine's time."""
    now_s = [0.0]
    monkeypatch.setattr(engine, "time", SimpleNamespace(perf_counter=lambda: now_s[0]))
    forward = toy.forward

    def slow(batch: Batch, kv):
        now_s[0] += took_ms(batch) * 1e-3
        return forward(batch, kv)

    toy.forward = slow
    return toy


def prompt(tokens: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 96, tokens).tolist()


def drive(many, target_ms: float) -> None:
    """Four streams, then, once they decode, two long prompts and a short one."""
    for row in range(4):
        many.start(row, prompt(12, row), max_length=190)
    many.plan(step_tokens=200, itl_target_us=round(target_ms * 1e3))
    while any(len(many.rows[row].output) < 20 for row in range(4)):
        assert many.tick()
    for row, tokens in ((4, 150), (5, 150), (6, 12)):
        many.start(row, prompt(tokens, row), max_length=tokens + 3)
    many.plan(step_tokens=200, itl_target_us=round(target_ms * 1e3))
    while many.tick():
        pass


def test_mixed_steps_keep_to_the_target(timed, scheduler) -> None:
    many = scheduler(timed)
    drive(many, TARGET_MS)
    mixed = [b for b in timed.batches if len(b.lengths) > 4 and (np.diff(b.row_starts) > 1).any()]
    spans = [took_ms(batch) for batch in mixed]
    assert len(mixed) > 5
    assert max(spans) <= 1.02 * TARGET_MS
    # The margin is for errors, and here the model has next to none.
    assert np.median(spans) > 0.85 * TARGET_MS
    # Each of these steps was a token of every stream.
    assert all((np.diff(batch.row_starts)[:4] == 1).all() for batch in mixed)


def test_the_target_changes_no_token(timed, scheduler) -> None:
    outputs = []
    for target_ms in (TARGET_MS, 1.0, 0.0):
        many = scheduler(timed)
        drive(many, target_ms)
        outputs.append({row: state.output for row, state in many.rows.items()})
    assert outputs[0] == outputs[1] == outputs[2]
    assert all(outputs[0].values())


def test_without_a_target_a_step_takes_what_its_tokens_allow(timed, scheduler) -> None:
    many = scheduler(timed)
    drive(many, 0.0)
    assert max(len(batch.tokens) for batch in timed.batches) == 200


def test_a_prompt_alone_is_computed_in_steps_of_the_idle_length(timed, scheduler) -> None:
    one = scheduler(timed)
    for row in range(3):
        one.start(row, prompt(180, row), max_length=181)
    one.plan(step_tokens=200, itl_target_us=1000)
    while one.tick():
        pass
    spans = [took_ms(batch) for batch in timed.batches]
    assert max(spans[3:]) <= 1.05 * IDLE_STEP_MS
    assert np.median(spans[3:]) > 0.9 * IDLE_STEP_MS


def test_the_short_prompt_is_first_to_answer(timed, scheduler) -> None:
    many = scheduler(timed)
    drive(many, TARGET_MS)
    first = {}
    for result in many.results:
        for row, count in zip(result.row, result.token_count, strict=True):
            if count:
                first.setdefault(row, result.step)
    assert first[6] < first[4] < first[5]
