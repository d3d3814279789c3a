"""Every public operation, and the reference behind it, against float64 formulas over many shapes."""

import gc
import logging

import mlx.core as mx
import numpy as np
import pytest

from kernels import cpu, host, ops, reference
from kernels.decoder import Activation, Batch, Quantized, Rope
from tests.oracles import float64, random_decoder

ROWS = [0, 1, 2, 3, 7, 16, 33]


@pytest.fixture(params=["ops", "reference"])
def module(request: pytest.FixtureRequest):
    """The dispatching operations and what they fall back on."""
    return ops if request.param == "ops" else reference


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (5, 3), (33, 100), (64, 65), (17, 257)])
def test_dense_linear(module, rows: int, outputs: int, inputs: int) -> None:
    x, weight, bias = normal(rows, inputs), mx.array(normal(outputs, inputs, seed=1)), mx.array(normal(outputs, seed=2))
    got = module.linear(mx.array(x), weight, bias)
    assert got.dtype == mx.float32
    want = float64.linear(x.astype(np.float64), weight, bias)
    np.testing.assert_allclose(np.array(got), want, atol=2e-6 * inputs**0.5 + 1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_dense_linear_in_half_precision(module, dtype: mx.Dtype) -> None:
    x, weight = normal(5, 64), mx.array(normal(24, 64, seed=1, scale=0.125)).astype(dtype)
    want = float64.linear(x.astype(np.float64), weight)
    np.testing.assert_allclose(np.array(module.linear(mx.array(x), weight)), want, atol=0.02)
    half = module.linear(mx.array(x).astype(dtype), weight)
    assert half.dtype == dtype
    np.testing.assert_allclose(np.array(half.astype(mx.float32)), want, atol=0.06)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("outputs", "inputs", "group_size"), [(1, 32, 32), (5, 96, 32), (33, 64, 64), (64, 256, 128)])
def test_quantized_linear(module, rows: int, bits: int, outputs: int, inputs: int, group_size: int) -> None:
    weight = random_decoder.quantized(np.random.default_rng(1), outputs, inputs, bits, group_size)
    x, bias = normal(rows, inputs), mx.array(normal(outputs, seed=2))
    got = np.array(module.linear(mx.array(x), weight, bias))
    want = float64.linear(x.astype(np.float64), weight, bias)
    assert got.shape == want.shape
    if module is ops and cpu.available():
        # Activations are rounded to 15 bits per 32 inputs: half a step of max|x| / 16256 each, through random weights.
        step = np.abs(x).max(initial=1) / 16256
        np.testing.assert_allclose(got, want, atol=3 * step * inputs**0.5 * np.abs(float64.dense(weight)).max())
    else:
        np.testing.assert_allclose(got, want, atol=2e-5)


def test_linear_takes_any_leading_shape(module) -> None:
    x, weight = normal(2, 3, 4, 8), mx.array(normal(5, 8, seed=1))
    want = float64.linear(x.astype(np.float64), weight)
    np.testing.assert_allclose(np.array(module.linear(mx.array(x), weight)), want, atol=1e-5)
    assert module.linear(mx.zeros((2, 0, 8)), weight).shape == (2, 0, 5)


def test_linear_of_unusual_bits_falls_back() -> None:
    weight = mx.random.normal((8, 64), key=mx.random.key(0))
    packed = Quantized(*mx.quantize(weight, group_size=32, bits=2), bits=2, group_size=32)
    x = normal(3, 64)
    want = float64.linear(x.astype(np.float64), packed)
    np.testing.assert_allclose(np.array(ops.linear(mx.array(x), packed)), want, atol=2e-5)


@pytest.mark.parametrize("bits", [None, 4])
def test_linear_has_a_gradient(module, bits: int | None) -> None:
    weight = random_decoder.matrix(np.random.default_rng(0), 16, 32, bits)
    cotangent = normal(3, 16)
    gradient = mx.grad(lambda x: mx.sum(module.linear(x, weight) * mx.array(cotangent)))(
        mx.array(normal(3, 32, seed=1))
    )
    np.testing.assert_allclose(np.array(gradient), cotangent @ float64.dense(weight), atol=1e-4)


