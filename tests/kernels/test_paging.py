"""Buckets and groups: how a batch is laid out for attention."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import paging
from kernels.decoder import Batch

PAGE_SIZE = 4


@given(st.integers(1, 10**6))
def test_a_bucket_holds_n_with_little_padding(n: int) -> None:
    bucket = paging.bucket(n)
    assert n <= bucket <= n * 5 / 4
    assert paging.bucket(bucket) == bucket


def test_buckets_are_few() -> None:
    assert len({paging.bucket(n) for n in range(1, 8193)}) <= 50


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), min_size=1, max_size=8), st.sampled_from([500, 10**6])
)
def test_groups_cover_every_query_with_its_own_keys(rows: list[tuple[int, int]], budget: int) -> None:
    """Each token's output row looks at exactly the slots of positions 0 to its own, within the scratch budget."""
    counts = np.array([count for _, count in rows], np.int32)
    lengths = np.array([length for length, _ in rows], np.int32)
    table = np.arange(len(rows) * 14, dtype=np.int32).reshape(len(rows), 14)[::-1]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    none = np.zeros(0, np.int32)
    batch = Batch(np.zeros(starts[-1], np.int32), starts, lengths, table, none)
    plan = paging.attention(batch, 128, PAGE_SIZE, key_bytes=4, score_bytes=2, budget=budget)
    queries = [(group, b, t) for group in plan.groups for b, t in np.ndindex(group.tokens.shape)]
    for row, (length, count) in enumerate(rows):
        for token in range(count):
            group, b, t = queries[plan.order[starts[row] + token]]
            seen = group.slots[b][group.visible[b, 0, t]]
            positions = np.arange(length + token + 1)
            want = table[row, positions // PAGE_SIZE] * PAGE_SIZE + positions % PAGE_SIZE
            np.testing.assert_array_equal(seen, want)
    for group in plan.groups:
        real_rows, real_queries = len(np.unique(group.tokens[:, 0])), len(np.unique(group.tokens[0]))
        scratch = real_rows * group.slots.shape[1] * (4 + 2 * real_queries)
        assert scratch <= budget or real_rows * real_queries == 1


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), min_size=1, max_size=8))
def test_places_are_the_pages_own_slots_and_padding_goes_to_the_bin(rows: list[tuple[int, int]]) -> None:
    counts = np.array([count for _, count in rows], np.int32)
    lengths = np.array([length for length, _ in rows], np.int32)
    table = np.arange(len(rows) * 14, dtype=np.int32).reshape(len(rows), 14)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    none = np.zeros(0, np.int32)
    places = paging.places(Batch(np.zeros(starts[-1], np.int32), starts, lengths, table, none), 128, PAGE_SIZE)
    want = [length + t for length, count in rows for t in range(count)]
    assert places.positions[: starts[-1]].tolist() == want
    slots = [row * 56 + length + t for row, (length, count) in enumerate(rows) for t in range(count)]
    assert places.slots[: starts[-1]].tolist() == slots
    assert (places.slots[starts[-1] :] == 128 * PAGE_SIZE).all()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_resolved_copies_end_where_ordered_ones_do(copies: list[tuple[int, int]]) -> None:
    want = list(range(6))
    for source, target in copies:
        want[target] = want[source]
    got = np.arange(6)
    originals, targets = paging.resolve_copies(*np.array(copies, np.int32).reshape(-1, 2).T)
    got[targets] = got[originals]
    assert got.tolist() == want
    assert len(set(targets.tolist())) == len(targets)
