"""Training of the cell: its loss, the gradient by hand through a session's turns, Fisher information and the penalty.

A gradient is small enough to write down, and so the router trains with NumPy alone; a test holds it to differences.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.router.fastgrnn.cell import (
    CONFIDENCE,
    CONTEXT,
    HIDDEN,
    MODEL,
    SHAPES,
    TEMPERATURE,
    TOP_P,
    Weights,
    sigmoid,
    softmax,
)

SPARSITY = 0.9
"""Share of the entries of W's two factors that are 0."""
SAMPLING_WEIGHT = 0.1
"""Of the squared errors of temperature and top_p."""
LAMBDA = 0.4
FISHER_ROWS = 512


class Targets(NamedTuple):
    """What n requests of t turns should be told; NaN is not known and adds no loss."""

    model: NDArray[np.float32]
    """[n, t, TIERS]: share of the say that each tier gets; a row sums to 1."""
    context: NDArray[np.float32]
    """[n, t, len(BUCKETS)], as model."""
    temperature: NDArray[np.float32]
    top_p: NDArray[np.float32]
    confidence: NDArray[np.float32]
    """[n, t] each; confidence is whether the answer was good, 0..1."""

    def rows(self, chosen: NDArray) -> "Targets":
        """Those of some requests."""
        return Targets(*(each[chosen] for each in self))


class Anchor(NamedTuple):
    """What earlier training found, and how much each parameter mattered to it (EWC; Kirkpatrick et al. 2017)."""

    weights: Weights
    fisher: Weights
    """Mean 1 in each tensor."""


class Plan(NamedTuple):
    """How long and how to train."""

    epochs: int = 40
    batch: int = 64
    rate: float = 6e-3
    decay: float = 1e-2
    """Of the weights' squares, not of biases."""
    drop: float = 0.1
    """Share of the inputs that a step does not see."""
    seed: int = 0


def start(seed: int) -> Weights:
    """Random weights: matrices of unit gain, biases of 0, a gate that remembers."""
    rng = np.random.default_rng(seed)
    drawn = {
        name: rng.standard_normal(shape) * (2.0 / sum(shape)) ** 0.5 if len(shape) == 2 else np.zeros(shape)
        for name, shape in SHAPES.items()
    }
    drawn["zeta"][:], drawn["nu"][:] = 1.0, -4.0
    return Weights(**{name: each.astype(np.float32) for name, each in drawn.items()})


def loss_and_gradient(weights: Weights, x: NDArray, targets: Targets) -> tuple[float, Weights]:
    """Mean loss over the requests `x` [n, t, INPUT] and its gradient; the state before the first turn is 0.

    The loss of a turn is CE(model) + CE(context) + 0.1 (MSE(temperature) + MSE(top_p)) + CE(confidence).
    """
    n, turns, _ = x.shape
    zeta, nu = sigmoid(weights.zeta), sigmoid(weights.nu)
    states = [np.zeros((n, HIDDEN), x.dtype)]
    gates, candidates = [], []
    loss, outer = 0.0, []
    for turn in range(turns):
        h = states[-1]
        pre = (x[:, turn] @ weights.w2.T) @ weights.w1.T + (h @ weights.u2.T) @ weights.u1.T
        z, c = sigmoid(pre + weights.b_z), np.tanh(pre + weights.b_h)
        gates.append(z)
        candidates.append(c)
        states.append((zeta * (1 - z) + nu) * c + z * h)
        lost, error = _heads_loss(states[-1] @ weights.heads + weights.bias, targets, turn)
        loss += lost / n
        outer.append(error / n)
    gradient = {name: np.zeros(shape, x.dtype) for name, shape in SHAPES.items()}
    behind = np.zeros((n, HIDDEN), x.dtype)
    for turn in reversed(range(turns)):
        h, z, c = states[turn], gates[turn], candidates[turn]
        gradient["heads"] += states[turn + 1].T @ outer[turn]
        gradient["bias"] += outer[turn].sum(axis=0)
        back = outer[turn] @ weights.heads.T + behind
        gradient["zeta"] += (back * (1 - z) * c).sum() * zeta * (1 - zeta)
        gradient["nu"] += (back * c).sum() * nu * (1 - nu)
        to_z = back * (h - zeta * c) * z * (1 - z)
        to_c = back * (zeta * (1 - z) + nu) * (1 - c * c)
        gradient["b_z"] += to_z.sum(axis=0)
        gradient["b_h"] += to_c.sum(axis=0)
        pre = to_z + to_c
        gradient["w1"] += pre.T @ (x[:, turn] @ weights.w2.T)
        gradient["w2"] += (pre @ weights.w1).T @ x[:, turn]
        gradient["u1"] += pre.T @ (h @ weights.u2.T)
        gradient["u2"] += (pre @ weights.u1).T @ h
        behind = back * z + (pre @ weights.u1) @ weights.u2
    return loss, Weights(**gradient)


