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
FIRST_LOOK = 6
"""How many times as many as wanted are left after a look at the first words. Of 66,000 sentences' true ten nearest as
many are among the 512 that are closest by all bits as among all (0.999)."""
ONE_THREAD = 1 << 18
"""Multiplications up to which BLAS keeps a product on the calling thread: its threads would wait for busy cores."""

Floats = NDArray[np.float32]
Rows = NDArray[np.intp]


class Coded(NamedTuple):
    """Vectors as they are searched; each is codes * scale, of length 1."""

    bits: NDArray[np.uint64]  # [words, n]: a word of all vectors lies together, so that a scan reads in one sweep
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
        return np.ascontiguousarray(packed.view(np.uint64).T)


def closest(bits: NDArray[np.uint64], query: NDArray[np.uint64], count: int, rows: Rows | None) -> Rows:
    """About `count` of `rows` (None: of all) whose bits [words, n] differ least from the query's [words].

    All are compared by their first bits, and the nearest by these, several times as many as wanted, by all: a scan is
    bound by the memory that it reads.
    """
    total = bits.shape[1] if rows is None else len(rows)
    first = FIRST_LOOK * count
    if len(bits) > FIRST_WORDS and total > 2 * first:
        rows = _least(_distances(bits[:FIRST_WORDS], query[:FIRST_WORDS], rows), first, rows)
    return _least(_distances(bits, query, rows), count, rows)


def _distances(bits: NDArray[np.uint64], query: NDArray[np.uint64], rows: Rows | None) -> NDArray[np.uint16]:
    distances = np.zeros(bits.shape[1] if rows is None else len(rows), np.uint16)
    for word, own in zip(bits, query, strict=True):
        distances += np.bitwise_count((word if rows is None else word.take(rows)) ^ own)
    return distances


def _least(distances: NDArray[np.uint16], count: int, rows: Rows | None) -> Rows:
    """Those of `rows` (None: of all) with the `count` least distances."""
    within = np.cumsum(np.bincount(distances))
    furthest = int(np.searchsorted(within, min(count, len(distances))))
    nearer = np.flatnonzero(distances < furthest)
    # Of those just as far only as many as are wanted: entries may all be alike.
    found = np.concatenate([nearer, np.flatnonzero(distances == furthest)[: count - len(nearer)]])
    return found if rows is None else rows[found]


def cosines(codes: NDArray[np.int16], scales: Floats, query: Floats) -> Floats:
    """Of vectors [n, width] with a query [width] of length 1."""
    step = max(ONE_THREAD // len(query), 1)
    parts = [codes[at : at + step].astype(np.float32) @ query for at in range(0, len(codes), step)]
    return np.concatenate(parts) * scales if parts else np.empty(0, np.float32)
