"""Rows that branch: every token's bits are those of the same text decoded alone, whatever else the tree holds."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kernels.cpu

if not kernels.cpu.available():
    pytest.skip(kernels.cpu.reason(), allow_module_level=True)

import mlx.core as mx

from kernels import tree
from kernels.cpu import _ext
from kernels.cpu.decoder import CpuDecoder
from kernels.decoder import Batch, DecoderSpec, DecoderWeights, Kv, LayerWeights, Rope
from tests.oracles import random_decoder

PAGE_SIZE = 16


@pytest.fixture(params=_ext.supported_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    _ext.set_isa(request.param)
    yield request.param
    _ext.set_isa("auto")


@pytest.fixture
def threads() -> Iterator[None]:
    yield
    _ext.set_threads(0)


def ints(values: Any) -> np.ndarray:
    return np.array(values, np.int32)


def random_parents(random: np.random.Generator, tokens: int, chained: float) -> list[int]:
    """Of a random forest; the larger `chained`, the longer its paths."""
    return [i - 1 if random.random() < chained else int(random.integers(-1, i)) for i in range(tokens)]


def path_to(parents: list[int], token: int) -> list[int]:
    """The tokens of the tree that a text ending in `token` has, in order."""
    path = [token]
    while parents[path[0]] >= 0:
        path.insert(0, parents[path[0]])
    return path


# Attention alone, where long rows, tiles and tiers are cheap.


def slab(kv_heads: int, dim: int, pages: int, page_size: int, blocks: Mapping[str, int] | None = None) -> Any:
    """A slab of one layer; slabs are made by decoders, so this makes the smallest one that fits."""
    width = kv_heads * dim
    one, into, back = mx.ones(1), mx.zeros((width, 1)), mx.zeros((1, width))
    layer = LayerWeights(one, into, into, into, back, one, mx.zeros((1, 1)), mx.zeros((1, 1)), mx.zeros((1, 1)))
    spec = DecoderSpec(1, 1, kv_heads, kv_heads, dim, 1, 1, 1 << 20, 1e-5, Rope((), False))
    weights = DecoderWeights(mx.zeros((1, 1)), (layer,), one, mx.zeros((1, 1)))
    return CpuDecoder(spec, weights).allocate_kv(pages, page_size, blocks)


class Sequence:
    """Random q, k, v of a row's history and of the tokens of its tree after it."""

    def __init__(self, seed: int, tokens: int, heads: int, kv_heads: int, dim: int) -> None:
        random = np.random.default_rng(seed)
        self.q = random.normal(0, 2, (tokens, heads, dim)).astype(np.float32)
        self.k, self.v = random.normal(0, 1, (2, tokens, kv_heads, dim)).astype(np.float32)

    def attend(
        self, kv: Any, pages: np.ndarray, length: int, which: list[int], parents: list[int] | None = None
    ) -> np.ndarray:
        """Of the tokens `which` [t], as one step after `length` -> [t, heads, dim]."""
        q, k, v = (np.ascontiguousarray(x[which]) for x in (self.q, self.k, self.v))
        starts, scale = ints([0, len(which)]), q.shape[2] ** -0.5
        column = None if parents is None else ints(parents)
        return _ext.attend(kv, 0, q, k, v, starts, ints([length]), pages[None], scale, column)


