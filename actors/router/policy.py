"""Scoring: a pure function from what is known of replicas to the order in which to try them.

The score of a replica is minus the milliseconds that a request is taken to wait there for its first token, less what
staying together is worth. Every term is in the explanation.
"""

from collections.abc import Sequence
from typing import NamedTuple

from actors.router.config import RouterConfig

QUEUE_FULL_MS = -1e9
"""Puts a replica behind all that have room."""
SLOWEST_PREFILL_TOKENS_PER_S = 1.0
"""Less counts as not measured: a wait computed from it would drown every other term."""


class View(NamedTuple):
    """What scoring looks at, of one available replica: its own figures, what was sent since, what it holds."""

    replica_id: str
    running: int
    waiting: int
    queue_limit: int
    pages_used: int
    pages_total: int
    page_size: int
    prefill_backlog_tokens: int
    prefill_tokens_per_s: float
    step_ms: float
    sent: int
    sent_tokens: int
    success: float
    tpot_ms: float
    isa_class: str
    holds_session: bool
    prefix_pages: int


class Ask(NamedTuple):
    """What scoring looks at, of the request."""

    prompt_tokens: int
    isa_class: str


class Scored(NamedTuple):
    """A replica, its score (higher is better), and the terms that add up to it (milliseconds; costs are negative)."""

    view: View
    score: float
    terms: dict[str, float]


def rank(views: Sequence[View], ask: Ask, config: RouterConfig) -> list[Scored]:
    """Best first; equal scores by replica id, so that the same state gives the same answer."""
    scored = [_score(view, ask, config) for view in views]
    return sorted(scored, key=lambda each: (-each.score, each.view.replica_id))


def uncached(view: View, ask: Ask) -> int:
    """Prompt tokens that the replica would have to compute."""
    return max(0, ask.prompt_tokens - view.prefix_pages * view.page_size)


def _score(view: View, ask: Ask, config: RouterConfig) -> Scored:
    measured = view.prefill_tokens_per_s >= SLOWEST_PREFILL_TOKENS_PER_S
    rate = view.prefill_tokens_per_s if measured else config.prefill_tokens_per_s
    step_ms = view.step_ms or config.step_ms
    terms = {
        "backlog": -(view.prefill_backlog_tokens + view.sent_tokens) / rate * 1e3,
        "prompt": -uncached(view, ask) * 1e3 / rate,
        "batch": -(view.running + view.waiting + view.sent) * step_ms,
        "kv_room": -config.kv_room_penalty_ms * (view.pages_used / view.pages_total if view.pages_total else 1.0),
        "speed": -config.speed_tokens * view.tpot_ms,
        "failures": -config.failure_penalty_ms * (1.0 - view.success),
        "session": config.session_bonus_ms if view.holds_session else 0.0,
        "isa": config.isa_bonus_ms if ask.isa_class and view.isa_class == ask.isa_class else 0.0,
    }
    if view.waiting >= view.queue_limit > 0:
        # Still a candidate, so that the caller hears its own queue-full error; but the last one.
        terms["queue_full"] = QUEUE_FULL_MS
    return Scored(view, sum(terms.values()), terms)


def confidence(ranked: Sequence[Scored]) -> float:
    """0..1: how far the winner leads, relative to what is at stake; 1 where there is no other."""
    if not ranked:
        return 0.0
    if len(ranked) == 1:
        return 1.0
    lead = ranked[0].score - ranked[1].score
    stake = max(abs(ranked[0].score), abs(ranked[1].score), 1.0)
    return 0.5 + 0.5 * min(lead / stake, 1.0)


def explain(ranked: Sequence[Scored]) -> list[str]:
    """A sentence a candidate, the chosen one first."""
    sentences = []
    for place, each in enumerate(ranked):
        terms = ", ".join(f"{name} {value:+.0f}" for name, value in each.terms.items() if round(value))
        verdict = "is chosen" if place == 0 else f"is {ranked[0].score - each.score:.0f} ms behind"
        sentences.append(f"{each.view.replica_id} {verdict}: {each.score:.0f} ms ({terms or 'nothing to wait for'})")
    return sentences
