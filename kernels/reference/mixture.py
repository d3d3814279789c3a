"""Feed-forward layers, dense and by a mixture of experts, and how experts are chosen."""

from dataclasses import dataclass

import mlx.core as mx

from kernels.decoder import DecoderSpec, Expert, Experts, LayerWeights, MixtureSpec, MixtureWeights, Quantized, Weight
from kernels.reference.activation import gated
from kernels.reference.linear import linear

_SORTED_FROM = 64
"""Pairs of rows and experts from which sorting them by expert is worth it: neighbours then share weights."""


@dataclass(frozen=True)
class StackedExperts:
    """A layer's experts as three stacks: gate and up [experts, intermediate, hidden], down the other way round.

    One stack is what MLX's gathered products want: a `Quantized` here has one dimension more, in front.
    """

    gate: Weight
    up: Weight
    down: Weight

    @property
    def matrices(self) -> tuple[Weight, Weight, Weight]:
        """gate, up and down."""
        return self.gate, self.up, self.down

    def __len__(self) -> int:
        return (self.gate.weight if isinstance(self.gate, Quantized) else self.gate).shape[0]

    def __getitem__(self, index: int) -> Expert:
        return Expert(*(_one(matrix, index) for matrix in self.matrices))


def stack(experts: Experts) -> StackedExperts:
    """The experts of a layer in one stack for each of their matrices; itself where it is one."""
    if isinstance(experts, StackedExperts):
        return experts
    each = [experts[index] for index in range(len(experts))]
    return StackedExperts(*(_stacked(matrices) for matrices in zip(*each, strict=True)))


def choose(
    logits: mx.array, top_k: int, normalize: bool, resident: mx.array | None = None, bonus: float = 0.0
) -> tuple[mx.array, mx.array]:
    """Experts of each token by router logits [T, experts] -> ids int32 [T, top_k], best first, and weights float32.

    The score is the logit, or with a bonus the logit scaled to 0..1 between the token's least and largest, plus `bonus`
    where `resident` [experts] is true. Ties go to the lower id. Weights are softmaxes of the logits alone, over the
    chosen where `normalize`, else over all.
    """
    wide = logits.astype(mx.float32)
    scores = wide
    if bonus and resident is not None:
        least, largest = wide.min(axis=-1, keepdims=True), wide.max(axis=-1, keepdims=True)
        scale = mx.where(largest > least, largest - least, 1)
        scores = (wide - least) / scale + mx.where(resident, bonus, 0.0)
    ids = mx.argsort(-scores, axis=-1)[..., :top_k].astype(mx.int32)
    if not normalize:
        return ids, mx.take_along_axis(mx.softmax(wide, axis=-1), ids, axis=-1)
    return ids, mx.softmax(mx.take_along_axis(wide, ids, axis=-1), axis=-1)


def feed_forward(x: mx.array, spec: DecoderSpec, layer: LayerWeights) -> mx.array:
    """What a layer's feed-forward adds to the residual: normed x [T, hidden] -> [T, hidden]."""
    out = mx.zeros_like(x)
    if layer.dense is not None:
        gate, up, down = layer.dense
        out = linear(gated(spec.activation, linear(x, gate), linear(x, up)), down)
    if layer.mixture is None or spec.mixture is None:
        return out
    if layer.mixture.shared_gate is not None:
        out = mx.sigmoid(linear(x, layer.mixture.shared_gate)) * out
    return out + _mixture(x, spec, spec.mixture, layer.mixture)


def _mixture(x: mx.array, spec: DecoderSpec, shape: MixtureSpec, weights: MixtureWeights) -> mx.array:
    stacked = stack(weights.experts)
    ids, shares = choose(linear(x, weights.router), shape.top_k, shape.normalize)
    experts = ids.reshape(-1)
    # Rows by expert, where there are many: a weight that is read serves them all.
    in_order = experts.size >= _SORTED_FROM
    order = mx.argsort(experts) if in_order else mx.arange(experts.size)
    experts, rows = experts[order], x[order // shape.top_k][:, None]
    gate, up = (_gathered(rows, matrix, experts, in_order) for matrix in (stacked.gate, stacked.up))
    out = _gathered(gated(spec.activation, gate, up), stacked.down, experts, in_order)[:, 0]
    out = out[mx.argsort(order)] if in_order else out
    shares = shares.astype(x.dtype)[..., None]
    return (out.reshape(*ids.shape, -1) * shares).sum(axis=-2)


def _gathered(x: mx.array, matrices: Weight, experts: mx.array, in_order: bool) -> mx.array:
    """x [P, 1, K], each times the matrix of its expert [P] -> [P, 1, N]."""
    if not isinstance(matrices, Quantized):
        return mx.gather_mm(x, matrices.astype(x.dtype).swapaxes(-1, -2), rhs_indices=experts, sorted_indices=in_order)
    return mx.gather_qmm(
        x,
        matrices.weight,
        matrices.scales.astype(x.dtype),
        matrices.biases.astype(x.dtype),
        rhs_indices=experts,
        transpose=True,
        group_size=matrices.group_size,
        bits=matrices.bits,
        sorted_indices=in_order,
    )


def _stacked(matrices: tuple[Weight, ...]) -> Weight:
    first = matrices[0]
    if not isinstance(first, Quantized):
        return mx.stack([matrix for matrix in matrices if not isinstance(matrix, Quantized)])
    parts = [part for part in matrices if isinstance(part, Quantized)]
    return Quantized(
        weight=mx.stack([part.weight for part in parts]),
        scales=mx.stack([part.scales for part in parts]),
        biases=mx.stack([part.biases for part in parts]),
        bits=first.bits,
        group_size=first.group_size,
    )


def _one(matrices: Weight, index: int) -> Weight:
    if not isinstance(matrices, Quantized):
        return matrices[index]
    parts = (matrices.weight[index], matrices.scales[index], matrices.biases[index])
    return Quantized(*parts, bits=matrices.bits, group_size=matrices.group_size)
