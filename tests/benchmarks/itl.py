"""Inter-token latency of running streams while long prompts arrive, with and without a target for it.

    python -m tests.benchmarks.itl [target_ms ...], or the part `itl` of python -m tests.benchmarks.

Eight streams decode: undisturbed, then beside two clients that send prompts of 1,000 to 4,000 tokens without pause and
one that sends a prompt of 64 tokens every second, then undisturbed again, since by then they are longer. A gap is the
time between two messages of a stream; what the machine itself adds to p99 shows in the quiet one. The last phase,
without streams, says what the target costs the prompts.
"""

import asyncio
import random
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from actors.base.channel import connect
from actors.scheduler.config import SchedulerConfig
from cluster.config import load
from cluster.local import LocalCluster
from protos.gen import scheduler_pb2_grpc
from tests.benchmarks.engine import Arrivals, Engine
from tests.benchmarks.harness import Contender, Figure, Options, Part, Samples, show, take
from tests.benchmarks.processes import private_home

STREAMS, STREAM_PROMPT = 8, 128
LONG_PROMPTS, LONG_CLIENTS = (1000, 4000), 2
SHORT_PROMPT, SHORT_EVERY_S = 64, 1.0
QUIET_S, LOADED_S, ALONE_S = 2.0, 10.0, 4.0
LEAVING_S = 0.3
"""Within which the prompts of clients that are gone have left the batch."""
TIMES_QUIET = 3.0
"""What issue 3 asks for: p99 under load over the quiet median."""

QUIET = {percent: Figure(f"gap, quiet, p{percent}", "ms", higher_is_better=False) for percent in (50, 99)}
LOADED = {percent: Figure(f"gap, loaded, p{percent}", "ms", higher_is_better=False) for percent in (50, 95, 99)}
RATIO = Figure("gap, loaded p99 over quiet median", "x", TIMES_QUIET, higher_is_better=False)
FIRST = Figure(f"first token of {SHORT_PROMPT} behind long prompts", "ms", higher_is_better=False)
PREFILL = Figure("prompts, loaded", "tokens/s")
DECODE = Figure("streams, loaded", "tokens/s")
ALONE = Figure("prompts, no streams", "tokens/s")


def gaps_ms(streams: Sequence[Arrivals], begin_s: float, end_s: float) -> list[float]:
    """Times between messages of each stream, of those that ended within the window."""
    return [
        1e3 * (later - earlier)
        for arrivals in streams
        for earlier, later in pairwise(arrivals.at_s)
        if begin_s <= earlier and later < end_s
    ]


async def tokens_computed(url: str) -> dict[str, float]:
    """Tokens that the workers have computed so far, by kind: prefill and decode."""
    async with httpx.AsyncClient(timeout=30) as http:
        text = (await http.get(f"{url}/metrics")).raise_for_status().text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {s.labels["kind"]: s.value for s in samples if s.name == "russet_worker_tokens_total"}


class Load:
    """Clients that send prompts, each for one token, until cancelled."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._draw = random.Random(1)
        self.first_ms: list[float] = []
        """Of the short prompts."""

    async def long(self) -> None:
        """One after the other."""
        while True:
            await self._engine.generate(self._draw.randint(*LONG_PROMPTS), 1)

    async def short(self) -> None:
        """One a second, or as soon as the one before was answered."""
        while True:
            began = time.perf_counter()
            await self._engine.generate(SHORT_PROMPT, 1)
            self.first_ms.append(1e3 * (time.perf_counter() - began))
            await asyncio.sleep(max(0.0, began + SHORT_EVERY_S - time.perf_counter()))

    async def rates(self, url: str, seconds: float, *, short: bool) -> dict[str, float]:
        """Tokens per second by kind while the clients run for `seconds`."""
        clients = [asyncio.create_task(self.long()) for _ in range(LONG_CLIENTS)]
        if short:
            clients.append(asyncio.create_task(self.short()))
        try:
            before, began = await tokens_computed(url), time.perf_counter()
            await asyncio.sleep(seconds)
            after, passed_s = await tokens_computed(url), time.perf_counter() - began
        finally:
            await _cancelled(clients)
        return {kind: (after[kind] - before[kind]) / passed_s for kind in after}


async def measured(engine: Engine, url: str, quick: bool) -> Samples:
    """One round of all phases."""
    scale = 0.3 if quick else 1.0
    streams = [Arrivals() for _ in range(STREAMS)]
    running = [asyncio.create_task(engine.generate(STREAM_PROMPT, 6000, arrivals)) for arrivals in streams]
    clients = Load(engine)

    async def quiet() -> list[float]:
        began = time.perf_counter()
        await asyncio.sleep(QUIET_S * scale)
        return gaps_ms(streams, began, time.perf_counter())

    try:
        while not all(arrivals.at_s for arrivals in streams):
            await asyncio.sleep(0.01)
        undisturbed = await quiet()
        began = time.perf_counter()
        rates = await clients.rates(url, LOADED_S * scale, short=True)
        loaded = gaps_ms(streams, began, time.perf_counter())
        await asyncio.sleep(LEAVING_S)
        undisturbed += await quiet()
    finally:
        await _cancelled(running)
    alone = await Load(engine).rates(url, ALONE_S * scale, short=False)
    return {
        **_percentiles(QUIET, undisturbed),
        **_percentiles(LOADED, loaded),
        RATIO: [float(np.percentile(loaded, 99) / np.median(undisturbed))],
        FIRST: clients.first_ms,
        DECODE: [rates["decode"]],
        PREFILL: [rates["prefill"]],
        ALONE: [alone["prefill"]],
    }


def _percentiles(figures: Mapping[int, Figure], gaps: Sequence[float]) -> Samples:
    return {figure: [float(np.percentile(gaps, percent))] for percent, figure in figures.items()}


async def _cancelled(tasks: Sequence[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _cluster(target_ms: float, quick: bool) -> AsyncGenerator[Contender, None]:
    with private_home() as home:
        ports = {"gateway.port": 0, "gateway.grpc_port": 0}
        config = load(home / "russet.toml", {"home": home, "scheduler.itl_target_ms": target_ms, **ports}, environ={})
        async with LocalCluster(config) as cluster:
            scheduler = next(serving for serving in cluster.running if serving.name.startswith("scheduler-"))
            channel = connect(scheduler.addresses)
            engine = Engine(scheduler_pb2_grpc.SchedulerStub(channel))
            await engine.generate(STREAM_PROMPT, 8)

            async def measure() -> Samples:
                return await measured(engine, cluster.http, quick)

            yield Contender(f"target {target_ms:g} ms" if target_ms else "no target", measure, peer=not target_ms)
            await channel.close()


def part(*targets_ms: float) -> Part:
    """The benchmark with these targets, a contender each; 0 is none."""

    @asynccontextmanager
    async def contenders(options: Options) -> AsyncGenerator[Sequence[Contender], None]:
        async with AsyncExitStack() as running:
            yield [await running.enter_async_context(_cluster(target, options.quick)) for target in targets_ms]

    return Part("itl", "Inter-token latency beside long prompts", contenders)


PART = part(SchedulerConfig().itl_target_ms, 0.0)


def main() -> None:
    """Run it once, with the targets given on the command line or the default and none."""
    targets = [float(word) for word in sys.argv[1:]]
    chosen = part(*targets) if targets else PART
    show(asyncio.run(take(chosen, Options(rounds=1), lambda what: None)), Console(width=140))


if __name__ == "__main__":
    main()
