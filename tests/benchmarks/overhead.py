"""What gateway, router and scheduler cost: the whole path over HTTP, around a worker that answers at once.

Two columns: all roles in one process (`russet serve`), and each in its own with unix sockets between (as on Ray).
The first token's time is all of the path's, the client's request and the prompt's tokenization included, when nothing
else is served. CPU time is taken while 16 streams get a token each 10 ms, every token in a message of its own: of the
roles' processes, or in one process of the event loop's thread, where the instant worker's and memory's share is in it
but not the embedder's, which computes in a thread.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

import psutil

from actors.base.errors import Unavailable
from cluster.bench import Load, run
from cluster.load_client import Connection
from tests.benchmarks.harness import Contender, Figure, Options, Part, Samples
from tests.benchmarks.instant import ROLES
from tests.benchmarks.processes import START_TIMEOUT_S, environment, private_home, tail, until_ready

FIRST = Figure("first token of a 128-token prompt", "ms", 5, higher_is_better=False)
EMPTY = Figure("  of which an empty HTTP answer", "ms", higher_is_better=False)
CPU = Figure("CPU per streamed token", "ms", 0.25, higher_is_better=False)
COUNTED = ("gateway", "router", "scheduler")
PAUSE_S = 0.3
"""After it the records of the request before are written."""
Processes = dict[str, psutil.Process]
CpuSeconds = Callable[[psutil.Process], float]


def _cpu_of(role: str) -> Figure:
    return Figure(f"  of which {role}", "ms", higher_is_better=False)


@asynccontextmanager
async def roles(
    groups: Sequence[Sequence[str]], speed: Sequence[str] = ()
) -> AsyncGenerator[tuple[str, Processes], None]:
    """Each group of roles in a process of its own; the base URL once a replica is ready, and the processes by role.

    speed: options of tests.benchmarks.instant.
    """
    with private_home() as folder:
        log = folder / "instant.log"
        started = [_start(folder, [*group, *speed], log) for group in groups]
        try:
            gateway = next(child for child, group in zip(started, groups, strict=True) if "gateway" in group)
            line = await asyncio.wait_for(asyncio.to_thread(gateway.stdout.readline), START_TIMEOUT_S)  # type: ignore[union-attr]
            if not line:
                raise Unavailable(f"the gateway did not start: {tail(log)}")
            url = json.loads(line)["http"]
            await until_ready(f"{url}/ready", gateway, log)
            yield (
                url,
                {"+".join(group): psutil.Process(child.pid) for child, group in zip(started, groups, strict=True)},
            )
        finally:
            for child in reversed(started):
                child.stdin.close()  # type: ignore[union-attr]
                await asyncio.to_thread(child.wait)


def _start(folder: Path, group: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.benchmarks.instant", str(folder), *group]
    with log.open("ab") as errors:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment()
        )


def _measure(url: str, processes: Processes, quick: bool, cpu_seconds: CpuSeconds) -> Callable[[], Awaitable[Samples]]:
    async def measure() -> Samples:
        first = await run(url, Load(1, 10 if quick else 30, 128, 1, pause_s=PAUSE_S))
        samples: dict[Figure, Sequence[float]] = {FIRST: [1e3 * stream.arrivals[0] for stream in first.good]}
        samples[EMPTY] = await _empty_answers(url, 10 if quick else 30)
        await run(url, Load(16, 16, 128, 64))  # the first streams of a process pay for its caches
        before = {name: cpu_seconds(process) for name, process in processes.items()}
        result = await run(url, Load(16, 32 if quick else 64, 128, 64, warm_up_tokens=0))
        tokens = sum(stream.output_tokens for stream in result.good)
        spent = {name: 1e3 * (cpu_seconds(p) - before[name]) / tokens for name, p in processes.items()}
        samples[CPU] = [sum(ms for name, ms in spent.items() if set(name.split("+")) & set(COUNTED))]
        if len(processes) > 1:
            samples |= {_cpu_of(role): [spent[role]] for role in COUNTED}
        return samples

    return measure


async def _empty_answers(url: str, count: int) -> list[float]:
    """Milliseconds of requests that the same server answers with 404: what client, sockets and HTTP take."""
    connection = Connection(url)
    times = []
    for _ in range(count):
        await asyncio.sleep(PAUSE_S)
        began = time.perf_counter()
        async with aclosing(connection.post("/v1/nothing", b"{}")) as pieces:
            async for _ in pieces:
                times.append(1e3 * (time.perf_counter() - began))
    await connection.close()
    return times


def _cpu_seconds(process: psutil.Process) -> float:
    """Of all its threads."""
    times = process.cpu_times()
    return times.user + times.system


def _loop_seconds(process: psutil.Process) -> float:
    """Of its first thread, which runs the event loop."""
    first = next(thread for thread in process.threads() if thread.id == process.pid)
    return first.user_time + first.system_time


@asynccontextmanager
async def _contenders(options: Options) -> AsyncGenerator[Sequence[Contender], None]:
    async with AsyncExitStack() as running:
        together = await running.enter_async_context(roles([ROLES]))
        apart = await running.enter_async_context(roles([[role] for role in ROLES]))
        yield [
            Contender("one process", _measure(*together, options.quick, _loop_seconds), "as `russet serve`"),
            Contender("a process each", _measure(*apart, options.quick, _cpu_seconds), "over unix sockets, as on Ray"),
        ]


PART = Part("overhead", "What gateway, router and scheduler add, around a worker that answers at once", _contenders)
