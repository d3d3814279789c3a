"""Rows that branch, by MLX: each token's logits are those of its own text; and what describes a tree, by hand."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import ops, paging, tree
from kernels.decoder import Activation, Batch
from kernels.interpreter import MlxDecoder
from tests.oracles import float64, random_decoder

TOLERANCE = 2e-5
PARENTS = [-1, 0, 0, 1, 2]  # a b c d e of kernels.tree
NONE = np.zeros(0, np.int32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def path_to(parents: list[int], token: int) -> list[int]:
    return [] if token < 0 else [*path_to(parents, parents[token]), token]


def geometry(lengths: list[int], parents: list[list[int]]) -> Batch:
    starts = np.cumsum([0, *map(len, parents)], dtype=np.int32)
    table = np.zeros((len(lengths), 0), np.int32)
    column = ints(*(parent for row in parents for parent in row))
    return Batch(np.zeros(starts[-1], np.int32), starts, ints(*lengths), table, NONE, column)


def test_positions_are_those_of_the_texts() -> None:
    batch = geometry([7, 0], [PARENTS, [-1, -1, 1, 2]])
    assert tree.positions(batch).tolist() == [7, 8, 8, 9, 9, 0, 0, 1, 2]
    assert tree.positions(batch._replace(parents=None)).tolist() == [7, 8, 9, 10, 11, 0, 1, 2, 3]


def test_a_token_sees_what_came_before_it_in_its_text() -> None:
    batch = geometry([1, 2], [[-1], PARENTS])
    assert tree.visible(batch, 1, 1, 4, 8).astype(int).tolist() == [
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 1, 0, 0],
        [1, 1, 1, 0, 1, 0, 1, 0],
    ]
    assert tree.visible(batch._replace(parents=None), 1, 0, 2, 4).astype(int).tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


@given(st.integers(0, 9), st.lists(st.integers(0, 9), min_size=1, max_size=9), st.integers(1, 5))
def test_compaction_brings_each_token_to_its_position(length: int, picks: list[int], page_size: int) -> None:
    path = sorted(set(picks))
    pages = np.random.default_rng(1).permutation(30).astype(np.int32)

    def slot(own: int) -> int:
        return int(pages[own // page_size]) * page_size + own % page_size

    kv = {slot(own): own for own in range(length + 10)}
    for source, target in zip(*tree.compaction(length, path, pages, page_size), strict=True):
        assert source != target
        kv[int(target)] = kv[int(source)]
    assert [kv[slot(length + i)] for i in range(len(path))] == [length + own for own in path]
    assert [kv[slot(own)] for own in range(length)] == list(range(length))


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ([-1, 0, 0], r"parents\[2\] is 0; token 0 of a row accepts -1\.\.-1"),
        ([-1, 1, -1], r"parents\[1\] is 1; token 1 of a row accepts -1\.\.0"),
        ([-2, 0, -1], r"parents\[0\] is -2"),
        ([-1, 0], "parents has 2 entries; there are 3 tokens"),
    ],
)
def test_parents_that_are_none_are_named_before_anything_is_written(parents: list[int], message: str) -> None:
    spec, weights = random_decoder.model(layers=1)
    decoder = MlxDecoder(spec, weights)
    kv = decoder.allocate_kv(2, 4)
    batch = Batch(ints(1, 2, 3), ints(0, 2, 3), ints(0, 0), ints(0, 1)[:, None], NONE, ints(*parents))
    with pytest.raises(ValueError, match=message):
        decoder.forward(batch, kv)
    assert not any(np.array(array).any() for array in (*kv.k, *kv.v))


VARIANTS = [
    {"bits": 8},
    {"kv_heads": 4, "interleaved": False},
    {"bias": True, "pairs": 3, "activation": Activation.GELU_TANH},
]


@settings(max_examples=20)
@given(
    variant=st.sampled_from(VARIANTS),
    shapes=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 8)), min_size=1, max_size=4),
    page_size=st.sampled_from([1, 3, 4]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_tree_agrees_with_float64_and_goes_on_after_any_path(
    variant: dict, shapes: list[tuple[int, int]], page_size: int, seed: int
) -> None:
    """Rows with trees of all sizes in one forward; then each goes on after one of its paths, in another."""
    spec, weights = random_decoder.model(**variant)
    decoder, random = MlxDecoder(spec, weights), np.random.default_rng(seed)
    texts = [random.integers(0, spec.vocab, length + tokens + 1).tolist() for length, tokens in shapes]
    parents = [[int(random.integers(-1, i)) for i in range(tokens)] for _, tokens in shapes]
    need = [-(-len(text) // page_size) for text in texts]
    kv, free = decoder.allocate_kv(sum(need), page_size), random.permutation(sum(need)).astype(np.int32)
    table = np.full((len(shapes), max(need)), -1, np.int32)
    for row, end in enumerate(np.cumsum(need)):
        table[row, : need[row]] = free[end - need[row] : end]

    def forward(rows: list[int], tokens: list[list[int]], lengths: list[int], column: np.ndarray | None) -> np.ndarray:
        starts, flat = np.cumsum([0, *map(len, tokens)], dtype=np.int32), [t for each in tokens for t in each]
        every = np.arange(len(flat), dtype=np.int32)
        batch = Batch(ints(*flat), starts, ints(*lengths), np.ascontiguousarray(table[rows]), every, column)
        return np.array(decoder.forward(batch, kv))

    def wanted(text: list[int]) -> np.ndarray:
        return float64.decoder_logits(spec, weights, text)[-1]

    if begun := [row for row, (length, _) in enumerate(shapes) if length]:
        forward(begun, [texts[row][: shapes[row][0]] for row in begun], [0] * len(begun), None)
    rows = list(range(len(shapes)))
    lengths = [length for length, _ in shapes]
    trees = [text[length:-1] for text, length in zip(texts, lengths, strict=True)]
    got = forward(rows, trees, lengths, ints(*(parent for each in parents for parent in each)))
    paths = []
    for row, begin in zip(rows, np.cumsum([0, *map(len, trees)]), strict=False):
        history = texts[row][: lengths[row]]
        for token in range(len(trees[row])):
            path = path_to(parents[row], token)
            text = history + [trees[row][step] for step in path]
            np.testing.assert_allclose(got[begin + token], wanted(text), atol=TOLERANCE)
        paths.append(path_to(parents[row], int(random.integers(len(trees[row])))))
    for row, path in zip(rows, paths, strict=True):
        kv.move_tokens(*tree.compaction(lengths[row], path, table[row], page_size))
    after = [length + len(path) for length, path in zip(lengths, paths, strict=True)]
    logits = forward(rows, [text[-1:] for text in texts], after, None)
    for row, path in zip(rows, paths, strict=True):
        text = texts[row][: lengths[row]] + [trees[row][step] for step in path] + texts[row][-1:]
        np.testing.assert_allclose(logits[row], wanted(text), atol=TOLERANCE)


def test_the_reference_attends_by_the_tree() -> None:
    random = np.random.default_rng(4)
    length, page_size = 6, 4
    total = length + len(PARENTS)
    q = random.normal(size=(total, 4, 8)).astype(np.float32)
    k, v = random.normal(size=(2, total, 2, 8)).astype(np.float32)

    def pages(x: np.ndarray) -> mx.array:
        return mx.array(np.concatenate([x, np.zeros((12 - len(x), 2, 8), np.float32)]).reshape(3, page_size, 2, 8))

    def attend(which: list[int], length: int, parents: np.ndarray | None) -> np.ndarray:
        batch = Batch(NONE, ints(0, len(which) - length), ints(length), ints(0, 1, 2)[None], NONE, parents)
        return np.array(ops.paged_attention(mx.array(q[which[length:]]), pages(k[which]), pages(v[which]), batch, 0.3))

    got = attend(list(range(total)), length, ints(*PARENTS))
    for token in range(len(PARENTS)):
        text = [*range(length), *(length + step for step in path_to(PARENTS, token))]
        np.testing.assert_allclose(got[token], attend(text, len(text) - 1, None)[0], atol=1e-6)


def test_slots_are_where_tokens_came_and_positions_where_they_stand() -> None:
    batch = geometry([3], [PARENTS])._replace(page_table=ints(5, 2)[None])
    places = paging.places(batch, 8, 4)
    assert places.slots[:5].tolist() == [23, 8, 9, 10, 11]
    assert places.positions[:5].tolist() == [3, 4, 4, 5, 5]


@pytest.mark.parametrize(("source", "target"), [([8], [0]), ([0], [-1]), ([0, 1], [1])])
def test_what_cannot_be_moved_is_named(source: list[int], target: list[int]) -> None:
    spec, weights = random_decoder.model(layers=1)
    kv = MlxDecoder(spec, weights).allocate_kv(2, 4)
    with pytest.raises(
        ValueError, match=r"slot (8|-1) is not in the slab; its pages have slots 0 to 7|2 sources and 1"
    ):
        kv.move_tokens(ints(*source), ints(*target))