def test_a_packed_weight_goes_with_the_weight() -> None:
    if not cpu.available():
        pytest.skip(cpu.reason())
    gc.collect()
    before = len(ops._packed)
    weight = mx.array(normal(8, 8))
    mx.eval(ops.linear(mx.ones((1, 8)), weight))
    assert len(ops._packed) == before + 1
    first = ops._packed[id(weight)][1]
    mx.eval(ops.linear(mx.ones((1, 8)), weight))
    assert ops._packed[id(weight)][1] is first
    del weight
    gc.collect()
    assert len(ops._packed) == before


def test_without_the_extension_it_says_so_once_and_still_computes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cpu, "available", lambda: False)
    monkeypatch.setattr(cpu, "reason", lambda: "no compiler was there")
    ops._warn.cache_clear()
    x, weight = normal(2, 8), mx.array(normal(3, 8, seed=1))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            np.testing.assert_allclose(np.array(ops.linear(mx.array(x), weight)), x @ np.array(weight).T, atol=1e-5)
    assert [record.getMessage() for record in caplog.records].count(caplog.records[0].getMessage()) == 1
    assert "20 to 100 times slower" in caplog.text
    assert "no compiler was there" in caplog.text
    ops._warn.cache_clear()


@pytest.mark.parametrize("ids", [[], [0], [6, 0, 6, 3]])
@pytest.mark.parametrize("bits", [None, 4, 8])
def test_embedding(module, ids: list[int], bits: int | None) -> None:
    weight = random_decoder.matrix(np.random.default_rng(0), 7, 64, bits)
    got = module.embedding(mx.array(np.array(ids, np.int32)), weight)
    assert got.dtype == mx.float32
    np.testing.assert_allclose(np.array(got), float64.dense(weight)[ids].reshape(-1, 64), atol=1e-6)


def test_dequantize_keeps_what_half_scales_hold() -> None:
    weight = random_decoder.quantized(np.random.default_rng(0), 4, 64, 4)
    half = Quantized(weight.weight, weight.scales.astype(mx.float16), weight.biases.astype(mx.float16), 4, 32)
    np.testing.assert_allclose(np.array(reference.dequantize(half)), float64.dense(half), atol=1e-7)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("width", [1, 5, 64, 129])
def test_norms(module, rows: int, width: int) -> None:
    x, weight, bias = normal(rows, width, scale=3), normal(width, seed=1), normal(width, seed=2)
    w, b = mx.array(weight), mx.array(bias)
    want = float64.rms_norm(x.astype(np.float64), weight.astype(np.float64), 1e-5)
    np.testing.assert_allclose(np.array(module.rms_norm(mx.array(x), w, 1e-5)), want, atol=2e-5)
    want = float64.layer_norm(x.astype(np.float64), weight.astype(np.float64), bias.astype(np.float64), 1e-5)
    np.testing.assert_allclose(np.array(module.layer_norm(mx.array(x), w, b, 1e-5)), want, atol=5e-5)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("heads", "dim", "pairs"), [(1, 2, 1), (3, 8, 4), (2, 10, 3)])
def test_rope(module, rows: int, interleaved: bool, heads: int, dim: int, pairs: int) -> None:
    spec = Rope(tuple(float(f) for f in 10000.0 ** (-np.arange(pairs) / pairs)), interleaved)
    x = normal(rows, heads, dim)
    positions = np.random.default_rng(1).integers(0, 8192, rows).astype(np.int32)
    got = np.array(module.rope(mx.array(x), positions, spec))
    np.testing.assert_allclose(got, float64.rope(x.astype(np.float64), positions, spec), atol=1e-6)


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 7), (2, 3, 5)])
def test_activations(module, shape: tuple[int, ...]) -> None:
    gate, up = normal(*shape, scale=4), normal(*shape, seed=1)
    wide_gate, wide_up = gate.astype(np.float64), up.astype(np.float64)
    g, u = mx.array(gate), mx.array(up)
    np.testing.assert_allclose(np.array(module.swiglu(g, u)), float64.silu(wide_gate) * wide_up, atol=2e-6)
    np.testing.assert_allclose(np.array(module.gelu(g)), float64.gelu(wide_gate), atol=2e-6)
    got = reference.gated(Activation.GELU_TANH, g, u)
    np.testing.assert_allclose(np.array(got), float64.gelu_tanh(wide_gate) * wide_up, atol=3e-6)


