"""The CPU sentence encoder: its whole forward is one C++ call over packed float32 weights.

Texts lie one behind another, without padding. A text's vector is the same bits whatever texts are with it and however
many threads there are; across instruction sets vectors differ by rounding, about 1e-7 in a cosine.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import mlx.core as mx
import numpy as np

from kernels.cpu import _ext
from kernels.decoder import Float32
from kernels.encoder_weights import EncoderLayer, EncoderSpec, EncoderWeights


class CpuEncoder:
    """Embeds token lists. Any thread may call it; calls take turns.

    The weights are copied and not kept in any other form. Raises ValueError where one does not fit the spec.
    """

    def __init__(self, spec: EncoderSpec, weights: EncoderWeights) -> None:
        self._width = spec.hidden
        self._native = _ext.Encoder(
            layers=spec.layers,
            hidden=spec.hidden,
            heads=spec.heads,
            intermediate=spec.intermediate,
            vocab=spec.vocab,
            positions=spec.positions,
            norm_eps=spec.norm_eps,
            words=np.array(weights.words),
            position_rows=np.array(weights.positions),
            norm=_norm(weights.norm, weights.norm_bias),
            packs=[_pack(layer) for layer in weights.layers],
        )

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in memory."""
        return self._native.weight_bytes

    def embed(self, ids: Sequence[Sequence[int]]) -> Float32:
        """Vectors [n, hidden] of length 1, float32, of n token lists; the GIL is released meanwhile.

        ValueError names an empty or too long one, or an id that is not in the vocabulary.
        """
        lengths = np.array([len(row) for row in ids], np.int32)
        tokens = np.fromiter(chain.from_iterable(ids), np.int32, int(lengths.sum()))
        vectors = np.empty((len(ids), self._width), np.float32)
        self._native.forward(tokens, lengths, vectors)
        return vectors


def _pack(layer: EncoderLayer) -> Any:
    return _ext.EncoderLayerPack(
        qkv=_affine(layer.qkv, layer.qkv_bias),
        output=_affine(layer.output, layer.output_bias),
        up=_affine(layer.up, layer.up_bias),
        down=_affine(layer.down, layer.down_bias),
        attention_norm=_norm(layer.attention_norm, layer.attention_norm_bias),
        mlp_norm=_norm(layer.mlp_norm, layer.mlp_norm_bias),
    )


def _affine(weight: mx.array, bias: mx.array) -> Any:
    return _ext.Affine(_ext.pack_dense(weight), np.array(bias))


def _norm(weight: mx.array, bias: mx.array) -> Any:
    return _ext.Norm(np.array(weight), np.array(bias))