@pytest.mark.parametrize("length", [0, 3, 250, 256, 509])
@pytest.mark.parametrize(("heads", "kv_heads", "dim", "page_size"), [(9, 3, 64, 16), (4, 4, 16, 5), (7, 1, 40, 300)])
def test_a_token_attends_as_if_its_text_were_alone(
    isa: str, threads: None, length: int, heads: int, kv_heads: int, dim: int, page_size: int
) -> None:
    """Over tiles of 256 positions, which the tree's slots and positions cross at different tokens."""
    tokens = 20
    row = Sequence(length, length + tokens, heads, kv_heads, dim)
    random = np.random.default_rng(length)
    pages = random.permutation(-(-(length + tokens) // page_size)).astype(np.int32)
    kv = slab(kv_heads, dim, len(pages), page_size)
    if length:
        row.attend(kv, pages, 0, list(range(length)))
    for chained in (0.5, 0.9):
        parents = random_parents(random, tokens, chained)
        results = []
        for count in (1, 3):
            _ext.set_threads(count)
            results.append(row.attend(kv, pages, length, list(range(length, length + tokens)), parents))
        np.testing.assert_array_equal(*results)
        for token in range(tokens):
            path = path_to(parents, token)
            texts = [length + step for step in path]
            alone = row.attend(kv, pages, length, texts)[-1:]
            # Also step by step: the last token alone, after the others.
            one = row.attend(kv, pages, length + len(texts) - 1, texts[-1:])
            np.testing.assert_array_equal(results[0][token : token + 1], alone)
            np.testing.assert_array_equal(one, alone)


@pytest.mark.parametrize("name", ["q8", "q4", "q2"])
def test_a_quantized_history_is_read_as_by_a_row_without_branches(isa: str, name: str) -> None:
    length, parents = 300, [-1, 0, 0, 1, 1, 2, -1, 6, 3, 8]
    row = Sequence(1, length + len(parents), 6, 2, 40)
    kv = slab(2, 40, 24, PAGE_SIZE, {name: 4})
    pages = np.arange(20, dtype=np.int32)
    row.attend(kv, pages, 0, list(range(length)))
    kv.demote(pages[:16], ints(24 + 4 * np.arange(4)))
    pages[:16] = np.arange(24, 40)
    got = row.attend(kv, pages, length, list(range(length, length + len(parents))), parents)
    for token in range(len(parents)):
        alone = row.attend(kv, pages, length, [length + step for step in path_to(parents, token)])
        np.testing.assert_array_equal(got[token], alone[-1])


def test_many_branches_of_one_token_reach_past_their_tile() -> None:
    """All stand at one position, so that the tile that holds it has more keys than positions."""
    length, tokens = 200, 700
    row = Sequence(2, length + tokens, 3, 1, 16)
    pages = np.arange(57, dtype=np.int32)
    kv = slab(1, 16, 57, PAGE_SIZE)
    row.attend(kv, pages, 0, list(range(length)))
    got = row.attend(kv, pages, length, list(range(length, length + tokens)), [-1] * tokens)
    for token in (0, 1, 57, 500, 699):
        np.testing.assert_array_equal(got[token], row.attend(kv, pages, length, [length + token])[0])


def test_what_a_token_does_not_see_does_not_reach_it() -> None:
    row = Sequence(3, 8, 2, 1, 16)
    parents = [-1, 0, 0, 1, 2, 4, 3, 5]
    results = []
    for stranger in (1.0, 30.0):
        row.v[[1, 3, 6]] = stranger  # one branch
        results.append(row.attend(slab(1, 16, 1, 16), ints([0]), 0, list(range(8)), parents))
    other = [0, 2, 4, 5, 7]
    np.testing.assert_array_equal(results[0][other], results[1][other])
    assert (results[0][[1, 3, 6]] != results[1][[1, 3, 6]]).any(axis=(1, 2)).all()


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ([0, 0], r"parents\[0\] is 0; token 0 of a row accepts -1\.\.-1"),
        ([-1, 1], r"parents\[1\] is 1; token 1 of a row accepts -1\.\.0"),
        ([-1, -2], r"parents\[1\] is -2"),
        ([-1], "parents has 1 entries; there are 2 tokens"),
    ],
)
def test_parents_that_are_none_are_named(parents: list[int], message: str) -> None:
    kv, x = slab(1, 16, 4, 16), np.zeros((2, 1, 16), np.float32)
    with pytest.raises(ValueError, match=message):
        _ext.attend(kv, 0, x, x, x, ints([0, 2]), ints([0]), ints([[0]]), 0.25, ints(parents))


# Whole models.


