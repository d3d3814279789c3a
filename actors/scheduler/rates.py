"""How fast the replica is: sums that fade with time, so that they speak of the last seconds."""

import math

# Seconds in which an observation fades to 1/e.
FADE_S = 5.0
# After this long without a step nothing counts as running.
STALE_S = 15.0


class Ratio:
    """A fading sum divided by another: mean of what was observed lately."""

    __slots__ = ("_amount", "_per", "_seen_s")

    def __init__(self) -> None:
        self._amount = 0.0
        self._per = 0.0
        self._seen_s = 0.0

    def observe(self, amount: float, per: float, now_s: float) -> None:
        """`amount` of something in `per` of something else."""
        fade = math.exp((self._seen_s - now_s) / FADE_S)
        self._amount = self._amount * fade + amount
        self._per = self._per * fade + per
        self._seen_s = now_s

    def value(self, now_s: float) -> float:
        """amount / per; 0 while nothing was observed lately."""
        if self._per == 0.0 or now_s - self._seen_s > STALE_S:
            return 0.0
        return self._amount / self._per


class Rates:
    """What heartbeats say about speed."""

    def __init__(self) -> None:
        # Tokens per second of busy time, over the results that had such tokens.
        self.prefill = Ratio()
        self.decode = Ratio()
        # Seconds of busy time per step.
        self.step = Ratio()
        # Seconds between two requests that end.
        self.finish = Ratio()
        self._last_finish_s: float | None = None

    def observe_steps(self, steps: int, busy_s: float, prefill: int, decode: int, now_s: float) -> None:
        """`steps` steps took `busy_s` and computed so many tokens of prompts and of answers."""
        if steps > 0:
            self.step.observe(busy_s, steps, now_s)
        if prefill:
            self.prefill.observe(prefill, busy_s, now_s)
        if decode:
            self.decode.observe(decode, busy_s, now_s)

    def observe_finish(self, now_s: float) -> None:
        """A request ended."""
        if self._last_finish_s is not None:
            self.finish.observe(now_s - self._last_finish_s, 1, now_s)
        self._last_finish_s = now_s
