"""The promotion gate and the metric that it goes by."""

import numpy as np
import pytest

from actors.router.fastgrnn.gate import gate
from actors.router.fastgrnn.metric import compare, recovered


def outcomes(rows: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Small and large: a fifth only the large model has right, a twentieth only the small one."""
    rng = np.random.default_rng(0)
    kind = rng.choice(3, rows, p=[0.2, 0.05, 0.75])
    both = rng.integers(0, 2, rows)
    return np.where(kind == 0, 0, np.where(kind == 1, 1, both)), np.where(kind == 0, 1, np.where(kind == 1, 0, both))


def test_an_oracle_recovers_most_and_chance_nothing() -> None:
    small, large = outcomes()
    oracle = (small - large).astype(float)
    assert (recovered(oracle, small, large) > [0.7, 0.4, 0.2]).all()
    assert compare(oracle, None, small, large, draws=100).low > 0.5
    chance = np.random.default_rng(1).random(len(small))
    even = compare(chance, None, small, large, draws=200)
    assert even.low < 0 < even.high
    np.testing.assert_allclose(recovered(oracle, small, large), -recovered(-oracle, small, large)[::-1], atol=1e-9)


def test_without_a_gap_there_is_nothing_to_recover() -> None:
    same = np.ones(10)
    assert np.isnan(recovered(np.arange(10), same, same)).all()


def test_a_better_candidate_passes_and_the_reverse_is_refused_with_numbers() -> None:
    small, large = outcomes()
    rng = np.random.default_rng(2)
    good = small - large + rng.standard_normal(len(small))
    weak = 0.2 * (small - large) + rng.standard_normal(len(small))
    passed = gate(good, weak, small, large)
    assert passed.passed
    assert passed.over_current.low > 0
    refused = gate(weak, good, small, large)
    assert not refused.passed
    assert "600 rows" in refused.reasons[0]
    assert str(refused.over_current) in refused.reasons[0]
    assert "not all above the margin" in refused.reasons[0]


def test_the_same_again_passes_only_where_a_margin_allows() -> None:
    small, large = outcomes()
    score = small - large + np.random.default_rng(3).standard_normal(len(small))
    assert not gate(score, score, small, large).passed
    assert gate(score, score, small, large, margin=-0.02).passed


def test_one_that_is_no_better_than_chance_is_refused_whatever_it_replaces() -> None:
    small, large = outcomes()
    chance, bad = np.random.default_rng(4).random(len(small)), (large - small).astype(float)
    verdict = gate(chance, bad, small, large)
    assert verdict.over_current.low > 0
    assert not verdict.passed


@pytest.mark.parametrize("rounds", [1, 3])
def test_rounds_are_averaged(rounds: int) -> None:
    small, large = outcomes()
    score = small - large + np.random.default_rng(3).standard_normal(len(small))
    lead = compare(np.stack([score] * rounds), None, small, large, draws=50)
    assert lead == compare(score, None, small, large, draws=50)
