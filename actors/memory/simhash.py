"""Vectors as short bit strings and as 16-bit codes: how the nearest of many are found without an index to build. Pure.

SimHash (Charikar 2002): a bit is the sign of a projection, and two vectors at angle t differ in a share t / pi of their
bits, whatever the data looks like. The projections are a random rotation: signs at random, then a Walsh-Hadamard
transform (Ailon and Chazelle 2009). So the nearest by Hamming distance hold the nearest by cosine among them, and
those few are compared by their codes, to about 1e-5.

Shapes: n vectors of `width`; `bits`, a power of two of at least 64 and at least `width`; `words` of 64 bits.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard

LARGEST = 32767
"""Magnitude of a code."""
FIRST_WORDS = 4
"""Of the bits, at most, by which all are compared."""
FIRST_LOOK = 6
"""How many times as many as wanted are left after that. Of 66,000 sentences' true ten nearest as
many are among the 512 that are closest by all bits as among all (0.999)."""
ONE_THREAD = 1 << 18
"""Multiplications up to which BLAS keeps a product on the calling thread: its threads would wait for busy cores."""

Floats = NDArray[np.float32]
Rows = NDArray[np.intp]


class Coded(NamedTuple):
    """Vectors as they are searched; each is codes * scale, of length 1."""

    bits: NDArray[np.uint64]  # [n, words]
    codes: NDArray[np.int16]  # [n, width]
    scales: Floats  # [n]


class Hash:
    """The rotation for vectors of one width: the same in every process."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.words = max(1 << (width - 1).bit_length(), 64) // 64
        bits = 64 * self.words
        left = 1 << (bits.bit_length() // 2)
        self._signs = np.random.default_rng(width).choice(np.array([-1, 1], np.float32), width)
        # The transform of so many bits is one of each factor: small products, which BLAS keeps on the calling thread.
        self._left = hadamard(left).astype(np.float32)
        self._right = hadamard(bits // left).astype(np.float32)

    def encode(self, vectors: Floats) -> Coded:
        """Vectors [n, width] of any length; one of zeros is like nothing."""
        one = np.float32(1)
        lengths: Floats = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = (vectors / np.where(lengths > 0, lengths, one)).astype(np.float32, copy=False)
        scales = np.abs(unit).max(axis=1) / np.float32(LARGEST)
        codes = np.rint(unit / np.where(scales > 0, scales, one)[:, None]).astype(np.int16)
        return Coded(self._bits(unit), codes, scales)

    def _bits(self, unit: Floats) -> NDArray[np.uint64]:
        padded = np.zeros((len(unit), 64 * self.words), np.float32)
        padded[:, : self.width] = unit * self._signs
        rotated = self._left @ padded.reshape(len(unit), len(self._left), len(self._right)) @ self._right
        packed = np.packbits(rotated.reshape(padded.shape) > 0, axis=1)
        return packed.view(np.uint64)


def closest(
    front: NDArray[np.uint64], rest: NDArray[np.uint64], query: NDArray[np.uint64], count: int, rows: Rows | None
) -> Rows:
    """About `count` of `rows` (None: of all) whose bits differ least from the query's [words].

    All are compared by their first bits, and the nearest by these, several times as many as wanted, by all: a scan is
    bound by the memory that it reads. So a word of all vectors lies together in `front` [FIRST_WORDS, n], which is
    read in one sweep, and the other words of each vector in `rest` [n, words - FIRST_WORDS].
    """
    distances = _distances(front, query[: len(front)], rows)
    if not rest.shape[1]:
        return _of(rows, _least(distances, count))
    nearest = _least(distances, FIRST_LOOK * count)
    found = _of(rows, nearest)
    further = _distances(rest.take(found, axis=0).T, query[len(front) :], None)
    return found[_least(distances[nearest] + further, count)]


def _of(rows: Rows | None, places: Rows) -> Rows:
    return places if rows is None else rows[places]


def _distances(bits: NDArray[np.uint64], query: NDArray[np.uint64], rows: Rows | None) -> NDArray[np.uint16]:
    distances = np.zeros(bits.shape[1] if rows is None else len(rows), np.uint16)
    for word, own in zip(bits, query, strict=True):
        distances += np.bitwise_count((word if rows is None else word.take(rows)) ^ own)
    return distances


def _least(distances: NDArray[np.uint16], count: int) -> Rows:
    """Places of the `count` least."""
    within = np.cumsum(np.bincount(distances))
    furthest = int(np.searchsorted(within, min(count, len(distances))))
    nearer = np.flatnonzero(distances < furthest)
    # Of those just as far only as many as are wanted: entries may all be alike.
    return np.concatenate([nearer, np.flatnonzero(distances == furthest)[: count - len(nearer)]])


def cosines(codes: NDArray[np.int16], scales: Floats, query: Floats) -> Floats:
    """Of vectors [n, width] with a query [width] of length 1."""
    step = max(ONE_THREAD // len(query), 1)
    parts = [codes[at : at + step].astype(np.float32) @ query for at in range(0, len(codes), step)]
    return np.concatenate(parts) * scales if parts else np.empty(0, np.float32)
