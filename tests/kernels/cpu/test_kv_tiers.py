"""Quantized KV blocks against the NumPy reference: the same bytes, the same attention, on every instruction set."""

import threading
from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels.cpu

if not kernels.cpu.available():
    pytest.skip(kernels.cpu.reason(), allow_module_level=True)

import mlx.core as mx

from kernels.cpu import _ext
from kernels.cpu.decoder import CpuDecoder
from kernels.decoder import KV_BLOCK, DecoderSpec, DecoderWeights, Kv, KvTier, LayerWeights, Rope
from kernels.reference import kv as reference

LAYERS = 2
ISAS = _ext.supported_isas()
FORMATS = tuple(reference.BITS)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    _ext.set_isa(request.param)
    yield request.param
    _ext.set_isa("auto")


@pytest.fixture
def threads() -> Iterator[None]:
    yield
    _ext.set_threads(0)


def slab(kv_heads: int, dim: int, pages: int, page_size: int, blocks: Mapping[str, int] | None = None) -> Kv:
    """Slabs are made by decoders, so this makes the smallest one that fits."""
    width = kv_heads * dim
    one, into, back = mx.ones(1), mx.zeros((width, 1)), mx.zeros((1, width))
    layer = LayerWeights(one, into, into, into, back, one, mx.zeros((1, 1)), mx.zeros((1, 1)), mx.zeros((1, 1)))
    spec = DecoderSpec(LAYERS, 1, kv_heads, kv_heads, dim, 1, 1, 1 << 20, 1e-5, Rope((), False))
    weights = DecoderWeights(mx.zeros((1, 1)), (layer,) * LAYERS, one, mx.zeros((1, 1)))
    return CpuDecoder(spec, weights).allocate_kv(pages, page_size, blocks)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


class Row:
    """Random q, k, v for all positions of a row, whose keys have channels of very different ranges."""

    def __init__(self, seed: int, tokens: int, heads: int, kv_heads: int, dim: int) -> None:
        random = np.random.default_rng(seed)
        self.q = random.normal(0, 1, (tokens, heads, dim)).astype(np.float32)
        k = random.normal(0, 1, (tokens, kv_heads, dim)) * random.choice([0.0, 0.1, 1, 3], (kv_heads, dim))
        k += random.choice([0, 0, 0, 30], (kv_heads, dim))
        v = random.normal(0, 1, (tokens, kv_heads, dim))
        # As the slab rounds them.
        self.k, self.v = (x.astype(np.float16).astype(np.float32) for x in (k, v))

    def write(self, kv: Kv, pages: np.ndarray, layer: int, tokens: int) -> None:
        """Attend with the first tokens, so that their keys and values are in the pages."""
        attend(kv, layer, [(self, pages, 0, tokens)])


def attend(kv: Kv, layer: int, rows: list[tuple[Row, np.ndarray, int, int]]) -> list[np.ndarray]:
    """Tokens [begin, end) of each (row, pages, begin, end) in one call; the results row by row."""
    starts = np.cumsum([0, *(end - begin for _, _, begin, end in rows)]).astype(np.int32)
    table = np.full((len(rows), max(len(pages) for _, pages, _, _ in rows)), -1, np.int32)
    for r, (_, pages, _, _) in enumerate(rows):
        table[r, : len(pages)] = pages
    q, k, v = (np.concatenate([getattr(row, name)[b:e] for row, _, b, e in rows]) for name in "qkv")
    lengths = np.array([begin for _, _, begin, _ in rows], np.int32)
    out = _ext.attend(kv, layer, q, k, v, starts, lengths, table, q.shape[2] ** -0.5)
    return [out[a:b] for a, b in pairwise(starts)]


def unit_bytes(kv: Kv, unit: int, tier: KvTier) -> bytes:
    into = bytearray(tier.unit_bytes)
    kv.read_unit(unit, into)
    return bytes(into)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dim", [16, 24, 64, 80, 128])
