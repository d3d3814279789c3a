"""Diversity: does an answer say new things, in new words? 0.4 distinct n-grams + 0.6 mean semantic distance."""

from collections.abc import Sequence

import numpy as np

from actors.memory.quality.coherence import Vectors

ORDERS = (1, 2, 3)
WORDS = 512
"""Counted of an answer: the longer a text, the rarer its new words, whatever it says."""


def diversity(words: Sequence[str], vectors: Vectors) -> float:
    """0 to 1. With fewer than two sentences (vectors [n, width] of length 1) there is no distance: n-grams alone."""
    if (apart := distance(vectors)) is None:
        return distinct(words)
    return 0.4 * distinct(words) + 0.6 * apart


def distinct(words: Sequence[str]) -> float:
    """Distinct among all n-grams, the mean over n = 1, 2, 3 (Li et al. 2016); 1 where there are none."""
    shares = []
    for order in ORDERS:
        grams = list(zip(*(words[start:WORDS] for start in range(order)), strict=False))
        if grams:
            shares.append(len(set(grams)) / len(grams))
    return sum(shares) / len(shares) if shares else 1.0


def distance(vectors: Vectors) -> float | None:
    """Mean of 1 - cosine over all pairs of sentences, held to 0..1; None where there is no pair."""
    count = len(vectors)
    if count < 2:
        return None
    cosines = vectors @ vectors.T
    mean = float(cosines.sum() - np.trace(cosines)) / (count * (count - 1))
    return min(max(1 - mean, 0.0), 1.0)
