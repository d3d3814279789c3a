"""What a cosine of an embedder means.

It says little by itself: MiniLM gives neighbouring sentences 0.4 to 0.7 and strangers 0 to 0.2. Platt scaling (1999)
makes it the probability that a pair is real rather than shuffled, fitted by tests.benchmarks.quality to as many of the
one as of the other.
"""

import math
from typing import NamedTuple


class Calibration(NamedTuple):
    """probability = sigmoid(slope * (cosine - middle)): how likely a pair of this cosine is a real one."""

    slope: float
    middle: float

    def probability(self, cosine: float) -> float:
        """0 to 1, growing with the cosine."""
        return 1 / (1 + math.exp(-self.slope * (cosine - self.middle)))
