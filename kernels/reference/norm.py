"""Normalisations over the last axis."""

import mlx.core as mx


def rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    """x / sqrt(mean(x^2) + eps) * weight, x [..., H], weight [H]; the mean in float32, the result in x's dtype."""
    wide = x.astype(mx.float32)
    scale = mx.rsqrt(mx.mean(mx.square(wide), axis=-1, keepdims=True) + eps)
    return (wide * scale * weight.astype(mx.float32)).astype(x.dtype)


def layer_norm(x: mx.array, weight: mx.array, bias: mx.array, eps: float) -> mx.array:
    """(x - mean) / sqrt(variance + eps) * weight + bias, x [..., H]; in float32, the result in x's dtype."""
    wide = x.astype(mx.float32)
    centred = wide - mx.mean(wide, axis=-1, keepdims=True)
    scale = mx.rsqrt(mx.mean(mx.square(centred), axis=-1, keepdims=True) + eps)
    return (centred * scale * weight.astype(mx.float32) + bias.astype(mx.float32)).astype(x.dtype)
