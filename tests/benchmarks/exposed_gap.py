"""The gap between steps: how long the worker computes nothing although rows could run.

    python -m tests.benchmarks.exposed_gap [--rows 1 8 16 32] [--rounds 3] [--save timeline.png]

A step is one call of the decoder, forward and sampling; the gap is from its return to the next call. Rows decode, each
step all of them. "in process": scheduler and clients share the worker's process and event loop; "over a socket": they
are in a process of their own, plans and results go over a unix socket. Printed are medians over the steps of all
rounds, the share of gaps in the whole time (so the rare long ones, at a new plan, count), and a few steps in a row.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import uvloop
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from actors.base.channel import connect
from actors.base.errors import Unavailable
from actors.base.server import Server
from actors.base.telemetry import Telemetry
from actors.scheduler.config import SchedulerConfig
from actors.scheduler.service import SchedulerService
from actors.worker import service as worker_service
from actors.worker.config import WorkerConfig
from kernels.bell import NO_BELL
from kernels.decoder import Batch, Decoder, Int32, Kv
from kernels.sampling import SampleBatch
from protos.gen import scheduler_pb2_grpc, worker_pb2_grpc

NAME = "russet_scheduler_gap_seconds"
PROMPT, OUTPUT = 32, 192
SHOWN = 6
"""Steps of a timeline."""
ASKED_PERCENT = {("in process", 1): 5.0, ("over a socket", 1): 10.0}
ASKED_BATCHED_PERCENT = 2.0


async def gap_totals(url: str) -> tuple[float, float]:
    """Sum in seconds and count of the gap histogram at a gateway's /metrics, over all replicas.

    Raises Unavailable where there is no answer.
    """
    try:
        async with httpx.AsyncClient(timeout=30) as http:
            text = (await http.get(f"{url}/metrics")).raise_for_status().text
    except httpx.HTTPError as error:
        raise Unavailable(f"no metrics at {url}: {error}") from None
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    seconds, count = (sum(s.value for s in samples if s.name == f"{NAME}_{part}") for part in ("sum", "count"))
    return seconds, count


def mean_gap_us(before: tuple[float, float], after: tuple[float, float]) -> list[float]:
    """Microseconds per step between two readings; empty where no step ran."""
    count = after[1] - before[1]
    return [1e6 * (after[0] - before[0]) / count] if count else []


class Stamp(NamedTuple):
    """One call of the decoder; seconds of one clock."""

    began: float
    ended: float
    rows: int
    tokens: int


class Timed:
    """A decoder that keeps when it was called to draw."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.spec, self.isa_class = decoder.spec, decoder.isa_class
        self.allocate_kv, self.forward = decoder.allocate_kv, decoder.forward
        self.stamps: list[Stamp] = []

    def draw(self, batch: Batch, sampling: SampleBatch, kv: Kv, bell: int = NO_BELL) -> Int32:
        """As the decoder's."""
        began = time.perf_counter()
        drawn = self._decoder.draw(batch, sampling, kv, bell)
        self.stamps.append(Stamp(began, time.perf_counter(), len(batch.lengths), len(batch.tokens)))
        return drawn


class Gaps(NamedTuple):
    """Of consecutive steps in which all rows decoded; parallel, seconds."""

    step: np.ndarray
    gap: np.ndarray

    @property
    def percent(self) -> float:
        """Share of the gaps in steps and gaps together."""
        return 100 * self.gap.sum() / (self.gap.sum() + self.step.sum())


def gaps_of(rounds: Sequence[Sequence[Stamp]], rows: int) -> Gaps:
    """The gaps before the next step, where both steps decode `rows` rows and nothing else."""
    columns = [
        (one.ended - one.began, after.began - one.ended)
        for stamps in rounds
        for one, after in pairwise(stamps)
        if one.rows == one.tokens == after.rows == after.tokens == rows
    ]
    return Gaps(*np.array(columns).reshape(-1, 2).T)


async def run_streams(worker: str, rows: int) -> None:
    """A scheduler on the worker at `worker`, and `rows` greedy streams through it."""
    from tests.benchmarks.engine import Engine

    to_worker, to_scheduler = connect(worker), connect("inproc:gap-scheduler")
    service = SchedulerService(
        SchedulerConfig(), "gap-0", "here", worker_pb2_grpc.WorkerStub(to_worker), None, Telemetry("scheduler")
    )
    await service.start()
    server = Server("gap-scheduler", [(scheduler_pb2_grpc.add_SchedulerServicer_to_server, service)])
    await server.start()
    async for ready in service.serving():
        if ready:
            break
    engine = Engine(scheduler_pb2_grpc.SchedulerStub(to_scheduler))
    await asyncio.gather(*(engine.generate(PROMPT, OUTPUT) for _ in range(rows)))
    await server.stop(grace_s=1)
    await service.stop()
    await to_scheduler.close()
    await to_worker.close()


