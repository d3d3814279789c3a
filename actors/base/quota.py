"""How much a key may ask: requests and tokens a minute, tokens a day, requests at a time. Knows no clock and no store.

Buckets of a minute fill steadily, so a limit of 60 a minute lets 60 through at once and then one a second. Tokens are
known when an answer has ended: they are taken then, and a bucket that went below zero lets nothing through until it is
full above it again. So a limit of tokens is passed by at most what ran when it was reached.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

MINUTE_S, DAY_S = 60.0, 86_400.0
LEASE_S = 900.0
"""After this a request no longer counts as running: its gateway may have died."""
NEVER_S = 3600.0

Kind = Literal["requests", "tokens", "day", "concurrent"]


@dataclass(frozen=True)
class Limits:
    """What a key may use; 0 is no limit. Tokens are those of prompts and answers."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    tokens_per_day: int = 0
    concurrent: int = 0

    def __bool__(self) -> bool:
        return any((self.requests_per_minute, self.tokens_per_minute, self.tokens_per_day, self.concurrent))


NO_LIMITS = Limits()


class Room(NamedTuple):
    """What is left of one limit: `remaining` of `limit`, all of it again in `reset_s` seconds."""

    limit: int
    remaining: int
    reset_s: float


class Verdict(NamedTuple):
    """Whether a request may run. `refused` names the limit that it met, `retry_after_s` when to come back."""

    refused: Kind | None
    retry_after_s: float
    requests: Room | None
    """None where there is no such limit."""
    tokens: Room | None
    """Of the minute."""


@dataclass
class Usage:
    """What a key has used. Times are Unix seconds."""

    requests: float = 0.0
    """Requests taken that the bucket has not filled up again."""
    tokens: float = 0.0
    at_s: float = 0.0
    """When these two were true."""
    day: int = 0
    day_tokens: int = 0
    running: dict[str, float] = field(default_factory=dict)
    """Request id -> when it began."""

    def take(self, limits: Limits, request_id: str, now_s: float) -> Verdict:
        """Count a request that wants to run, unless it is refused."""
        self._advance(limits, now_s)
        refused, retry_after_s = self._refusal(limits, now_s)
        if refused is None:
            self.requests += 1
            self.running[request_id] = now_s
        return Verdict(
            refused,
            retry_after_s,
            _room(limits.requests_per_minute, self.requests),
            _room(limits.tokens_per_minute, self.tokens),
        )

    def settle(self, limits: Limits, request_id: str, tokens: int, now_s: float) -> None:
        """The request has ended, with so many tokens."""
        self._advance(limits, now_s)
        self.running.pop(request_id, None)
        self.tokens += tokens
        self.day_tokens += tokens

    def _advance(self, limits: Limits, now_s: float) -> None:
        passed = max(0.0, now_s - self.at_s)
        self.requests = max(0.0, self.requests - passed * limits.requests_per_minute / MINUTE_S)
        self.tokens = max(0.0, self.tokens - passed * limits.tokens_per_minute / MINUTE_S)
        self.at_s = max(self.at_s, now_s)
        if (day := int(now_s // DAY_S)) > self.day:
            self.day, self.day_tokens = day, 0
        self.running = {name: began for name, began in self.running.items() if now_s - began < LEASE_S}

    def _refusal(self, limits: Limits, now_s: float) -> tuple[Kind | None, float]:
        if limits.concurrent and len(self.running) >= limits.concurrent:
            return "concurrent", 1.0
        if limits.tokens_per_day and self.day_tokens >= limits.tokens_per_day:
            return "day", DAY_S - now_s % DAY_S
        if (limit := limits.requests_per_minute) and self.requests + 1 > limit:
            return "requests", (self.requests + 1 - limit) * MINUTE_S / limit
        if (limit := limits.tokens_per_minute) and self.tokens >= limit:
            return "tokens", (self.tokens + 1 - limit) * MINUTE_S / limit
        return None, 0.0

    def as_row(self) -> list[Any]:
        """For JSON."""
        return [self.requests, self.tokens, self.at_s, self.day, self.day_tokens, self.running]

    @classmethod
    def of_row(cls, row: list[Any]) -> "Usage":
        """What `as_row` gave. Raises TypeError or ValueError for anything else."""
        requests, tokens, at_s, day, day_tokens, running = row
        times = {str(name): float(began) for name, began in dict(running).items()}
        return cls(float(requests), float(tokens), float(at_s), int(day), int(day_tokens), times)


def _room(limit: int, used: float) -> Room | None:
    return Room(limit, max(0, math.floor(limit - used)), used * MINUTE_S / limit) if limit else None
