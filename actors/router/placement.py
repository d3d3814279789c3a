"""Which replica a request goes to: the table, what lies where, and what was learned of speeds, brought together."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.router.affinity import Affinity, Home
from actors.router.config import RouterConfig
from actors.router.fleet import Fleet, Replica
from actors.router.forecast import Answered, Beliefs, Forecasts, Pending, Works, predict
from actors.router.policy import Ask, Ranking, Views, by_load, by_prediction
from actors.router.prediction import Vector
from protos.gen import router_pb2


class Chosen(NamedTuple):
    """How candidates were ranked, what was seen of them, and whether by predicted times or the number of requests."""

    ranking: Ranking
    views: Views
    predicted: bool

    @property
    def replica_id(self) -> str:
        """The best."""
        return self.views.replica_ids[self.ranking.order[0]]


class Placement:
    """Chooses among replicas of one model, and learns from how it went. No lock, no await, nothing random."""

    def __init__(self, config: RouterConfig, fleet: Fleet, clock: Callable[[], float]) -> None:
        self._config = config
        self._fleet = fleet
        self._clock = clock
        self._affinity = Affinity(config.affinity_entries)
        self.forecasts = Forecasts(config)
        """What has been learned of speeds."""

    def choose(self, ready: Sequence[Replica], request: router_pb2.RouteRequest) -> Chosen:
        """Rank these, of which there is at least one, and count the request as sent to the first, unless it only asks.

        Requests that come between two heartbeats must not all go where it was empty at the first.
        """
        now_s, config, ask = self._clock(), self._config, Ask(request.prompt_tokens, request.isa_class)
        beliefs = self.forecasts.beliefs([replica.who for replica in ready], now_s)
        views, works = self._seen(ready, beliefs, request, now_s)
        predictions = predict(beliefs, works)
        trust = self.forecasts.trust(ready[0].figures.model)
        if trust.predicting:
            ranking = by_prediction(views, predictions, ask, config)
        else:
            ranking = by_load(views, trust.request_ms, ask, config)
        if request.dry:
            return Chosen(ranking, views, trust.predicting)
        winner = ranking.order[0]
        work, who = works.at(winner), ready[winner].who
        self._fleet.sent(who.replica_id, request.request_id, round(work.tokens_own))
        told = float(predictions.first_token(works.tokens_own)[winner])
        pending = Pending(who, work, request.prompt_tokens - work.tokens_own, told, trust.counted(work, now_s))
        self.forecasts.sent(request.request_id, pending)
        return Chosen(ranking, views, trust.predicting)

    def _seen(
        self, ready: Sequence[Replica], beliefs: Beliefs, request: router_pb2.RouteRequest, now_s: float
    ) -> tuple[Views, Works]:
        """The replicas as scoring and forecasts look at them."""
        home = self._affinity.session(request.tenant, request.session_id)
        pages = self._affinity.prefix_pages(request.tenant, request.prefix_hashes)
        columns = np.array([replica.counted for replica in ready], np.float64).T
        requests, waiting, queue_limit, page_size, kv_used, backlog, heard = columns
        requests += [len(replica.sent) for replica in ready]
        ids = [replica.replica_id for replica in ready]
        prefix, session, unknown = _held(ids, page_size, home, pages, request)
        prefix, session = prefix * beliefs.kept, session * beliefs.kept
        isa_classes = [replica.figures.isa_class for replica in ready]
        success = self._fleet.successes(ready)
        views = Views(ids, requests, waiting, queue_limit, success, isa_classes, prefix, session, unknown)
        rates = beliefs.prefill_tokens_per_s
        ahead = np.maximum(0.0, backlog - np.maximum(0.0, now_s - heard) * rates)
        for place, replica in enumerate(ready):
            if replica.sent:
                ahead[place] = replica.tokens_ahead(now_s, float(rates[place]))
        own = request.prompt_tokens - prefix - session
        return views, Works(requests, waiting, ahead, own, kv_used)

    def answered(self, report: router_pb2.ReportRequest) -> None:
        """Learn how a request went."""
        replica_id = report.replica_id
        self._fleet.answered(replica_id, report.request_id, report.succeeded, report.ttft_ms, report.tpot_ms)
        answered = Answered(report.ttft_ms, report.tpot_ms, report.prompt_tokens, report.cached_tokens)
        self.forecasts.answered(report.request_id, replica_id, answered, self._clock())
        if report.succeeded:
            home = Home(replica_id, report.prompt_tokens, report.completion_tokens)
            self._affinity.served(report.tenant, report.session_id, report.prefix_hashes, home)


def _held(
    ids: Sequence[str], page_size: Vector, home: Home | None, pages: dict[str, int], request: router_pb2.RouteRequest
) -> tuple[Vector, Vector, NDArray[np.bool_]]:
    """What of the prompt lies at each replica, as far as that can be foreseen, (m,): tokens of its prefix, those after
    them of the session's last answer, and whether it served the session last and nobody knows how much is there."""
    session, unknown = np.zeros(len(ids)), np.zeros(len(ids), np.bool_)
    # The last token is computed even where all of them are cached.
    most = max(0, request.prompt_tokens - 1)
    prefix = np.zeros(len(ids))
    if pages:
        np.minimum(np.array([pages.get(replica_id, 0) for replica_id in ids]) * page_size, most, out=prefix)
    last = request.session_replica if home is None else home.replica_id
    if not last or last not in ids:
        return prefix, session, unknown
    place = ids.index(last)
    if home is None or not home.prompt_tokens:
        unknown[place] = True
        return prefix, session, unknown
    # Its last answer counts only where the prompt goes on from the last one, as far as pages can tell.
    page = int(page_size[place])
    if page and pages.get(last, 0) >= min(home.prompt_tokens // page, len(request.prefix_hashes)):
        session[place] = max(0.0, min(home.prompt_tokens + home.answer_tokens, most) - prefix[place])
    return prefix, session, unknown
