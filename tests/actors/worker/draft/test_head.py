"""A learned head: it drafts from the state that its row's newest token was drawn from, and from no older one."""

import numpy as np

from actors.worker.draft.draft import Context
from actors.worker.draft.drafter import Drafter
from actors.worker.draft.head import LearnedHead
from actors.worker.step_cost import StepCost, Work

COST = StepCost(fixed=3.0, prefill=0.9, row=0.5, attended=0.0)


class Next:
    """Says that the state's numbers follow."""

    depth = 3

    def __init__(self, chance: float = 0.9) -> None:
        self.chance = chance
        self.newest: list[int] = []

    def propose(self, hidden: np.ndarray, newest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.newest += newest.tolist()
        return hidden[:, : self.depth].astype(np.int32), np.full((len(hidden), self.depth), self.chance, np.float32)


def context(slot: int, *tokens: int) -> Context:
    return Context(slot, np.array(tokens, np.int32), 8)


def test_each_row_is_drafted_from_its_own_newest_state() -> None:
    heads = Next()
    head = LearnedHead(heads)
    drafter = Drafter(proposers=[head])
    for slot in (3, 5):
        drafter.start(slot, 3)
    states = np.array([[7, 8, 9, 0], [17, 18, 19, 0]], np.float32)
    head.saw([5, 3], [3, 3], states)
    states[:] = 0  # it keeps its own copy
    first, second = drafter.draft([context(3, 1, 2, 33), context(5, 1, 2, 55)], COST, Work(0, 2, 0))
    assert first is not None
    assert second is not None
    assert first.source == second.source == "head"
    assert first.tokens.tolist() == [17, 18, 19][: len(first.tokens)]
    assert second.tokens.tolist() == [7, 8, 9][: len(second.tokens)]
    assert heads.newest == [33, 55]


def test_a_state_of_an_older_token_or_another_row_is_not_used() -> None:
    head = LearnedHead(Next())
    drafter = Drafter(proposers=[head])
    drafter.start(0, 3)
    head.saw([0], [3], np.array([[7, 8, 9, 0]], np.float32))
    assert drafter.draft([context(0, 1, 2, 3, 4)], COST, Work(0, 1, 0)) == [None]
    drafter.drop(0, np.array([1, 2, 3, 4], np.int32))
    drafter.start(0, 3)
    assert drafter.draft([context(0, 5, 6, 7)], COST, Work(0, 1, 0)) == [None]


def test_what_a_head_is_not_sure_of_is_not_verified() -> None:
    head = LearnedHead(Next(chance=0.1))
    drafter = Drafter(proposers=[head])
    drafter.start(0, 3)
    head.saw([0], [3], np.array([[7, 8, 9, 0]], np.float32))
    assert drafter.draft([context(0, 1, 2, 3)], COST, Work(0, 1, 0)) == [None]