@asynccontextmanager
async def timed_worker(socket: Path) -> AsyncGenerator[Timed, None]:
    """A worker with default settings, in process as inproc:gap-worker and at `socket`; its decoder."""
    decoders: list[Timed] = []
    build = worker_service.build_decoder

    def timed(*arguments: Any, **more: Any) -> Timed:
        decoders.append(Timed(build(*arguments, **more)))
        return decoders[0]

    worker_service.build_decoder = timed
    service = worker_service.WorkerService(WorkerConfig(speculation="off"), Telemetry("worker"))
    try:
        await service.start()
    finally:
        worker_service.build_decoder = build
    server = Server("gap-worker", [(worker_pb2_grpc.add_WorkerServicer_to_server, service)], unix=str(socket))
    await server.start()
    try:
        yield decoders[0]
    finally:
        await server.stop(grace_s=1)
        await service.stop()


async def measure(batches: Sequence[int], rounds: int) -> dict[tuple[str, int], Gaps]:
    """By where the scheduler is and by rows."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="rg-", dir="/tmp") as folder:
        socket = Path(folder) / "worker.sock"
        async with timed_worker(socket) as decoder:
            await run_streams("inproc:gap-worker", 1)
            for where in ("in process", "over a socket"):
                for rows in batches:
                    taken = []
                    for _ in range(rounds):
                        decoder.stamps = []
                        if where == "in process":
                            await run_streams("inproc:gap-worker", rows)
                        else:
                            await _run_apart(f"unix:{socket}", rows)
                        taken.append(decoder.stamps)
                    found[where, rows] = gaps_of(taken, rows)
    return found


async def _run_apart(worker: str, rows: int) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.exposed_gap", "--worker", worker, "--rows", str(rows)]
    child = await asyncio.create_subprocess_exec(*command)
    if await child.wait():
        raise Unavailable(f"{' '.join(command)} ended with {child.returncode}")


def show(found: dict[tuple[str, int], Gaps], out: Console) -> None:
    """The table, and a few steps of each line."""
    table = Table("scheduler", "rows", "steps", "step, ms", "gap, us", "p99, us", "share, %", "asked")
    for (where, rows), gaps in found.items():
        asked = ASKED_PERCENT.get((where, rows), ASKED_BATCHED_PERCENT if where == "in process" and rows >= 8 else None)
        table.add_row(
            where, str(rows), str(len(gaps.gap)), f"{1e3 * np.median(gaps.step):.2f}",
            f"{1e6 * np.median(gaps.gap):.0f}", f"{1e6 * np.percentile(gaps.gap, 99):.0f}", f"{gaps.percent:.1f}",
            "" if asked is None else f"<= {asked:g}",
        )  # fmt: skip
    out.print(table)
    for (where, rows), gaps in found.items():
        middle = slice(len(gaps.gap) // 2, len(gaps.gap) // 2 + SHOWN)
        steps = " ".join(
            f"[{1e3 * step:.2f} ms] {1e6 * gap:.0f} us"
            for step, gap in zip(gaps.step[middle], gaps.gap[middle], strict=True)
        )
        out.print(f"{where}, {rows} rows: {steps}", highlight=False, markup=False)


def save(found: dict[tuple[str, int], Gaps], picture: Path) -> None:
    """Draw the same steps to scale, each line from the beginning of its first step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 0.6 * len(found) + 1), layout="constrained")
    axes = figure.subplots()
    for line, gaps in enumerate(found.values()):
        middle = slice(len(gaps.gap) // 2, len(gaps.gap) // 2 + SHOWN)
        steps = 1e3 * gaps.step[middle]
        begins = np.concatenate([[0], np.cumsum(1e3 * (gaps.step + gaps.gap)[middle])[:-1]])
        axes.broken_barh(list(zip(begins, steps, strict=True)), (line - 0.3, 0.6), color="#5b7fa6")
        axes.broken_barh(
            list(zip(begins + steps, 1e3 * gaps.gap[middle], strict=True)), (line - 0.3, 0.6), color="#c8402f"
        )
    axes.set_yticks(range(len(found)), [f"{where}, {rows}" for where, rows in found])
    axes.invert_yaxis()
    axes.set_xlabel("ms; blue: a step, red: the gap after it")
    figure.savefig(picture)


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 16, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", type=Path, help="draw the timelines here")
    parser.add_argument("--worker", help="be the process of a scheduler and its clients for this worker, once")
    chosen = parser.parse_args()
    if chosen.worker:
        uvloop.run(run_streams(chosen.worker, chosen.rows[0]))
        return
    found = uvloop.run(measure(chosen.rows, chosen.rounds))
    show(found, Console() if sys.stdout.isatty() else Console(width=140))
    if chosen.save:
        save(found, chosen.save)


if __name__ == "__main__":
    main()
