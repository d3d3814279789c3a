"""Prompts whose outcome is known: a projection of sentence embeddings, and what the nearest of them tell of a new one.

They are few (MOST at most) and short after projection, so that exact search costs less than an index would.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.router.fastgrnn.features import PROJECTED, STATISTICS

MOST = 2000
NEAR, FAR = 10, 30
BLOCK = 32
SHARPNESS = 8.0
"""A neighbour's vote is exp(SHARPNESS * cosine)."""


class Projection(NamedTuple):
    """Of embeddings [n, width] to their directions of most variance, [n, PROJECTED], each of deviation 1."""

    embedder: str
    center: NDArray[np.float32]
    """[width]."""
    directions: NDArray[np.float32]
    """[width, PROJECTED]."""

    def __call__(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Projected."""
        return np.asarray((vectors - self.center) @ self.directions, np.float32)


def projection(embedder: str, vectors: NDArray[np.float32]) -> Projection:
    """Principal components of `vectors` [n, width]; columns of 0 where there are fewer than PROJECTED."""
    center = vectors.mean(axis=0)
    away = (vectors - center).astype(np.float64)
    values, axes = np.linalg.eigh(away.T @ away / len(away))
    best = np.argsort(-values)[:PROJECTED]
    deviation = np.sqrt(np.maximum(values[best], 0))
    found = axes[:, best] * np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0)
    directions = np.zeros((vectors.shape[1], PROJECTED), np.float32)
    directions[:, : len(best)] = found
    return Projection(embedder, center.astype(np.float32), directions)


@dataclass(frozen=True)
class Bank:
    """Projected prompts and what became of them."""

    vectors: NDArray[np.int8]
    """[n, PROJECTED], unit vectors times 127."""
    outcomes: NDArray[np.float32]
    """[n, 2]: whether the small model's answer was right, and the large one's."""

    @cached_property
    def units(self) -> NDArray[np.float32]:
        """The vectors [n, PROJECTED], of length 1."""
        return np.asarray(self.vectors / np.float32(127), np.float32)


def bank(projected: NDArray[np.float32], outcomes: NDArray[np.float32]) -> Bank:
    """Of rows [n, PROJECTED] and [n, 2]; a sample where they are more than MOST."""
    chosen = kept(len(projected))
    return Bank(np.rint(_unit(projected[chosen]) * 127).astype(np.int8), outcomes[chosen].astype(np.float32))


def kept(rows: int) -> NDArray[np.intp]:
    """Which of so many rows a bank keeps, in order."""
    return np.sort(np.random.default_rng(0).permutation(rows)[:MOST])


def statistics(
    known: Bank, projected: NDArray[np.float32], twins: Sequence[NDArray[np.intp]] | None = None
) -> NDArray[np.float32]:
    """What the neighbours tell of rows [n, PROJECTED]: [n, STATISTICS].

    Columns: cosine of the nearest, mean of NEAR and of FAR, and how they fall off; of NEAR and of FAR the mean of large
    less small outcomes, the share that small has right, that large has right; the votes' mean gain and their entropy.
    `twins` names the places in the bank that each row must not see (itself, when rows are the bank's own).
    """
    vectors = known.units
    told = np.zeros((len(projected), STATISTICS), np.float32)
    far = min(FAR, len(vectors))
    near = min(NEAR, far)
    for row, each in enumerate(_unit(projected)):
        cosines = vectors @ each
        if twins is not None:
            cosines[twins[row]] = -1
        best = _largest(cosines, far)
        found, outcomes = cosines[best], known.outcomes[best]
        votes = np.exp(SHARPNESS * (found - found[0]))
        votes /= votes.sum()
        seen = np.empty((4, far), np.float32)
        cosine, gain, seen[2:] = seen[0], seen[1], outcomes.T
        cosine[:] = found
        np.subtract(seen[3], seen[2], out=gain)
        means = np.stack([seen[:, :near].sum(axis=1) / near, seen.sum(axis=1) / far], axis=1)
        told[row, 0], told[row, 1:3], told[row, 3] = found[0], means[0], found[0] - found[near - 1]
        told[row, 4:10] = means[1:].ravel()
        told[row, 10], told[row, 11] = votes @ gain, -(votes * np.log(votes + 1e-9)).sum()
    return told


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Places of the `count` largest of `values` [n], the largest first; of equal ones the first.

    That many blocks have a largest value that is no less than some border: so have at least as many values, and few
    more, which are found in one pass. A selection among all of them takes ten times as long.
    """
    blocks = len(values) // BLOCK
    if blocks > count:
        highest = values[: blocks * BLOCK].reshape(blocks, BLOCK).max(axis=1)
        near = np.flatnonzero(values >= np.partition(highest, blocks - count)[blocks - count])
    else:
        near = np.arange(len(values))
    return near[np.argsort(-values[near], kind="stable")[:count]]


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
