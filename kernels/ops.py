"""Single array operations, public: what the encoder, the learner and the sampler are made of.

On a CPU, `linear`, `embedding` and `sample` run on the compiled kernels (kernels.cpu) where those are installed and
know the weight; everything else, and every operation on a GPU, is MLX: its fused norms, and otherwise the reference
(kernels.reference), which says what each one means. One difference shows: where the weight is quantized, the CPU
kernels round the activations to 15 bits per 32 inputs, as their decoder does.

Shapes: T tokens, R rows, H hidden, K inputs, N outputs, D head dimension; `..` is any leading shape, of any size
including 0. Results have the dtype of the first argument unless said otherwise. All but `sample` are lazy, and `linear`
is differentiable in x on every path.
"""

import functools
import logging
import weakref
from typing import Any

import mlx.core as mx
import numpy as np

from kernels import cpu, reference, sampling
from kernels.decoder import Batch, Int32, Logits, Quantized, Rope, Weight
from kernels.sampling import SampleBatch

log = logging.getLogger(__name__)

_packed: dict[int, tuple[weakref.ref, Any]] = {}
"""id of a weight -> (the weight, its packed form, or None where the kernels do not know its kind)."""


def linear(x: mx.array, weight: Weight, bias: mx.array | None = None) -> mx.array:
    """x [.., K] times weight [N, K] transposed, plus bias [N] -> [.., N]."""
    packed = _pack(weight)
    if packed is None or x.size == 0:
        return reference.linear(x, weight, bias)
    y = cpu._ext.linear(x, packed)
    return (y if bias is None else y + bias).astype(x.dtype)


def embedding(ids: mx.array, weight: Weight) -> mx.array:
    """Rows ids [T] (each below N) of weight [N, H] -> float32 [T, H]."""
    packed = _pack(weight) if isinstance(weight, Quantized) else None  # dense rows are a plain gather
    if packed is None or ids.size == 0:
        return reference.embedding(ids, weight)
    return cpu._ext.embedding(ids, packed)


def rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis; x [.., H], weight [H]."""
    return mx.fast.rms_norm(x, weight, eps)


def layer_norm(x: mx.array, weight: mx.array, bias: mx.array, eps: float) -> mx.array:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis; x [.., H], weight and bias [H]."""
    return mx.fast.layer_norm(x, weight, bias, eps)


def rope(x: mx.array, positions: Int32, spec: Rope) -> mx.array:
    """Rotate x [T, heads, D] by positions [T] (NumPy, tokens from the sequence's start)."""
    return reference.rope(x, positions, spec)


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """silu(gate) * up, both of any one shape."""
    return reference.swiglu(gate, up)


def gelu(x: mx.array) -> mx.array:
    """x times the normal distribution function of x, exact; any shape."""
    return reference.gelu(x)


def paged_attention(q: mx.array, k_pages: mx.array, v_pages: mx.array, batch: Batch, scale: float) -> mx.array:
    """Causal attention of q [T, heads, D] over pages [pages, page_size, kv_heads, D] -> [T, heads, D].

    The pages hold the batch's own K and V already. `scale` multiplies the scores, usually D ** -0.5.
    """
    return reference.paged_attention(q, k_pages, v_pages, batch, scale)


def sample(logits: Logits, batch: SampleBatch) -> Int32:
    """Draw a token for each row of float32 logits [R, vocab] -> ids [R] (kernels.sampling says how).

    Raises ValueError for a malformed batch, or where a row has nothing to draw: all its tokens banned, or NaN logits.
    """
    if mx.default_device().type == mx.gpu:
        return reference.sample(mx.array(logits), batch)
    values = np.asarray(logits)
    if not cpu.available():
        return sampling.sample(values, batch)
    drawn = np.empty(len(values), np.int32)
    columns = map(np.ascontiguousarray, batch[:-1])
    cpu._ext.sample(values, (*columns, batch.logprobs), drawn)
    return drawn


def _pack(weight: Weight) -> Any | None:
    """The weight in the CPU kernels' layout, packed when first used; None where they do not apply."""
    if mx.default_device().type == mx.gpu:
        return None
    if not cpu.available():
        _warn(cpu.reason())
        return None
    known = _packed.get(id(weight))
    if known is None or known[0]() is not weight:
        key = id(weight)
        known = _packed[key] = weakref.ref(weight, lambda _: _packed.pop(key, None)), _pack_new(weight)
    return known[1]


def _pack_new(weight: Weight) -> Any | None:
    if not isinstance(weight, Quantized):
        return cpu._ext.pack_dense(weight)
    if weight.bits not in (4, 8) or weight.group_size not in (32, 64, 128):
        return None
    return cpu._ext.pack_affine(weight.weight, weight.scales, weight.biases, weight.bits, weight.group_size)


@functools.cache
def _warn(reason: str) -> None:
    """Once: every operation that would have been fast says the same."""
    log.warning("matrix products run on stock MLX operations, 20 to 100 times slower than they could: %s", reason)
