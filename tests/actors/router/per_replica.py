"""How a replica is chosen, one replica at a time and in plain arithmetic: what the choice over columns must say too."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from actors.router.config import RouterConfig
from actors.router.fleet import Replica
from actors.router.forecast import Learned, Predictions, Work, _known, _prior
from actors.router.placement import Placement
from actors.router.policy import QUEUE_FULL_MS, Ask, Ranking, Views
from actors.router.prediction import DOUBT_S, FACTOR_HALF_LIFE_S, MOST_DOUBT, Regression, Vector
from protos.gen.router_pb2 import RouteRequest


class View(NamedTuple):
    """A row of Views."""

    replica_id: str
    requests: float
    waiting: float
    queue_limit: float
    success: float
    isa_class: str
    prefix_tokens: float
    session_tokens: float
    holds_session: bool


class Prediction(NamedTuple):
    """A row of Predictions."""

    base: float
    backlog: float
    batch: float
    waiting: float
    kv_room: float
    per_prompt_token: float
    doubt: float
    per_token: float


class Scored(NamedTuple):
    """A replica, its score and its terms."""

    view: View
    score: float
    terms: dict[str, float]


def columns(views: Sequence[View]) -> Views:
    """As scoring takes them."""
    ids, requests, waiting, limits, success, classes, prefix, session, holds = zip(*views, strict=True)
    return Views(
        ids, _floats(requests), _floats(waiting), _floats(limits), _floats(success), classes, _floats(prefix),
        _floats(session), np.array(holds, np.bool_),
    )  # fmt: skip


def _floats(column: Sequence[float]) -> Vector:
    return np.array(column, np.float64)


def foretold(predictions: Sequence[Prediction]) -> Predictions:
    """As scoring takes them."""
    return Predictions(*map(_floats, zip(*predictions, strict=True)))


def rows(ranking: Ranking, views: Views) -> list[Scored]:
    """What a ranking says, best first."""
    seen = [
        View(*row) for row in zip(*(getattr(column, "tolist", lambda c=column: c)() for column in views), strict=True)
    ]
    return [Scored(seen[at], ranking.scores[at], ranking.terms_of(at)) for at in ranking.order]


def choose(placement: Placement, ready: Sequence[Replica], request: RouteRequest, now_s: float) -> list[Scored]:
    """These replicas as `placement` would rank them, best first; nothing is counted as sent."""
    config, ask = placement._config, Ask(request.prompt_tokens, request.isa_class)
    views, told = [], []
    for replica in ready:
        learned = _learned(placement, replica, config)
        weights, factor, doubt = _state(learned.first_token, now_s)
        per_prompt_token = 1e3 / (1e6 / (weights[2] * factor))
        view = _view(placement, replica, learned.kept, request, now_s)
        ahead = replica.tokens_ahead(now_s, 1e6 / (weights[2] * factor))
        own = request.prompt_tokens - view.prefix_tokens - view.session_tokens
        work = Work(int(view.requests), int(view.waiting), ahead, own, replica.figures.kv_used)
        causes = np.array(work.first_token())
        waits = [weight * cause * factor for weight, cause in zip(weights, causes, strict=True)]
        variance = float(causes @ learned.first_token.covariance @ causes) * factor**2 * doubt
        step, slower, _ = _state(learned.per_token, now_s)
        per_token = sum(weight * cause * slower for weight, cause in zip(step, work.per_token(), strict=True))
        views.append(view)
        told.append(
            Prediction(
                waits[0],
                waits[1],
                waits[3],
                waits[4],
                waits[5],
                per_prompt_token,
                math.sqrt(max(variance, 0)),
                per_token,
            )
        )
    trust = placement.forecasts.trust(ready[0].figures.model)
    if trust.predicting:
        return by_prediction(views, told, ask, config)
    return by_load(views, trust.request_ms, ask, config)


def by_prediction(
    views: Sequence[View], predictions: Sequence[Prediction], ask: Ask, config: RouterConfig
) -> list[Scored]:
    """By what is foretold."""
    busy = sum(view.requests for view in views) / len(views)
    price = config.others_share * busy
    scored = []
    for view, told in zip(views, predictions, strict=True):
        own = ask.prompt_tokens - view.prefix_tokens - view.session_tokens
        wait_ms = told.base + told.backlog + told.batch + told.waiting + told.kv_room + own * told.per_prompt_token
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
    """By the number of requests."""
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


def _learned(placement: Placement, replica: Replica, config: RouterConfig) -> Learned:
    forecasts, who = placement.forecasts, replica.who
    return forecasts._learned(who) or forecasts._of_kind(who) or _prior(*_known(who.speed, config))


def _state(regression: Regression, now_s: float) -> tuple[list[float], float, float]:
    """Weights, factor and doubt."""
    idle_s = max(0.0, now_s - regression.seen_s) if regression.count else 0.0
    factor = math.exp(regression.log_factor * 0.5 ** (idle_s / FACTOR_HALF_LIFE_S))
    return regression.weights.tolist(), factor, min(1 + idle_s / DOUBT_S, MOST_DOUBT)


def _view(placement: Placement, replica: Replica, kept: float, request: RouteRequest, now_s: float) -> View:
    said = replica.figures
    home = placement._affinity.session(request.tenant, request.session_id)
    leading = placement._affinity.prefix_pages(request.tenant, request.prefix_hashes).get(replica.replica_id, 0)
    most = max(0, request.prompt_tokens - 1)
    prefix, session, unknown = min(leading * said.page_size, most), 0.0, False
    if home is None:
        unknown = bool(request.session_replica) and request.session_replica == replica.replica_id
    elif home.replica_id == replica.replica_id:
        unknown = not home.prompt_tokens
        pages = home.prompt_tokens // said.page_size if said.page_size else 0
        if not unknown and said.page_size and leading >= min(pages, len(request.prefix_hashes)):
            session = max(0.0, min(home.prompt_tokens + home.answer_tokens, most) - prefix)
    success = replica.history.success_at(now_s, placement._config.failure_half_life_s)
    return View(
        replica.replica_id, replica.requests, said.waiting, said.queue_limit, success, said.isa_class, prefix * kept,
        session * kept, unknown,
    )  # fmt: skip


def _scored(view: View, terms: dict[str, float], ask: Ask, config: RouterConfig) -> Scored:
    if view.success < 1.0:
        terms["failures"] = -config.failure_penalty_ms * (1.0 - view.success)
    if view.holds_session:
        terms["session"] += config.session_bonus_ms
    if ask.isa_class and view.isa_class == ask.isa_class:
        terms["isa"] = config.isa_bonus_ms
    if view.waiting >= view.queue_limit > 0:
        terms["queue_full"] = QUEUE_FULL_MS
    terms = {name: value for name, value in terms.items() if value}
    return Scored(view, sum(terms.values()), terms)


def _ranked(scored: list[Scored]) -> list[Scored]:
    return sorted(scored, key=lambda each: (-each.score, each.view.replica_id))
