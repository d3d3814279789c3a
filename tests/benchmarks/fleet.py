"""Choosing among unequal replicas, in simulated time: the router's own code beside simple rules.

    python -m tests.benchmarks --only fleet

Eight replicas that differ up to 6 x in speed serve conversations of mt_bench's lengths, with shared system prompts and
long documents between, at shares of what the fleet could do at most. Each round has its own traffic, the same for all
contenders; nothing depends on how busy this machine is.
"""

import json
import os
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from actors.base.errors import NotFound
from actors.router.affinity import Affinity, Home
from actors.router.fleet import Replica
from cluster.simulation.replica import Machine
from cluster.simulation.routers import Rule, Russet, rules
from cluster.simulation.run import Clock, Outcome, Router, run
from cluster.simulation.shapes import Shape, Turn, conversations, timed
from cluster.simulation.traffic import Arrival
from protos.gen.router_pb2 import ReportRequest, RouteRequest
from tests.benchmarks.harness import ROOT, Contender, Figure, Options, Part, Samples

POINTS: tuple[tuple[Shape, float], ...] = (
    ("poisson", 0.5),
    ("poisson", 0.7),
    ("poisson", 0.9),
    ("burst", 0.7),
    ("diurnal", 0.7),
)
REQUESTS, QUICK_REQUESTS = 1500, 200
ANSWER_TOKENS, ANSWER_SPREAD, MOST_ANSWER_TOKENS = 150, 0.6, 800
CHARACTERS_PER_TOKEN = 4
MACHINES = (
    Machine("a", "arm64", 6000, 8, 0.5, 32, 6144),
    Machine("b", "arm64", 5000, 9, 0.6, 32, 4096),
    Machine("c", "arm64", 3500, 12, 0.8, 32, 4096),
    Machine("d", "arm64", 3000, 14, 0.9, 24, 3072),
    Machine("e", "x86", 2200, 20, 1.2, 24, 3072),
    Machine("f", "x86", 1800, 22, 1.4, 16, 2048),
    Machine("g", "x86", 1200, 35, 2.2, 16, 2048),
    Machine("h", "x86", 1000, 48, 3.0, 16, 1536),
)


