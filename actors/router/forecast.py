"""What the router has learned of each replica's speed, and whether it is to be believed.

    Route: work that waits at each candidate -> milliseconds     Report: what came of it -> weights of replica and kind

A kind is the replicas of one model on one class of chip; a replica that just came begins with what its kind has
learned, and where there is none, with what it says of its own speed. Beside the predictions stands a simpler belief:
that a wait depends on the number of requests at the replica alone. Where that has foretold the waits far better of
late, the predictions are not to be used.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from actors.router.config import RouterConfig
from actors.router.prediction import Estimates, Regression, Vector, doubts, estimates, parts

PENDING = 16_384
"""Requests whose circumstances are remembered until their report."""
KINDS = 256
KIND_REPORTS = 5
"""So many of a kind say more than a replica of itself."""
SLOWEST_PREFILL_TOKENS_PER_S = 1.0
"""Less counts as not measured: a wait computed from it would drown every other cause."""
BASE_MS = 5.0
KV_ROOM_FROM = 0.8
"""Until so much of a replica's KV is used, more used costs nothing."""
SPREAD = 0.7
"""Doubt about the prior's weights, as a share of them."""
ERROR_RATE = 0.02
"""Weight of the newest report in the mean errors: the last 50 count most."""
ERRORS_FIRST = 20
"""Reports before which errors mean nothing."""
GIVEN_UP, TAKEN_UP = 1.5, 1.2
"""Predictions are given up where their error is so many times that of counting requests, and taken up again below that.
Counting has the level of the waits right too, but tells replicas apart by nothing else: equal errors are no draw."""
KEPT_RATE = 0.05
PER_THOUSAND = 1e-3
BACKLOG, PROMPT, BATCH, WAITING, KV_ROOM = range(1, 6)
"""Places among the causes of the wait for the first token; the first is what any request takes."""


class Work(NamedTuple):
    """What a request would meet at a replica, as far as the router knows."""

    requests: int
    """Running, waiting or sent since the replica was last heard."""
    waiting: int
    tokens_ahead: float
    """Of prompts, to be computed before this one's."""
    tokens_own: float
    """Of its prompt, to be computed."""
    kv_used: float
    """0..1, of the replica's KV pages."""

    def first_token(self) -> tuple[float, ...]:
        """Causes of the wait for the first token: steps, prompts in thousands of tokens, rows, room."""
        ahead, own = self.tokens_ahead * PER_THOUSAND, self.tokens_own * PER_THOUSAND
        room = max(0.0, self.kv_used - KV_ROOM_FROM) / (1 - KV_ROOM_FROM)
        return (1.0, ahead, own, float(self.requests), float(self.waiting), room)

    def per_token(self) -> tuple[float, ...]:
        """Causes of the time per token: the step, its rows, prompts computed meanwhile, KV read."""
        return (1.0, float(self.requests), self.tokens_ahead * PER_THOUSAND, self.kv_used)


class Works(NamedTuple):
    """The same at m replicas, (m,) each."""

    requests: Vector
    waiting: Vector
    tokens_ahead: Vector
    tokens_own: Vector
    kv_used: Vector

    def at(self, place: int) -> Work:
        """At one of them."""
        requests, waiting, ahead, own, kv_used = (float(column[place]) for column in self)
        return Work(int(requests), int(waiting), ahead, own, kv_used)

    def first_token(self) -> Vector:
        """Causes as Work has them, (m, 6)."""
        causes = np.ones((len(self.requests), 6))
        np.multiply(self.tokens_ahead, PER_THOUSAND, out=causes[:, BACKLOG])
        np.multiply(self.tokens_own, PER_THOUSAND, out=causes[:, PROMPT])
        causes[:, BATCH] = self.requests
        causes[:, WAITING] = self.waiting
        np.divide(np.maximum(0.0, self.kv_used - KV_ROOM_FROM), 1 - KV_ROOM_FROM, out=causes[:, KV_ROOM])
        return causes

    def per_token(self, first_token: Vector) -> Vector:
        """Causes as Work has them, (m, 4); `first_token`: the others."""
        causes = first_token[:, (0, BATCH, BACKLOG, KV_ROOM)]
        causes[:, 3] = self.kv_used
        return causes


class Speed(NamedTuple):
    """What a replica says of its own speed; 0 where it measured nothing yet."""

    prefill_tokens_per_s: float
    step_ms: float


class Who(NamedTuple):
    """A replica that a request may go to."""

    replica_id: str
    incarnation: str
    kind: tuple[str, str]
    """Model and class of chip."""
    speed: Speed


