"""Tiny random decoders as spec and weights, every variant of the contract within reach."""

import mlx.core as mx
import numpy as np

from kernels.decoder import Activation, DecoderSpec, DecoderWeights, LayerWeights, Quantized, Rope, Weight

Random = np.random.Generator


def quantized(random: Random, outputs: int, inputs: int, bits: int, group_size: int = 32) -> Quantized:
    """Random integers and scales such that values are about 1 / sqrt(inputs) large."""
    words = random.integers(0, 2**32, (outputs, inputs * bits // 32), np.uint32)
    scales = (random.uniform(0.5, 1.5, (outputs, inputs // group_size)) * inputs**-0.5 / 2 ** (bits - 1)).astype(
        np.float32
    )
    biases = -scales * random.uniform(0.8, 1.2, scales.shape).astype(np.float32) * 2 ** (bits - 1)
    return Quantized(mx.array(words), mx.array(scales), mx.array(biases.astype(np.float32)), bits, group_size)


def matrix(random: Random, outputs: int, inputs: int, bits: int | None = None) -> Weight:
    """Dense float32 [outputs, inputs], or quantized to `bits`."""
    if bits is not None:
        return quantized(random, outputs, inputs, bits)
    return mx.array((random.standard_normal((outputs, inputs)) * inputs**-0.5).astype(np.float32))


def model(
    seed: int = 0,
    *,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 8,
    layers: int = 2,
    vocab: int = 40,
    pairs: int | None = None,
    interleaved: bool = True,
    activation: Activation = Activation.SILU,
    bias: bool = False,
    tied: bool = True,
    bits: int | None = None,
) -> tuple[DecoderSpec, DecoderWeights]:
    """A decoder whose hidden and intermediate sizes are 32 and 64."""
    random = np.random.default_rng(seed)
    hidden, inner = 32, 64
    pairs = head_dim // 2 if pairs is None else pairs
    rope = Rope(tuple(float(f) for f in 100.0 ** (-np.arange(pairs) / pairs)), interleaved)
    spec = DecoderSpec(
        layers, hidden, heads, kv_heads, head_dim, inner, vocab, 512, 1e-5, rope, activation, qkv_bias=bias
    )

    def vector(size: int, low: float = 0.5, high: float = 1.5) -> mx.array:
        return mx.array(random.uniform(low, high, size).astype(np.float32))

    def layer() -> LayerWeights:
        q, kv = heads * head_dim, kv_heads * head_dim
        return LayerWeights(
            attention_norm=vector(hidden),
            q=matrix(random, q, hidden, bits),
            k=matrix(random, kv, hidden, bits),
            v=matrix(random, kv, hidden, bits),
            o=matrix(random, hidden, q, bits),
            mlp_norm=vector(hidden),
            gate=matrix(random, inner, hidden, bits),
            up=matrix(random, inner, hidden, bits),
            down=matrix(random, hidden, inner, bits),
            q_bias=vector(q, -1, 1) if bias else None,
            k_bias=vector(kv, -1, 1) if bias else None,
            v_bias=vector(kv, -1, 1) if bias else None,
        )

    embedding = matrix(random, vocab, hidden, bits)
    head = embedding if tied else matrix(random, vocab, hidden, bits)
    return spec, DecoderWeights(embedding, tuple(layer() for _ in range(layers)), vector(hidden), head)
