"""The compiled sentence encoder against its formulas in float64 NumPy, on every instruction set this machine has."""

from collections.abc import Iterator
from dataclasses import fields

import mlx.core as mx
import numpy as np
import pytest

import kernels.cpu

if not kernels.cpu.available():
    pytest.skip(kernels.cpu.reason(), allow_module_level=True)

from kernels.cpu import _ext
from kernels.cpu.encoder import CpuEncoder
from kernels.encoder_weights import EncoderLayer, EncoderSpec, EncoderWeights
from tests.oracles import float64

WIDTHS = [1, 3, 8, 15, 16, 17, 64, 100, 384, 1537]
SMALL = EncoderSpec(
    layers=2, hidden=40, heads=4, intermediate=52, vocab=97, positions=512, max_tokens=512, norm_eps=1e-12
)
"""Heads of 10 values, which fill no vector of any instruction set."""
WHOLE = EncoderSpec(
    layers=1, hidden=64, heads=2, intermediate=128, vocab=50, positions=512, max_tokens=512, norm_eps=1e-6
)


@pytest.fixture(params=_ext.supported_isas(), autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    _ext.set_isa(request.param)
    yield request.param
    _ext.set_isa("auto")


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def weights_of(spec: EncoderSpec) -> EncoderWeights:
    rng = np.random.default_rng(spec.hidden)

    def values(*shape: int) -> mx.array:
        return mx.array(rng.normal(scale=shape[-1] ** -0.5, size=shape).astype(np.float32))

    def layer() -> EncoderLayer:
        hidden, inner = spec.hidden, spec.intermediate
        shapes = {
            "qkv": (3 * hidden, hidden),
            "qkv_bias": (3 * hidden,),
            "up": (inner, hidden),
            "up_bias": (inner,),
            "down": (hidden, inner),
            "output": (hidden, hidden),
        }
        drawn = {field.name: values(*shapes.get(field.name, (hidden,))) for field in fields(EncoderLayer)}
        return EncoderLayer(**drawn | {name: drawn[name] + 1 for name in ("attention_norm", "mlp_norm")})

    return EncoderWeights(
        words=values(spec.vocab, spec.hidden) * 3,
        positions=values(spec.positions, spec.hidden),
        norm=values(spec.hidden) + 1,
        norm_bias=values(spec.hidden),
        layers=tuple(layer() for _ in range(spec.layers)),
    )


def oracle(spec: EncoderSpec, weights: EncoderWeights, ids: list[int]) -> np.ndarray:
    """One text's vector."""
    wide = float64.wide
    x = wide(weights.words)[ids] + wide(weights.positions)[: len(ids)]
    x = float64.layer_norm(x, wide(weights.norm), wide(weights.norm_bias), spec.norm_eps)
    for w in weights.layers:
        qkv = float64.linear(x, w.qkv, w.qkv_bias).reshape(len(ids), 3, spec.heads, -1).transpose(1, 2, 0, 3)
        q, k, v = qkv
        mixed = float64.softmax(q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])) @ v
        mixed = float64.linear(mixed.transpose(1, 0, 2).reshape(len(ids), -1), w.output, w.output_bias)
        x = float64.layer_norm(x + mixed, wide(w.attention_norm), wide(w.attention_norm_bias), spec.norm_eps)
        inner = float64.gelu(float64.linear(x, w.up, w.up_bias))
        inner = float64.linear(inner, w.down, w.down_bias)
        x = float64.layer_norm(x + inner, wide(w.mlp_norm), wide(w.mlp_norm_bias), spec.norm_eps)
    mean = x.mean(axis=0)
    return mean / np.linalg.norm(mean)


def texts_of(spec: EncoderSpec, lengths: list[int]) -> list[list[int]]:
    rng = np.random.default_rng(sum(lengths))
    return [rng.integers(spec.vocab, size=length).tolist() for length in lengths]


@pytest.mark.parametrize("n", WIDTHS)
def test_layer_norm(n: int) -> None:
    x, y, w, b = normal(n, 3, n), normal(n + 1, n), normal(n + 2, n), normal(n + 3, n)
    expected = float64.layer_norm(x.astype(np.float64) + y, w.astype(np.float64), b.astype(np.float64), 1e-5)
    # Of one value the deviation is 0 and nothing but the bias is left.
    np.testing.assert_allclose(_ext.layer_norm(x, y, w, b, 1e-5), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("n", WIDTHS)
def test_bias_gelu(n: int) -> None:
    x, bias = 3 * normal(n, 2, n), normal(n + 1, n)
    expected = float64.gelu(x.astype(np.float64) + bias)
    np.testing.assert_allclose(_ext.bias_gelu(x, bias), expected, rtol=1e-6, atol=1.5e-6)


def test_bias_gelu_of_extreme_values_stays_finite() -> None:
    x = np.array([[-1e30, -200.0, -10.0, 0.0, 10.0, 200.0, 1e30]], np.float32)
    np.testing.assert_allclose(_ext.bias_gelu(x, np.zeros(7, np.float32)), np.maximum(x, 0), atol=1e-6)


@pytest.mark.parametrize("spec", [SMALL, WHOLE])
def test_agrees_with_the_formulas_at_every_kind_of_length(spec: EncoderSpec) -> None:
    weights = weights_of(spec)
    texts = texts_of(spec, [*range(1, 36), 63, 64, 65, 100, 255, 256, 257, 511, 512])
    got = CpuEncoder(spec, weights).embed(texts)
    np.testing.assert_allclose(got, [oracle(spec, weights, text) for text in texts], atol=3e-6)


def test_a_text_is_the_same_bits_in_any_company() -> None:
    encoder = CpuEncoder(SMALL, weights_of(SMALL))
    texts = texts_of(SMALL, [12, 1, 300, 12, 17, 5, 64, 33, 2, 512])
    together = encoder.embed(texts)
    for threads in (1, 3):
        _ext.own_threads(threads, [], 100)
        np.testing.assert_array_equal(encoder.embed(texts[::-1])[::-1], together)
        for text, vector in zip(texts, together, strict=True):
            np.testing.assert_array_equal(encoder.embed([text])[0], vector)
    _ext.own_threads(0, [], 100)


def test_no_texts_have_no_vectors() -> None:
    assert CpuEncoder(SMALL, weights_of(SMALL)).embed([]).shape == (0, 40)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[1], []], "text 1 has 0 tokens; accepted: 1 to 512"),
        ([[1] * 513], "text 0 has 513 tokens"),
        ([[1, 97]], "an id 97; accepted: 0 to 96"),
        ([[-1]], "an id -1"),
    ],
)
def test_bad_texts_are_named(ids: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CpuEncoder(SMALL, weights_of(SMALL)).embed(ids)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"intermediate": 53}, r"layer 0: up has shape \[52, 40\]; the spec wants \[53, 40\]"),
        ({"layers": 3}, "weights for 2 layers; the spec wants 3"),
        ({"heads": 3}, r"hidden \(40\) must be a multiple of heads \(3\)"),
        ({"vocab": 96}, r"words is \[97, 40\]; the spec wants \[96, 40\]"),
        ({"positions": 0}, r"position_rows is \[512, 40\]; the spec wants \[0, 40\]"),
        ({"layers": 0}, "layers is 0; it must lie in 1"),
    ],
)
def test_weights_that_do_not_fit_are_named(changed: dict[str, int], message: str) -> None:
    spec = EncoderSpec(**SMALL.__dict__ | changed)
    with pytest.raises(ValueError, match=message):
        CpuEncoder(spec, weights_of(SMALL))