class Row:
    """A text of random tokens on pages of its own: some in the KV, then a tree."""

    def __init__(self, random: np.random.Generator, vocab: int, length: int, tokens: int, chained: float) -> None:
        self.history = ints(random.integers(0, vocab, length))
        self.tokens = ints(random.integers(0, vocab, tokens))
        self.parents = random_parents(random, tokens, chained)


def step(rows: list[tuple[np.ndarray, int, np.ndarray]], parents: list[list[int]] | None = None) -> Batch:
    """(tokens, length, pages) of each row; logits of all."""
    starts = ints(np.cumsum([0, *(len(tokens) for tokens, _, _ in rows)]))
    table = np.full((len(rows), max(len(pages) for _, _, pages in rows)), -1, np.int32)
    for r, (_, _, pages) in enumerate(rows):
        table[r, : len(pages)] = pages
    column = None if parents is None else ints([parent for each in parents for parent in each])
    tokens = np.concatenate([tokens for tokens, _, _ in rows])
    return Batch(tokens, starts, ints([length for _, length, _ in rows]), table, ints(range(starts[-1])), column)


def page_list(first: int, row: Row) -> np.ndarray:
    return np.arange(first, first - (-(len(row.history) + len(row.tokens)) // PAGE_SIZE), dtype=np.int32)


def filled(decoder: CpuDecoder, rows: list[Row]) -> tuple[Kv, list[np.ndarray]]:
    """A slab with the rows' histories in it, and the rows' pages."""
    pages, first = [], 0
    for row in rows:
        pages.append(page_list(first, row))
        first += len(pages[-1])
    kv = decoder.allocate_kv(first, PAGE_SIZE)
    for row, own in zip(rows, pages, strict=True):
        if len(row.history):
            decoder.forward(step([(row.history, 0, own)]), kv)
    return kv, pages


def check_trees(decoder: CpuDecoder, rows: list[Row]) -> None:
    """One forward over all rows' trees equals every token's text decoded by itself, token by token."""
    kv, pages = filled(decoder, rows)
    together = step(
        [(row.tokens, len(row.history), own) for row, own in zip(rows, pages, strict=True)],
        [row.parents for row in rows],
    )
    got = np.array(decoder.forward(together, kv))
    for row, begin in zip(rows, together.row_starts, strict=False):
        alone, (own,) = filled(decoder, [row])
        for token in range(len(row.tokens)):
            # A token's own path has been decoded up to its parent: what is written over is of other branches.
            path = path_to(row.parents, token)
            for depth, at in enumerate(path):
                one = (row.tokens[at : at + 1], len(row.history) + depth, own)
                logits = np.array(decoder.forward(step([one]), alone))
            np.testing.assert_array_equal(got[begin + token], logits[0])


@pytest.mark.parametrize(
    "variant",
    [
        {"bits": 4},
        {"bits": 8, "bias": True, "tied": False},
        {"kv_heads": 4, "interleaved": False},
        {"heads": 6, "kv_heads": 1, "pairs": 3},
        {"bits": 8, "gelu": True},
    ],
    ids=str,
)
def test_trees_of_every_kind_of_model(isa: str, variant: dict) -> None:
    changes = dict(variant)
    if changes.pop("gelu", False):
        changes["activation"] = random_decoder.Activation.GELU_TANH
    spec, weights = random_decoder.model(**changes)
    random = np.random.default_rng(7)
    rows = [Row(random, spec.vocab, length, tokens, 0.6) for length, tokens in ((5, 9), (0, 6), (17, 1), (14, 12))]
    check_trees(CpuDecoder(spec, weights), rows)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shapes=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), min_size=1, max_size=4),
    chained=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_tree(shapes: list[tuple[int, int]], chained: float, seed: int) -> None:
    spec, weights = random_decoder.model(bits=4)
    random = np.random.default_rng(seed)
    check_trees(CpuDecoder(spec, weights), [Row(random, spec.vocab, *shape, chained) for shape in shapes])


