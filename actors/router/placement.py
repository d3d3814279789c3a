"""Which replica a request goes to: the table, what lies where, and what was learned of speeds, brought together."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from actors.router.affinity import Affinity, Home
from actors.router.config import RouterConfig
from actors.router.fleet import Fleet, Replica
from actors.router.forecast import Answered, Belief, Forecasts, Pending, Speed, Who, Work, predict
from actors.router.policy import Ask, Scored, View, by_load, by_prediction
from protos.gen import router_pb2


class Chosen(NamedTuple):
    """Candidates, best first, and by what they were ranked: predicted times, or the number of requests."""

    ranked: list[Scored]
    predicted: bool


class Held(NamedTuple):
    """What of a request's prompt lies at a replica, as far as that can be foreseen; tokens."""

    prefix: float = 0.0
    session: float = 0.0
    """Of the session's last answer, after the prefix."""
    unknown: bool = False
    """It served the session last, and nobody knows how much of it is there."""


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
        whos = [_who(replica) for replica in ready]
        beliefs = [self.forecasts.belief(who, now_s) for who in whos]
        views, works = self._seen(ready, beliefs, request, now_s)
        predictions = predict(beliefs, works)
        trust = self.forecasts.trust(ready[0].figures.model)
        if trust.predicting:
            ranked = by_prediction(views, predictions, ask, config)
        else:
            ranked = by_load(views, trust.request_ms, ask, config)
        if request.dry:
            return Chosen(ranked, trust.predicting)
        winner = next(at for at, view in enumerate(views) if view is ranked[0].view)
        work = works[winner]
        self._fleet.sent(ready[winner].replica_id, request.request_id, round(work.tokens_own))
        told = predictions[winner].first_token(work.tokens_own)
        pending = Pending(whos[winner], work, request.prompt_tokens - work.tokens_own, told, trust.counted(work, now_s))
        self.forecasts.sent(request.request_id, pending)
        return Chosen(ranked, trust.predicting)

    def _seen(
        self, ready: Sequence[Replica], beliefs: Sequence[Belief], request: router_pb2.RouteRequest, now_s: float
    ) -> tuple[list[View], list[Work]]:
        """The replicas as scoring and forecasts look at them."""
        home = self._affinity.session(request.tenant, request.session_id)
        pages = self._affinity.prefix_pages(request.tenant, request.prefix_hashes)
        views, works = [], []
        for replica, belief in zip(ready, beliefs, strict=True):
            said, requests = replica.figures, replica.requests
            held = _held(replica, belief.kept, home, pages, request)
            success = self._fleet.success(replica)
            views.append(
                View(
                    replica.replica_id,
                    requests,
                    said.waiting,
                    said.queue_limit,
                    success,
                    said.isa_class,
                    *held,
                )
            )
            ahead = replica.tokens_ahead(now_s, belief.prefill_tokens_per_s)
            own = request.prompt_tokens - held.prefix - held.session
            works.append(Work(requests, said.waiting, ahead, own, said.kv_used))
        return views, works

    def answered(self, report: router_pb2.ReportRequest) -> None:
        """Learn how a request went."""
        replica_id = report.replica_id
        self._fleet.answered(replica_id, report.request_id, report.succeeded, report.ttft_ms, report.tpot_ms)
        answered = Answered(report.ttft_ms, report.tpot_ms, report.prompt_tokens, report.cached_tokens)
        self.forecasts.answered(report.request_id, replica_id, answered, self._clock())
        if report.succeeded:
            home = Home(replica_id, report.prompt_tokens, report.completion_tokens)
            self._affinity.served(report.tenant, report.session_id, report.prefix_hashes, home)


def _who(replica: Replica) -> Who:
    said = replica.figures
    speed = Speed(said.prefill_tokens_per_s, said.step_ms)
    return Who(replica.replica_id, said.incarnation, (said.model, said.isa_class), speed)


def _held(
    replica: Replica, kept: float, home: Home | None, pages: dict[str, int], request: router_pb2.RouteRequest
) -> Held:
    replica_id, page = replica.replica_id, replica.figures.page_size
    # The last token is computed even where all of them are cached.
    most, leading = max(0, request.prompt_tokens - 1), pages.get(replica_id, 0)
    prefix = min(leading * page, most)
    if home is None:
        return Held(prefix * kept, 0.0, bool(request.session_replica) and request.session_replica == replica_id)
    if home.replica_id != replica_id:
        return Held(prefix * kept)
    if not home.prompt_tokens:
        return Held(prefix * kept, 0.0, True)
    # Its last answer counts only where the prompt goes on from the last one, as far as pages can tell.
    goes_on = page and leading >= min(home.prompt_tokens // page, len(request.prefix_hashes))
    session = min(home.prompt_tokens + home.answer_tokens, most) - prefix if goes_on else 0
    return Held(prefix * kept, max(0, session) * kept)
