"""A row that is verified as an engine would, on paper: what a draft brings is known, since the output is."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pytest

from actors.worker.draft.draft import Context, accepted
from actors.worker.draft.drafter import Drafter
from actors.worker.step_cost import StepCost, Work

COST = StepCost(fixed=2.84, prefill=0.9, row=0.86, attended=0.0)
"""SmolLM2-135M on two cores: 3.7 ms for one row, 9.7 for 8."""


class Replayed(NamedTuple):
    steps: int
    drafted: int
    accepted: int
    ms: float
    plain_ms: float


def replay(
    drafter: Drafter,
    prompt: Sequence[int],
    output: Sequence[int],
    cost: StepCost = COST,
    slot: int = 0,
    beside: int = 0,
    pool: bytes = b"",
    reference: Sequence[int] = (),
) -> Replayed:
    """Decode `output` after `prompt` with drafts, next to `beside` other rows that have none."""
    tokens = np.array([*prompt, *output], np.int32)
    known = len(prompt)
    drafter.start(slot, known, pool, np.array(reference, np.int32))
    steps = drafted = taken = pause = 0
    ms = 0.0
    while known < len(tokens):
        beside_work = Work(0, 1 + beside, 0)
        draft = None
        if pause:
            pause -= 1
        else:
            context = Context(slot, tokens[:known], len(tokens) - known - 1)
            (draft,) = drafter.draft([context], cost, beside_work)
            pause = drafter.pause
        count = 0
        if draft is not None:
            count = len(draft.tokens)
            assert count <= len(tokens) - known - 1
            taken_now = len(accepted(draft.tokens.tolist(), draft.parents.tolist(), tokens[known:].tolist()))
            taken += taken_now
            drafted += count
            known += taken_now
        known += 1
        steps += 1
        ms += cost.step_ms(Work(0, 1 + beside + count, 0))
    drafter.drop(slot, tokens)
    return Replayed(steps, drafted, taken, ms, len(output) * cost.step_ms(Work(0, 1 + beside, 0)))


@pytest.fixture(name="replay")
def _replay() -> Callable[..., Replayed]:
    return replay