def test_host_linear() -> None:
    x, weight, bias = normal(2, 3, 33), mx.array(normal(5, 33, seed=1)), mx.array(normal(5, seed=2))
    want = float64.linear(x.astype(np.float64), weight, bias)
    np.testing.assert_allclose(np.array(host.linear(mx.array(x), weight, bias)), want, atol=1e-5)


@pytest.mark.parametrize("size", [0, 1, 7, 16384, 16385, 40000])
def test_host_gelu(size: int) -> None:
    x = normal(size, scale=3)
    np.testing.assert_allclose(np.array(host.gelu(mx.array(x))), float64.gelu(x.astype(np.float64)), atol=1e-6)


@pytest.mark.parametrize("lengths", [[1], [5], [3, 5, 1], [400, 17]])
def test_host_attention_sees_only_a_rows_own_keys(lengths: list[int]) -> None:
    q, k, v = (normal(len(lengths), 2, max(lengths), 4, seed=seed) for seed in range(3))
    for row, length in enumerate(lengths):
        k[row, :, length:] = v[row, :, length:] = np.nan
    got = np.array(host.attention(mx.array(q), mx.array(k), mx.array(v), mx.array(lengths)))
    for row, length in enumerate(lengths):
        scores = q[row].astype(np.float64) @ k[row, :, :length].swapaxes(1, 2) / 2
        np.testing.assert_allclose(got[row], float64.softmax(scores) @ v[row, :, :length], atol=1e-6)


@pytest.mark.parametrize(("processors", "parts"), [(2, 2), (3, 3), (64, 4)])
def test_host_parts_change_no_bit(processors: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elements that fill four parts and a bit, in rows of three lengths."""
    lengths = [9] * 7 + [12] * 60 + [4]
    x = mx.array(normal(4 * host._PART + 5, scale=3))
    q, k, v = (mx.array(normal(len(lengths), 12, 12, 32, seed=seed)) for seed in range(3))
    seen: list[int] = []
    each = host._each
    monkeypatch.setattr(host, "_each", lambda work, items, cut: seen.append(cut) or each(work, items, cut))
    monkeypatch.setattr(host, "_processors", lambda: 1)
    alone = [np.array(host.gelu(x)), np.array(host.attention(q, k, v, mx.array(lengths)))]
    monkeypatch.setattr(host, "_processors", lambda: processors)
    together = [np.array(host.gelu(x)), np.array(host.attention(q, k, v, mx.array(lengths)))]
    assert seen == [1, 1, parts, parts]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(1, 1, 4), (4, 4, 8), (6, 2, 5), (9, 3, 16)])
@pytest.mark.parametrize("rows", [[], [(0, 1)], [(0, 9)], [(7, 1)], [(3, 5), (0, 1), (8, 1), (11, 4)]], ids=str)
def test_paged_attention(module, heads: int, kv_heads: int, dim: int, rows: list[tuple[int, int]]) -> None:
    """Rows of (length, new tokens), pages of 4 tokens in a scrambled order, unused slots full of NaN."""
    page_size, pages = 4, 24
    order = iter(np.random.default_rng(0).permutation(pages).tolist())
    k_pages = np.full((pages, page_size, kv_heads, dim), np.nan, np.float32)
    v_pages = k_pages.copy()
    table = np.full((len(rows), 4), -1, np.int32)
    starts = np.cumsum([0, *(count for _, count in rows)], dtype=np.int32)
    q = normal(int(starts[-1]), heads, dim)
    wants = []
    for row, (length, count) in enumerate(rows):
        k, v = normal(length + count, kv_heads, dim, seed=row), normal(length + count, kv_heads, dim, seed=row + 50)
        for position in range(length + count):
            if position % page_size == 0:
                table[row, position // page_size] = next(order)
            k_pages[table[row, position // page_size], position % page_size] = k[position]
            v_pages[table[row, position // page_size], position % page_size] = v[position]
        queries = q[starts[row] : starts[row + 1]].astype(np.float64)
        wants.append(float64.attention(queries, k.astype(np.float64), v.astype(np.float64), dim**-0.5))
    none = np.zeros(0, np.int32)
    batch = Batch(none, starts, np.array([length for length, _ in rows], np.int32), table, none)
    got = np.array(module.paged_attention(mx.array(q), mx.array(k_pages), mx.array(v_pages), batch, dim**-0.5))
    assert got.shape == q.shape
    if rows:
        np.testing.assert_allclose(got, np.concatenate(wants), atol=2e-6)
