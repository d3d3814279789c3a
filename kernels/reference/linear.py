"""Matrices: products with them, rows of them, and the floats a quantized one stands for."""

import mlx.core as mx

from kernels.decoder import Quantized, Weight


def dequantize(weight: Quantized, dtype: mx.Dtype = mx.float32) -> mx.array:
    """The dense matrix [N, K] in `dtype`; computed in float32, so float16 scales lose nothing."""
    scales, biases = weight.scales.astype(mx.float32), weight.biases.astype(mx.float32)
    return mx.dequantize(weight.weight, scales, biases, weight.group_size, weight.bits).astype(dtype)


def linear(x: mx.array, weight: Weight, bias: mx.array | None = None) -> mx.array:
    """x [..., K] times weight [N, K] transposed, plus bias [N] -> [..., N] in x's dtype."""
    if x.size == 0:  # mx.quantized_matmul of no rows ends the process with SIGFPE (MLX 0.32.4, CPU)
        return mx.zeros((*x.shape[:-1], weight.shape[0]), x.dtype)
    if isinstance(weight, Quantized):
        y = mx.quantized_matmul(
            x,
            weight.weight,
            weight.scales.astype(x.dtype),
            weight.biases.astype(x.dtype),
            transpose=True,
            group_size=weight.group_size,
            bits=weight.bits,
        )
    else:
        y = x @ weight.astype(x.dtype).T
    return y if bias is None else y + bias.astype(x.dtype)


def embedding(ids: mx.array, weight: Weight) -> mx.array:
    """Rows ids [T] (each below N) of weight [N, H] -> float32 [T, H]."""
    if ids.size == 0:
        return mx.zeros((0, weight.shape[1]))
    if isinstance(weight, Quantized):
        rows = Quantized(weight.weight[ids], weight.scales[ids], weight.biases[ids], weight.bits, weight.group_size)
        return dequantize(rows)
    return weight[ids].astype(mx.float32)
