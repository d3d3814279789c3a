"""Rotary position embedding (Su et al. 2021) from a table of frequencies."""

import mlx.core as mx
import numpy as np

from kernels.decoder import Int32, Rope


def rope_angles(positions: Int32, spec: Rope) -> tuple[mx.array, mx.array]:
    """Cosines and sines, float32 [T, 1, pairs], of positions [T] times the frequencies.

    Computed in float64: at position 8000 a float32 product is off by up to 5e-4 rad.
    """
    angle = positions.astype(np.float64)[:, None, None] * np.array(spec.frequencies, np.float64)
    return mx.array(np.cos(angle).astype(np.float32)), mx.array(np.sin(angle).astype(np.float32))


def rotate(x: mx.array, cosines: mx.array, sines: mx.array, interleaved: bool) -> mx.array:
    """Rotate the pairs of x [T, H, D] by angles given as [T, 1, pairs]; dimensions past 2 * pairs pass through."""
    pairs = cosines.shape[-1]
    if interleaved:
        a, b = x[..., 0 : 2 * pairs : 2], x[..., 1 : 2 * pairs : 2]
    else:
        a, b = x[..., :pairs], x[..., pairs : 2 * pairs]
    first, second = a * cosines - b * sines, a * sines + b * cosines
    if interleaved:
        rotated = mx.stack([first, second], axis=-1).reshape(*x.shape[:-1], 2 * pairs)
    else:
        rotated = mx.concatenate([first, second], axis=-1)
    rotated = rotated.astype(x.dtype)
    return rotated if 2 * pairs == x.shape[-1] else mx.concatenate([rotated, x[..., 2 * pairs :]], axis=-1)


def rope(x: mx.array, positions: Int32, spec: Rope) -> mx.array:
    """Rotate x [T, H, D] by its tokens' positions [T] (NumPy); same shape and dtype."""
    return rotate(x, *rope_angles(positions, spec), spec.interleaved)
