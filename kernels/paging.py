"""Where a batch's keys and values lie: checks, slots, and the groups in which attention computes its queries.

Everything here is a function of the batch alone, on the host, once per forward and shared by its layers. A slab of
pages * page_size slots is followed by two more: padding tokens write to the first (BIN), and what a query must not see
reads the second (ZERO), which stays zero, so that another row's values never enter a product, not even times 0.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels import tree
from kernels.decoder import Batch, Int32

SPARE_SLOTS = 2


class Places(NamedTuple):
    """Per token of the batch; padding (position 0, the bin's slot) up to a bucket."""

    positions: Int32  # [T']
    slots: Int32  # [T'], where its K and V go


class Group(NamedTuple):
    """Queries that attend together: B rows, t queries each, over S keys."""

    tokens: Int32  # [B, t], indices of the queries among the batch's tokens
    slots: Int32  # [B, S], the slab's slots of the row's slots 0, 1, ...; the zero slot past those in use
    visible: NDArray[np.bool_]  # [B, 1, t, S]


class Attention(NamedTuple):
    """All groups, and for each of the padded tokens its index in their outputs laid end to end."""

    groups: list[Group]
    order: Int32  # [T']


def bucket(n: int) -> int:
    """The least of 0..8, 10, 12, 14, 16, 20, 24, 28, 32, 40, ... that is no less than n: few shapes, little padding."""
    step = 1 << max(n.bit_length() - 3, 0)
    return -(-n // step) * step


def check(batch: Batch, vocab: int, pages: int, page_size: int) -> None:
    """Raise ValueError, naming the value, where the batch is malformed or reaches outside vocabulary or slab."""
    tokens, row_starts, lengths, table, logits_at, _, hidden = batch
    rows, total = len(lengths), len(tokens)
    if len(row_starts) != rows + 1 or row_starts[0] != 0 or row_starts[-1] != total or (np.diff(row_starts) < 1).any():
        raise ValueError(f"row_starts must rise from 0 to {total} in {rows + 1} entries, got {row_starts}")
    if total and not 0 <= tokens.min() <= tokens.max() < vocab:
        raise ValueError(f"tokens must lie in [0, {vocab}), got {tokens.min()}..{tokens.max()}")
    if (lengths < 0).any():
        raise ValueError(f"lengths must be at least 0, got {lengths.min()}")
    needed = -(-(lengths + np.diff(row_starts)) // page_size)
    if table.ndim != 2 or len(table) != rows or (rows and needed.max() > table.shape[1]):
        raise ValueError(f"page_table must be [{rows}, at least {needed.max(initial=0)}], got {list(table.shape)}")
    used = table[np.arange(table.shape[1]) < needed[:, None]]
    if len(used) and not 0 <= used.min() <= used.max() < pages:
        raise ValueError(f"pages in use must lie in [0, {pages}), got {used.min()}..{used.max()}")
    for name, at in (("logits_at", logits_at), ("hidden.at", hidden.at if hidden else np.zeros(0, np.int32))):
        if len(at) and (at[0] < 0 or at[-1] >= total or (np.diff(at) < 1).any()):
            raise ValueError(f"{name} must rise within [0, {total}), got {at}")
    tree.check(batch)


def places(batch: Batch, pages: int, page_size: int) -> Places:
    """Position and slot of every token, padded."""
    counts = np.diff(batch.row_starts)
    row = np.repeat(np.arange(len(counts)), counts)
    padded = bucket(len(row))
    positions = np.zeros(padded, np.int32)
    positions[: len(row)] = tree.positions(batch)
    slots = np.full(padded, pages * page_size, np.int32)
    own = np.arange(len(row)) + np.repeat(batch.lengths - batch.row_starts[:-1], counts)
    slots[: len(row)] = batch.page_table[row, own // page_size] * page_size + own % page_size
    return Places(positions, slots)


def attention(batch: Batch, pages: int, page_size: int, key_bytes: int, score_bytes: int, budget: int) -> Attention:
    """Cut the queries into groups, each within `budget` bytes of scratch where one query of one row allows it.

    A gathered key costs key_bytes (its K and V), and each query's look at it score_bytes. Rows of one token are
    grouped with rows at least half as long; a longer chunk is computed row by row, in blocks of queries.
    """
    counts = np.diff(batch.row_starts)
    keys = batch.lengths + counts
    groups = []
    single = np.flatnonzero(counts == 1)
    single = single[np.argsort(-keys[single], kind="stable")]
    while len(single):
        longest = bucket(int(keys[single[0]]))
        most = max(budget // (longest * (key_bytes + score_bytes)), 1)
        taken = min(int(np.count_nonzero(2 * keys[single] >= longest)) or 1, most)
        groups.append(_group(batch, single[:taken], 0, 1, longest, pages, page_size))
        single = single[taken:]
    for row in np.flatnonzero(counts > 1):
        first = 0
        while first < counts[row]:
            longest = bucket(int(keys[row]))
            most = max((budget - longest * key_bytes) // (longest * score_bytes), 1)
            block = int(min(most, counts[row] - first))
            seen = bucket(int(batch.lengths[row]) + first + block)
            groups.append(_group(batch, np.array([row]), first, block, seen, pages, page_size))
            first += block
    return Attention(groups, _order(groups, len(batch.tokens)))


def _group(
    batch: Batch, rows: NDArray[np.intp], first: int, count: int, keys: int, pages: int, page_size: int
) -> Group:
    """Queries first..first + count of each row, over slots 0..keys; both padded by repeating the last."""
    rows = rows[np.minimum(np.arange(bucket(len(rows))), len(rows) - 1)]
    queries = first + np.minimum(np.arange(bucket(count)), count - 1)
    tokens = batch.row_starts[rows][:, None] + queries
    last = batch.lengths[rows] + queries[-1]  # [B], the last slot that any query sees
    slot = np.arange(keys)
    page = batch.page_table[rows][:, np.minimum(slot // page_size, batch.page_table.shape[1] - 1)]
    zero = pages * page_size + 1
    slots = np.where(slot <= last[:, None], page * page_size + slot % page_size, zero)
    visible = np.stack([tree.visible(batch, int(row), first, count, keys) for row in rows])
    return Group(tokens.astype(np.int32), slots.astype(np.int32), visible[:, None, queries - first])


def _order(groups: list[Group], tokens: int) -> Int32:
    order = np.zeros(bucket(tokens), np.int32)
    computed = np.concatenate([group.tokens.ravel() for group in groups])
    order[computed] = np.arange(len(computed))  # of a query padded by repetition, any copy will do
    return order


def resolve_copies(source: Int32, target: Int32) -> tuple[Int32, Int32]:
    """The same copies as source[i] -> target[i] one after another, as (originals, targets) done all at once."""
    content: dict[int, int] = {}
    for origin, page in zip(source.tolist(), target.tolist(), strict=True):
        content[page] = content.get(int(origin), int(origin))
    return np.array(list(content.values()), np.int32), np.array(list(content), np.int32)
