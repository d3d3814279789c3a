"""Rows that branch: several continuations of one text in one forward, sharing what they have in common.

A batch's `parents` say, of each token that a row brings, which one of them comes before it in the text. Its K and V lie
in the row's slots in the order the tokens came, whatever their places in the text:

    row's tokens   a b c d e        parents -1 0 0 1 2        texts  a b d  and  a c e
    slots          n n+1 n+2 n+3 n+4       positions n n+1 n+1 n+2 n+2        (n = the row's length before)

Once a path is chosen, `compaction` says which tokens have to move so that slots are positions again.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kernels.decoder import Batch, Int32


def check(batch: Batch) -> None:
    """Raise ValueError, naming the value, where `parents` do not describe the batch's rows (which are checked)."""
    if batch.parents is None:
        return
    if batch.parents.shape != batch.tokens.shape:
        raise ValueError(f"parents has {len(batch.parents)} entries; there are {len(batch.tokens)} tokens")
    own = np.arange(len(batch.tokens)) - np.repeat(batch.row_starts[:-1], np.diff(batch.row_starts))
    wrong = np.flatnonzero((batch.parents < -1) | (batch.parents >= own))
    if len(wrong):
        at = int(wrong[0])
        raise ValueError(
            f"parents[{at}] is {batch.parents[at]}; token {own[at]} of a row accepts -1..{int(own[at]) - 1}"
        )


def positions(batch: Batch) -> Int32:
    """Where each of the batch's tokens stands in its text [T]."""
    counts = np.diff(batch.row_starts)
    length = np.repeat(batch.lengths, counts)
    if batch.parents is None:
        depth = np.arange(len(batch.tokens)) - np.repeat(batch.row_starts[:-1], counts)
    else:
        depth = np.zeros(len(batch.tokens), np.int32)
        for begin, end in pairwise(batch.row_starts.tolist()):
            for token in range(begin, end):
                parent = batch.parents[token]
                depth[token] = 0 if parent < 0 else depth[begin + parent] + 1
    return (length + depth).astype(np.int32)


def lineage(parents: Int32) -> NDArray[np.bool_]:
    """Of one row's tokens, whether token i sees token j: itself and what comes before it in its text [t, t]."""
    sees = np.eye(len(parents), dtype=bool)
    for token, parent in enumerate(parents.tolist()):
        if parent >= 0:
            sees[token] |= sees[parent]
    return sees


def visible(batch: Batch, row: int, first: int, count: int, slots: int) -> NDArray[np.bool_]:
    """Which of a row's slots 0..slots its tokens first..first + count see [count, slots]."""
    length, begin = int(batch.lengths[row]), int(batch.row_starts[row])
    slot, own = np.arange(slots), np.arange(first, first + count)
    if batch.parents is None:
        return slot <= (length + own)[:, None]
    sees = np.zeros((count, max(slots, length + first + count)), bool)
    sees[:, :length] = True
    sees[:, length : length + first + count] = lineage(batch.parents[begin : begin + first + count])[first:]
    return sees[:, :slots]


def compaction(length: int, path: Sequence[int], pages: Int32, page_size: int) -> tuple[Int32, Int32]:
    """What `Kv.move_tokens` copies, and to where, so that a row goes on after a path through its tree.

    path: the row's tokens on it, from the one at position `length` on (its parent is -1), by their places in the row's
    step. pages: the row's page ids. Tokens that are in place already are left out; in this order none is overwritten
    before it has been copied.
    """
    own = np.array(path, np.int64)
    moved = np.flatnonzero(own != np.arange(len(own)))
    source, target = length + own[moved], length + moved
    return _slots(source, pages, page_size), _slots(target, pages, page_size)


def _slots(own: NDArray[np.int64], pages: Int32, page_size: int) -> Int32:
    """The slab's slots of a row's."""
    return (pages[own // page_size] * page_size + own % page_size).astype(np.int32)