@settings(max_examples=25)
@given(length=st.integers(0, 40), tokens=st.integers(1, 16), seed=st.integers(0, 2**32 - 1))
def test_a_row_goes_on_after_any_path_as_if_it_had_been_decoded(length: int, tokens: int, seed: int) -> None:
    """Compacted after the tree, the row's KV is that of the path, bit for bit, and so is what follows."""
    spec, weights = random_decoder.model(bits=4)
    decoder = CpuDecoder(spec, weights)
    random = np.random.default_rng(seed)
    row = Row(random, spec.vocab, length, tokens, 0.6)
    kv, (pages,) = filled(decoder, [row])
    decoder.forward(step([(row.tokens, length, pages)], [row.parents]), kv)
    path = path_to(row.parents, int(random.integers(tokens)))[: int(random.integers(1, tokens + 1))]
    kv.move_tokens(*tree.compaction(length, path, pages, PAGE_SIZE))
    plain, _ = filled(decoder, [row])
    decoder.forward(step([(row.tokens[path], length, pages)]), plain)
    room = len(pages) * PAGE_SIZE - length - len(path)
    if room == 0:
        return
    after = [(ints([3] * min(room, 3)), length + len(path), pages)]
    np.testing.assert_array_equal(decoder.forward(step(after), kv), decoder.forward(step(after), plain))


def test_tokens_move_in_order_and_past_pages() -> None:
    kv, row = slab(2, 24, 4, 5), Sequence(4, 20, 2, 2, 24)
    pages = np.arange(4, dtype=np.int32)
    row.attend(kv, pages, 0, list(range(20)))
    moves = [(0, 7), (7, 19), (12, 12), (3, 4), (4, 3)]
    for source, target in moves:
        for x in (row.k, row.v):
            x[target] = x[source]
    kv.move_tokens(*ints(moves).T.copy())
    want = slab(2, 24, 4, 5)
    row.attend(want, pages, 0, list(range(20)))
    for page in range(4):
        parts = [bytearray(kv.tiers[0].unit_bytes) for _ in range(2)]
        kv.read_unit(page, parts[0])
        want.read_unit(page, parts[1])
        assert parts[0] == parts[1]


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ([0, 1], [0], "move_tokens: 2 sources but 1 targets"),
        ([32], [0], r"slot 32 is not in the slab; its half-precision pages have slots 0\.\.31"),
        ([0], [-1], "slot -1 is not in the slab"),
        ([0, 0], [1, 40], "slot 40 is not in the slab"),
    ],
)
def test_what_cannot_be_moved_is_named_and_nothing_is(source: list, target: list, message: str) -> None:
    kv, row = slab(1, 16, 2, 16, {"q8": 1}), Sequence(5, 8, 1, 1, 16)
    row.attend(kv, ints([0, 1]), 0, list(range(8)))
    before, after = (bytearray(kv.tiers[0].unit_bytes) for _ in range(2))
    kv.read_unit(0, before)
    with pytest.raises(ValueError, match=message):
        kv.move_tokens(ints(source), ints(target))
    kv.read_unit(0, after)
    assert before == after


def test_a_chain_written_as_parents_is_no_tree() -> None:
    """The same numbers and the same bytes as without: rows that branch and rows that do not share a batch."""
    spec, weights = random_decoder.model(bits=4)
    decoder = CpuDecoder(spec, weights)
    random = np.random.default_rng(2)
    rows = [Row(random, spec.vocab, 20, 5, 1.0), Row(random, spec.vocab, 7, 9, 0.3)]
    kv, pages = filled(decoder, rows)
    both = [(row.tokens, len(row.history), own) for row, own in zip(rows, pages, strict=True)]
    chains = [[i - 1 for i in range(len(row.tokens))] for row in rows]
    plain = np.array(decoder.forward(step(both), kv))
    np.testing.assert_array_equal(decoder.forward(step(both, chains), kv), plain)
    mixed = np.array(decoder.forward(step(both, [chains[0], rows[1].parents]), kv))
    np.testing.assert_array_equal(mixed[:5], plain[:5])
    assert (mixed[5:] != plain[5:]).any()
