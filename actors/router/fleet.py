"""The replica table: what each replica last said of itself, and when."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from actors.base.telemetry import Telemetry
from actors.router.config import RouterConfig
from protos.gen import router_pb2


@dataclass
class History:
    """Exponential means over a replica's requests: share that succeeded; ms to the first and per token (0: none)."""

    success: float = 1.0
    ttft_ms: float = 0.0
    tpot_ms: float = 0.0

    def add(self, succeeded: bool, ttft_ms: float, tpot_ms: float, rate: float) -> None:
        """One more request. Times of 0 (it failed before its first token) leave the means alone."""
        self.success += rate * (float(succeeded) - self.success)
        if ttft_ms > 0:
            self.ttft_ms = ttft_ms if self.ttft_ms == 0 else self.ttft_ms + rate * (ttft_ms - self.ttft_ms)
        if tpot_ms > 0:
            self.tpot_ms = tpot_ms if self.tpot_ms == 0 else self.tpot_ms + rate * (tpot_ms - self.tpot_ms)


@dataclass
class Replica:
    """A row of the table. `heard` and `since` are the clock's."""

    state: router_pb2.HeartbeatRequest
    heard: float
    since_s: int
    history: History


class Fleet:
    """Replicas by id. A newer incarnation replaces an older one; within one, the sequence only grows."""

    def __init__(self, config: RouterConfig, telemetry: Telemetry, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._replicas: dict[str, Replica] = {}
        self._size = telemetry.gauge("russet_router_replicas", "Replicas by availability", ("available",))

    def heard(self, state: router_pb2.HeartbeatRequest) -> bool:
        """Take a heartbeat; False where the replica was not known (the router is new, or the replica is)."""
        known = self._replicas.get(state.replica_id)
        if state.leaving:
            if known is not None and known.state.incarnation == state.incarnation:
                del self._replicas[state.replica_id]
            return True
        same = known is not None and known.state.incarnation == state.incarnation
        if known is None or not same:
            self._replicas[state.replica_id] = Replica(state, self._clock(), int(time.time()), History())
            return False
        if state.sequence > known.state.sequence:
            known.state, known.heard = state, self._clock()
        return True

    def get(self, replica_id: str) -> Replica | None:
        """A replica by id."""
        return self._replicas.get(replica_id)

    def age_s(self, replica: Replica) -> float:
        """Seconds since it was heard."""
        return self._clock() - replica.heard

    def available(self, replica: Replica) -> bool:
        """Heard from recently, ready, not draining."""
        load = replica.state.load
        return self.age_s(replica) < self._config.stale_after_s and load.ready and not load.draining

    def replicas(self) -> list[Replica]:
        """All that are not forgotten, by id."""
        for replica_id, replica in list(self._replicas.items()):
            if self.age_s(replica) >= self._config.forget_after_s:
                del self._replicas[replica_id]
        rows = sorted(self._replicas.values(), key=lambda replica: replica.state.replica_id)
        up = sum(self.available(replica) for replica in rows)
        self._size.labels(available="yes").set(up)
        self._size.labels(available="no").set(len(rows) - up)
        return rows

    def models(self) -> list[str]:
        """Models that any known replica serves, sorted."""
        return sorted({replica.state.model for replica in self.replicas()})
