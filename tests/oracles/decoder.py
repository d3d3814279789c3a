"""A decoder in NumPy float32 over whole sequences, simple enough to be trusted.

It shares no code with `kernels`: matrices are dequantized here, attention is a masked softmax over all positions.
"""

from itertools import pairwise

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from kernels.decoder import Activation, DecoderSpec, DecoderWeights, Quantized, Rope, Weight

Float32 = NDArray[np.float32]


def dense(weight: Weight) -> Float32:
    """The matrix [N, K] as float32, dequantized."""
    if not isinstance(weight, Quantized):
        return np.array(weight.astype(mx.float32))
    words = np.array(weight.weight)
    per_word = 32 // weight.bits
    shifts = np.arange(per_word, dtype=np.uint32) * np.uint32(weight.bits)
    integers = (words[:, :, None] >> shifts) & np.uint32((1 << weight.bits) - 1)
    groups = integers.reshape(words.shape[0], -1, weight.group_size).astype(np.float32)
    scales = np.array(weight.scales.astype(mx.float32))[:, :, None]
    biases = np.array(weight.biases.astype(mx.float32))[:, :, None]
    return (groups * scales + biases).reshape(words.shape[0], -1)


def rows(weight: Weight, ids: NDArray[np.integer]) -> Float32:
    """Rows `ids` of the matrix, dequantized: [len(ids), K]."""
    index = mx.array(np.asarray(ids))
    if not isinstance(weight, Quantized):
        return dense(weight[index])
    parts = (weight.weight[index], weight.scales[index], weight.biases[index])
    return dense(Quantized(*parts, bits=weight.bits, group_size=weight.group_size))


def logits(spec: DecoderSpec, weights: DecoderWeights, sequences: list[list[int]]) -> list[Float32]:
    """Logits [T, vocab] at every position of each sequence, each computed from nothing."""
    hidden = [rows(weights.embedding, np.array(ids)) for ids in sequences]
    starts = np.cumsum([0] + [len(ids) for ids in sequences])
    x = np.concatenate(hidden)
    cosines, sines = zip(*(_angles(spec.rope, len(ids)) for ids in sequences), strict=True)
    cosine, sine = np.concatenate(cosines), np.concatenate(sines)
    for layer in weights.layers:
        y = _rms_norm(x, layer.attention_norm, spec.norm_eps)
        q = _linear(y, layer.q, layer.q_bias).reshape(len(x), spec.heads, spec.head_dim)
        k = _linear(y, layer.k, layer.k_bias).reshape(len(x), spec.kv_heads, spec.head_dim)
        v = _linear(y, layer.v, layer.v_bias).reshape(len(x), spec.kv_heads, spec.head_dim)
        q, k = _rotate(q, cosine, sine, spec.rope), _rotate(k, cosine, sine, spec.rope)
        mixed = [_attention(q[a:b], k[a:b], v[a:b]) for a, b in pairwise(starts)]
        x = x + _linear(np.concatenate(mixed), layer.o)
        y = _rms_norm(x, layer.mlp_norm, spec.norm_eps)
        x = x + _linear(_activate(_linear(y, layer.gate), spec.activation) * _linear(y, layer.up), layer.down)
    head = dense(weights.head)
    x = _rms_norm(x, weights.final_norm, spec.norm_eps)
    return [x[a:b] @ head.T for a, b in pairwise(starts)]


def negative_log_likelihood(all_logits: Float32, ids: list[int]) -> NDArray[np.float64]:
    """-log p of each token but the first, given those before it: [T - 1]."""
    return np.array([_log_sum_exp(row) - row[token] for row, token in zip(all_logits, ids[1:], strict=False)])


def _log_sum_exp(row: Float32) -> np.float64:
    top = np.float64(row.max())
    return top + np.log(np.exp(row.astype(np.float64) - top).sum())


def _linear(x: Float32, weight: Weight, bias=None) -> Float32:
    y = x @ dense(weight).T
    return y if bias is None else y + np.array(bias)


def _rms_norm(x: Float32, weight, eps: float) -> Float32:
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(eps)) * np.array(weight)


def _angles(rope: Rope, length: int) -> tuple[Float32, Float32]:
    """Cosine and sine [T, 1, pairs] at positions 0 .. length - 1."""
    angles = np.arange(length)[:, None, None] * np.array(rope.frequencies)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _rotate(x: Float32, cosine: Float32, sine: Float32, rope: Rope) -> Float32:
    pairs = len(rope.frequencies)
    out = x.copy()
    if rope.interleaved:
        first, second = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    else:
        first, second = slice(0, pairs), slice(pairs, 2 * pairs)
    out[..., first] = x[..., first] * cosine - x[..., second] * sine
    out[..., second] = x[..., second] * cosine + x[..., first] * sine
    return out


def _attention(q: Float32, k: Float32, v: Float32) -> Float32:
    """One sequence, causal: q [T, heads, D], k and v [T, kv_heads, D] -> [T, heads * D]."""
    length, heads, size = q.shape
    shared = heads // k.shape[1]
    k, v = np.repeat(k, shared, axis=1), np.repeat(v, shared, axis=1)
    scores = np.matmul(q.transpose(1, 0, 2), k.transpose(1, 2, 0)) / np.float32(np.sqrt(size))
    scores[:, np.triu(np.ones((length, length), bool), 1)] = -np.inf
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    scores /= scores.sum(axis=-1, keepdims=True)
    return np.matmul(scores, v.transpose(1, 0, 2)).transpose(1, 0, 2).reshape(length, -1)


def _activate(x: Float32, activation: Activation) -> Float32:
    if activation is Activation.SILU:
        return (x / (1 + np.exp(-x))).astype(np.float32)
    inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3)
    return (x * (1 + np.tanh(inner)) / 2).astype(np.float32)
