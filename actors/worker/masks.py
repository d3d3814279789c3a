"""The thread that fills the masks of a step while its forward runs (actors.worker.grammar)."""

import os
import threading
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from llguidance import LLExecutor

from actors.worker.matcher import Matcher
from actors.worker.verify import Guess
from kernels.bell import Errand, ring, wait
from kernels.sampling import UInt32

EVERYTHING = np.uint32(0xFFFFFFFF)
"""A word of a mask that allows all of its ids."""


class Wanted(NamedTuple):
    """Masks of a step: of a row that knows `known` tokens, the last of them `tokens`, and has a draft.

    The first mask is of what follows the forced tokens, the others of what follows each further one of the draft.
    """

    matcher: Matcher | None  # None leaves everything allowed
    known: int
    tokens: list[int]
    guess: Guess


class Filler:
    """The thread that consumes tokens and fills masks, once for each ring of `errand.begin`."""

    def __init__(self, masks: UInt32) -> None:
        """masks: [R, words], written from its first row on."""
        self.wanted: list[Wanted] = []
        """What the next errand fills, one after the other. Set before it begins."""
        self.errors: dict[int, str] = {}
        """By index into `wanted`, of the last errand; their masks allow everything."""
        self.forcing = False
        self.failure: Exception | None = None
        """What went wrong in an errand as a whole."""
        self._masks = masks
        # llguidance spreads a step's masks over these; a forward wants the cores more.
        self._executor = LLExecutor(max(1, min(4, (os.cpu_count() or 1) // 2)))
        self._begun, begin = _channel()
        done, self._done = _channel()
        self.errand = Errand(begin, done)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="worker-masks", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; no errand may be on its way."""
        self._closing = True
        ring(self.errand.begin)
        self._thread.join()
        for descriptor in {*self.errand, self._begun, self._done}:
            os.close(descriptor)

    def _run(self) -> None:
        while True:
            wait(self._begun)
            if self._closing:
                return
            try:
                self._fill()
            except Exception as failure:
                self.failure = failure
            finally:
                ring(self._done)

    def _fill(self) -> None:
        self.errors = {}
        wanted, masks = self.wanted, self._masks
        self._consume(one for one in wanted if one.matcher is not None)
        plain, guessing, at = [], [], 0
        for matcher, _, _, guess in wanted:
            end = at + 1 + len(guess.tokens)
            masks[at:end] = EVERYTHING
            if matcher is not None and guess.tokens:
                guessing.append((matcher.state, at, guess.tokens))
            elif matcher is not None:
                plain.append((matcher.state, at))
            at = end
        into = masks.ctypes.data, masks.strides[0], len(masks)
        if plain:
            self._executor.unsafe_compute_mask_ptr(plain, *into)
        if guessing:
            # What does not fit the grammar is no token that can be drawn: nobody asks what follows it.
            self._executor.unsafe_compute_mask_ptr_with_draft_token(guessing, *into)
        at = 0
        self.forcing = False
        for index, one in enumerate(wanted):
            end = at + 1 + len(one.guess.tokens)
            if one.matcher is not None:
                if one.matcher.state.is_error():
                    masks[at:end] = EVERYTHING
                    self.errors[index] = one.matcher.error
                else:
                    self._narrow(one.matcher, masks[at:end])
            at = end

    def _consume(self, wanted: Iterable[Wanted]) -> None:
        """Bring the states to where their first masks are."""
        behind = []
        for matcher, known, tokens, guess in wanted:
            assert matcher is not None
            matcher.rewind(known)
            if len(tokens) == 1 and not guess.forced:
                behind.append((matcher, tokens[0]))
            else:
                matcher.consume(tokens)
                matcher.foresay(guess.forced)
        if behind:
            self._executor.consume_token_par([(matcher.state, token) for matcher, token in behind])
            for matcher, token in behind:
                matcher.consumed(token)

    def _narrow(self, matcher: Matcher, masks: UInt32) -> None:
        """Of a row's masks: what of them its way out changes, and what its draft left empty."""
        for mask in masks[1:]:
            if not mask.any():
                mask[:] = EVERYTHING
        for mask, only in zip(masks, matcher.way, strict=False):
            mask[:] = 0
            mask[only // 32] = 1 << only % 32
        self.forcing |= matcher.foresee()


def _channel() -> tuple[int, int]:
    """Where rings are waited for, blocking, and where they are rung: eight bytes each time."""
    if hasattr(os, "eventfd"):
        both = os.eventfd(0, os.EFD_CLOEXEC)
        return both, both
    return os.pipe()
