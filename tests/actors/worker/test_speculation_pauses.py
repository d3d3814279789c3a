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
