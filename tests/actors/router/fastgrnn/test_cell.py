"""The cell: the published equations, and a sigmoid that is one."""

import numpy as np

from actors.router.fastgrnn import cell, learning


def test_a_step_is_the_published_one() -> None:
    rng = np.random.default_rng(0)
    weights = learning.start(1)._replace(
        b_z=rng.standard_normal(cell.HIDDEN).astype(np.float32), b_h=rng.standard_normal(cell.HIDDEN).astype(np.float32)
    )
    x = rng.standard_normal((3, cell.INPUT)).astype(np.float32)
    h = rng.standard_normal((3, cell.HIDDEN)).astype(np.float32)

    def logistic(value: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-value))

    w, u = weights.w1 @ weights.w2, weights.u1 @ weights.u2
    for row in range(3):
        pre = w @ x[row] + u @ h[row]
        z, c = logistic(pre + weights.b_z), np.tanh(pre + weights.b_h)
        expected = (logistic(weights.zeta) * (1 - z) + logistic(weights.nu)) * c + z * h[row]
        np.testing.assert_allclose(cell.step(weights, x, h)[row], expected, rtol=1e-4, atol=1e-5)


def test_the_sigmoid_is_monotone_and_finite_everywhere() -> None:
    x = np.concatenate([np.linspace(-1000, -20, 50), np.linspace(-20, 20, 2001), np.linspace(20, 1000, 50)])
    y = cell.sigmoid(x)
    assert np.isfinite(y).all()
    assert (np.diff(y) >= 0).all()
    assert (np.diff(y[50:-50]) > 0).all()
    assert (y[0], cell.sigmoid(np.zeros(1))[0], y[-1]) == (0.0, 0.5, 1.0)


def test_heads_stay_within_their_ranges() -> None:
    outputs = np.random.default_rng(0).standard_normal((50, cell.OUTPUTS)).astype(np.float32) * 30
    told = cell.heads(outputs)
    np.testing.assert_allclose(told.model.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(told.context.sum(axis=1), 1, rtol=1e-5)
    assert told.temperature.min() >= 0
    assert 1 < told.temperature.max() <= 2
    for share in (told.top_p, told.confidence):
        assert 0 <= share.min() <= share.max() <= 1


def test_a_bucket_holds_its_tokens() -> None:
    assert [cell.bucket(tokens) for tokens in (0, 256, 257, 2048, 9999)] == [0, 0, 1, 3, 5]
