"""The examples nearest to a text: an HNSW index of embeddings, and what those found vote for."""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from usearch.index import Index

CONNECTIVITY, EXPANSION_ADD, EXPANSION_SEARCH = 32, 200, 48
"""Of 10,000 sentences the ten nearest are found to 99 %. A search takes what the vectors that it touches take."""
NEAREST = 10
SHARPNESS = 12.0
"""A neighbour's vote is exp(SHARPNESS * cosine): one that is nearer by 0.1 has three times the say."""


class Found(NamedTuple):
    """Places of examples [n, k] and their cosines [n, k], nearest first; -1 and -1.0 where there are fewer."""

    places: NDArray[np.intp]
    cosines: NDArray[np.float32]


class Neighbours:
    """An index over unit vectors [n, width]; their place is their key."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self._index = Index(
            ndim=vectors.shape[1],
            metric="ip",
            dtype=_stored(),
            connectivity=CONNECTIVITY,
            expansion_add=EXPANSION_ADD,
            expansion_search=EXPANSION_SEARCH,
        )
        if len(vectors):
            self._index.add(np.arange(len(vectors), dtype=np.uint64), vectors, threads=1)

    def nearest(self, vector: NDArray[np.float32]) -> Found:
        """Of one unit vector [width]."""
        if not len(self._index):
            return Found(np.empty((1, 0), np.intp), np.empty((1, 0), np.float32))
        found = self._index.search(vector, NEAREST, threads=1)
        return Found(found.keys.astype(np.intp)[None], (1 - found.distances).astype(np.float32)[None])


@cache
def _stored() -> str:
    """bfloat16 where the processor multiplies such: a cosine is then within 0.0005, in less than two thirds of the
    time. Otherwise float16, within 0.0001."""
    return "f16" if Index(ndim=16, metric="ip", dtype="bf16").hardware_acceleration == "serial" else "bf16"


def exact(queries: NDArray[np.float32], vectors: NDArray[np.float32]) -> Found:
    """The same without an index, of many at once: for held-out examples, whose neighbours each fold sees anew."""
    count = min(NEAREST, len(vectors))
    places = np.empty((len(queries), count), np.intp)
    cosines = np.empty((len(queries), count), np.float32)
    for start in range(0, len(queries), 1024):
        rows = slice(start, start + 1024)
        near = queries[rows] @ vectors.T
        best = np.argpartition(-near, count - 1, axis=1)[:, :count]
        values = np.take_along_axis(near, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        places[rows] = np.take_along_axis(best, order, axis=1)
        cosines[rows] = np.take_along_axis(values, order, axis=1)
    return Found(places, cosines)


def votes(
    found: Found, targets: NDArray[np.intp], classes: int, standing: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Log shares [n, classes] of the neighbours' votes; a class without any has what half a farthest vote gives.

    `standing` [examples] is what the vote of each is multiplied by; none is 1 for all.
    """
    weights = np.exp(SHARPNESS * (found.cosines - found.cosines[:, :1]))
    if standing is not None:
        weights *= standing[found.places]
    shares = np.zeros((len(found.places), classes), np.float32)
    np.add.at(shares, (np.arange(len(shares))[:, None], targets[found.places]), weights)
    # Where nobody that lies near is believed any more, no class is likelier than another.
    shares += np.maximum(0.5 * weights[:, -1:], 1e-6) / classes
    return np.log(shares / shares.sum(axis=1, keepdims=True))
