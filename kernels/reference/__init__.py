"""Single operations in pure MLX: the specification of `kernels.ops`, and what runs where no compiled primitive does."""

from kernels.reference.activation import gated, gelu, gelu_tanh_gate, swiglu
from kernels.reference.attention import paged_attention
from kernels.reference.linear import dequantize, embedding, linear
from kernels.reference.mixture import StackedExperts, choose, feed_forward, stack
from kernels.reference.norm import layer_norm, rms_norm
from kernels.reference.rope import rope, rope_angles, rotate
from kernels.reference.sampling import sample

__all__ = [
    "StackedExperts",
    "choose",
    "dequantize",
    "embedding",
    "feed_forward",
    "gated",
    "gelu",
    "gelu_tanh_gate",
    "layer_norm",
    "linear",
    "paged_attention",
    "rms_norm",
    "rope",
    "rope_angles",
    "rotate",
    "sample",
    "stack",
    "swiglu",
]
