"""Paged attention against float64 NumPy, and its promise: a query's bits depend on nothing but its row."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import kernels.cpu

if not kernels.cpu.available():
    pytest.skip(kernels.cpu.reason(), allow_module_level=True)

import mlx.core as mx

from kernels.cpu import _ext
from kernels.cpu.decoder import CpuDecoder
from kernels.decoder import DecoderSpec, DecoderWeights, LayerWeights, Rope


@pytest.fixture(params=_ext.supported_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    _ext.set_isa(request.param)
    yield request.param
    _ext.set_isa("auto")


@pytest.fixture
def threads() -> Iterator[None]:
    yield
    _ext.set_threads(0)


def slab(kv_heads: int, head_dim: int, pages: int, page_size: int) -> Any:
    """A slab of two layers; slabs are made by decoders, so this makes the smallest one that fits."""
    hidden, width = 1, kv_heads * head_dim
    one, into, back = mx.ones(hidden), mx.zeros((width, hidden)), mx.zeros((hidden, width))
    up, down = mx.zeros((1, hidden)), mx.zeros((hidden, 1))
    layer = LayerWeights(one, into, into, into, back, one, up, up, down)
    spec = DecoderSpec(2, hidden, kv_heads, kv_heads, head_dim, 1, 1, 1 << 20, 1e-5, Rope((), False))
    embedding = mx.zeros((1, hidden))
    decoder = CpuDecoder(spec, DecoderWeights(embedding, (layer, layer), mx.ones(hidden), embedding))
    return decoder.allocate_kv(pages, page_size)


class Sequence:
    """One row's q, k, v for all its positions, and its pages."""

    def __init__(self, seed: int, tokens: int, heads: int, kv_heads: int, dim: int, pages: np.ndarray) -> None:
        random = np.random.default_rng(seed)
        self.q = random.normal(0, 2, (tokens, heads, dim)).astype(np.float32)
        self.k, self.v = random.normal(0, 1, (2, tokens, kv_heads, dim)).astype(np.float32)
        self.pages = pages.astype(np.int32)

    def oracle(self) -> np.ndarray:
        k, v = (x.astype(np.float16).astype(np.float64) for x in (self.k, self.v))
        group = self.q.shape[1] // k.shape[1]
        k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
        scores = np.einsum("qhd,khd->hqk", self.q.astype(np.float64), k) / np.sqrt(self.q.shape[2])
        scores = np.where(np.tril(np.ones(scores.shape[1:], bool)), scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        return np.einsum("hqk,khd->qhd", weights / weights.sum(axis=2, keepdims=True), v)


def attend(kv, rows: list[tuple[Sequence, int, int]], layer: int = 1) -> list[np.ndarray]:
    """One call for tokens [begin, end) of each (sequence, begin, end); the results row by row."""
    starts = np.cumsum([0, *(end - begin for _, begin, end in rows)]).astype(np.int32)
    table = np.full((len(rows), max(len(s.pages) for s, _, _ in rows)), -1, np.int32)
    for r, (sequence, _, _) in enumerate(rows):
        table[r, : len(sequence.pages)] = sequence.pages
    q, k, v = (np.concatenate([getattr(s, name)[b:e] for s, b, e in rows]) for name in "qkv")
    lengths = np.array([begin for _, begin, _ in rows], np.int32)
    out = _ext.attend(kv, layer, q, k, v, starts, lengths, table, q.shape[2] ** -0.5)
    return [out[starts[r] : starts[r + 1]] for r in range(len(rows))]


@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "page_size", "tokens"),
    [
        (9, 3, 64, 16, 40),
        (4, 4, 16, 16, 1),
        (8, 1, 32, 5, 33),
        (7, 1, 40, 16, 70),
        (2, 2, 3, 1, 9),
        (6, 2, 48, 300, 301),
        (3, 1, 16, 5, 520),  # pages of less than a block, in three tiles
        (4, 2, 32, 40, 500),  # pages of two blocks and a half, in three tiles
    ],
)
def test_oracle(isa: str, heads: int, kv_heads: int, dim: int, page_size: int, tokens: int) -> None:
    pages = -(-tokens // page_size)
    order = np.random.default_rng(1).permutation(pages + 2)[:pages]
    sequence = Sequence(tokens, tokens, heads, kv_heads, dim, order)
    (out,) = attend(slab(kv_heads, dim, pages + 2, page_size), [(sequence, 0, tokens)])
    np.testing.assert_allclose(out, sequence.oracle(), rtol=2e-5, atol=2e-6)


def test_long_rows_split_over_threads_give_the_same_bits(isa: str, threads: None) -> None:
    tokens = 1300  # several tiles of 256 keys
    sequence = Sequence(5, tokens, 6, 2, 32, np.arange(82)[::-1])
    results = []
    for count, cuts in ((1, [0, tokens]), (2, [0, tokens - 1, tokens]), (3, [0, 700, 701, 1024, 1299, tokens])):
        _ext.set_threads(count)
        kv = slab(2, 32, 82, 16)
        results.append(np.concatenate([attend(kv, [(sequence, a, b)])[0] for a, b in pairwise(cuts)]))
    np.testing.assert_allclose(results[0], sequence.oracle(), rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_uneven_rows_give_the_same_bits_on_any_number_of_threads(isa: str, threads: None) -> None:
    """Units of work end inside rows, at their ends, and reach over several: none of it shows."""
    lengths = [1, 900, 3, 257, 40, 256, 700, 2]
    pages = np.cumsum([0, *(-(-n // 16) for n in lengths)])
    rows = [Sequence(20 + i, n, 6, 2, 32, np.arange(pages[i], pages[i + 1])) for i, n in enumerate(lengths)]
    kv = slab(2, 32, int(pages[-1]), 16)
    attend(kv, [(row, 0, len(row.q)) for row in rows])
    last = [(row, len(row.q) - 1, len(row.q)) for row in rows]
    results = []
    for count in (1, 2, 5):
        _ext.set_threads(count)
        results.append(np.concatenate(attend(kv, last)))
    for row, out in zip(rows, results[0], strict=True):
        np.testing.assert_allclose(out, row.oracle()[-1], rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_a_row_is_blind_to_its_batch_and_to_stale_pages(isa: str) -> None:
    alone = Sequence(7, 50, 9, 3, 64, np.arange(4))
    (expected,) = attend(slab(3, 64, 4, 16), [(alone, 0, 50)])
    kv = slab(3, 64, 24, 16)
    # The pages were somebody else's, whose values were not numbers.
    stale = Sequence(8, 384, 9, 3, 64, np.arange(24))
    stale.k[:], stale.v[:] = np.nan, np.nan
    attend(kv, [(stale, 0, 384)])
    alone.pages = np.array([20, 3, 11, 7], np.int32)
    others = [Sequence(9 + i, 60, 9, 3, 64, np.array([[0, 1, 2, 4], [5, 6, 8, 9]])[i]) for i in range(2)]
    first = attend(kv, [(others[0], 0, 60), (alone, 0, 33), (others[1], 0, 1)])[1]
    second = attend(kv, [(alone, 33, 34), (others[1], 1, 60)])[0]
    third = attend(kv, [(alone, 34, 50)])[0]
    np.testing.assert_array_equal(np.concatenate([first, second, third]), expected)


def test_copied_pages_attend_alike() -> None:
    kv = slab(2, 16, 6, 16)
    sequence = Sequence(3, 40, 4, 2, 16, np.array([0, 1, 2]))
    (expected,) = attend(kv, [(sequence, 0, 40)])
    kv.copy_pages(np.array([1, 2], np.int32), np.array([4, 5], np.int32))
    sequence.pages = np.array([0, 4, 5], np.int32)
    (last,) = attend(kv, [(sequence, 39, 40)])
    np.testing.assert_array_equal(last, expected[39:])
    for source, target in (([6], [0]), ([0], [-1])):
        with pytest.raises(ValueError, match=r"is not in the slab; it has pages 0\.\.5"):
            kv.copy_pages(np.array(source, np.int32), np.array(target, np.int32))


def test_released_pages_read_as_zeros() -> None:
    kv = slab(2, 16, 4, 16)
    sequence = Sequence(3, 32, 4, 2, 16, np.array([1, 2]))
    attend(kv, [(sequence, 0, 32)])
    kv.release_units(np.array([1], np.int32))
    sequence.k[:16], sequence.v[:16] = 0, 0
    (out,) = attend(kv, [(sequence, 31, 32)])
    np.testing.assert_allclose(out, sequence.oracle()[31:], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("starts", "lengths", "table", "message"),
    [
        ([0, 2], [0], [[4]], r"page_table\[0, 0\] is 4; the slab has pages 0\.\.3"),
        ([0, 2], [15], [[0, -1]], r"page_table\[0, 1\] is -1"),
        ([0, 2], [15], [[0]], "needs 2 pages"),
        ([0, 2], [-1], [[0]], r"lengths\[0\] is -1"),
        ([0, 0, 2], [0, 0], [[0], [1]], "row 0 brings 0 tokens"),
        ([0, 1, 2], [0, 0], [[1], [1]], "page 1 is written at two places"),
        ([0, 1], [0], [[0]], "row_starts runs from 0 to 1"),
        ([0, 2], [2**31 - 1], [[0]], "the context holds"),
    ],
)
def test_bad_geometry_is_refused(starts: list, lengths: list, table: list, message: str) -> None:
    kv, x = slab(1, 16, 4, 16), np.zeros((2, 1, 16), np.float32)
    with pytest.raises(ValueError, match=message):
        _ext.attend(kv, 0, x, x, x, *(np.array(a, np.int32) for a in (starts, lengths, table)), 0.25)
