"""How well a score chooses which requests go to the large model: performance gap recovered, and its comparison."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SHARES = (0.25, 0.5, 0.75)
"""Of requests that go to the large model."""
DRAWS = 1000


class Interval(NamedTuple):
    """An estimate and its central 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """As "0.123 [0.045, 0.201]"."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def recovered(enough: NDArray, small: NDArray, large: NDArray) -> NDArray:
    """Share of the gap between small and large that is recovered at each of SHARES, less the share itself (chance).

    `enough` [n]: the higher, the rather the small model answers. `small` and `large` [n]: whether each was right.
    Without a gap there is nothing to recover: NaN.
    """
    gains = (large.astype(float) - small)[np.argsort(enough, kind="stable")]
    total = gains.sum()
    if total == 0:
        return np.full(len(SHARES), np.nan)
    sums = np.concatenate([[0.0], np.cumsum(gains)])
    return np.array([sums[round(share * len(gains))] / total - share for share in SHARES])


def compare(
    enough: NDArray, other: NDArray | None, small: NDArray, large: NDArray, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """By how much more `enough` recovers than `other` (None: chance), the mean over SHARES; bootstrap of the requests.

    Both are drawn together. `enough` and `other` may be [rounds, n]: several scores of the same requests, averaged.
    """
    ours, theirs = np.atleast_2d(enough), None if other is None else np.atleast_2d(other)

    def lead(rows: NDArray) -> float:
        mine = np.mean([recovered(each[rows], small[rows], large[rows]).mean() for each in ours])
        if theirs is None:
            return float(mine)
        return float(mine - np.mean([recovered(each[rows], small[rows], large[rows]).mean() for each in theirs]))

    rng, count = np.random.default_rng(seed), len(small)
    drawn = [lead(rng.integers(0, count, count)) for _ in range(draws)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Interval(lead(np.arange(count)), float(low), float(high))
