"""Quantized KV blocks in NumPy: how tokens become codes, how a unit's bytes hold them, and attention over any mixture.

Asymmetric min/max quantization, keys by channel over a block of 64 tokens and values by token (KIVI, Liu et al. 2024,
arXiv:2402.02750): x is about scale * code + zero, where code 0 is the least value. Scales and zeros are float16. The
C++ kernels pack the very same bytes; where these lie is said in kernels/cpu/src/slab.h.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.decoder import KV_BLOCK, Float32

BITS = {"q8": 8, "q4": 4, "q2": 2}

Float64 = NDArray[np.float64]
_QUARTER = 16  # tokens, and codes of a vector
_LANE = 16  # head dims are padded to a multiple of it


class Codes(NamedTuple):
    """Quantized values: codes [64, heads, D], and scales and zeros that broadcast to them."""

    codes: NDArray[np.uint8]
    scales: NDArray[np.float16]
    zeros: NDArray[np.float16]

    @property
    def values(self) -> Float32:
        """What they stand for."""
        return self.codes * self.scales.astype(np.float32) + self.zeros.astype(np.float32)


class Block(NamedTuple):
    """64 tokens of one layer."""

    keys: Codes
    values: Codes


def quantize(keys: Float32, values: Float32, bits: int) -> Block:
    """A block of half-precision keys and values [64, heads, D]."""
    return Block(_quantize(keys, bits, 0), _quantize(values, bits, 2))


def _quantize(x: Float32, bits: int, axis: int) -> Codes:
    levels = np.float32(2**bits - 1)
    zeros = x.min(axis, keepdims=True).astype(np.float16)
    scales = ((x.max(axis, keepdims=True) - zeros.astype(np.float32)) / levels).astype(np.float16)
    inverse = np.float32(1) / np.maximum(scales.astype(np.float32), np.float32(1e-9))
    codes = np.clip(np.rint((x - zeros.astype(np.float32)) * inverse), 0, levels)
    return Codes(codes.astype(np.uint8), scales, zeros)


def read_blocks(unit: bytes, layers: int, heads: int, dim: int, bits: int) -> list[Block]:
    """The blocks of a unit, by layer, from its bytes."""
    padded = -(-dim // _LANE) * _LANE
    by_head = np.frombuffer(unit, np.uint8).reshape(layers, heads, -1)
    blocks = []
    for layer in by_head:
        channels = np.ascontiguousarray(layer[:, : 4 * padded]).view(np.float16).reshape(heads, 2, padded)
        quarters = layer[:, 4 * padded :].reshape(heads, KV_BLOCK // _QUARTER, -1)
        size = 2 * padded * bits
        keys = _vectors(quarters[:, :, :size], bits)  # [heads, 4, D, 16 tokens]
        values = _vectors(quarters[:, :, size : 2 * size], bits)  # [heads, 4, D / 16 * 16 tokens, 16 dims]
        values = values.reshape(heads, -1, padded // _LANE, _QUARTER, _LANE).transpose(1, 3, 0, 2, 4)
        tokens = np.ascontiguousarray(quarters[:, :, 2 * size :]).view(np.float16).reshape(heads, -1, 2, _QUARTER)
        scales, zeros = tokens.transpose(2, 1, 3, 0).reshape(2, KV_BLOCK, heads, 1)
        blocks.append(
            Block(
                Codes(
                    keys.transpose(1, 3, 0, 2).reshape(KV_BLOCK, heads, padded)[..., :dim],
                    channels[None, :, 0, :dim],
                    channels[None, :, 1, :dim],
                ),
                Codes(values.reshape(KV_BLOCK, heads, padded)[..., :dim], scales, zeros),
            )
        )
    return blocks


def _vectors(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """[..., bytes] -> [..., vectors, 16]: vector v lies in line v * bits / 32 at bit v * bits % 32 of its 16 words."""
    words = np.ascontiguousarray(packed).view(np.uint32).reshape(*packed.shape[:-1], -1, 1, 16)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)[:, None]
    return ((words >> shifts) & np.uint32(2**bits - 1)).astype(np.uint8).reshape(*packed.shape[:-1], -1, 16)


def attention(q: Float32, pieces: Sequence[tuple[Float32, Float32]], scale: float) -> Float64:
    """The last T tokens of a row attend causally: q [T, heads, D] -> [T, heads, D], in float64.

    `pieces` are keys and values [tokens, kv_heads, D] in the order of their positions, each from whatever tier holds it
    (`Codes.values`): one softmax runs over all of them.
    """
    keys, values = (np.concatenate([piece[i] for piece in pieces]).astype(np.float64) for i in range(2))
    group = q.shape[1] // keys.shape[1]
    keys, values = np.repeat(keys, group, axis=1), np.repeat(values, group, axis=1)
    scores = np.einsum("qhd,khd->hqk", q.astype(np.float64), keys) * scale
    seen = np.arange(len(keys)) <= np.arange(len(keys) - len(q), len(keys))[:, None]
    weights = np.exp(np.where(seen, scores, -np.inf) - np.where(seen, scores, -np.inf).max(axis=2, keepdims=True))
    return np.einsum("hqk,khd->qhd", weights / weights.sum(axis=2, keepdims=True), values)
