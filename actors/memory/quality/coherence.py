"""Semantic coherence: do an answer's sentences belong together, and does it belong to its question?"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from actors.memory.quality.calibration import Calibration

Vectors = NDArray[np.float32]


def coherence(
    vectors: Vectors, places: Sequence[int], question: Vectors | None, neighbours: Calibration, answers: Calibration
) -> float:
    """The mean of two probabilities, or the one there is; 1 where there is nothing to compare.

    vectors [n, width], of length 1: sentences at these `places` of the answer. `neighbours` calibrates the mean cosine
    of sentences that follow one another, `answers` that of the sentences' mean with the question [width].
    """
    parts = []
    if (cosine := neighbouring(vectors, places)) is not None:
        parts.append(neighbours.probability(cosine))
    if question is not None and (cosine := answering(vectors, question)) is not None:
        parts.append(answers.probability(cosine))
    return sum(parts) / len(parts) if parts else 1.0


def neighbouring(vectors: Vectors, places: Sequence[int]) -> float | None:
    """Mean cosine of sentences that follow one another; None where none do."""
    pairs = [at for at in range(len(places) - 1) if places[at + 1] == places[at] + 1]
    if not pairs:
        return None
    return float(np.mean([vectors[at] @ vectors[at + 1] for at in pairs]))


def answering(vectors: Vectors, question: Vectors) -> float | None:
    """Cosine of the sentences' mean with the question; None where there is no sentence."""
    if not len(vectors):
        return None
    mean = vectors.mean(axis=0)
    length = float(np.linalg.norm(mean))
    return float(mean @ question) / length if length else None
