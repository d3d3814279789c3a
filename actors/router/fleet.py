"""The replica table: what each replica last said of itself, when, and what has been sent to it since."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from actors.base.telemetry import Telemetry
from actors.router.config import RouterConfig
from actors.router.forecast import Speed, Who
from actors.router.history import History
from actors.router.prediction import Vector
from protos.gen import router_pb2

REPLICAS_REMEMBERED = 1024
INCARNATIONS_REMEMBERED = 8


class Sent(NamedTuple):
    """A request that went to a replica: the prompt tokens to be computed there, and when (the clock's)."""

    tokens: int
    at_s: float


class Figures(NamedTuple):
    """Of a heartbeat, what every decision looks at: read once, for a decision looks at every replica's."""

    running: int
    waiting: int
    queue_limit: int
    page_size: int
    kv_used: float
    """0..1."""
    prefill_backlog_tokens: int
    ready: bool
    """And not draining."""
    model: str
    isa_class: str


@dataclass
class Replica:
    """A row of the table. `heard` is the clock's; `sent` has, by request, what it got since, in order."""

    state: router_pb2.HeartbeatRequest
    heard: float
    since_s: int
    history: History
    sent: dict[str, Sent] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.take(self.state, self.heard)

    def take(self, state: router_pb2.HeartbeatRequest, now_s: float) -> None:
        """A heartbeat of the same incarnation."""
        load = state.load
        self.state, self.heard, self.sent = state, now_s, {}
        self.replica_id = state.replica_id
        self.figures = Figures(
            load.running,
            load.waiting,
            load.queue_limit,
            load.page_size,
            load.pages_used / load.pages_total if load.pages_total else 1.0,
            load.prefill_backlog_tokens,
            load.ready and not load.draining,
            state.model,
            state.isa_class,
        )
        said = self.figures
        self.counted = (
            float(said.running + said.waiting),
            float(said.waiting),
            float(said.queue_limit),
            float(said.page_size),
            said.kv_used,
            float(said.prefill_backlog_tokens),
            now_s,
        )
        """What a choice looks at as numbers: requests there, those waiting, places to wait, tokens a page, KV used,
        prompt tokens to be computed, and when that was heard."""
        self.candidate = router_pb2.Candidate(
            replica_id=state.replica_id, addresses=state.addresses, epoch=load.epoch, isa_class=state.isa_class
        )
        """What a reply says of it, but for the score and its terms."""
        speed = Speed(load.prefill_tokens_per_s, load.step_us / 1e3)
        self.who = Who(state.replica_id, state.incarnation, (state.model, state.isa_class), speed)

    @property
    def requests(self) -> int:
        """Running, waiting, or sent there since it was heard."""
        return self.figures.running + self.figures.waiting + len(self.sent)

    def tokens_ahead(self, now_s: float, tokens_per_s: float) -> float:
        """Prompt tokens that are still to be computed there, if they went on at this rate since it was heard."""
        left, at_s = float(self.figures.prefill_backlog_tokens), self.heard
        for sent in self.sent.values():
            left = max(0.0, left - (sent.at_s - at_s) * tokens_per_s) + sent.tokens
            at_s = sent.at_s
        return max(0.0, left - max(0.0, now_s - at_s) * tokens_per_s)


class Fleet:
    """Replicas by id.

    A new incarnation replaces the one before, whose heartbeats, should some still be under way, are ignored from then
    on; so are those of one that said goodbye. Within an incarnation the sequence only grows.
    """

    def __init__(self, config: RouterConfig, telemetry: Telemetry, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._replicas: dict[str, Replica] = {}
        self.retired: set[str] = set()
        """Models that were unloaded, and have no replica that is not going."""
        self._over: OrderedDict[str, deque[str]] = OrderedDict()
        self._first_token = telemetry.gauge("russet_router_ttft_ms", "Mean wait for the first token", ("replica",))
        self._per_token = telemetry.gauge("russet_router_tpot_ms", "Mean time per token after the first", ("replica",))
        self._success = telemetry.gauge("russet_router_success", "Mean share of requests that succeed", ("replica",))
        size = telemetry.gauge("russet_router_replicas", "Replicas by availability", ("available",))
        self._up, self._down = size.labels(available="yes"), size.labels(available="no")

    def heard(self, state: router_pb2.HeartbeatRequest) -> bool:
        """Take a heartbeat; False where the replica was not known (the router is new, or the replica is)."""
        if state.incarnation in self._over.get(state.replica_id, ()):
            return True
        if state.unloading:
            self.retired.add(state.model)
        elif not state.leaving:
            self.retired.discard(state.model)
        known = self._replicas.get(state.replica_id)
        same = known is not None and known.state.incarnation == state.incarnation
        if state.leaving:
            if known is not None and same:
                self._drop(known)
            self._end(state.replica_id, state.incarnation)
            return True
        now = self._clock()
        if known is None or not same:
            if known is not None:
                self._end(state.replica_id, known.state.incarnation)
            self._replicas[state.replica_id] = Replica(state, now, int(time.time()), History())
            return False
        if state.sequence > known.state.sequence:
            known.take(state, now)
        return True

    def sent(self, replica_id: str, request_id: str, prompt_tokens: int) -> None:
        """A request goes to this replica, which must compute `prompt_tokens` of its prompt.

        It counts as load there until it is answered, or the replica's own figures tell of it.
        """
        if (replica := self._replicas.get(replica_id)) is not None:
            replica.sent[request_id or f"unnamed {len(replica.sent)}"] = Sent(prompt_tokens, self._clock())

    def answered(self, replica_id: str, request_id: str, succeeded: bool, ttft_ms: float, tpot_ms: float) -> None:
        """How a request went there; a replica not known is passed over."""
        if (replica := self._replicas.get(replica_id)) is not None:
            replica.sent.pop(request_id, None)
            replica.history.add(self._clock(), succeeded, ttft_ms, tpot_ms, self._config.history_rate)
            self._first_token.labels(replica=replica_id).set(replica.history.ttft_ms)
            self._per_token.labels(replica=replica_id).set(replica.history.tpot_ms)
            self._success.labels(replica=replica_id).set(replica.history.success)

    def success(self, replica: Replica) -> float:
        """0..1: the share of its requests that succeed, as far as that is not long ago."""
        return replica.history.success_at(self._clock(), self._config.failure_half_life_s)

    def successes(self, replicas: Sequence[Replica]) -> Vector:
        """The same of several, (m,)."""
        now_s, half_life_s = self._clock(), self._config.failure_half_life_s
        if all(replica.history.success == 1.0 for replica in replicas):
            return np.ones(len(replicas))
        return np.array([replica.history.success_at(now_s, half_life_s) for replica in replicas])

    def age_s(self, replica: Replica) -> float:
        """Seconds since it was heard."""
        return self._clock() - replica.heard

    def stale(self, replica: Replica) -> bool:
        """Not heard from for too long."""
        return self.age_s(replica) >= self._config.stale_after_s

    def available(self, replica: Replica) -> bool:
        """Heard from recently, ready, not draining."""
        return bool(self.up([replica]))

    def replicas(self) -> list[Replica]:
        """All that are not forgotten, by id."""
        now_s, most_s = self._clock(), self._config.forget_after_s
        for replica in [each for each in self._replicas.values() if now_s - each.heard >= most_s]:
            self._drop(replica)
        rows = sorted(self._replicas.values(), key=attrgetter("replica_id"))
        up = len(self.up(rows))
        self._up.set(up)
        self._down.set(len(rows) - up)
        return rows

    def up(self, replicas: Sequence[Replica]) -> list[Replica]:
        """Those of them that are available."""
        now_s, most_s = self._clock(), self._config.stale_after_s
        return [replica for replica in replicas if replica.figures.ready and now_s - replica.heard < most_s]

    def _drop(self, replica: Replica) -> None:
        del self._replicas[replica.replica_id]
        for gauge in (self._first_token, self._per_token, self._success):
            gauge.remove(replica.replica_id)

    def _end(self, replica_id: str, incarnation: str) -> None:
        self._over.setdefault(replica_id, deque(maxlen=INCARNATIONS_REMEMBERED)).append(incarnation)
        self._over.move_to_end(replica_id)
        if len(self._over) > REPLICAS_REMEMBERED:
            self._over.popitem(last=False)