class Beliefs(NamedTuple):
    """What is believed of m replicas at one time."""

    first_token: Estimates
    per_token: Estimates
    kept: Vector
    """(m,), 0..1: of the prompt tokens thought to be cached there, the share that are."""

    @property
    def prefill_tokens_per_s(self) -> Vector:
        """(m,): how fast each works off what is ahead of a request."""
        return 1e6 / (self.first_token.weights[:, PROMPT] * self.first_token.factors)


class Predictions(NamedTuple):
    """Of m candidates, (m,) milliseconds each."""

    base: Vector
    backlog: Vector
    """Prompts before this one's."""
    batch: Vector
    waiting: Vector
    kv_room: Vector
    per_prompt_token: Vector
    """What a token of the own prompt takes, or saves where it is cached."""
    doubt: Vector
    """Standard deviation of the prediction of the wait for the first token."""
    per_token: Vector

    def first_token(self, tokens: Vector) -> Vector:
        """The waits for the first token where so many tokens (m,) of the prompt are to be computed."""
        others = self.base + self.backlog + self.batch + self.waiting + self.kv_room
        return others + tokens * self.per_prompt_token


class Learned:
    """What reports of one replica's incarnation, or of a kind, have taught."""

    def __init__(self, first_token: Regression, per_token: Regression) -> None:
        self.first_token = first_token
        self.per_token = per_token
        self.kept = 1.0
        """0..1: of the prompt tokens thought to be cached there, the share that were."""


class Trust:
    """Which of two beliefs foretells the waits for a model better: the predictions, or counting requests."""

    def __init__(self, step_ms: float) -> None:
        self.counting = Regression(np.array([100.0, step_ms]), np.array([100.0, step_ms * 10]))
        """Milliseconds for any request, and for each that is there already."""
        self.predicting = True
        self._errors = [0.0, 0.0]
        self._reports = 0

    @property
    def request_ms(self) -> float:
        """What each request that is there already adds, as counting has it."""
        return max(float(self.counting.weights[1]), 1.0)

    def counted(self, work: Work, now_s: float) -> float:
        """The wait for the first token, milliseconds, if only the number of requests mattered."""
        return self.counting.predict((1.0, float(work.requests)), now_s)

    def heard(self, predicted_ms: float, counted_ms: float, measured_ms: float) -> None:
        """What either foretold, and what came."""
        rate = max(ERROR_RATE, 1 / (self._reports + 1))
        for at, told in enumerate((predicted_ms, counted_ms)):
            self._errors[at] += rate * (abs(math.log(measured_ms / told)) - self._errors[at])
        self._reports += 1
        if self._reports >= ERRORS_FIRST:
            self.predicting = self._errors[0] <= self._errors[1] * (GIVEN_UP if self.predicting else TAKEN_UP)


class Pending(NamedTuple):
    """A request that was sent, what it was to meet, and what was foretold."""

    who: Who
    work: Work
    cached_tokens: float
    """Of its prompt, thought to lie there."""
    predicted_ms: float
    counted_ms: float


class Answered(NamedTuple):
    """How a request went; 0 is not known."""

    ttft_ms: float
    tpot_ms: float
    prompt_tokens: int
    cached_tokens: int


