"""How the requests that an alias led to a model went: sums that an A/B is read from, and what failed lately."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.router.naming import Failures
from protos.gen import inference_pb2, router_pb2

RECENT = 50
"""Requests by which a target is judged."""
RECENT_S = 120.0
"""And no older than this, so that one that failed is tried again."""
COUNT_S = 1.0
Key = tuple[str, str]
"""Alias and model."""
NUMBERS = ("ttft_ms", "tpot_ms", "quality", "rating")


@dataclass
class Sum:
    """Count, mean and variance of numbers as they come (Welford 1962)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of the squared differences from the mean."""

    def add(self, value: float) -> None:
        """One more."""
        self.count += 1
        step = value - self.mean
        self.mean += step / self.count
        self.squares += step * (value - self.mean)

    def join(self, other: "Sum") -> None:
        """The numbers of another too (Chan, Golub and LeVeque 1979)."""
        count, step = self.count + other.count, other.mean - self.mean
        if count:
            self.squares += other.squares + step * step * self.count * other.count / count
            self.mean += step * other.count / count
        self.count = count

    def message(self) -> inference_pb2.Moments:
        """As it is told."""
        variance = self.squares / (self.count - 1) if self.count > 1 else 0.0
        return inference_pb2.Moments(count=self.count, mean=self.mean, variance=variance)


@dataclass
class Variant:
    """One target of one alias. `lately`: when each of the newest requests ended, and whether it failed."""

    requests: int = 0
    errors: int = 0
    sums: dict[str, Sum] = field(default_factory=lambda: {name: Sum() for name in NUMBERS})
    lately: deque[tuple[float, bool]] = field(default_factory=lambda: deque(maxlen=RECENT))

    def message(self) -> inference_pb2.Outcomes:
        """As it is told."""
        told = {name: total.message() for name, total in self.sums.items()}
        return inference_pb2.Outcomes(requests=self.requests, errors=self.errors, **told)

    def kept(self) -> dict[str, Any]:
        """What outlives the router, as JSON has it: the sums, not what happened lately."""
        sums = {name: [total.count, total.mean, total.squares] for name, total in self.sums.items()}
        return {"requests": self.requests, "errors": self.errors, **sums}

    def join(self, kept: Mapping[str, Any]) -> None:
        """Count what kept() gave too."""
        self.requests += int(kept["requests"])
        self.errors += int(kept["errors"])
        for name, total in self.sums.items():
            count, mean, squares = kept[name]
            total.join(Sum(int(count), float(mean), float(squares)))


class Variants:
    """All of them. A target that no alias has any more is forgotten with `keep_only`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._variants: dict[Key, Variant] = {}
        self._failures: dict[Key, Failures] = {}
        self._counted_s = -math.inf

    def add(self, outcome: router_pb2.Outcome) -> None:
        """Something became known of a request."""
        variant = self._variants.setdefault((outcome.alias, outcome.model), Variant())
        if outcome.HasField("succeeded"):
            variant.requests += 1
            variant.errors += not outcome.succeeded
            variant.lately.append((self._clock(), not outcome.succeeded))
            self._counted_s = -math.inf
        for name in NUMBERS:
            if outcome.HasField(name) and math.isfinite(value := getattr(outcome, name)):
                variant.sums[name].add(value)

    def failures(self) -> dict[Key, Failures]:
        """Of every variant that failed at all lately; counted anew with every outcome, and every COUNT_S."""
        now = self._clock()
        if now - self._counted_s < COUNT_S:
            return self._failures
        self._failures, self._counted_s = {}, now
        for key, variant in self._variants.items():
            while variant.lately and variant.lately[0][0] < now - RECENT_S:
                variant.lately.popleft()
            if failed := sum(failed for _, failed in variant.lately):
                self._failures[key] = Failures(failed, len(variant.lately))
        return self._failures

    def message(self, key: Key) -> inference_pb2.Outcomes:
        """Of one variant; empty where nothing is known of it."""
        variant = self._variants.get(key)
        return variant.message() if variant else inference_pb2.Outcomes()

    def of_alias(self, alias: str) -> dict[str, dict[str, Any]]:
        """Its variants as kept, by model."""
        return {model: variant.kept() for (name, model), variant in self._variants.items() if name == alias}

    def restore(self, alias: str, kept: Mapping[str, Mapping[str, Any]]) -> None:
        """Count what was kept of an alias beside what came since."""
        for model, sums in kept.items():
            self._variants.setdefault((alias, model), Variant()).join(sums)

    def keep_only(self, alias: str, models: set[str]) -> None:
        """Forget an alias's variants but for these models'."""
        for key in [key for key in self._variants if key[0] == alias and key[1] not in models]:
            del self._variants[key]
