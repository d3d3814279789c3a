"""What a grammar costs: processor time and wall time per token of eight rows, held to one and free, in turns.

    python -m tests.benchmarks.grammars [--rounds N] [--rows N]

The rows go through the scheduler's stub, so everything but HTTP counts: matching, masks, sampling under them. The same
prompts and numbers of tokens on both sides; each row's grammar is another JSON schema, whose answers do not end before
that. Ratios are of neighbouring rounds, with a 95 % bootstrap interval of their median. On a busy machine they say
little; the processor time of the threads that match and fill masks, told as a share of all, still does.
"""

import argparse
import asyncio
import json
import random
import time
import uuid
from contextlib import aclosing
from typing import Any, NamedTuple

import numpy as np
import psutil

from actors.base.channel import connect
from cluster.config import load
from cluster.local import LocalCluster
from protos.gen import inference_pb2, scheduler_pb2, scheduler_pb2_grpc
from tests.benchmarks.processes import private_home

PROMPT, OUTPUT = 16, 64


class Cost(NamedTuple):
    """Of one round, per token, in milliseconds."""

    processor: float
    wall: float
    masks: float  # processor time of the threads that a first grammar starts


def schema(row: int) -> str:
    """An array of records that is not complete before OUTPUT tokens."""
    record: dict[str, Any] = {
        "type": "object",
        "properties": {
            f"name{row}": {"type": "string", "maxLength": 24},
            "count": {"type": "integer", "minimum": 0, "maximum": 999},
            "kind": {"enum": ["small", "large", "other"]},
        },
        "required": [f"name{row}", "count", "kind"],
        "additionalProperties": False,
    }
    return json.dumps({"type": "array", "items": record, "minItems": OUTPUT})


class Rows:
    """Requests to a scheduler's stub."""

    def __init__(self, stub: scheduler_pb2_grpc.SchedulerStub, rows: int) -> None:
        self._stub, self._rows = stub, rows
        self._others: set[int] = set()
        """Threads that there were before the first grammar."""

    async def warm(self) -> None:
        """A round of each kind."""
        await self.round(0, 0)
        self._others = {thread.id for thread in psutil.Process().threads()}
        await self.round(self._rows, 0)

    def _masks_s(self) -> float:
        threads = [thread for thread in psutil.Process().threads() if thread.id not in self._others]
        return sum(thread.user_time + thread.system_time for thread in threads)

    async def round(self, constrained: int, seed: int) -> Cost:
        """All rows at once, `constrained` of them held to a grammar."""
        masks = self._masks_s()
        processor, wall = time.process_time(), time.perf_counter()
        counts = await asyncio.gather(*(self._row(row, row < constrained, seed) for row in range(self._rows)))
        processor, wall = time.process_time() - processor, time.perf_counter() - wall
        if counts != [OUTPUT] * self._rows:
            raise RuntimeError(f"rows of {counts} tokens; all should have {OUTPUT}")
        return Cost(*(1e3 * cost / sum(counts) for cost in (processor, wall, self._masks_s() - masks)))

    async def _row(self, row: int, constrained: bool, seed: int) -> int:
        draw = random.Random(1000 * seed + row)
        ids = [draw.randrange(1000, 40000) for _ in range(PROMPT)]
        sampling = inference_pb2.Sampling(
            temperature=1, top_p=1, top_k=0, min_p=0, repetition_penalty=1, presence_penalty=0, frequency_penalty=0,
            seed=seed,
        )  # fmt: skip
        request = scheduler_pb2.GenerateRequest(
            request_id=uuid.uuid4().hex, token_ids=ids, prompt_tokens=len(ids), sampling=sampling, max_tokens=OUTPUT,
            ignore_eos=not constrained,
            grammar=inference_pb2.Grammar(json_schema=schema(row)) if constrained else None,
        )  # fmt: skip
        count = 0
        async with aclosing(self._stub.Generate(request)) as events:
            async for event in events:
                count += len(event.token_ids)
        return count


async def measure(rounds: int, rows: int) -> list[tuple[Cost, Cost]]:
    """Pairs of a free and a constrained round, which begins changing."""
    pairs = []
    with private_home() as home:
        settings = {"home": home, "gateway.port": 0, "gateway.grpc_port": 0}
        async with LocalCluster(load(home / "russet.toml", settings, environ={})) as cluster:
            scheduler = next(serving for serving in cluster.running if serving.name.startswith("scheduler-"))
            channel = connect(scheduler.addresses)
            load_ = Rows(scheduler_pb2_grpc.SchedulerStub(channel), rows)
            await load_.warm()
            for seed in range(1, rounds + 1):
                order = (0, rows) if seed % 2 else (rows, 0)
                costs = {constrained: await load_.round(constrained, seed) for constrained in order}
                pairs.append((costs[0], costs[rows]))
            await channel.close()
    return pairs


def interval(ratios: np.ndarray) -> str:
    """The median of ratios and its 95 % bootstrap interval, in words."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return f"{np.median(ratios):.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """Print both costs and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--rows", type=int, default=8)
    options = parser.parse_args()
    pairs = np.array(asyncio.run(measure(options.rounds, options.rows)))  # [rounds, free or constrained, Cost]
    masks = pairs[:, 1, 2].sum() / pairs[:, 1, 0].sum()
    print(f"threads that match and fill masks: {100 * masks:.1f} % of the processor time of a step whose rows are held")
    for index, name in enumerate(Cost._fields[:2]):
        free, held = pairs[:, 0, index], pairs[:, 1, index]
        print(
            f"{name} time per token, {options.rows} rows: free {np.median(free):.3f} ms, held {np.median(held):.3f} ms"
        )
        print(f"  held over free: {interval(held / free)}")


if __name__ == "__main__":
    main()
