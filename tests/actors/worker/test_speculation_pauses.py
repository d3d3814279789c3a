"""A drafter that asks for a pause is asked again after it."""

from collections.abc import Sequence

import pytest

from actors.worker.draft.draft import Context, Draft
from actors.worker.step_cost import StepCost, Work
from kernels.decoder import Int32


class Silent:
    """Proposes nothing, asks for a pause, and remembers when it was asked: at how many tokens of its one row."""

    def __init__(self, pause: int) -> None:
        self.pause = pause
        self.asked: list[int] = []

    def start(self, slot: int, prompt_tokens: int, pool: bytes, reference: Int32) -> None:
        pass

    def drop(self, slot: int, tokens: Int32) -> None:
        pass

    def draft(self, contexts: Sequence[Context], cost: StepCost | None, beside: Work) -> list[Draft | None]:
        self.asked.append(len(contexts[0].tokens))
        return [None] * len(contexts)


@pytest.mark.parametrize("pause", [1, 3, 4, 16])
def test_it_is_asked_again_when_the_pause_is_over(toy, scheduler, pause: int) -> None:
    drafter = Silent(pause)
    rows = scheduler(toy, drafter=drafter)
    rows.start(0, [1, 2, 3], max_length=100)
    rows.run()
    gaps = [after - before for before, after in zip(drafter.asked, drafter.asked[1:], strict=False)]
    assert gaps
    assert set(gaps) == {pause + 1}


def test_a_pause_ends_with_the_batch_that_it_was_said_of(toy, scheduler) -> None:
    """Rows whose sampling depends on their tokens never enter a stretch: nothing else would end it."""
    drafter = Silent(500)
    rows = scheduler(toy, drafter=drafter)
    for row, length in ((0, 20), (1, 60), (2, 90)):
        rows.start(row, [1, 2, 3 + row], max_length=length, frequency_penalty=0.5)
    rows.run()
    # When the first could be guessed for, when one and another had ended, and no more often.
    assert [known for known in drafter.asked if known > 4] == [20, 60]
