"""What became of the requests that a replica was given."""

from dataclasses import dataclass


@dataclass
class History:
    """Exponential means over a replica's requests: share that succeeded; ms to the first and per token (0: none).

    A restarted replica begins anew: what failed before may be why it was restarted.
    """

    success: float = 1.0
    ttft_ms: float = 0.0
    tpot_ms: float = 0.0
    updated: float = 0.0

    def add(self, now: float, succeeded: bool, ttft_ms: float, tpot_ms: float, rate: float) -> None:
        """One more request. Times of 0 (it failed before its first token) leave their means alone."""
        self.success += rate * (float(succeeded) - self.success)
        self.ttft_ms = _mean(self.ttft_ms, ttft_ms, rate)
        self.tpot_ms = _mean(self.tpot_ms, tpot_ms, rate)
        self.updated = now

    def success_at(self, now: float, half_life_s: float) -> float:
        """The success that is to be expected at `now`: failures fade, else a replica that is avoided stays avoided."""
        return 1.0 - (1.0 - self.success) * 0.5 ** (max(0.0, now - self.updated) / half_life_s)


def _mean(mean: float, value: float, rate: float) -> float:
    if value <= 0:
        return mean
    return value if mean == 0 else mean + rate * (value - mean)
