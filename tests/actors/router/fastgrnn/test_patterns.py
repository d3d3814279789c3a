"""The nearest of known prompts, and what they tell."""

import numpy as np
import pytest

from actors.router.fastgrnn.features import PROJECTED
from actors.router.fastgrnn.patterns import FAR, Bank, _largest, statistics


@pytest.mark.parametrize("size", [1, 29, 30, 31, 959, 960, 992, 1001, 5000])
@pytest.mark.parametrize("levels", [1, 7, 10**6])
def test_the_largest_are_those_of_a_full_sort(size: int, levels: int) -> None:
    """Of few levels most are equal."""
    values = (np.random.default_rng(size).integers(levels, size=size) / levels).astype(np.float32)
    count = min(FAR, size)
    np.testing.assert_array_equal(_largest(values, count), np.argsort(-values, kind="stable")[:count])


def test_the_nearest_prompts_decide_what_is_told() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(-40, 40, (2000, PROJECTED)).astype(np.int8)
    vectors[1234] = 127 * np.eye(PROJECTED)[0]
    outcomes = np.tile(np.array([0, 1], np.float32), (2000, 1))
    outcomes[1234] = 1, 0
    told = statistics(Bank(vectors, outcomes), np.eye(PROJECTED, dtype=np.float32)[:1])[0]
    assert told[0] == pytest.approx(1, abs=1e-6)
    assert told[4] == pytest.approx(0.8)  # of ten one says -1
    assert (told[6], told[8]) == pytest.approx((0.1, 0.9))
