"""Scope: what the score is made of is chosen on labels that a trial head has not seen."""

import numpy as np
import pytest
import scipy.sparse as sparse

from actors.router.semantic import scope
from actors.router.semantic.features import BUCKETS

LABELS, EACH, KINDS, WIDTH = 12, 24, 4, 64


def texts() -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of labels that share an axis two by two; a label's texts are of a few kinds, each much alike."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]
    targets = np.repeat(np.arange(LABELS), EACH)
    kinds = LABELS // 2 + targets * KINDS + np.arange(len(targets)) % KINDS
    rows = axes[targets // 2] + axes[kinds] + 0.02 * rng.standard_normal((len(targets), WIDTH))
    return scope.unit(rows).astype(np.float32), targets


def none(rows: int) -> sparse.csr_array:
    return sparse.csr_array((rows, BUCKETS), dtype=np.float32)


def test_nearness_counts_where_strangers_share_what_a_label_is_told_by() -> None:
    dense, targets = texts()
    assert scope.chosen(dense, none(len(dense)), targets, LABELS) > 0


def test_with_few_labels_energy_alone_decides() -> None:
    dense, targets = texts()
    few = targets < scope.LEAST_LABELS - 1
    assert scope.chosen(dense[few], none(int(few.sum())), targets[few], scope.LEAST_LABELS - 1) == 0


def test_the_same_examples_give_the_same_choice() -> None:
    dense, targets = texts()
    first, again = (scope.chosen(dense, none(len(dense)), targets, LABELS) for _ in range(2))
    assert first == again


def test_the_score_is_energy_and_nearness() -> None:
    logits = np.log(np.array([[1, 1], [2, 6]], np.float32))
    nearest = np.array([0.5, 1.0], np.float32)
    np.testing.assert_allclose(scope.score(logits, nearest, 0.0), np.log([2, 8]), rtol=1e-5)
    np.testing.assert_allclose(scope.score(logits, nearest, 4.0), [np.log(2) + 2, np.log(8) + 4], rtol=1e-5)


@pytest.mark.parametrize(("outside", "border"), [([], 0.05), ([-1.0, -0.5, 0.2], 0.25)])
def test_the_border_lets_most_in_or_lies_where_it_tells_best(outside: list[float], border: float) -> None:
    inside = np.linspace(0, 1, 101).astype(np.float32)
    found = scope.threshold(inside, np.array(outside, np.float32))
    assert found == pytest.approx(border, abs=0.05)