def test_a_block_holds_the_codes_of_the_reference(isa: str, name: str, dim: int) -> None:
    kv = slab(2, dim, 4, 16, {name: 2})
    rows = [Row(seed, KV_BLOCK, 2, 2, dim) for seed in range(LAYERS)]
    for layer, row in enumerate(rows):
        row.write(kv, ints(3, 1, 0, 2), layer, KV_BLOCK)
    block = kv.tiers[1].first_page + 4  # the second one
    kv.demote(ints(3, 1, 0, 2), ints(block))
    bits = reference.BITS[name]
    blocks = reference.read_blocks(unit_bytes(kv, block, kv.tiers[1]), LAYERS, 2, dim, bits)
    for row, got in zip(rows, blocks, strict=True):
        wanted = reference.quantize(row.k, row.v, bits)
        for half, x in (("keys", row.k), ("values", row.v)):
            for part, expected in zip(getattr(got, half), getattr(wanted, half), strict=True):
                np.testing.assert_array_equal(part, expected)
            codes = getattr(wanted, half)
            step = codes.scales.astype(np.float32)
            assert (np.abs(codes.values - x) <= 0.57 * step + 1e-6).all(), "half a step, and the scale's rounding"


@pytest.mark.parametrize("name", FORMATS)
def test_a_copy_of_a_quantized_page_is_its_values_in_half_precision(isa: str, name: str) -> None:
    dim, page_size = 40, 32
    kv = slab(2, dim, 4, page_size, {name: 1})
    row = Row(4, KV_BLOCK, 4, 2, dim)
    row.write(kv, ints(0, 1), 1, KV_BLOCK)
    kv.demote(ints(0, 1), ints(4))
    kv.copy_pages(ints(5, 0), ints(2, 3))
    page = np.frombuffer(unit_bytes(kv, 2, kv.tiers[0]), np.float16).reshape(LAYERS, 2, 2, page_size * 48)[1]
    block = reference.quantize(row.k, row.v, reference.BITS[name])
    keys = page[:, 0].reshape(2, 2, 48, 16).transpose(1, 3, 0, 2).reshape(page_size, 2, 48)
    values = page[:, 1].reshape(2, page_size, 48).transpose(1, 0, 2)
    for got, codes in ((keys, block.keys), (values, block.values)):
        np.testing.assert_array_equal(got[..., :dim], codes.values[page_size:].astype(np.float16))
        assert not got[..., dim:].any()
    assert unit_bytes(kv, 3, kv.tiers[0]) == unit_bytes(kv, 0, kv.tiers[0])


def test_a_block_of_more_bits_goes_on_to_fewer() -> None:
    kv = slab(1, 64, 4, 16, dict.fromkeys(FORMATS, 1))
    row = Row(5, KV_BLOCK, 1, 1, 64)
    row.write(kv, ints(0, 1, 2, 3), 0, KV_BLOCK)
    # In one call and in this order: q4 from q8, and q8 anew.
    kv.demote(np.arange(4, dtype=np.int32), ints(4))
    kv.demote(np.array([4, 5, 6, 7, 0, 1, 2, 3], np.int32), ints(8, 4))
    kv.demote(np.arange(8, 12, dtype=np.int32), ints(12))
    x = {"k": row.k, "v": row.v}
    for tier in kv.tiers[1:]:
        bits = reference.BITS[tier.format]
        got = reference.read_blocks(unit_bytes(kv, tier.first_page, tier), LAYERS, 1, 64, bits)[0]
        wanted = reference.quantize(x["k"], x["v"], bits)
        np.testing.assert_array_equal(got.keys.codes, wanted.keys.codes)
        np.testing.assert_array_equal(got.values.codes, wanted.values.codes)
        x = {"k": got.keys.values, "v": got.values.values}
        x = {name: value.astype(np.float16).astype(np.float32) for name, value in x.items()}


