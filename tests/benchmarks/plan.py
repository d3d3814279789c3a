"""How long a plan takes: python tests/benchmarks/plan.py [rows]

Decides and writes plans for decoding rows that all run low, the most that a plan without arrivals has to do, and the
plan that finds nothing to say. Prints medians and 95th percentiles; the target is below 1 ms for 64 rows.
"""

import statistics
import sys
import time

from actors.scheduler.batch import Batch
from actors.scheduler.config import SchedulerConfig
from actors.scheduler.planner import plan
from actors.scheduler.queue import WaitingQueue
from actors.scheduler.sequence import Sequence
from protos.gen import worker_pb2

ROUNDS = 300


def decoding_batch(rows: int, waiting: int, strategy: str) -> Batch:
    """`rows` rows that decode with 200 tokens each, and `waiting` requests that find no row."""
    config = SchedulerConfig(max_running=rows, page_strategy=strategy, queue_limit=4096)
    queue = WaitingQueue(config.policy, config.aging_s)
    hello = worker_pb2.HelloReply(epoch=1, pages=rows * 64, page_size=16, max_rows=rows, max_step_tokens=512)
    batch = Batch(config, hello, queue)
    for index in range(rows + waiting):
        queue.arrive(Sequence(f"r{index}", [1] * 200, 200, 1000, arrival_s=0.0, index=index))
    batch.enact(plan(batch.state(0.0)), 0.0)
    return batch


def measure(rows: int, waiting: int, strategy: str) -> None:
    """Print the time of plans that extend every lease, and of plans with nothing to say."""
    busy, idle = [], []
    while len(busy) < ROUNDS:
        batch = decoding_batch(rows, waiting, strategy)
        while len(busy) < ROUNDS and next(iter(batch.running.values())).num_tokens < 900:
            for sequence in batch.running.values():
                sequence.token_ids += [1] * 30
                sequence.num_computed_tokens = sequence.num_tokens - 1
            start = time.perf_counter()
            batch.enact(plan(batch.state(1.0)), 1.0).SerializeToString()
            busy.append(time.perf_counter() - start)
            start = time.perf_counter()
            quiet = plan(batch.state(1.0))
            idle.append(time.perf_counter() - start)
            assert not quiet.urgent
    for name, times in (("every lease extended", busy), ("nothing to say", idle)):
        median, late = statistics.median(times) * 1e6, statistics.quantiles(times, n=20)[-1] * 1e6
        print(f"{rows} rows, {waiting} waiting, {strategy:11} {name:21} median {median:5.0f} us   p95 {late:5.0f} us")


if __name__ == "__main__":
    row_count = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    for waiting_count in (0, 256):
        for name in ("first_fit", "best_fit", "round_robin"):
            measure(row_count, waiting_count, name)
