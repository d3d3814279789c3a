"""Whether replicas add up: throughput through gateway, router and memory with 1, 2 and 4 replicas of a known speed.

The workers are instruments (tests.benchmarks.instant): a step of 16 rows each 50 ms, so 320 tokens/s a replica, at no
cost to the machine. What is lost of that as replicas are added is what the front loses, or what the router does where
it sends a seventeenth stream to one replica while another has room. Every role has a process of its own; clients are as
many as there are rows.

The other figure is what a gateway's core carries: streamed tokens for each second of its process's time, every token an
event of its own.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import httpx

from cluster.bench import Load, run
from tests.benchmarks.harness import Contender, Figure, Options, Part, Samples
from tests.benchmarks.overhead import Processes, roles

STEP_S, ROWS = 0.05, 16
REPLICAS = (4, 2, 1)
EACH = Figure("streamed by each replica", "tokens/s", ratios=(("1 replica", 0.95),))
CORE = Figure("carried by a core of the gateway", "tokens/s", 4000)
READY_S = 30.0


def _groups(replicas: int) -> list[list[str]]:
    return [
        ["memory"], ["router"], ["learner"],
        *([f"worker:{index}", f"scheduler:{index}"] for index in range(replicas)), ["gateway"],
    ]  # fmt: skip


def _measure(url: str, processes: Processes, replicas: int, quick: bool) -> Callable[[], Awaitable[Samples]]:
    clients = ROWS * replicas

    async def measure() -> Samples:
        await _all_there(url, replicas)
        await run(url, Load(clients, clients, 64, 32))  # the first streams of a process pay for its caches
        spent = processes["gateway"].cpu_times()
        result = await run(url, Load(clients, clients * (2 if quick else 4), 64, 128, warm_up_tokens=0))
        used = processes["gateway"].cpu_times()
        tokens = sum(stream.output_tokens for stream in result.good)
        seconds = used.user + used.system - spent.user - spent.system
        return {EACH: [result.output_tokens_per_s / replicas], CORE: [tokens / seconds]}

    return measure


async def _all_there(url: str, replicas: int) -> None:
    """Return once the router has heard of every replica."""
    async with asyncio.timeout(READY_S), httpx.AsyncClient(timeout=READY_S) as http:
        while True:
            page = (await http.get(f"{url}/metrics")).text
            if sum(line.startswith("russet_up{") and "scheduler" in line for line in page.splitlines()) >= replicas:
                return


@asynccontextmanager
async def _contenders(options: Options) -> AsyncGenerator[Sequence[Contender], None]:
    speed = ["--step", str(STEP_S), "--rows", str(ROWS)]
    async with AsyncExitStack() as running:
        contenders = []
        for replicas in REPLICAS:
            url, processes = await running.enter_async_context(roles(_groups(replicas), speed))
            name = f"{replicas} replica{'s' if replicas > 1 else ''}"
            measure = _measure(url, processes, replicas, options.quick)
            contenders.append(Contender(name, measure, f"{ROWS * replicas} clients"))
        yield contenders


PART = Part("scaling", "Replicas of a known speed behind one gateway", _contenders)
