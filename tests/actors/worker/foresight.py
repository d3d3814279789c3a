"""A drafter that knows what rows say: a test instrument."""

import random
from collections.abc import Sequence

import numpy as np

from actors.worker.draft.draft import Context, Draft
from actors.worker.step_cost import StepCost, Work
from kernels.decoder import Int32


class Foresight:
    """A drafter that knows what rows say, and is wrong every now and then. (A test instrument.)"""

    def __init__(self, texts: dict[int, list[int]], right: float, *, branches: bool = False, seed: int = 0) -> None:
        """texts: prompt and output by row, told apart by their prompts; right: share of tokens that it gets right.

        With `branches` some of these have a wrong sibling before them.
        """
        self._branches = branches
        self._texts = list(texts.values())
        self._right = right
        self._random = random.Random(seed)
        self.pause = 0

    def start(self, slot: int, prompt_tokens: int, pool: bytes, reference: Int32) -> None:
        """Nothing is kept."""

    def drop(self, slot: int, tokens: Int32) -> None:
        """Nothing is kept."""

    def draft(self, contexts: Sequence[Context], cost: StepCost | None, beside: Work) -> list[Draft | None]:
        """Up to 8 tokens for most rows."""
        return [self._draft(context) for context in contexts]

    def _draft(self, context: Context) -> Draft | None:
        known, most = len(context.tokens), min(self._random.randint(0, 8), context.most)
        text = next(text for text in self._texts if text[:known] == context.tokens.tolist())
        tokens, parents, trunk = [], [], -1
        for token in text[known : known + most]:
            if len(tokens) >= most:
                break
            wrong = self._random.randrange(90)
            if self._random.random() >= self._right:
                token = wrong
            elif self._branches and self._random.random() < 0.4 and len(tokens) + 2 <= most and wrong != token:
                tokens.append(wrong)  # a sibling that comes first
                parents.append(trunk)
            tokens.append(token)
            parents.append(trunk)
            trunk = len(tokens) - 1
        if not tokens:
            return None
        return Draft(np.array(tokens, np.int32), np.array(parents, np.int32), [1.0] * len(tokens), "foresight")