@st.composite
def mixtures(draw: st.DrawFn) -> dict:
    page_size = draw(st.sampled_from([16, 32, 64]))
    # Of every 64 tokens: full precision, or a block of which so many of the first pages are listed.
    pieces = draw(
        st.lists(
            st.tuples(st.sampled_from(["f16", *FORMATS]), st.integers(1, KV_BLOCK // page_size)), min_size=1, max_size=7
        )
    )
    group = draw(st.integers(1, 7))
    return {
        "page_size": page_size,
        "pieces": pieces,
        "group": group,
        "kv_heads": draw(st.integers(1, 2)),
        "dim": draw(st.sampled_from([16, 24, 48, 64, 80, 96, 128])),
        "queries": draw(st.integers(1, 40)),
        "seed": draw(st.integers(0, 99)),
        "isa": draw(st.sampled_from(ISAS)),
    }


def mixed(kv: Kv, row: Row, page_size: int, pieces: list[tuple[str, int]], layer: int) -> tuple[np.ndarray, list]:
    """Write the row's tokens and demote as `pieces` say: its page table, and its keys and values as they are held."""
    per_block = KV_BLOCK // page_size
    first = {tier.format: tier.first_page for tier in kv.tiers}
    pages = np.random.default_rng(1).permutation(kv.pages).astype(np.int32)
    count = -(-len(row.k) // page_size)
    row.write(kv, pages[:count], layer, len(row.k))
    table, held = pages[:count].copy(), []
    for index, (name, listed) in enumerate(pieces):
        begin, at = index * KV_BLOCK, index * per_block
        k, v = row.k[begin : begin + KV_BLOCK], row.v[begin : begin + KV_BLOCK]
        if name != "f16":
            kv.demote(table[at : at + per_block].copy(), ints(first[name]))
            table[at : at + listed] = first[name] + np.arange(listed)
            first[name] += per_block
            block, tokens = reference.quantize(k, v, reference.BITS[name]), listed * page_size
            k, v = k.copy(), v.copy()
            k[:tokens], v[:tokens] = block.keys.values[:tokens], block.values.values[:tokens]
        held.append((k, v))
    end = len(pieces) * KV_BLOCK
    return table, [*held, (row.k[end:], row.v[end:])]


@settings(max_examples=60)
@given(mixtures())
def test_attention_over_a_mixture_is_the_reference(case: dict) -> None:
    _ext.set_isa(case["isa"])
    try:
        check_mixture(case)
    finally:
        _ext.set_isa("auto")


def check_mixture(case: dict) -> None:
    pieces, page_size, heads = case["pieces"], case["page_size"], case["group"] * case["kv_heads"]
    tokens = len(pieces) * KV_BLOCK + case["queries"]
    row = Row(case["seed"], tokens, heads, case["kv_heads"], case["dim"])
    kv = slab(case["kv_heads"], case["dim"], -(-tokens // page_size) + 3, page_size, dict.fromkeys(FORMATS, 7))
    table, held = mixed(kv, row, page_size, pieces, 1)
    (out,) = attend(kv, 1, [(row, table, tokens - case["queries"], tokens)])
    wanted = reference.attention(row.q[-case["queries"] :], held, case["dim"] ** -0.5)
    np.testing.assert_allclose(out, wanted, rtol=2e-4, atol=2e-4)


def test_a_row_over_a_mixture_has_the_same_bits_however_the_work_is_cut(isa: str, threads: None) -> None:
    pieces = [("q8", 4), ("q4", 2), ("q2", 4), ("f16", 4), ("q4", 4), ("q8", 1), ("q8", 4), ("q8", 4), ("q4", 3)]
    tokens = len(pieces) * KV_BLOCK + 40
    row, other = Row(6, tokens, 6, 2, 48), Row(7, 30, 6, 2, 48)
    kv = slab(2, 48, 50, 16, dict.fromkeys(FORMATS, 5))
    table, _ = mixed(kv, row, 16, pieces, 0)
    spare = np.setdiff1d(np.arange(50), table)[:2].astype(np.int32)
    begin = tokens - 40
    results = []
    for count, cuts in ((1, [0, 40]), (2, [0, 7, 39, 40]), (3, [0, 33, 40])):
        _ext.set_threads(count)
        parts = [attend(kv, 0, [(row, table, begin + a, begin + b)])[0] for a, b in pairwise(cuts)]
        results.append(np.concatenate(parts))
        beside = attend(kv, 0, [(other, spare, 0, 30), (row, table, tokens - 1, tokens)])[1]
        np.testing.assert_array_equal(beside, results[-1][-1:])
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_tiers_follow_each_other() -> None:
    kv = slab(3, 64, 10, 32, {"q2": 2, "q8": 3})
    f16, q8, q4 = 2 * 2 * 64 * LAYERS * 3, 136 * LAYERS * 3, 40 * LAYERS * 3
    assert kv.tiers == (
        KvTier("f16", 0, 10, 1, 32 * f16),
        KvTier("q8", 10, 3, 2, 64 * q8),
        KvTier("q2", 16, 2, 2, 64 * q4),
    )
    assert kv.nbytes == 10 * 32 * f16


@pytest.mark.parametrize("dim", [64, 80, 96, 128])
def test_blocks_are_as_small_as_asked(dim: int) -> None:
    f16, q8, q4, q2 = (
        tier.unit_bytes / (tier.unit_pages * 16) for tier in slab(1, dim, 4, 16, dict.fromkeys(FORMATS, 1)).tiers
    )
    assert f16 >= 1.85 * q8
    assert f16 >= 3.3 * q4
    assert f16 >= 6 * q2


def test_a_unit_survives_on_another_slab_and_release_forgets_it() -> None:
    one, other = (slab(2, 32, 4, 16, {"q4": 3}) for _ in range(2))
    row = Row(8, KV_BLOCK, 2, 2, 32)
    row.write(one, ints(0, 1, 2, 3), 0, KV_BLOCK)
    one.demote(ints(0, 1, 2, 3), ints(8))
    for unit, target in ((8, 4), (2, 0)):
        tier = one.tiers[unit >= 4]
        kept = unit_bytes(one, unit, tier)
        assert any(kept)
        writer = threading.Thread(target=other.write_unit, args=(target, kept))
        writer.start()
        writer.join()
        assert unit_bytes(other, target, tier) == kept
        one.release_units(ints(unit))
        assert not any(unit_bytes(one, unit, tier))


def test_a_released_unit_leaves_its_neighbours() -> None:
    kv = slab(1, 16, 8, 64, {"q8": 4})
    random = np.random.default_rng(0)
    for tier in kv.tiers:
        units = tier.first_page + np.arange(tier.units)
        contents = [random.integers(0, 256, tier.unit_bytes, np.uint8).tobytes() for _ in units]
        for unit, data in zip(units.tolist(), contents, strict=True):
            kv.write_unit(unit, data)
        kv.release_units(units[1:3].astype(np.int32))
        for at in (0, *range(3, tier.units)):
            assert unit_bytes(kv, int(units[at]), tier) == contents[at]


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        ("demote", ([0, 1, 2], [8]), "demote: 3 sources for 1 blocks; each takes 4 pages"),
        ("demote", ([0, 1, 2, 3], [9]), "page 9 is inside a block of q8, whose first page is 8"),
        ("demote", ([0, 1, 2, 3], [7]), "page 7 is half precision"),
        ("demote", ([0, 1, 2, 24], [8]), r"page 24 is not in the slab; it has pages 0\.\.23"),
        ("demote", ([8, 9, 10, 11], [12]), "page 8 cannot go into block 12 of q8"),
        ("demote", ([16, 17, 18, 19], [8]), "page 16 cannot go into block 8 of q8"),
        ("demote", ([8, 10, 9, 11], [16]), "page 10 cannot go into block 16 of q4"),
        ("demote", ([9, 10, 11, 12], [16]), "page 9 cannot go into block 16 of q4"),
        ("demote", ([0, 1, 2, 8], [16]), "page 8 cannot go into block 16 of q4"),
        ("copy_pages", ([0], [8]), r"page 8 is not in the slab; it has half-precision pages 0\.\.7"),
        ("release_units", ([8, 10],), "page 10 is inside a block"),
        ("release_units", ([-1],), "page -1 is not in the slab"),
        ("read_unit", (8, bytearray(3)), "3 bytes for page 8: a unit of q8 has [0-9]+"),
        ("write_unit", (13, b""), "page 13 is inside a block"),
        ("write_unit", (40, b""), "page 40 is not in the slab"),
    ],
)
def test_what_cannot_be_moved_is_named(call: str, arguments: tuple, message: str) -> None:
    kv = slab(1, 16, 8, 16, {"q8": 2, "q4": 2})
    with pytest.raises(ValueError, match=message):
        getattr(kv, call)(*(ints(*each) if isinstance(each, list) else each for each in arguments))


def test_a_slab_that_cannot_have_blocks_says_why() -> None:
    with pytest.raises(ValueError, match="q8 blocks want pages of 16, 32 or 64 tokens; these have 8"):
        slab(1, 16, 8, 8, {"q8": 1})
    with pytest.raises(ValueError, match=r"unknown block formats \['q3'\]; accepted: q8, q4, q2"):
        slab(1, 16, 8, 16, {"q3": 1})
    with pytest.raises(ValueError, match="q4 blocks is -1"):
        slab(1, 16, 8, 16, {"q4": -1})
    with pytest.raises(ValueError, match="half-precision pages only"):
        slab(1, 16, 8, 16).demote(ints(0, 1, 2, 3), ints(4))


def test_a_quantized_page_is_not_written() -> None:
    kv, row = slab(1, 16, 8, 16, {"q8": 1}), Row(1, 40, 1, 1, 16)
    with pytest.raises(ValueError, match=r"page_table\[0, 1\] is 9, a packed page, which is not written"):
        attend(kv, 0, [(row, ints(8, 9, 0), 20, 40)])
