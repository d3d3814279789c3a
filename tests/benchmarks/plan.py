"""How long a plan takes: python -m tests.benchmarks.plan [rows], or the part `plan` of python -m tests.benchmarks.

Decides and writes plans for decoding rows that all run low, the most that a plan without arrivals has to do, and the
plan that finds nothing to say. The target is below 1 ms for 64 rows.
"""

import statistics
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import get_args

from actors.scheduler.batch import Batch
from actors.scheduler.config import SchedulerConfig, Strategy
from actors.scheduler.queue import WaitingQueue
from actors.scheduler.sequence import Sequence
from protos.gen import worker_pb2
from tests.benchmarks.harness import Contender, Figure, Options, Part, Samples

ROUNDS = 300


def decoding_batch(rows: int, waiting: int, strategy: Strategy) -> Batch:
    """`rows` rows that decode with 200 tokens each, and `waiting` requests that find no row."""
    config = SchedulerConfig(max_running=rows, page_strategy=strategy, queue_limit=4096)
    queue = WaitingQueue(config.policy, config.aging_s)
    hello = worker_pb2.HelloReply(epoch=1, pages=rows * 64, page_size=16, max_rows=rows, max_step_tokens=512)
    batch = Batch(config, hello, queue)
    for index in range(rows + waiting):
        queue.arrive(Sequence(f"r{index}", [index] * 200, 200, 1000, arrival_s=0.0, index=index))
    batch.enact(batch.decide(0.0), 0.0)
    return batch


def measure(rows: int, waiting: int, strategy: Strategy, rounds: int = ROUNDS) -> tuple[list[float], list[float]]:
    """Seconds of plans that extend every lease, and of plans with nothing to say."""
    busy, idle = [], []
    while len(busy) < rounds:
        batch = decoding_batch(rows, waiting, strategy)
        while len(busy) < rounds and next(iter(batch.running.values())).num_tokens < 900:
            for sequence in batch.running.values():
                sequence.token_ids += [1] * 30
                sequence.num_computed_tokens = sequence.num_tokens - 1
            start = time.perf_counter()
            batch.enact(batch.decide(1.0), 1.0).SerializeToString()
            busy.append(time.perf_counter() - start)
            start = time.perf_counter()
            quiet = batch.decide(1.0)
            idle.append(time.perf_counter() - start)
            assert not quiet.urgent
    return busy, idle


def _figure(rows: int, waiting: int) -> Figure:
    others = f" with {waiting} waiting" if waiting else ""
    return Figure(f"a plan for {rows} decoding rows{others}", "ms", 1.0, higher_is_better=False)


@asynccontextmanager
async def _contenders(options: Options) -> AsyncGenerator[list[Contender], None]:
    rounds = 50 if options.quick else ROUNDS

    async def samples() -> Samples:
        return {_figure(64, waiting): _ms(measure(64, waiting, "first_fit", rounds)[0]) for waiting in (0, 256)}

    yield [Contender("Russet", samples, "every lease is extended, pages first fit; deciding and writing the message")]


def _ms(seconds: list[float]) -> list[float]:
    return [1e3 * value for value in seconds]


PART = Part("plan", "The scheduler's plan", _contenders)


def main() -> None:
    """Print medians and 95th percentiles for each way to take pages."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    for waiting in (0, 256):
        for strategy in get_args(Strategy):
            busy, idle = measure(rows, waiting, strategy)
            for name, times in (("every lease extended", busy), ("nothing to say", idle)):
                median, late = statistics.median(times) * 1e6, statistics.quantiles(times, n=20)[-1] * 1e6
                what = f"{rows} rows, {waiting} waiting, {strategy:11} {name:21}"
                print(f"{what} median {median:5.0f} us   p95 {late:5.0f} us")


if __name__ == "__main__":
    main()
