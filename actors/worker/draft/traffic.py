"""Recent outputs as a source of drafts, one pool for each tenant: what was answered once is often answered again."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np

from actors.worker.draft.text import LONGEST, Found, Grams, matched
from kernels.decoder import Int32

POOL_TOKENS = 1 << 15
"""Tokens that a pool remembers, the newest."""
POOL_BITS = 16
MOST_POOLS = 16
"""Pools kept; the one that was not used for the longest goes first. One takes 0.9 MB."""
LEAST_MATCH = 3
"""Fewer equal tokens say nothing in the text of others."""
LEAST_OUTPUT = 8
"""Shorter outputs are not worth remembering."""
END = -1
"""After each output: no token."""


class Pool:
    """A ring of outputs, written over from its beginning when it is full."""

    def __init__(self) -> None:
        self._ring = np.full(POOL_TOKENS, END, np.int32)
        self._grams = Grams(POOL_BITS)
        self._next = 1  # place 0 means none

    def add(self, output: Int32) -> None:
        """Remember an output, of which the last quarter ring at most."""
        output = output[-POOL_TOKENS // 4 :]
        if self._next + len(output) + 1 > POOL_TOKENS:
            self._ring[self._next :] = END
            self._next = 1
        place = self._ring[self._next : self._next + len(output)]
        place[:] = output
        self._grams.add(place, 1, self._next)
        self._next += len(output)
        self._ring[self._next] = END
        self._next += 1

    def find(self, tail: Sequence[int]) -> Iterator[Found]:
        """Where `tail` occurred, by the longest n-gram first."""
        for at in self._grams.find(tail):
            length = matched(self._ring[max(at - LONGEST, 0) : at].tolist(), tail)
            if length >= LEAST_MATCH and self._ring[at] != END:
                yield Found(at, length)

    def read(self, at: int, count: int) -> list[int]:
        """What follows from `at` in the same output, `count` tokens at most."""
        tokens = self._ring[at : at + count].tolist()
        return tokens[: tokens.index(END)] if END in tokens else tokens


class Traffic:
    """The pools by name."""

    def __init__(self) -> None:
        self._pools: OrderedDict[bytes, Pool] = OrderedDict()

    def pool(self, name: bytes) -> Pool | None:
        """The pool, where there is one; it counts as used."""
        pool = self._pools.get(name)
        if pool is not None:
            self._pools.move_to_end(name)
        return pool

    def add(self, name: bytes, output: Int32) -> None:
        """An output of this tenant ended."""
        if len(output) < LEAST_OUTPUT:
            return
        pool = self.pool(name)
        if pool is None:
            pool = self._pools[name] = Pool()
            if len(self._pools) > MOST_POOLS:
                self._pools.popitem(last=False)
        pool.add(output)
