"""Operations and a whole decoder in NumPy float64, written from their formulas, for kernels to be held against.

Shares no code with `kernels`, and computes every row of a sequence from nothing: no pages, no chunks, no cache.
"""

import math
from collections.abc import Callable

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from kernels.decoder import Activation, DecoderSpec, DecoderWeights, MixtureWeights, Quantized, Rope, Weight

Float64 = NDArray[np.float64]


def wide(array: mx.array) -> Float64:
    """The values as float64."""
    return np.array(array.astype(mx.float32)).astype(np.float64)


def dense(weight: Weight) -> Float64:
    """The matrix [N, K], dequantized bit by bit."""
    if not isinstance(weight, Quantized):
        return wide(weight)
    words = np.array(weight.weight)
    bits = np.unpackbits(words.view(np.uint8).reshape(len(words), -1), axis=1, bitorder="little")
    integers = bits.reshape(len(words), -1, weight.bits) @ (1 << np.arange(weight.bits))
    scales = np.repeat(wide(weight.scales), weight.group_size, axis=1)
    return integers * scales + np.repeat(wide(weight.biases), weight.group_size, axis=1)


def linear(x: Float64, weight: Weight, bias: mx.array | None = None) -> Float64:
    """[.., K] -> [.., N]."""
    return x @ dense(weight).T + (0 if bias is None else wide(bias))


def rms_norm(x: Float64, weight: Float64, eps: float) -> Float64:
    """Over the last axis."""
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def layer_norm(x: Float64, weight: Float64, bias: Float64, eps: float) -> Float64:
    """Over the last axis."""
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias


def rope(x: Float64, positions: NDArray[np.integer], spec: Rope) -> Float64:
    """x [T, H, D], pair by pair, as a product of complex numbers."""
    out = x.copy()
    pairs = len(spec.frequencies)
    for i, frequency in enumerate(spec.frequencies):
        a, b = (2 * i, 2 * i + 1) if spec.interleaved else (i, i + pairs)
        turned = (x[..., a] + 1j * x[..., b]) * np.exp(1j * positions[:, None] * frequency)
        out[..., a], out[..., b] = turned.real, turned.imag
    return out


def silu(x: Float64) -> Float64:
    """x * sigmoid(x)."""
    return x / (1 + np.exp(-x))


def gelu(x: Float64) -> Float64:
    """Exact."""
    return 0.5 * x * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2)))


def gelu_tanh(x: Float64) -> Float64:
    """The tanh approximation."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(x: Float64) -> Float64:
    """Over the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(q: Float64, k: Float64, v: Float64, scale: float) -> Float64:
    """Causal, of the last len(q) positions of one sequence: q [t, heads, D], k and v [n, kv_heads, D]."""
    out = np.empty_like(q)
    before, group = len(k) - len(q), q.shape[1] // k.shape[1]
    for t in range(len(q)):
        for head in range(q.shape[1]):
            keys, values = k[: before + t + 1, head // group], v[: before + t + 1, head // group]
            out[t, head] = softmax(keys @ q[t, head] * scale) @ values
    return out


def glu(act: Callable[[Float64], Float64], h: Float64, gate: Weight, up: Weight, down: Weight) -> Float64:
    """The gated feed-forward."""
    return linear(act(linear(h, gate)) * linear(h, up), down)


def mixture(act: Callable[[Float64], Float64], spec: DecoderSpec, w: MixtureWeights, h: Float64) -> Float64:
    """Token by token, expert by expert."""
    out = np.zeros_like(h)
    for t, logits in enumerate(linear(h, w.router)):
        chosen = sorted(range(len(logits)), key=lambda expert: (-logits[expert], expert))[: spec.mixture.top_k]
        shares = np.exp(logits[chosen]) / np.exp(logits).sum()
        if spec.mixture.normalize:
            shares /= shares.sum()
        for share, expert in zip(shares, chosen, strict=True):
            out[t] += share * glu(act, h[t], *w.experts[expert])
    return out


def decoder_logits(spec: DecoderSpec, weights: DecoderWeights, tokens: list[int]) -> Float64:
    """Logits [T, vocab] at every position of one sequence."""
    x = dense(weights.embedding)[tokens]
    positions = np.arange(len(tokens))
    for w in weights.layers:
        h = rms_norm(x, wide(w.attention_norm), spec.norm_eps)
        q = linear(h, w.q, w.q_bias).reshape(len(x), spec.heads, -1)
        k = linear(h, w.k, w.k_bias).reshape(len(x), spec.kv_heads, -1)
        if w.q_norm is not None:
            q, k = rms_norm(q, wide(w.q_norm), spec.norm_eps), rms_norm(k, wide(w.k_norm), spec.norm_eps)
        q, k = rope(q, positions, spec.rope), rope(k, positions, spec.rope)
        v = linear(h, w.v, w.v_bias).reshape(len(x), spec.kv_heads, -1)
        x = x + linear(attention(q, k, v, spec.head_dim**-0.5).reshape(len(x), -1), w.o)
        h = rms_norm(x, wide(w.mlp_norm), spec.norm_eps)
        act = {Activation.SILU: silu, Activation.GELU_TANH: gelu_tanh}[spec.activation]
        if w.mixture is None:
            x = x + glu(act, h, w.gate, w.up, w.down)
            continue
        routed = mixture(act, spec, w.mixture, h)
        if w.mixture.shared_gate is not None:
            x = x + glu(act, h, w.gate, w.up, w.down) / (1 + np.exp(-linear(h, w.mixture.shared_gate)))
        x = x + routed
    return linear(rms_norm(x, wide(weights.final_norm), spec.norm_eps), weights.head)
