"""Drafts in the engine: whatever is guessed, every row says what it says without."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from protos.gen import worker_pb2
from tests.actors.worker.foresight import Foresight

PROMPTS = {row: [1 + row * 7 % 90 + at % (row + 2) for at in range(3 + 5 * row)] for row in range(9)}


@pytest.fixture
def answers(scheduler) -> Callable[..., tuple[dict[int, Any], Any]]:
    """answers(decoder, drafter): what rows with all kinds of options say, and all they tell; drafter None: plain."""

    def make(decoder: Any, drafter: Any, step_tokens: int = 64) -> tuple[dict[int, Any], Any]:
        work = scheduler(decoder, drafter=drafter)
        for row, prompt in PROMPTS.items():
            options: dict[str, Any] = {"max_length": 60 + 8 * row}
            if row % 3 == 1:
                options |= {"temperature": 0.9, "seed": 5 + row, "top_p": 0.9}
            if row in (2, 4):
                options |= {"frequency_penalty": 0.7, "presence_penalty": 0.3, "repetition_penalty": 1.2}
            if row in (4, 5):
                options |= {"min_tokens": 12, "stop_ids": range(30, 44), "logit_bias": {7: 3.0, 9: -100.0}}
            if row in (1, 5, 6):
                options |= {"logprobs": row % 4}
            if row == 7:
                options |= {"stop_ids": range(10, 16)}
            if row == 8:
                options |= {"logprobs": 2, "score_from": 1}
            work.start(row, prompt, limit=40, **options)
        work.run(step_tokens)
        for row, state in work.rows.items():
            if state.end == worker_pb2.ROW_RUNNING:
                work.lease(row, 150)
        work.run(step_tokens)
        told = {
            row: (
                state.tokens,
                state.end,
                np.round(state.logprobs.chosen, 4).tolist(),
                list(state.logprobs.top_ids),
                np.round(state.prompt_logprobs.chosen, 4).tolist(),
            )
            for row, state in work.rows.items()
        }
        return told, work

    return make


@pytest.mark.parametrize("branches", [False, True])
@pytest.mark.parametrize("right", [0.0, 0.6, 0.95])
def test_whatever_is_guessed_the_rows_say_the_same(decoder, answers, right: float, branches: bool) -> None:
    plain, slow = answers(decoder, None)
    drafter = Foresight({row: tokens for row, (tokens, *_) in plain.items()}, right, branches=branches)
    told, work = answers(decoder, drafter)
    for row in plain:
        for a, b in zip(plain[row], told[row], strict=True):
            assert a == b, row
    steps = [run.results[-1].step for run in (slow, work)]
    guessed = sum(sum(result.drafted) for result in work.results)
    stood = sum(sum(result.accepted) for result in work.results)
    assert guessed > 100
    assert right / 5 * guessed <= stood <= (right + 0.1) * guessed
    assert steps[1] <= steps[0]
    if right > 0.9:
        assert steps[1] < 0.5 * steps[0], "tokens that are guessed save steps"
