"""Activations, elementwise; results in the input's dtype."""

import math

import mlx.core as mx

from kernels.decoder import Activation


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """silu(gate) * up (Shazeer 2020), any equal shapes."""
    return gate * mx.sigmoid(gate) * up


def gelu_tanh_gate(gate: mx.array, up: mx.array) -> mx.array:
    """gelu(gate) * up with gelu's tanh approximation (Gemma's gate), any equal shapes."""
    inner = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate * gate * gate)
    return 0.5 * gate * (1 + mx.tanh(inner)) * up


def gated(activation: Activation, gate: mx.array, up: mx.array) -> mx.array:
    """act(gate) * up for a decoder's feed-forward block."""
    match activation:
        case Activation.SILU:
            return swiglu(gate, up)
        case Activation.GELU_TANH:
            return gelu_tanh_gate(gate, up)


def gelu(x: mx.array) -> mx.array:
    """x times the normal distribution function of x, exact (BERT's gelu)."""
    return 0.5 * x * (1 + mx.erf(x * math.sqrt(0.5)))