def capacity(machines: Sequence[Machine], arrivals: Sequence[Arrival]) -> float:
    """Requests a second that the fleet could serve at most, if every prefix were found and every row busy."""
    known: set[int] = set()
    computed = []
    for arrival in arrivals:
        keys = list(arrival.page_keys(arrival.prompt_tokens + arrival.output_tokens))
        computed.append(arrival.prompt_tokens - 16 * sum(key in known for key in keys[: arrival.prompt_tokens // 16]))
        known.update(keys)
    prompt, answer = np.mean(computed), np.mean([arrival.output_tokens for arrival in arrivals])
    pages = np.mean([arrival.pages for arrival in arrivals])
    total = 0.0
    for machine in machines:
        rows = min(machine.max_rows, machine.pages / pages)
        token_s = (machine.step_ms / rows + machine.row_ms) / 1e3
        total += 1 / (prompt / machine.prefill_tokens_per_s + answer * token_s)
    return float(total)


class FixedWeights(Rule):
    """What the router did before it learned: milliseconds by fixed weights and the speeds that heartbeats tell."""

    def __init__(self, clock: Clock, draw: random.Random) -> None:
        super().__init__(clock, draw)
        self._affinity = Affinity(100_000)

    def choose(self, request: RouteRequest) -> Sequence[str]:
        """Highest score first."""
        home = self._affinity.session("", request.session_id)
        pages = self._affinity.prefix_pages("", request.prefix_hashes)
        replicas = {replica.replica_id: replica for replica in self.service.fleet.replicas()}
        own = {name: max(0, request.prompt_tokens - 16 * pages.get(name, 0)) for name in replicas}

        def score(replica: Replica) -> float:
            load, name = replica.state.load, replica.replica_id
            rate = load.prefill_tokens_per_s if load.prefill_tokens_per_s >= 1 else 1000.0
            wait = (
                (load.prefill_backlog_tokens + sum(sent.tokens for sent in replica.sent.values()) + own[name])
                * 1e3
                / rate
            )
            wait += replica.requests * (load.step_us / 1e3 or 10.0)
            wait += 500 * load.pages_used / load.pages_total + 8 * replica.history.tpot_ms
            return wait - (200 if home is not None and home.replica_id == name else 0)

        order = sorted(replicas, key=lambda name: (score(replicas[name]), name))
        self.service.fleet.sent(order[0], request.request_id, own[order[0]])
        return order

    def answered(self, report: ReportRequest) -> None:
        """Its affinity hears of it too."""
        super().answered(report)
        self._affinity.served("", report.session_id, report.prefix_hashes, Home(report.replica_id, 0, 0))


def turns() -> list[Turn]:
    """Lengths of mt_bench's questions; answers have lengths as chats do. Raises NotFound without the data."""
    path = Path(os.environ.get("RUSSET_DATA", ROOT.parent / "shared" / "data")) / "prompts" / "mt_bench.jsonl"
    if not path.exists():
        raise NotFound(f"{path} is not there; RUSSET_DATA says where the data is")
    draw = random.Random(5)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        Turn(
            max(4, len(text) // CHARACTERS_PER_TOKEN),
            max(8, min(MOST_ANSWER_TOKENS, round(draw.lognormvariate(np.log(ANSWER_TOKENS), ANSWER_SPREAD)))),
        )
        for row in rows
        for text in row["turns"]
    ]


def traffic(given: Sequence[Turn], requests: int, shape: Shape, load: float, seed: int) -> list[Arrival]:
    """Requests at a share of what the fleet can do at most."""
    made = conversations(given, requests, seed)
    rate = capacity(MACHINES, [arrival for session in made.sessions for _, arrival in session])
    return timed(made, load * rate, shape, seed)


def _figures(shape: Shape, load: float) -> dict[str, Figure]:
    where = f"{shape}, {100 * load:.0f} % load"
    ratios = (("round-robin", 1 / 0.75), ("least-loaded", 1 / 0.9))
    return {
        "p99": Figure(f"{where}: first token, 99th of 100", "ms", higher_is_better=False, ratios=ratios),
        "mean": Figure(f"{where}: mean", "ms", higher_is_better=False),
        "token": Figure(f"{where}: each token", "ms", higher_is_better=False),
        "hit": Figure(f"{where}: prompt tokens found cached", "%"),
        "refused": Figure(f"{where}: refused", "requests", higher_is_better=False),
    }


FIGURES: dict[tuple[str, float], dict[str, Figure]] = {point: _figures(*point) for point in POINTS}


def told(outcome: Outcome) -> dict[str, float]:
    """What is measured of a run."""
    waits = np.array([done.ttft_ms for done in outcome.done])
    prompts = sum(done.arrival.prompt_tokens for done in outcome.done)
    return {
        "p99": float(np.percentile(waits, 99)),
        "mean": float(waits.mean()),
        "token": float(np.mean([done.tpot_ms for done in outcome.done])),
        "hit": 100 * sum(done.cached_tokens for done in outcome.done) / prompts,
        "refused": float(outcome.refused),
    }


@asynccontextmanager
async def _contenders(options: Options) -> AsyncGenerator[Sequence[Contender], None]:
    given = turns()
    requests = QUICK_REQUESTS if options.quick else REQUESTS

    def contender(name: str, make: Callable[[int], Callable[[Clock], Router]]) -> Contender:
        rounds = iter(range(options.rounds))

        async def samples() -> Samples:
            seed, measured = next(rounds), {}
            for point in POINTS:
                outcome = run(MACHINES, traffic(given, requests, *point, seed), make(seed), seed)
                measured |= {FIGURES[point][key]: [value] for key, value in told(outcome).items()}
            return measured

        return Contender(name, samples, peer=name != "Russet")

    simple = list(rules(0))
    yield [
        contender("Russet", lambda seed: Russet),
        *(contender(name, lambda seed, name=name: rules(seed)[name]) for name in simple),
        contender("fixed weights", lambda seed: lambda clock: FixedWeights(clock, random.Random(seed))),
    ]


PART = Part("fleet", "Choosing among unequal replicas (simulated time)", _contenders)
