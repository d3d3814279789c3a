"""Scoring: a pure function from what is known of replicas to the order in which to try them.

The score of a replica is minus the milliseconds that a request is taken to wait there for its first token, with some
tokens' time on top and what other things are worth. Every term is in the explanation.
"""

from collections.abc import Sequence
from typing import NamedTuple

from actors.router.config import RouterConfig
from actors.router.forecast import Prediction

QUEUE_FULL_MS = -1e9
"""Puts a replica behind all that have room."""

EXPLAINED = 16
"""Candidates that get a sentence; all have their terms."""


class View(NamedTuple):
    """What scoring looks at, of one available replica, beside its prediction."""

    replica_id: str
    requests: int
    """Running, waiting, or sent since it was heard."""
    waiting: int
    queue_limit: int
    success: float
    isa_class: str
    prefix_tokens: float
    """Leading tokens of the prompt that lie there, as far as that can be foreseen."""
    session_tokens: float
    """Those after them, of the session's last answer."""
    holds_session: bool
    """It served the session last, and how much of it lies there is not known."""


class Ask(NamedTuple):
    """What scoring looks at, of the request."""

    prompt_tokens: int
    isa_class: str


class Scored(NamedTuple):
    """A replica, its score (higher is better), and the terms that add up to it (milliseconds; costs are negative)."""

    view: View
    score: float
    terms: dict[str, float]


def by_prediction(
    views: Sequence[View], predictions: Sequence[Prediction], ask: Ask, config: RouterConfig
) -> list[Scored]:
    """Best first by what is foretold; equal scores by replica id, so that the same state gives the same answer.

    What the prompt takes there also keeps the others waiting, which matters the more the busier the fleet is: without a
    price on that, long prompts crowd the fast replicas, and caches are left for a little less wait. A prediction in
    doubt is read in the replica's favour, within bounds: who is never chosen cannot be learned of.
    """
    busy = sum(view.requests for view in views) / len(views)
    price = config.others_share * busy
    scored = []
    for view, told in zip(views, predictions, strict=True):
        own = ask.prompt_tokens - view.prefix_tokens - view.session_tokens
        wait_ms = told.first_token(own)
        terms = {
            "base": -told.base,
            "backlog": -told.backlog,
            "prompt": -ask.prompt_tokens * told.per_prompt_token,
            "prefix": view.prefix_tokens * told.per_prompt_token,
            "session": view.session_tokens * told.per_prompt_token,
            "batch": -told.batch,
            "waiting": -told.waiting,
            "kv_room": -told.kv_room,
            "speed": -config.speed_tokens * told.per_token,
            "others": -price * view.requests * own * told.per_prompt_token,
            "explore": min(config.explore_deviations * told.doubt, config.explore_share * wait_ms),
        }
        scored.append(_scored(view, terms, ask, config))
    return _ranked(scored)


def by_load(views: Sequence[View], request_ms: float, ask: Ask, config: RouterConfig) -> list[Scored]:
    """Best first by the number of requests, each of which counts as so many milliseconds; ties as above."""
    token_ms = 1e3 / config.prefill_tokens_per_s
    scored = []
    for view in views:
        terms = {
            "requests": -request_ms * view.requests,
            "prefix": view.prefix_tokens * token_ms,
            "session": view.session_tokens * token_ms,
        }
        scored.append(_scored(view, terms, ask, config))
    return _ranked(scored)


def _scored(view: View, terms: dict[str, float], ask: Ask, config: RouterConfig) -> Scored:
    if view.success < 1.0:
        terms["failures"] = -config.failure_penalty_ms * (1.0 - view.success)
    if view.holds_session:
        terms["session"] += config.session_bonus_ms
    if ask.isa_class and view.isa_class == ask.isa_class:
        terms["isa"] = config.isa_bonus_ms
    if view.waiting >= view.queue_limit > 0:
        # Still a candidate, so that the caller hears its own queue-full error; but the last one.
        terms["queue_full"] = QUEUE_FULL_MS
    terms = {name: value for name, value in terms.items() if value}
    return Scored(view, sum(terms.values()), terms)


def _ranked(scored: list[Scored]) -> list[Scored]:
    return sorted(scored, key=lambda each: (-each.score, each.view.replica_id))


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
    """A sentence a candidate, the chosen one first; of many candidates, the best."""
    sentences = []
    for place, each in enumerate(ranked[:EXPLAINED]):
        terms = ", ".join([f"{name} {value:+.0f}" for name, value in each.terms.items() if round(value)])
        verdict = "is chosen" if place == 0 else f"is {ranked[0].score - each.score:.0f} ms behind"
        sentences.append(f"{each.view.replica_id} {verdict}: {each.score:.0f} ms ({terms or 'nothing to wait for'})")
    return sentences
