"""What a step takes, learned from the steps that ran: a linear model of its time, kept up step by step.

    ms = fixed + prefill * prompt tokens + row * decoding rows + attended * attended tokens

Weights are read and unpacked once a step, a token passes through every matrix, and its attention reads every token
before it. On the machine where the form was chosen (SmolLM2-135M, two cores) it holds within a few percent from 1 to
512 tokens and to 4,000 tokens of context.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

PRIOR_MS = np.array([300.0, 10.0, 10.0, 0.01])
"""How large a coefficient may well be. What the first steps leave open is shared out in these proportions."""
LEAST_MS = 0.001
NOISE = 0.05
"""Standard deviation of a step's time, relative: how much one step is trusted."""
FORGET = 0.8
"""What each step leaves of what is known in its own direction: a handful of steps like it count."""
OUTLIER = 3.0
"""Errors beyond this many times the usual one count as that: a step that was interrupted says little about others."""
LEAST_ERROR = 0.01
"""The usual error is taken for at least this, so that a model that fits keeps learning."""
FIRST_ERROR = 0.1
"""The usual error before any is known."""
ERROR_RATE = 0.1
"""Weight of a step in the mean of errors."""


class Work(NamedTuple):
    """What a step computes."""

    prefill: int
    """Prompt tokens."""
    rows: int
    """Decoding rows, a token each."""
    attended: int
    """Over all of these tokens: tokens in the KV of their row up to themselves, summed."""


class StepCost(NamedTuple):
    """The model at one moment. Milliseconds; a coefficient is never negative."""

    fixed: float
    prefill: float
    """A prompt token."""
    row: float
    """A decoding row."""
    attended: float
    """A token that another attends to."""
    error: float = 0.0
    """Mean relative error of the predictions of late."""

    def step_ms(self, work: Work) -> float:
        """Predicted time of a step."""
        return self.fixed + self.prefill * work.prefill + self.row * work.rows + self.attended * work.attended

    def chunk_ms(self, tokens: int, context: int) -> float:
        """What `tokens` more prompt tokens of a row add to a step; `context` of its tokens are in the KV."""
        return self.prefill * tokens + self.attended * attended(tokens, context)

    def tokens_within(self, ms: float, context: int) -> float:
        """Most tokens whose chunk_ms is at most `ms`; not a whole number, and infinite where they are free.

        Solves one * n + attended * n^2 / 2 = ms in the form that keeps its digits where attention is free.
        """
        if ms <= 0:
            return 0.0
        one = self.prefill + self.attended * (context + 0.5)
        divisor = one + math.sqrt(one * one + 2 * self.attended * ms)
        return 2 * ms / divisor if divisor > 0 else math.inf


def attended(tokens: int, context: int) -> int:
    """Tokens attended to by the next `tokens` of a row that has `context` in its KV, each itself included."""
    return tokens * context + tokens * (tokens + 1) // 2


class CostModel:
    """Learns a StepCost: non-negative least squares of the relative error, forgetting what newer steps tell again.

    Forgetting is directional: a stretch without prompts teaches nothing about prompts, and so forgets nothing of them
    (L. Cao and H. Schwartz, "A directional forgetting algorithm based on the decomposition of the information matrix",
    2000).
    """

    def __init__(self) -> None:
        # Of features in units of the prior: information matrix, and what it times the solution must be.
        self._information = np.diag(np.full(4, NOISE**2))
        self._wanted = np.zeros(4)
        self.error = FIRST_ERROR
        """Mean relative error of the predictions of late."""
        self.cost: StepCost | None = None
        """None until a step was learned from."""

    def learn(self, work: Work, ms: float) -> None:
        """A step took `ms`; what a clock cannot tell from nothing counts as LEAST_MS."""
        units, ms = np.array([1.0, *work]) * PRIOR_MS, max(ms, LEAST_MS)
        if self.cost is not None:
            ms = self._believed(units, self.cost.step_ms(work), ms)
        features = units / ms
        told = self._information @ features
        share = (1 - FORGET) / float(features @ told)
        self._wanted += features - told * (share * float(features @ self._wanted))
        self._information += np.outer(features, features) - np.outer(told, told) * share
        self.cost = StepCost(*(self._solved() * PRIOR_MS).tolist(), error=self.error)

    def _solved(self) -> Float64:
        """The solution without negative coefficients: where one would be, it is left out."""
        used = np.arange(4)
        while True:
            part = np.linalg.solve(self._information[np.ix_(used, used)], self._wanted[used])
            if (part >= 0).all():
                break
            used = np.delete(used, part.argmin())
        solution = np.zeros(4)
        solution[used] = part
        return solution

    def _believed(self, units: Float64, expected: float, ms: float) -> float:
        """`ms`, or less where it is an outlier; the usual error is kept up.

        Only late steps are doubted (a step may be interrupted, but none is quick by chance), and only as far as steps
        like it are known.
        """
        expected = max(expected, LEAST_MS)
        features = units / expected
        unknown = NOISE * math.sqrt(float(features @ np.linalg.solve(self._information, features)))
        usual = max(self.error, LEAST_ERROR)
        # A lasting change becomes usual within some dozens of steps, one interrupted step does not.
        self.error += ERROR_RATE * (min(abs(ms / expected - 1), OUTLIER * usual) - self.error)
        return min(ms, expected * (1 + OUTLIER * (usual + unknown)))
