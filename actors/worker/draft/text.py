"""Text that is searched for what a row may say next: where did its last tokens occur before, and what followed?

Positions are found by hashing the last 5, 3 and 2 tokens, the longest first; of equal ones the newest is kept. A
position found is compared with the text itself, so that neither a collision nor a place since overwritten counts.
Adding a token costs three stores and a look-up three loads and a comparison, a few microseconds whatever the length.
(Prompt lookup decoding, A. Saxena 2023; the idea of recent traffic is from REST, He et al. 2023.)
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from kernels.decoder import Int32

LENGTHS = (5, 3, 2)
"""Of the n-grams that are looked up, longest first."""
LONGEST = 16
"""Tokens back to which a match is followed: longer ones are as good."""
_FACTORS = (0x2545F491, 0x1B873593, 0x27D4EB2F, 0x165667B1, 0x2C1B3C6D)
"""Of the newest token and those before it. Odd, below 2^30: products with 24-bit ids stay exact in 64 bits."""
_SHIFT = 13
_FEW = 24
"""Up to so many tokens are added one by one; more as arrays."""


class Found(NamedTuple):
    """Where a row's last tokens occurred before."""

    at: int
    """The place of what followed them there."""
    matched: int
    """How many tokens before it are the row's last ones; at most LONGEST."""


class Grams:
    """The newest place of every n-gram of a text, by hash. The text itself is kept by the caller, who numbers it."""

    def __init__(self, bits: int) -> None:
        """Tables of 2^bits places for each length."""
        self._mask = (1 << bits) - 1
        self._tables = [np.zeros(1 << bits, np.int32) for _ in LENGTHS]
        self._views = [table.data for table in self._tables]

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return sum(table.nbytes for table in self._tables)

    def add(self, tokens: Int32, first: int, base: int = 0) -> None:
        """Note that tokens[first:] [N] follow what is before them in `tokens`; tokens[i] has the number base + i."""
        if len(tokens) - first > _FEW:
            self._add_many(tokens, first, base)
            return
        start = max(first - LENGTHS[0], 0)
        near = tokens[start:].tolist()
        for at in range(first - start, len(near)):
            hashed, taken = 0, 0
            for length, view in zip(LENGTHS[::-1], self._views[::-1], strict=True):
                if length > at:
                    break
                while taken < length:
                    hashed += near[at - 1 - taken] * _FACTORS[taken]
                    taken += 1
                view[(hashed >> _SHIFT) & self._mask] = base + start + at

    def _add_many(self, tokens: Int32, first: int, base: int) -> None:
        wide = tokens[max(first - LENGTHS[0], 0) :].astype(np.int64)
        skipped = len(tokens) - len(wide)
        hashed, taken = np.zeros(len(wide), np.int64), 0  # of the tokens before each
        for length, table in zip(LENGTHS[::-1], self._tables[::-1], strict=True):
            while taken < length:
                hashed[taken + 1 :] += wide[: -1 - taken] * _FACTORS[taken]
                taken += 1
            begin = max(first - skipped, length)
            # Where hashes are equal the last, newest one stays.
            table[(hashed[begin:] >> _SHIFT) & self._mask] = np.arange(
                base + skipped + begin, base + len(tokens), dtype=np.int32
            )

    def find(self, tail: Sequence[int]) -> Iterator[int]:
        """Numbers of the tokens that may follow `tail` (at most the last 5 count), by the longest n-gram first."""
        hashes, hashed, taken = [], 0, 0
        for length in LENGTHS[::-1]:
            if length > len(tail):
                break
            while taken < length:
                hashed += tail[-1 - taken] * _FACTORS[taken]
                taken += 1
            hashes.append(hashed)
        told = 0
        for view, hashed in zip(self._views[-len(hashes) :] if hashes else (), hashes[::-1], strict=True):
            place = view[(hashed >> _SHIFT) & self._mask]
            if place and place != told:
                told = place
                yield place


def matched(before: Sequence[int], tail: Sequence[int]) -> int:
    """How many of the last tokens of both are equal."""
    count = 0
    for a, b in zip(reversed(before), reversed(tail), strict=False):
        if a != b:
            break
        count += 1
    return count


class Text:
    """A growing text and its n-grams: a row's own tokens, or a reference that never grows."""

    def __init__(self) -> None:
        self._size = 0
        self._bits = 0
        self._grams = Grams(0)

    def sync(self, tokens: Int32) -> None:
        """The text is `tokens` [N] now, of which the first ones are those it was before."""
        if len(tokens) == self._size:
            return
        if self._bits == 0 or len(tokens) > 1 << self._bits - 1:
            self._bits = max(len(tokens) - 1, 127).bit_length() + 2
            self._grams, self._size = Grams(self._bits), 0
        self._grams.add(tokens, max(self._size, 1))
        self._size = len(tokens)

    def find(self, tokens: Int32, tail: Sequence[int]) -> Iterator[Found]:
        """Where in `tokens` (what was synced last) the tokens `tail` occurred before, by the longest n-gram first."""
        for at in self._grams.find(tail):
            length = matched(tokens[max(at - LONGEST, 0) : at].tolist(), tail)
            if length >= LENGTHS[-1]:
                yield Found(at, length)
