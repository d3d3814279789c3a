"""What a step takes, learned from the steps that ran: a linear model of its time, kept up step by step.

    ms = fixed + prefill * prompt tokens + row * decoding rows + attended * attended tokens

Weights are read and unpacked once a step, a token passes through every matrix, and its attention reads every token
before it. On the machine where the form was chosen (SmolLM2-135M, two cores) it holds within a few percent from 1 to
512 tokens and to 4,000 tokens of context.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

PRIOR_MS = (300.0, 10.0, 10.0, 0.01)
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
        # Of features in units of the prior: information matrix, and what it times the solution must be. Plain floats:
        # between two steps, whose weights have emptied the caches, four of them cost less than calls of NumPy.
        self._information = [[NOISE**2 if row == column else 0.0 for column in range(4)] for row in range(4)]
        self._wanted = [0.0] * 4
        self.error = FIRST_ERROR
        """Mean relative error of the predictions of late."""
        self.cost: StepCost | None = None
        """None until a step was learned from."""

    def learn(self, work: Work, ms: float) -> None:
        """A step took `ms`; what a clock cannot tell from nothing counts as LEAST_MS."""
        units = [unit * amount for unit, amount in zip(PRIOR_MS, (1.0, *work), strict=True)]
        ms = max(ms, LEAST_MS)
        if self.cost is not None:
            ms = self._believed(units, self.cost.step_ms(work), ms)
        features = [unit / ms for unit in units]
        told = [_product(row, features) for row in self._information]
        share = (1 - FORGET) / _product(features, told)
        forgotten = share * _product(features, self._wanted)
        self._wanted = [
            wanted + feature - forgotten * known
            for wanted, feature, known in zip(self._wanted, features, told, strict=True)
        ]
        self._information = [
            [value + a * b - share * c * d for value, b, d in zip(row, features, told, strict=True)]
            for row, a, c in zip(self._information, features, told, strict=True)
        ]
        coefficients = [unit * part for unit, part in zip(PRIOR_MS, self._solved(), strict=True)]
        self.cost = StepCost(*coefficients, error=self.error)

    def _solved(self) -> list[float]:
        """The solution without negative coefficients: where one would be, it is left out."""
        used = [0, 1, 2, 3]
        while True:
            part = _solve([[self._information[i][j] for j in used] for i in used], [self._wanted[i] for i in used])
            least = min(part)
            if least >= 0:
                break
            del used[part.index(least)]
        solution = [0.0] * 4
        for place, value in zip(used, part, strict=True):
            solution[place] = value
        return solution

    def _believed(self, units: Sequence[float], expected: float, ms: float) -> float:
        """`ms`, or less where it is an outlier; the usual error is kept up.

        Only late steps are doubted (a step may be interrupted, but none is quick by chance), and only as far as steps
        like it are known.
        """
        expected = max(expected, LEAST_MS)
        features = [unit / expected for unit in units]
        usual = max(self.error, LEAST_ERROR)
        off = abs(ms / expected - 1)
        # A lasting change becomes usual within some dozens of steps, one interrupted step does not.
        self.error += ERROR_RATE * (min(off, OUTLIER * usual) - self.error)
        if ms <= expected:
            return ms
        unknown = NOISE * math.sqrt(_product(features, _solve(self._information, features)))
        return min(ms, expected * (1 + OUTLIER * (usual + unknown)))


def _product(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _solve(matrix: Sequence[Sequence[float]], wanted: Sequence[float]) -> list[float]:
    """x of matrix x = wanted, for a positive definite matrix: elimination needs no pivots."""
    rows = [[*row, value] for row, value in zip(matrix, wanted, strict=True)]
    for index, pivot in enumerate(rows):
        for other in range(index + 1, len(rows)):
            factor = rows[other][index] / pivot[index]
            rows[other] = [a - factor * b for a, b in zip(rows[other], pivot, strict=True)]
    solution = [0.0] * len(rows)
    for index in range(len(rows) - 1, -1, -1):
        row = rows[index]
        known = sum(row[other] * solution[other] for other in range(index + 1, len(rows)))
        solution[index] = (row[-1] - known) / row[index]
    return solution
