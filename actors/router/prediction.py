"""What waits will be: Bayesian linear regression, online, on a few causes that are known beforehand.

A replica's wait for the first token is about linear in the work ahead of a request, and so is the time per token in
the rows beside it; by how much is the replica's own. Each replica has its weights. They begin as a prior says and
follow its reports by recursive least squares with forgetting, in relative terms: 10 ms too many count at 50 ms, not at
5 s.

On top lies one factor that follows a sudden change of everything (a throttled chip, a neighbour) within a few reports,
and fades with time, so that a replica that was slow for a while is believed in again.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

FORGET = 0.995
"""What a report weighs after the next: the last 200 count most."""
NOISE = 0.5
"""Standard deviation of what is measured around what is predicted, as a share of it."""
OUTLIER = 3.0
"""Residuals beyond so many standard deviations count as that: one stalled request does not turn everything over."""
LEAST_SHARE = 0.05
"""A weight stays above this share of its prior: more work never means a shorter wait."""
DRIFT_RATE, LEAST_DRIFT, FACTOR_GAIN, FACTOR_FADE = 0.1, 0.6, 0.7, 0.95
"""The factor follows surprises by a gain that is 0 until the mean surprise is such a share of its mean size, and
grows to this where all go one way (tracking signal of Trigg and Leach, 1967); each report fades it, for the
weights follow."""
MOST_SURPRISE = 1.5
MOST_LOG_FACTOR = math.log(30.0)
FACTOR_HALF_LIFE_S = 60.0
"""Time in which half of a sudden change is forgiven where nothing more is heard of it."""
DOUBT_S = 60.0
"""After so long without a report a prediction's variance has doubled."""
MOST_DOUBT = 100.0
LEAST_MS, MOST_MS = 0.01, 3_600_000.0
"""What is taken as a measurement; anything else is a broken clock."""


class Estimates(NamedTuple):
    """What m regressions say at one time: `weights` (m, n) ms per unit; (m, n, n) `covariances`, to be scaled by
    `doubts` (m,); `factors` (m,)."""

    weights: Vector
    covariances: Vector
    doubts: Vector
    factors: Vector


class Regression:
    """Weights of one replica, or of all of a kind. Times are the caller's clock, seconds."""

    def __init__(self, prior: Vector, spread: Vector) -> None:
        """`prior`, (n,) ms per unit, each >= 0, and the standard deviation of each around it."""
        self._floor = LEAST_SHARE * prior
        self._most = np.maximum(spread, 1e-6) ** 2
        self.weights = prior.copy()
        self.covariance: Vector = np.diag(self._most)
        self.count = 0
        self.log_factor = self._drift = 0.0
        self._noise = NOISE
        self.seen_s = 0.0

    def factor(self, now_s: float) -> float:
        """At a time: it fades while nothing is reported."""
        idle_s = max(0.0, now_s - self.seen_s) if self.count else 0.0
        return math.exp(self.log_factor * 0.5 ** (idle_s / FACTOR_HALF_LIFE_S))

    def predict(self, causes: Sequence[float], now_s: float) -> float:
        """Milliseconds of these causes (n,)."""
        return float((self.weights * np.asarray(causes) * self.factor(now_s)).sum())

    def observe(self, causes: Sequence[float], measured_ms: float, now_s: float) -> bool:
        """A measurement with these causes (n,); False where it cannot be one, and nothing is learned."""
        if not (LEAST_MS <= measured_ms <= MOST_MS) or not all(0 <= each < MOST_MS for each in causes):
            return False
        given = np.asarray(causes)
        former = self.factor(now_s)
        expected = max(float(given @ self.weights), LEAST_MS)
        scale = expected
        row, residual = given / scale, (measured_ms - expected) / scale
        gain = self.covariance @ row
        spread = float(row @ gain) + NOISE * NOISE
        limit = OUTLIER * math.sqrt(spread)
        self.weights = np.maximum(self.weights + gain * (min(max(residual, -limit), limit) / spread), self._floor)
        covariance = (self.covariance - np.outer(gain, gain) / spread) / FORGET
        # What is never seen (no prompt ever waited) is forgotten without end, but never beyond the prior's doubt.
        shrink = np.sqrt(np.minimum(1.0, self._most / np.maximum(covariance.diagonal(), 1e-18)))
        self.covariance = covariance * np.outer(shrink, shrink)
        surprise = math.log(measured_ms / (expected * former))
        surprise = min(max(surprise, -MOST_SURPRISE), MOST_SURPRISE)
        self._drift += DRIFT_RATE * (surprise - self._drift)
        self._noise += DRIFT_RATE * (abs(surprise) - self._noise)
        signal = abs(self._drift) / max(self._noise, 1e-9)
        follow = FACTOR_GAIN * max(0.0, signal - LEAST_DRIFT) / (1 - LEAST_DRIFT)
        moved = FACTOR_FADE * math.log(former) + follow * surprise
        self.log_factor = min(max(moved, -MOST_LOG_FACTOR), MOST_LOG_FACTOR)
        self.seen_s = max(now_s, self.seen_s)
        self.count += 1
        return True


def estimates(regressions: Sequence[Regression], now_s: float) -> Estimates:
    """Of several at a time: doubt grows and factors fade while nothing is reported."""
    log_factors, seen_s, counts = np.array([(each.log_factor, each.seen_s, each.count) for each in regressions]).T
    idle_s = np.where(counts > 0, np.maximum(0.0, now_s - seen_s), 0.0)
    return Estimates(
        np.array([each.weights for each in regressions]),
        np.array([each.covariance for each in regressions]),
        np.minimum(1 + idle_s / DOUBT_S, MOST_DOUBT),
        np.exp(log_factors * 0.5 ** (idle_s / FACTOR_HALF_LIFE_S)),
    )


def parts(told: Estimates, causes: Vector) -> Vector:
    """Milliseconds that each cause adds, (m, n), of m rows of n causes by each of m estimates."""
    return told.weights * causes * told.factors[:, None]


def doubts(told: Estimates, causes: Vector) -> Vector:
    """Standard deviations, (m,) milliseconds, of the sums of these parts."""
    variances = np.matmul(causes[:, None, :], np.matmul(told.covariances, causes[:, :, None]))[:, 0, 0]
    return np.sqrt(np.maximum(variances * (told.factors**2 * told.doubts), 0.0))