class Forecasts:
    """All that is learned of replicas. Bounded; the same calls give the same answers."""

    def __init__(self, config: RouterConfig) -> None:
        self._config = config
        self._replicas: dict[str, tuple[str, Learned]] = {}
        self._kinds: OrderedDict[tuple[str, str], Learned] = OrderedDict()
        self._trust: OrderedDict[str, Trust] = OrderedDict()
        self._pending: OrderedDict[str, Pending | None] = OrderedDict()

    def trust(self, model: str) -> Trust:
        """Whether predictions for a model are to be believed."""
        found = self._trust.setdefault(model, Trust(self._config.step_ms))
        _bound(self._trust, model)
        return found

    def beliefs(self, whos: Sequence[Who], now_s: float) -> Beliefs:
        """Of each by its own reports, or before there are any by those of its kind, or by what it says of its speed."""
        learned = [self._learned(who) or self._of_kind(who) or _prior(*_known(who.speed, self._config)) for who in whos]
        return Beliefs(
            estimates([each.first_token for each in learned], now_s),
            estimates([each.per_token for each in learned], now_s),
            np.array([each.kept for each in learned]),
        )

    def sent(self, request_id: str, pending: Pending) -> None:
        """The request goes to this candidate. One that is sent again teaches nothing: its wait is several's."""
        if request_id:
            self._pending[request_id] = None if request_id in self._pending else pending
            if len(self._pending) > PENDING:
                self._pending.popitem(last=False)

    def answered(self, request_id: str, replica_id: str, answered: Answered, now_s: float) -> None:
        """Learn from how it went, where it went to the replica that was chosen."""
        pending = self._pending.pop(request_id, None)
        if pending is None or pending.who.replica_id != replica_id:
            return
        who, work = pending.who, pending.work
        learned = self._learned(who)
        if learned is None:
            learned = Learned(*self._priors(who))
            self._replicas[replica_id] = (who.incarnation, learned)
        if answered.prompt_tokens:
            cached = min(answered.cached_tokens, answered.prompt_tokens)
            work = work._replace(tokens_own=answered.prompt_tokens - cached)
            if pending.cached_tokens >= 1:
                learned.kept += KEPT_RATE * (min(1.0, cached / pending.cached_tokens) - learned.kept)
        kind = self._kinds.get(who.kind)
        if kind is None:
            kind = self._kinds[who.kind] = Learned(*_regressions(*_known(who.speed, self._config)))
        _bound(self._kinds, who.kind)
        for each in (learned, kind):
            each.per_token.observe(work.per_token(), answered.tpot_ms, now_s)
            told = each.first_token.observe(work.first_token(), answered.ttft_ms, now_s)
        if told:
            trust = self.trust(who.kind[0])
            trust.heard(pending.predicted_ms, pending.counted_ms, answered.ttft_ms)
            trust.counting.observe((1.0, float(work.requests)), answered.ttft_ms, now_s)

    def forget(self, replica_id: str) -> None:
        """The replica is gone."""
        self._replicas.pop(replica_id, None)

    def _learned(self, who: Who) -> Learned | None:
        incarnation, learned = self._replicas.get(who.replica_id, ("", None))
        return learned if incarnation == who.incarnation else None

    def _of_kind(self, who: Who) -> Learned | None:
        kind = self._kinds.get(who.kind)
        return kind if kind is not None and kind.first_token.count >= KIND_REPORTS else None

    def _priors(self, who: Who) -> tuple[Regression, Regression]:
        kind = self._of_kind(who)
        if kind is None:
            return _regressions(*_known(who.speed, self._config))
        return _doubted(kind.first_token.weights, kind.per_token.weights)


def predict(beliefs: Beliefs, works: Works) -> Predictions:
    """What a request would wait for at each of these."""
    causes = works.first_token()
    waits = parts(beliefs.first_token, causes)
    return Predictions(
        base=waits[:, 0],
        backlog=waits[:, BACKLOG],
        batch=waits[:, BATCH],
        waiting=waits[:, WAITING],
        kv_room=waits[:, KV_ROOM],
        per_prompt_token=1e3 / beliefs.prefill_tokens_per_s,
        doubt=doubts(beliefs.first_token, causes),
        per_token=parts(beliefs.per_token, works.per_token(causes)).sum(axis=1),
    )


def _known(speed: Speed, config: RouterConfig) -> tuple[float, float, float]:
    """Tokens per second, milliseconds of a step, and those that a full KV adds."""
    measured = speed.prefill_tokens_per_s >= SLOWEST_PREFILL_TOKENS_PER_S
    rate = speed.prefill_tokens_per_s if measured else config.prefill_tokens_per_s
    return rate, speed.step_ms or config.step_ms, config.kv_room_penalty_ms


def _regressions(rate: float, step_ms: float, kv_room_ms: float) -> tuple[Regression, Regression]:
    """What is believed before any report."""
    token = 1e6 / rate
    return _doubted(
        np.array([BASE_MS, token, token, step_ms, step_ms, kv_room_ms]),
        step_ms * np.array([0.8, 0.02, 0.1, 0.1]),
    )


def _doubted(first_token: Vector, per_token: Vector) -> tuple[Regression, Regression]:
    return Regression(first_token, SPREAD * first_token), Regression(per_token, SPREAD * per_token)


@lru_cache(maxsize=1024)
def _prior(rate: float, step_ms: float, kv_room_ms: float) -> Learned:
    """Of one that nothing was reported of. All share it: it is only read."""
    return Learned(*_regressions(rate, step_ms, kv_room_ms))


def _bound(table: OrderedDict, key: object) -> None:
    table.move_to_end(key)
    if len(table) > KINDS:
        table.popitem(last=False)
