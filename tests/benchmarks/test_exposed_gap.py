"""The gap between steps, from when the decoder was called."""

import numpy as np

from tests.benchmarks.exposed_gap import Stamp, gaps_of


def test_only_steps_in_which_all_rows_decode_count() -> None:
    prefill, decode = {"rows": 2, "tokens": 33}, {"rows": 2, "tokens": 2}
    rounds = [
        [Stamp(0, 5, **prefill), Stamp(6, 10, **decode), Stamp(11, 15, **decode), Stamp(17, 21, **decode)],
        [Stamp(0, 4, **decode), Stamp(4.5, 8, rows=1, tokens=1)],
        [],
    ]
    gaps = gaps_of(rounds, 2)
    np.testing.assert_array_equal(gaps.step, [4, 4])
    np.testing.assert_array_equal(gaps.gap, [1, 2])
    assert gaps.percent == 100 * 3 / 11