def _heads_loss(outputs: NDArray, targets: Targets, turn: int) -> tuple[float, NDArray]:
    """Summed loss of one turn and its gradient with respect to `outputs` [n, OUTPUTS]."""
    error = np.zeros_like(outputs)
    loss = 0.0
    for place, wanted in ((MODEL, targets.model[:, turn]), (CONTEXT, targets.context[:, turn])):
        known = ~np.isnan(wanted[:, :1])
        sure = np.where(known, wanted, 0.0)
        shares = softmax(outputs[:, place])
        loss -= float((sure * np.log(np.maximum(shares, 1e-30))).sum())
        error[:, place] = (shares - sure) * known
    for place, scale, wanted in (
        (TEMPERATURE, 2.0, targets.temperature[:, turn]),
        (TOP_P, 1.0, targets.top_p[:, turn]),
    ):
        said = sigmoid(outputs[:, place])
        off = np.where(np.isnan(wanted), 0.0, scale * said - wanted)
        loss += SAMPLING_WEIGHT * float(np.square(off).sum())
        error[:, place] = SAMPLING_WEIGHT * 2 * off * scale * said * (1 - said)
    wanted = targets.confidence[:, turn]
    known = ~np.isnan(wanted)
    sure = np.where(known, wanted, 0.0)
    out = outputs[:, CONFIDENCE]
    loss += float((known * (np.logaddexp(0.0, out) - sure * out)).sum())
    error[:, CONFIDENCE] = known * (sigmoid(out) - sure)
    return loss, error


def penalty(weights: Weights, anchor: Anchor) -> tuple[float, Weights]:
    """LAMBDA / 2 times the sum of F (w - w*)^2, and its gradient."""
    away = [now - then for now, then in zip(weights, anchor.weights, strict=True)]
    pull = [LAMBDA * fisher * off for fisher, off in zip(anchor.fisher, away, strict=True)]
    return 0.5 * float(sum((each * off).sum() for each, off in zip(pull, away, strict=True))), Weights(*pull)


def fisher(weights: Weights, x: NDArray, targets: Targets, seed: int = 0) -> Weights:
    """Mean squared gradient of the log-likelihood over requests (FISHER_ROWS at most), scaled to mean 1 per tensor."""
    chosen = np.random.default_rng(seed).permutation(len(x))[:FISHER_ROWS]
    total = {name: np.zeros(shape, np.float64) for name, shape in SHAPES.items()}
    for row in chosen:
        _, gradient = loss_and_gradient(weights, x[row : row + 1], targets.rows(np.array([row])))
        for name, each in gradient._asdict().items():
            total[name] += np.square(each, dtype=np.float64)
    means = {name: each.mean() for name, each in total.items()}
    return Weights(
        **{name: (each / means[name] if means[name] else each).astype(np.float32) for name, each in total.items()}
    )


def train(x: NDArray, targets: Targets, plan: Plan, anchor: Anchor | None = None) -> Weights:
    """Weights that fit `targets` on `x` [n, t, INPUT], from `anchor` where there is one, else from random ones.

    Adam with a rate that falls to 0 along a cosine. W's factors lose their smallest entries as training goes on (from a
    third of it), and keep the same ones from two thirds on (iterative hard thresholding, as published).
    """
    rng = np.random.default_rng(plan.seed)
    weights = anchor.weights if anchor is not None else start(plan.seed)
    moments = [(np.zeros_like(each), np.zeros_like(each)) for each in weights]
    total = plan.epochs * -(-len(x) // plan.batch)
    support: tuple[NDArray, NDArray] | None = None
    for count, rows in enumerate(_batches(len(x), plan, rng), 1):
        seen = x[rows] * (rng.random((1, 1, x.shape[2])) >= plan.drop) / (1 - plan.drop)
        _, gradient = loss_and_gradient(weights, seen.astype(np.float32), targets.rows(rows))
        pull = penalty(weights, anchor)[1] if anchor is not None else None
        rate = plan.rate * 0.5 * (1 + np.cos(np.pi * count / total))
        moved = []
        for place, (value, slope) in enumerate(zip(weights, gradient, strict=True)):
            whole = slope + (pull[place] / len(x) if pull is not None else 0.0)
            first, second = moments[place]
            first += 0.1 * (whole - first)
            second += 0.01 * (np.square(whole) - second)
            stride = (first / (1 - 0.9**count)) / (np.sqrt(second / (1 - 0.99**count)) + 1e-8)
            shrink = plan.decay * value if value.ndim == 2 else 0.0
            moved.append((value - rate * (stride + shrink)).astype(np.float32))
        weights = Weights(*moved)
        if 3 * count >= total:
            if support is None or 3 * count < 2 * total:
                support = _largest(weights.w1), _largest(weights.w2)
            weights = weights._replace(w1=weights.w1 * support[0], w2=weights.w2 * support[1])
    return weights


def _batches(rows: int, plan: Plan, rng: np.random.Generator) -> Iterator[NDArray]:
    for _ in range(plan.epochs):
        order = rng.permutation(rows)
        for start_at in range(0, rows, plan.batch):
            yield order[start_at : start_at + plan.batch]


def _largest(matrix: NDArray) -> NDArray:
    """Where the largest 1 - SPARSITY of the entries lie, as 0 and 1."""
    kept = max(1, round(matrix.size * (1 - SPARSITY)))
    border = np.partition(np.abs(matrix).ravel(), matrix.size - kept)[matrix.size - kept]
    return (np.abs(matrix) >= border).astype(np.float32)
