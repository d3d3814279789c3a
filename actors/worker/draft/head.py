"""A learned head: drafts from the target's own last hidden state, for a matrix or two instead of a model.

What it needs of an engine: after a step, for each row that drew a token, the hidden state from which it was drawn (the
output of the final norm at the row's last computed position, [hidden] float32: what the vocabulary's matrix is
multiplied with), passed to `LearnedHead.saw` before the drafter is asked. A stretch of steps need only pass its last.
(Medusa, Cai et al. 2024; EAGLE, Li et al. 2024.)
"""

import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from actors.worker.draft.acceptance import LEVELS
from actors.worker.draft.draft import Context
from actors.worker.draft.tree import Guess
from kernels.decoder import Float32, Int32

RATE = 0.1
"""Weight of the newest call in the mean of what one takes."""


class Heads(Protocol):
    """What is trained."""

    depth: int
    """Tokens that it can look ahead."""

    def propose(self, hidden: Float32, newest: Int32) -> tuple[Int32, Float32]:
        """From [R, hidden], and the tokens [R] drawn from it: what follows these, and how probable it finds it.

        Both are [R, depth]; a token's probability is given those before it.
        """
        ...


class _State(NamedTuple):
    known: int  # tokens of the row, the one drawn from the state included
    hidden: Float32  # [hidden]


class LearnedHead:
    """A Proposer (actors.worker.draft.proposer) over trained heads."""

    source = "head"

    def __init__(self, heads: Heads) -> None:
        self._heads = heads
        self._states: dict[int, _State] = {}
        self._ms = 0.0

    def saw(self, slots: Sequence[int], known: Sequence[int], hidden: Float32) -> None:
        """Rows `slots` have `known` tokens now, of which the newest was drawn from hidden [R, hidden] (copied)."""
        for slot, count, state in zip(slots, known, hidden, strict=True):
            self._states[slot] = _State(count, state.copy())

    def drop(self, slot: int) -> None:
        """As Proposer.drop."""
        self._states.pop(slot, None)

    def expected_ms(self, contexts: Sequence[Context], depth: int) -> float:
        """As Proposer.expected_ms."""
        return self._ms

    def propose(self, contexts: Sequence[Context], depth: int) -> list[Guess | None]:
        """As Proposer.propose; None for rows whose newest token's state it has not seen."""
        states = [self._states.get(context.slot) for context in contexts]
        at = [
            index
            for index, (state, context) in enumerate(zip(states, contexts, strict=True))
            if state is not None and state.known == len(context.tokens)
        ]
        guesses: list[Guess | None] = [None] * len(contexts)
        if not at:
            return guesses
        began = time.perf_counter()
        hidden = np.stack([state.hidden for index in at if (state := states[index]) is not None])
        newest = np.array([contexts[index].tokens[-1] for index in at], np.int32)
        tokens, sure = self._heads.propose(hidden, newest)
        levels = np.rint(sure[:, :depth] * (LEVELS - 1)).astype(int).tolist()
        for index, of_row, level in zip(at, tokens[:, :depth].tolist(), levels, strict=True):
            guesses[index] = Guess("head", of_row, level)
        self._ms += RATE * ((time.perf_counter() - began) * 1e3 - self._ms)
        return guesses
