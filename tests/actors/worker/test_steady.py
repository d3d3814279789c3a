"""Stretches of steps that only decode: cheap between two forwards, and never to be told from the long way round."""

import os
import sys
from collections.abc import Callable

import numpy as np
import pytest

from actors.worker.steady import Steady


def calls(function: Callable[[], object]) -> int:
    """Python and C functions called while `function` runs: no clock, so it holds on a busy machine too."""
    count = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.fixture
def without_stretches(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """without_stretches(): from here on every step goes the long way."""
    return lambda: monkeypatch.setattr(Steady, "of", classmethod(lambda cls, rows, slots, most=None: None))


@pytest.mark.parametrize("rows", [1, 16])
def test_a_step_of_a_stretch_is_little_work(toy, scheduler, monkeypatch, rows: int) -> None:
    work = scheduler(toy)
    for row in range(rows):
        work.start(row, [1, 2, 3 + row])
    work.plan()
    work.tick()
    monkeypatch.setattr(toy, "draw", lambda batch, sampling, kv, bell: np.full(rows, 5, np.int32))
    work.engine.tick()
    assert calls(work.engine.tick) < 35, "however many rows there are"


@pytest.mark.parametrize("stop", [0, 20, 60])
def test_the_same_tokens_either_way(toy, scheduler, without_stretches, stop: int) -> None:
    """Rows that stop, fill up, wait for leases, draw at random, and one that keeps its neighbours from a stretch."""

    def answers() -> tuple[dict[int, list[int]], list[int]]:
        work = scheduler(toy)
        for row in range(4):
            prompt = [1 + row] * (3 + 9 * row)
            options = {"temperature": 1.0, "seed": 7 + row} if row % 2 else {}
            work.start(row, prompt, limit=24 + 8 * row, max_length=100 + row, stop_ids=range(stop, stop + 3), **options)
        work.run(step_tokens=8)
        for row in range(4):
            work.lease(row, 150)
        work.start(4, [9, 9], max_length=40, frequency_penalty=1.5)
        work.run(step_tokens=8)
        return {row: state.output for row, state in work.rows.items()}, [s.end for s in work.rows.values()]

    fast = answers()
    without_stretches()
    assert answers() == fast


def test_a_row_that_fails_in_a_stretch_takes_no_other_along(toy, scheduler, without_stretches) -> None:
    def answers() -> tuple[dict[int, list[int]], list[str]]:
        work = scheduler(toy)
        work.start(0, [1, 2, 3], max_length=60)
        work.start(1, [4, 5, 6, 7], max_length=60)
        toy.fail = lambda batch: 20 in batch.lengths and (len(batch.lengths) == 2 or batch.lengths[0] == 20)
        toy.batches.clear()
        work.run()
        return {row: state.output for row, state in work.rows.items()}, [s.error for s in work.rows.values()]

    fast = answers()
    assert sorted(map(bool, fast[1])) == [True, True], "each fails at its own twentieth token"
    assert [len(output) for output in fast[0].values()] == [18, 17]
    without_stretches()
    assert answers() == fast


def test_news_wait_for_the_next_forward(toy, scheduler) -> None:
    """Whoever is woken wants the GIL: between two steps that would be time in which nothing is computed."""
    events: list[str] = []
    heard, bell = os.pipe()
    os.set_blocking(heard, False)
    work = scheduler(toy)
    work.engine._bell = bell
    draw, forward = toy.draw, toy.forward

    def rung() -> bool:
        try:
            os.read(heard, 8)
        except BlockingIOError:
            return False
        work.engine.take()
        return True

    def drawn(batch, sampling, kv, bell, *errand):
        assert not rung(), "before the decoder let the GIL go"
        return draw(batch, sampling, kv, bell, *errand)

    def computed(batch, kv):
        events.append("news" if rung() else "none")
        return forward(batch, kv)

    toy.draw, toy.forward = drawn, computed
    work.start(0, [1, 2, 3], max_length=7)
    work.plan()
    while work.engine.tick():
        assert not rung(), "the step's end"
        events.append("end")
    assert events == ["news", "end"] * 4
    assert rung(), "that it has nothing more to do"
    os.close(heard)
    os.close(bell)
