"""Probabilities that mean what they say, and their measure."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

BINS = 10


def log_total(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log of the sum of exponentials of each row; [n, classes] to [n].

    scipy.special has it for every case; for one row that is slow, which is felt when a text is classified.
    """
    most = logits.max(axis=1)
    return np.asarray(most + np.log(np.exp(logits - most[:, None]).sum(axis=1)), np.float32)


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log probabilities [n, classes]."""
    return logits - log_total(logits)[:, None]


def sharpness(logits: NDArray[np.float32], targets: NDArray[np.intp]) -> float:
    """The factor on held-out `logits` [n, classes] with which they tell `targets` [n] best: one over a temperature.

    Guo et al. 2017, "On Calibration of Modern Neural Networks".
    """
    rows = np.arange(len(targets))

    def loss(log_factor: float) -> float:
        return -float(log_softmax(logits * np.exp(log_factor))[rows, targets].mean())

    found: Any = minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded")
    return float(np.exp(found.x))


def expected_calibration_error(confidence: NDArray, right: NDArray) -> float:
    """Mean distance of confidence [n] from the share that is right, over BINS bins of as many answers each."""
    order = np.argsort(confidence, kind="stable")
    bins = np.array_split(order, min(BINS, len(order)))
    return float(sum(len(each) * abs(confidence[each].mean() - right[each].mean()) for each in bins) / len(order))


def auroc(inside: NDArray, outside: NDArray) -> float:
    """Chance that a score from `inside` is above one from `outside`; ties count half."""
    both = np.concatenate([inside, outside])
    _, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    above = ranks[: len(inside)].sum() - len(inside) * (len(inside) + 1) / 2
    return float(above / (len(inside) * len(outside)))
