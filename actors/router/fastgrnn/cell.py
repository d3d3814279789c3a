"""FastGRNN: a gated recurrent cell with one pair of low-rank matrices for gate and candidate, and its heads.

    pre = W x + U h,  z = sigmoid(pre + b_z),  c = tanh(pre + b_h),  h' = (zeta (1 - z) + nu) c + z h

W = W1 W2 and U = U1 U2; zeta and nu lie in [0, 1]. Kusupati et al. 2018, "FastGRNN: A Fast, Accurate, Stable and Tiny
Kilobyte Sized Gated Recurrent Neural Network".
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

INPUT, HIDDEN, RANK = 128, 64, 8
BUCKETS = (256, 512, 1024, 2048, 4096, 8192)
"""Tokens of prompt and answer together; the last stands for all that is longer."""
SMALL, LARGE = 0, 1
TIERS = 2
"""What the model head tells apart: a small model and a large one."""
MODEL = slice(0, TIERS)
CONTEXT = slice(TIERS, TIERS + len(BUCKETS))
TEMPERATURE, TOP_P, CONFIDENCE = range(TIERS + len(BUCKETS), TIERS + len(BUCKETS) + 3)
OUTPUTS = TIERS + len(BUCKETS) + 3

Array = NDArray[np.floating]
"""float32; float64 where a test takes differences."""


class Weights(NamedTuple):
    """Parameters of cell and heads. `zeta` and `nu` are [1] and pass through a sigmoid."""

    w1: Array
    """[HIDDEN, RANK]."""
    w2: Array
    """[RANK, INPUT]."""
    u1: Array
    """[HIDDEN, RANK]."""
    u2: Array
    """[RANK, HIDDEN]."""
    b_z: Array
    b_h: Array
    zeta: Array
    nu: Array
    heads: Array
    """[HIDDEN, OUTPUTS]: columns MODEL, CONTEXT, TEMPERATURE, TOP_P and CONFIDENCE."""
    bias: Array


SHAPES = {
    "w1": (HIDDEN, RANK),
    "w2": (RANK, INPUT),
    "u1": (HIDDEN, RANK),
    "u2": (RANK, HIDDEN),
    "b_z": (HIDDEN,),
    "b_h": (HIDDEN,),
    "zeta": (1,),
    "nu": (1,),
    "heads": (HIDDEN, OUTPUTS),
    "bias": (OUTPUTS,),
}


class Heads(NamedTuple):
    """What the heads say of n inputs: probabilities [n, TIERS] and [n, len(BUCKETS)], and three numbers each, [n]."""

    model: Array
    context: Array
    temperature: Array
    """0 to 2."""
    top_p: Array
    confidence: Array


def sigmoid(x: NDArray) -> NDArray:
    """1 / (1 + exp(-x)), monotone and without overflow for every x."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def softmax(x: NDArray) -> NDArray:
    """Along the last axis."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def step(weights: Weights, x: Array, h: Array) -> Array:
    """The next hidden state [n, HIDDEN] after inputs `x` [n, INPUT] in states `h` [n, HIDDEN]."""
    pre = (x @ weights.w2.T) @ weights.w1.T + (h @ weights.u2.T) @ weights.u1.T
    z = sigmoid(pre + weights.b_z)
    c = np.tanh(pre + weights.b_h)
    return (sigmoid(weights.zeta) * (1.0 - z) + sigmoid(weights.nu)) * c + z * h


def logits(weights: Weights, h: Array) -> Array:
    """The heads' outputs [n, OUTPUTS] before softmax and sigmoid."""
    return h @ weights.heads + weights.bias


def heads(outputs: Array) -> Heads:
    """What `outputs` [n, OUTPUTS] mean."""
    return Heads(
        softmax(outputs[:, MODEL]),
        softmax(outputs[:, CONTEXT]),
        2.0 * sigmoid(outputs[:, TEMPERATURE]),
        sigmoid(outputs[:, TOP_P]),
        sigmoid(outputs[:, CONFIDENCE]),
    )


def bucket(tokens: int) -> int:
    """Place in BUCKETS of the smallest that holds `tokens`; the last for more than it holds."""
    return next((place for place, size in enumerate(BUCKETS) if tokens <= size), len(BUCKETS) - 1)
