"""The cost router as trained: from prompts to the probability that the small model's answer is enough."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.router.fastgrnn.cell import HIDDEN, LARGE, MODEL, SMALL, Weights, logits, sigmoid, step
from actors.router.fastgrnn.features import FREE, Constraints, Scale, features
from actors.router.fastgrnn.metric import Interval
from actors.router.fastgrnn.patterns import Bank, Projection, statistics


class Platt(NamedTuple):
    """A line through log odds that makes them mean what they say (Platt 1999). `slope` is positive: order is kept."""

    slope: float
    shift: float

    def __call__(self, odds: NDArray[np.floating]) -> NDArray[np.floating]:
        """Probabilities."""
        return sigmoid(self.slope * odds + self.shift)


class Quality(NamedTuple):
    """On prompts held out in turn, near-duplicates together. Gains are of the gap recovered, mean over the shares."""

    rows: int
    over_chance: Interval
    over_length: Interval
    calibration_error: float
    """Of the probability that the small model is enough."""
    confidence_error: float
    """Of the confidence."""


class CostRouter(NamedTuple):
    """What training finds."""

    weights: Weights
    scale: Scale
    projection: Projection
    bank: Bank
    enough: Platt
    """Of the model head's log odds of small against large."""
    confidence: Platt
    """Of the confidence head's log odds."""
    fisher: Weights
    quality: Quality

    def inputs(
        self, text: str, vector: NDArray[np.float32] | None, constraints: Constraints = FREE
    ) -> NDArray[np.float32]:
        """The unscaled inputs [INPUT] of a prompt and its embedding [width]; without models' history."""
        return features(text, *self.told(vector), constraints, ())

    def told(self, vector: NDArray[np.float32] | None) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """An embedding [width], projected, and what its neighbours tell; None each without one."""
        if vector is None:
            return None, None
        projected = self.projection(vector[None])
        return projected[0], statistics(self.bank, projected)[0]

    def odds(self, inputs: NDArray[np.float32]) -> NDArray[np.floating]:
        """Log odds of small against large, [n], of unscaled inputs [n, INPUT] at the beginning of a session."""
        told = logits(self.weights, step(self.weights, self.scale(inputs), np.zeros((len(inputs), HIDDEN), np.float32)))
        return told[:, MODEL][:, SMALL] - told[:, MODEL][:, LARGE]

    def score(self, prompts: Sequence[str], vectors: NDArray[np.float32] | None) -> NDArray[np.floating]:
        """Probability [n] that the small model's answer is as good as the large one's. `vectors` is [n, width]."""
        rows = [self.inputs(text, None if vectors is None else vectors[place]) for place, text in enumerate(prompts)]
        return self.enough(self.odds(np.stack(rows)))
