"""Ways to choose: Russet's router as it is, and the simple rules that it is held against."""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from actors.base.telemetry import Telemetry
from actors.router.config import RouterConfig
from actors.router.service import RouterService
from cluster.simulation.run import Clock, Router
from protos.gen.router_pb2 import HeartbeatRequest, ReportRequest, RouteRequest


class Russet:
    """The router's own service."""

    def __init__(self, clock: Clock, config: RouterConfig | None = None) -> None:
        self.service = RouterService(config or RouterConfig(), Telemetry("router"), clock)

    def heard(self, heartbeat: HeartbeatRequest) -> None:
        """Into the table."""
        self.service.fleet.heard(heartbeat)

    def choose(self, request: RouteRequest) -> Sequence[str]:
        """By the service's decision."""
        return [candidate.replica_id for candidate in self.service.decide(request).candidates]

    def answered(self, report: ReportRequest) -> None:
        """Into what it learns from."""
        self.service.learn(report)


class Rule(Russet, ABC):
    """A simple rule over the same table, which counts what was sent since a heartbeat as the router does."""

    def __init__(self, clock: Clock, draw: random.Random) -> None:
        super().__init__(clock)
        self._draw = draw
        self._turn = 0

    def choose(self, request: RouteRequest) -> Sequence[str]:
        """By the rule."""
        requests = {replica.replica_id: replica.requests for replica in self.service.fleet.replicas()}
        order = self.order(requests)
        self.service.fleet.sent(order[0], request.request_id, request.prompt_tokens)
        return order

    @abstractmethod
    def order(self, requests: dict[str, int]) -> list[str]:
        """Ids, best first, by the number of requests at each."""

    def answered(self, report: ReportRequest) -> None:
        """Only the table hears of it."""
        self.service.fleet.answered(report.replica_id, report.request_id, True, report.ttft_ms, report.tpot_ms)


class RoundRobin(Rule):
    """Each in turn."""

    def order(self, requests: dict[str, int]) -> list[str]:
        """The next and those after it."""
        names = list(requests)
        self._turn = (self._turn + 1) % len(names)
        return names[self._turn :] + names[: self._turn]


class Random(Rule):
    """Any."""

    def order(self, requests: dict[str, int]) -> list[str]:
        """Shuffled."""
        return self._draw.sample(list(requests), len(requests))


class LeastLoaded(Rule):
    """The one with the fewest requests."""

    def order(self, requests: dict[str, int]) -> list[str]:
        """By their number; equals in any order, else the first would be everybody's choice."""
        return sorted(requests, key=lambda name: (requests[name], self._draw.random()))


class TwoChoices(Rule):
    """The less loaded of two that are drawn."""

    def order(self, requests: dict[str, int]) -> list[str]:
        """The better of the first two, then the others."""
        names = self._draw.sample(list(requests), len(requests))
        return sorted(names[:2], key=lambda name: requests[name]) + names[2:]


def rules(seed: int) -> dict[str, Callable[[Clock], Router]]:
    """Makers of the simple rules by name."""
    return {
        "round-robin": lambda clock: RoundRobin(clock, random.Random(seed)),
        "random": lambda clock: Random(clock, random.Random(seed)),
        "least-loaded": lambda clock: LeastLoaded(clock, random.Random(seed)),
        "two choices": lambda clock: TwoChoices(clock, random.Random(seed)),
    }
