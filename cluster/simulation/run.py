"""Traffic through a fleet, in simulated time: the router's own code decides, as it does in production.

    arrival -> Route -> replica ... steps ... -> Report, late as a gateway's records are
    heartbeat of each replica every 0.5 s, and a few ms on its way

A replica whose queue is full refuses, and the next candidate is tried, as a gateway does.
"""

import heapq
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from cluster.simulation.replica import Machine, Replica, Served
from cluster.simulation.traffic import PAGE_TOKENS, Arrival
from protos.gen.router_pb2 import HeartbeatRequest, ReportRequest, RouteRequest

MODEL = "simulated"
HEARTBEAT_S = 0.5
MOST_TRAVEL_S = 0.02
GATEWAY_S = 0.004
"""What a request spends in the gateway before it reaches a replica."""
MOST_REPORT_S = 0.4
"""Records wait up to so long for others."""
MOST_HASHES = 256
SERVED_AT_LEAST_S = 3600.0
"""After the last arrival, for what still runs."""


class Router(Protocol):
    """What chooses. Times are told by the clock it was made with."""

    def heard(self, heartbeat: HeartbeatRequest) -> None:
        """A heartbeat arrived."""
        ...

    def choose(self, request: RouteRequest) -> Sequence[str]:
        """Ids of replicas, best first."""
        ...

    def answered(self, report: ReportRequest) -> None:
        """A report arrived."""
        ...


class Clock:
    """Simulated seconds."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now_s


class Change(NamedTuple):
    """At a time a replica's steps begin to take so many times their machine's."""

    time_s: float
    name: str
    slowness: float


class Done(NamedTuple):
    """A request's course; milliseconds."""

    arrival: Arrival
    replica: str
    ttft_ms: float
    tpot_ms: float
    cached_tokens: int


class Outcome(NamedTuple):
    """What became of the requests, in order of arrival; `refused` found every queue full."""

    done: list[Done]
    refused: int


def run(
    machines: Sequence[Machine],
    arrivals: Sequence[Arrival],
    make: Callable[[Clock], Router],
    seed: int,
    changes: Sequence[Change] = (),
) -> Outcome:
    """Serve all of it. The same arguments give the same outcome."""
    return _Run(machines, make, seed).all(arrivals, changes)


class _Run:
    def __init__(self, machines: Sequence[Machine], make: Callable[[Clock], Router], seed: int) -> None:
        self._clock = Clock()
        self._router = make(self._clock)
        self._draw = random.Random(seed)
        self._replicas = {machine.name: Replica(machine) for machine in machines}
        self._sequences = dict.fromkeys(self._replicas, 0)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._open = 0
        self._done: list[Done] = []
        self._refused = 0

    def all(self, arrivals: Sequence[Arrival], changes: Sequence[Change]) -> Outcome:
        for name in self._replicas:
            self._beat(name)
        for change in changes:
            self._at(change.time_s, lambda change=change: self._change(change))
        for arrival in arrivals:
            self._at(arrival.time_s + 2 * HEARTBEAT_S, lambda arrival=arrival: self._arrive(arrival))
        self._open = len(arrivals)
        while self._open:
            time_s, _, act = heapq.heappop(self._events)
            for name, replica in self._replicas.items():
                for served in replica.advance(time_s):
                    self._served(name, served)
            self._clock.now_s = time_s
            act()
        self._done.sort(key=lambda done: done.arrival.number)
        return Outcome(self._done, self._refused)

    def _at(self, time_s: float, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (time_s, self._count, act))

    def _change(self, change: Change) -> None:
        self._replicas[change.name].slowness = change.slowness

    def _beat(self, name: str) -> None:
        replica, machine = self._replicas[name], self._replicas[name].machine
        self._sequences[name] += 1
        heartbeat = HeartbeatRequest(
            replica_id=name,
            addresses=[f"tcp:{name}:1"],
            model=MODEL,
            isa_class=machine.chip,
            load=replica.load(),
            sequence=self._sequences[name],
            incarnation=name,
        )
        now_s = self._clock.now_s
        self._at(now_s + self._draw.uniform(0, MOST_TRAVEL_S), lambda: self._router.heard(heartbeat))
        # Staggered: replicas do not start at once.
        pause_s = HEARTBEAT_S if self._sequences[name] > 1 else self._draw.uniform(0, HEARTBEAT_S)
        self._at(now_s + pause_s, lambda: self._beat(name))

    def _arrive(self, arrival: Arrival) -> None:
        request = RouteRequest(
            request_id=str(arrival.number),
            model=MODEL,
            session_id=arrival.session,
            prompt_tokens=arrival.prompt_tokens,
            prefix_hashes=_hashes(arrival),
            max_tokens=arrival.output_tokens,
        )
        for name in self._router.choose(request):
            if self._replicas[name].submit(arrival, self._clock.now_s + GATEWAY_S):
                return
        self._refused += 1
        self._open -= 1

    def _served(self, name: str, served: Served) -> None:
        arrival = served.arrival
        ttft_s = served.first_s - served.arrived_s + GATEWAY_S
        tpot_s = (served.end_s - served.first_s) / max(1, arrival.output_tokens - 1)
        self._done.append(Done(arrival, name, 1e3 * ttft_s, 1e3 * tpot_s, served.cached_tokens))
        self._open -= 1
        report = ReportRequest(
            request_id=str(arrival.number),
            replica_id=name,
            session_id=arrival.session,
            prefix_hashes=_hashes(arrival),
            succeeded=True,
            ttft_ms=1e3 * ttft_s,
            tpot_ms=1e3 * tpot_s if arrival.output_tokens > 1 else 0.0,
            prompt_tokens=arrival.prompt_tokens,
            cached_tokens=served.cached_tokens,
            completion_tokens=arrival.output_tokens,
        )
        late_s = served.end_s + self._draw.uniform(0.01, MOST_REPORT_S)
        self._at(max(self._clock.now_s, late_s), lambda: self._router.answered(report))


def _hashes(arrival: Arrival) -> list[int]:
    return list(arrival.page_keys(min(arrival.prompt_tokens, MOST_HASHES * PAGE_TOKENS)))
