"""Training: the gradient written by hand, every head's share of it, Fisher information, sparsity and the penalty."""

import numpy as np
import pytest

from actors.router.fastgrnn import cell, learning
from actors.router.fastgrnn.cell import Weights


def lesson(rows: int, turns: int, seed: int = 0) -> tuple[np.ndarray, learning.Targets]:
    """Inputs and random targets of all heads."""
    rng = np.random.default_rng(seed)
    small = rng.random((rows, turns))
    targets = learning.Targets(
        np.stack([small, 1 - small], axis=-1),
        np.eye(len(cell.BUCKETS))[rng.integers(0, len(cell.BUCKETS), (rows, turns))],
        2 * rng.random((rows, turns)),
        rng.random((rows, turns)),
        rng.integers(0, 2, (rows, turns)).astype(float),
    )
    return rng.standard_normal((rows, turns, cell.INPUT)), targets


def precise(weights: Weights) -> Weights:
    """float64, in which differences can be taken, with biases that are not 0."""
    rng = np.random.default_rng(5)
    return Weights(*(each.astype(np.float64) + 0.1 * rng.standard_normal(each.shape) for each in weights))


@pytest.mark.parametrize("name", Weights._fields)
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    weights, (x, targets) = precise(learning.start(0)), lesson(4, 3)
    gradient = getattr(learning.loss_and_gradient(weights, x, targets)[1], name)
    value = getattr(weights, name)
    for place in np.random.default_rng(1).permutation(value.size)[:12]:
        at = np.unravel_index(place, value.shape)
        losses = []
        for off in (1e-5, -1e-5):
            moved = value.copy()
            moved[at] += off
            losses.append(learning.loss_and_gradient(weights._replace(**{name: moved}), x, targets)[0])
        assert gradient[at] == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-4, abs=1e-8)


def test_every_head_gets_gradients() -> None:
    x, targets = lesson(8, 2)
    gradient = learning.loss_and_gradient(precise(learning.start(0)), x, targets)[1]
    assert (np.abs(gradient.heads).max(axis=0) > 0).all()
    assert (np.abs(gradient.bias) > 0).all()


def test_what_is_not_known_adds_nothing() -> None:
    x, targets = lesson(8, 2)
    unknown = targets._replace(temperature=np.full_like(targets.temperature, np.nan), model=targets.model * np.nan)
    gradient = learning.loss_and_gradient(precise(learning.start(0)), x, unknown)[1]
    assert not gradient.heads[:, cell.TEMPERATURE].any()
    assert not gradient.heads[:, cell.MODEL].any()
    assert gradient.heads[:, cell.CONFIDENCE].all()


def test_training_learns_every_head_with_a_sparse_w() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((600, 1, cell.INPUT)).astype(np.float32)
    said = (x[..., 0] > 0).astype(np.float32)
    targets = learning.Targets(
        np.stack([said, 1 - said], axis=-1),
        np.eye(len(cell.BUCKETS), dtype=np.float32)[np.where(x[..., 1] > 0, 4, 1)],
        np.where(x[..., 0] > 0, 1.5, 0.2),
        np.where(x[..., 1] > 0, 0.9, 0.3),
        (x[..., 2] > 0).astype(np.float32),
    )
    weights = learning.train(x, targets, learning.Plan(epochs=60))
    for factor in (weights.w1, weights.w2):
        assert (factor == 0).mean() == pytest.approx(learning.SPARSITY, abs=0.01)
    fresh = rng.standard_normal((400, cell.INPUT)).astype(np.float32)
    told = cell.heads(cell.logits(weights, cell.step(weights, fresh, np.zeros((400, cell.HIDDEN), np.float32))))
    assert ((told.model[:, cell.SMALL] > 0.5) == (fresh[:, 0] > 0)).mean() > 0.9
    assert ((told.context.argmax(axis=1) == 4) == (fresh[:, 1] > 0)).mean() > 0.9
    assert np.corrcoef(told.temperature, fresh[:, 0] > 0)[0, 1] > 0.6
    assert np.corrcoef(told.top_p, fresh[:, 1] > 0)[0, 1] > 0.6
    assert ((told.confidence > 0.5) == (fresh[:, 2] > 0)).mean() > 0.9


def test_fisher_is_the_mean_squared_gradient_of_each_row() -> None:
    weights, (x, targets) = precise(learning.start(0)), lesson(6, 2)
    squares = [
        np.square(learning.loss_and_gradient(weights, x[row : row + 1], targets.rows(np.array([row])))[1].heads)
        for row in range(6)
    ]
    mean = np.mean(squares, axis=0)
    found = learning.fisher(weights, x, targets)
    np.testing.assert_allclose(found.heads, mean / mean.mean(), rtol=1e-4)
    for each in found:
        assert each.mean() == pytest.approx(1, rel=1e-4)


def test_the_penalty_has_the_gradient_that_it_says() -> None:
    weights, other = precise(learning.start(0)), precise(learning.start(1))
    fisher = Weights(*(np.abs(each) for each in precise(learning.start(2))))
    anchor = learning.Anchor(other, fisher)
    value, gradient = learning.penalty(weights, anchor)
    away = sum((f * np.square(a - b)).sum() for f, a, b in zip(fisher, weights, other, strict=True))
    assert value == pytest.approx(learning.LAMBDA / 2 * away)
    moved = weights.u1.copy()
    moved[3, 2] += 1e-5
    rise = (learning.penalty(weights._replace(u1=moved), anchor)[0] - value) / 1e-5
    assert gradient.u1[3, 2] == pytest.approx(rise, rel=1e-3)


def test_an_anchor_keeps_what_was_learned_before() -> None:
    """Ablation: a second task without the first one's rows; the first is forgotten less with the penalty."""
    rng = np.random.default_rng(4)

    def task(column: int) -> tuple[np.ndarray, learning.Targets]:
        x = rng.standard_normal((400, 1, cell.INPUT)).astype(np.float32)
        sure = (x[..., column] > 0).astype(np.float32)
        nothing = np.full((400, 1), np.nan, np.float32)
        context = np.full((400, 1, len(cell.BUCKETS)), np.nan, np.float32)
        return x, learning.Targets(np.stack([sure, 1 - sure], axis=-1), context, nothing, nothing, nothing)

    first, second = task(0), task(7)
    plan = learning.Plan(epochs=30)
    before = learning.train(*first, plan)
    anchor = learning.Anchor(before, learning.fisher(before, *first))
    free = learning.Anchor(before, Weights(*(np.zeros_like(each) for each in before)))
    lost = {
        name: learning.loss_and_gradient(learning.train(*second, plan, each), *first)[0]
        for name, each in (("with", anchor), ("without", free))
    }
    assert lost["with"] < lost["without"]
