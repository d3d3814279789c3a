"""A multinomial logistic regression on embeddings and words: the classifier that stands beside the neighbours."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

from actors.router.semantic.features import BUCKETS

STRENGTH = 6.0
"""Weight of the examples against that of small coefficients: scikit-learn's C. Chosen on tasks and on exam subjects."""
STEPS = 80


@dataclass(frozen=True)
class Head:
    """logits = dense @ `dense` + words @ `words` + `bias`; float32, one column a class."""

    dense: NDArray[np.float32]
    words: NDArray[np.float32]
    bias: NDArray[np.float32]

    def logits(self, dense: NDArray[np.float32], words: sparse.csr_array) -> NDArray[np.float32]:
        """[n, classes]."""
        return dense @ self.dense + words @ self.words + self.bias

    def logits_of(
        self, dense: NDArray[np.float32], places: NDArray[np.intp], values: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """[classes] of one text: `dense` [width], and words of these `values` at these places."""
        return np.asarray(dense @ self.dense + values @ self.words[places] + self.bias, np.float32)


def fit(
    dense: NDArray[np.float32],
    words: sparse.csr_array,
    targets: NDArray[np.intp],
    classes: int,
    strength: float = STRENGTH,
) -> Head:
    """Maximise the likelihood of `targets` [n], each 0..classes-1, less the squares of the coefficients.

    Words that none of the texts has keep coefficients of 0.
    """
    used = np.unique(words.indices)
    present = words[:, used]
    width, several, columns = dense.shape[1], len(used), BUCKETS
    sure = np.zeros((len(targets), classes), np.float32)
    sure[np.arange(len(targets)), targets] = 1

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights = flat.reshape(width + several + 1, classes)
        narrow = weights.astype(np.float32)
        logs = log_softmax(dense @ narrow[:width] + present @ narrow[width:-1] + narrow[-1], axis=1)
        error = np.exp(logs) - sure
        gradient = np.concatenate([dense.T @ error, present.T @ error, error.sum(axis=0, keepdims=True)])
        loss = -(logs * sure).sum(dtype=np.float64) * strength + 0.5 * np.square(weights[:-1]).sum()
        step = strength * gradient.astype(np.float64)
        step[:-1] += weights[:-1]
        return float(loss), step.ravel()

    found = minimize(
        objective, np.zeros((width + several + 1) * classes), jac=True, method="L-BFGS-B", options={"maxiter": STEPS}
    )
    weights = found.x.reshape(width + several + 1, classes).astype(np.float32)
    spread = np.zeros((columns, classes), np.float32)
    spread[used] = weights[width:-1]
    return Head(weights[:width], spread, weights[-1])
