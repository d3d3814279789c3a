"""Whether a text is a router's at all: how much energy the head has for it, and how near an example lies.

Energy (Liu et al. 2020, "Energy-based Out-of-distribution Detection") alone does best where examples are few and
varied. Where they are many and alike, a stranger made of a label's words is told by its distance. How much nearness
counts is therefore chosen for each router, on labels that a trial head has never seen.
"""

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from actors.router.semantic import head, neighbours
from actors.router.semantic.calibration import auroc, log_total

NEARNESS = (0.0, 2.0, 4.0, 8.0)
"""Weights of the cosine of the nearest example beside the energy."""
STRIDE, TRIALS = 4, 2
"""In a trial every fourth label, and every fourth example of the others, is kept from the head."""
LEAST_LABELS = 8
"""With fewer a trial would say more of its few strangers than of those to come."""
INSIDE = 0.95
"""Share of held-out examples that the threshold lets in, where no examples from outside say where the border is."""


def score(logits: NDArray[np.float32], nearest: NDArray[np.float32], nearness: float) -> NDArray[np.float32]:
    """Of texts with these logits [n, classes] and cosine of the nearest example [n]; higher is more at home."""
    return np.asarray(log_total(logits) + nearness * nearest, np.float32)


def chosen(dense: NDArray[np.float32], words: sparse.csr_array, targets: NDArray[np.intp], classes: int) -> float:
    """The weight of NEARNESS that tells withheld labels best from the others; 0 for fewer than LEAST_LABELS labels."""
    if classes < LEAST_LABELS:
        return NEARNESS[0]
    told = np.zeros(len(NEARNESS))
    turn = np.random.default_rng(0).permutation(len(targets)) % STRIDE
    for trial in range(TRIALS):
        strange = targets % STRIDE == trial
        seen = np.flatnonzero(~strange & (turn != trial))
        unseen, strangers = np.flatnonzero(~strange & (turn == trial)), np.flatnonzero(strange)
        _, places = np.unique(targets[seen], return_inverse=True)
        fitted = head.fit(dense[seen], words[seen], places, int(places.max()) + 1)
        asked = np.concatenate([unseen, strangers])
        logits = fitted.logits(dense[asked], words[asked])
        nearest = neighbours.exact(unit(dense[asked]), unit(dense[seen])).cosines[:, 0]
        for place, weight in enumerate(NEARNESS):
            scores = score(logits, nearest, weight)
            told[place] += auroc(scores[: len(unseen)], scores[len(unseen) :])
    return NEARNESS[int(told.argmax())]


def threshold(inside: NDArray[np.float32], outside: NDArray[np.float32]) -> float:
    """The score from which on a text counts as in scope.

    Where there are examples from outside, the border at which the shares told right of both kinds are largest.
    """
    if not len(outside):
        return float(np.quantile(inside, 1 - INSIDE))
    candidates = np.unique(np.concatenate([inside, outside]))
    told = [(inside >= border).mean() + (outside < border).mean() for border in candidates]
    return float(candidates[int(np.argmax(told))])


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
