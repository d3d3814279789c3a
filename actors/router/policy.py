"""Scoring: a pure function from what is known of replicas to the order in which to try them.

The score of a replica is minus the milliseconds that a request is taken to wait there for its first token, with some
tokens' time on top and what other things are worth. Every term is in the explanation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.router.config import RouterConfig
from actors.router.forecast import Predictions
from actors.router.prediction import Vector

QUEUE_FULL_MS = -1e9
"""Puts a replica behind all that have room."""

EXPLAINED = 16
"""Candidates that get a sentence, and whose terms are told."""


class Views(NamedTuple):
    """What scoring looks at, of m available replicas, beside its predictions; (m,) each."""

    replica_ids: Sequence[str]
    requests: Vector
    """Running, waiting, or sent since it was heard."""
    waiting: Vector
    queue_limit: Vector
    success: Vector
    isa_classes: Sequence[str]
    prefix_tokens: Vector
    """Leading tokens of the prompt that lie there, as far as that can be foreseen."""
    session_tokens: Vector
    """Those after them, of the session's last answer."""
    holds_session: NDArray[np.bool_]
    """It served the session last, and how much of it lies there is not known."""


class Ask(NamedTuple):
    """What scoring looks at, of the request."""

    prompt_tokens: int
    isa_class: str


class Ranking(NamedTuple):
    """Replicas by their scores (higher is better), which are sums of terms (milliseconds; costs are negative)."""

    order: list[int]
    """Places of the replicas, best first."""
    scores: list[float]
    """By place."""
    terms: dict[str, Vector]
    """By name, then by place."""

    def terms_of(self, place: int) -> dict[str, float]:
        """Those of one replica that are not 0."""
        each = {name: float(column[place]) for name, column in self.terms.items()}
        return {name: value for name, value in each.items() if value}


def by_prediction(views: Views, told: Predictions, ask: Ask, config: RouterConfig) -> Ranking:
    """Best first by what is foretold; equal scores by replica id, so that the same state gives the same answer.

    What the prompt takes there also keeps the others waiting, which matters the more the busier the fleet is: without a
    price on that, long prompts crowd the fast replicas, and caches are left for a little less wait. A prediction in
    doubt is read in the replica's favour, within bounds: who is never chosen cannot be learned of.
    """
    price = config.others_share * (float(views.requests.sum()) / len(views.requests))
    own = ask.prompt_tokens - views.prefix_tokens - views.session_tokens
    token_ms = told.per_prompt_token
    terms = {
        "base": -told.base,
        "backlog": -told.backlog,
        "prompt": -ask.prompt_tokens * token_ms,
        "prefix": views.prefix_tokens * token_ms,
        "session": views.session_tokens * token_ms,
        "batch": -told.batch,
        "waiting": -told.waiting,
        "kv_room": -told.kv_room,
        "speed": -config.speed_tokens * told.per_token,
        "others": -price * views.requests * own * token_ms,
        "explore": np.minimum(config.explore_deviations * told.doubt, config.explore_share * told.first_token(own)),
    }
    return _ranked(views, terms, ask, config)


def by_load(views: Views, request_ms: float, ask: Ask, config: RouterConfig) -> Ranking:
    """Best first by the number of requests, each of which counts as so many milliseconds; ties as above."""
    token_ms = 1e3 / config.prefill_tokens_per_s
    terms = {
        "requests": -request_ms * views.requests,
        "prefix": views.prefix_tokens * token_ms,
        "session": views.session_tokens * token_ms,
    }
    return _ranked(views, terms, ask, config)


def _ranked(views: Views, terms: dict[str, Vector], ask: Ask, config: RouterConfig) -> Ranking:
    terms["failures"] = -config.failure_penalty_ms * (1.0 - views.success)
    if views.holds_session.any():
        terms["session"] = np.where(views.holds_session, terms["session"] + config.session_bonus_ms, terms["session"])
    if ask.isa_class:
        terms["isa"] = config.isa_bonus_ms * np.array([isa == ask.isa_class for isa in views.isa_classes])
    full = (views.waiting >= views.queue_limit) & (views.queue_limit > 0)
    if full.any():
        # Still a candidate, so that the caller hears its own queue-full error; but the last one.
        terms["queue_full"] = np.where(full, QUEUE_FULL_MS, 0.0)
    total = np.zeros(len(views.requests))
    for column in terms.values():
        total += column
    scores, ids = total.tolist(), views.replica_ids
    return Ranking(sorted(range(len(ids)), key=lambda place: (-scores[place], ids[place])), scores, terms)


def confidence(ranking: Ranking) -> float:
    """0..1: how far the winner leads, relative to what is at stake; 1 where there is no other."""
    if len(ranking.order) < 2:
        return float(len(ranking.order))
    first, second = (ranking.scores[place] for place in ranking.order[:2])
    return 0.5 + 0.5 * min((first - second) / max(abs(first), abs(second), 1.0), 1.0)


def explain(ranking: Ranking, replica_ids: Sequence[str], terms: Sequence[dict[str, float]]) -> list[str]:
    """A sentence for each of the best, whose `terms` are given; the chosen one first."""
    sentences = []
    for at, (place, each) in enumerate(zip(ranking.order, terms, strict=False)):
        told = ", ".join([f"{name} {value:+.0f}" for name, value in each.items() if round(value)])
        score = ranking.scores[place]
        verdict = "is chosen" if at == 0 else f"is {ranking.scores[ranking.order[0]] - score:.0f} ms behind"
        sentences.append(f"{replica_ids[place]} {verdict}: {score:.0f} ms ({told or 'nothing to wait for'})")
    return sentences
