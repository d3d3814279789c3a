"""The engine behind its scheduler, in one process and without HTTP, beside llama.cpp's decoder: decode and prefill.

Ours schedules, samples and sends every token to a client of its own; llama.cpp's benchmark only computes.
"""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from actors.base.channel import connect
from actors.worker.models.catalogue import locate
from cluster.config import load
from cluster.local import LocalCluster
from kernels.cpu import _ext
from protos.gen import inference_pb2, scheduler_pb2, scheduler_pb2_grpc
from tests.benchmarks.decoding import MODEL, PREFILL, PROMPT, beside, decode_figure, llama_contender
from tests.benchmarks.exposed_gap import gap_totals, mean_gap_us
from tests.benchmarks.harness import Contender, Figure, Options, Part, Samples
from tests.benchmarks.llama import Llama
from tests.benchmarks.processes import private_home

OUTPUT = 64
DECODE = {rows: decode_figure(rows, times) for rows, times in ((1, 1.5), (8, 2.2), (16, 2.6), (32, 3.0))}
PREFILLED = Figure(f"prefill of {PREFILL}", "tokens/s", ratios=beside(2.5))


@dataclass
class Arrivals:
    """When the tokens of one stream came: parallel columns."""

    at_s: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


class Engine:
    """Requests to a scheduler's stub."""

    def __init__(self, stub: scheduler_pb2_grpc.SchedulerStub) -> None:
        self._stub = stub
        self._draw = random.Random(0)

    async def generate(
        self, prompt_tokens: int, output_tokens: int, arrivals: Arrivals | None = None, prefix: Sequence[int] = ()
    ) -> Arrivals:
        """One greedy stream over a random prompt, ended by its length alone; `arrivals` is filled as tokens come.

        `prefix` goes before the random tokens.
        """
        ids = [*prefix, *(self._draw.randrange(1000, 40000) for _ in range(prompt_tokens))]
        sampling = inference_pb2.Sampling(
            temperature=0, top_p=1, top_k=0, min_p=0, repetition_penalty=1, presence_penalty=0, frequency_penalty=0,
            seed=1,
        )  # fmt: skip
        request = scheduler_pb2.GenerateRequest(
            request_id=uuid.uuid4().hex, token_ids=ids, prompt_tokens=len(ids), sampling=sampling,
            max_tokens=output_tokens, ignore_eos=True,
        )  # fmt: skip
        arrivals = arrivals or Arrivals()
        async with aclosing(self._stub.Generate(request)) as events:
            async for event in events:
                if event.token_ids:
                    arrivals.at_s.append(time.perf_counter())
                    arrivals.tokens.append(len(event.token_ids))
        return arrivals

    async def prefill_tokens_per_s(self) -> float:
        """From the request to its first token, over the prompt's length."""
        began = time.perf_counter()
        return PREFILL / ((await self.generate(PREFILL, 1)).at_s[0] - began)

    async def decode_tokens_per_s(self, streams: int) -> float:
        """While all of `streams` decode: from the last one's first token to the first one's last."""
        all_arrivals = await asyncio.gather(*(self.generate(PROMPT, OUTPUT) for _ in range(streams)))
        begin = max(arrivals.at_s[0] for arrivals in all_arrivals)
        end = min(arrivals.at_s[-1] for arrivals in all_arrivals)
        count = sum(
            count
            for arrivals in all_arrivals
            for at_s, count in zip(arrivals.at_s, arrivals.tokens, strict=True)
            if begin < at_s <= end
        )
        return count / (end - begin)


@asynccontextmanager
async def _contenders(options: Options) -> AsyncGenerator[Sequence[Contender], None]:
    # Prompts first, then all rows decode together, as in the program beside: keeping to a pace while prompts are
    # computed, the first rows would end before the last begin.
    # And a token a pass, as there: what is gained by guessing is another part.
    settings = {
        "gateway.port": 0, "gateway.grpc_port": 0, "scheduler.itl_target_ms": 0, "models.0.speculation": "off",
    }  # fmt: skip
    with private_home() as home:
        config = load(home / "russet.toml", {"home": home, **settings}, environ={})
        async with LocalCluster(config) as cluster:
            scheduler = next(serving for serving in cluster.running if serving.name.startswith("scheduler-"))
            channel = connect(scheduler.addresses)
            engine = Engine(scheduler_pb2_grpc.SchedulerStub(channel))
            await engine.generate(PROMPT, 8)

            async def measure() -> Samples:
                samples: dict[Figure, Sequence[float]] = {}
                for streams, figure in DECODE.items():
                    rounds = range(1 if options.quick else 2)
                    before = await gap_totals(cluster.http)
                    rates = [await engine.decode_tokens_per_s(streams) for _ in rounds]
                    samples[figure] = rates
                    gap = mean_gap_us(before, await gap_totals(cluster.http))
                    samples[Figure(f"exposed gap, {streams} rows", "us a step", higher_is_better=False)] = gap
                samples[PREFILLED] = [await engine.prefill_tokens_per_s() for _ in range(1 if options.quick else 2)]
                return samples

            yield [
                Contender("Russet", measure, f"rows of {PROMPT} + {OUTPUT} tokens through the scheduler's stub"),
                llama_contender(Llama(Path(options.llama), locate(MODEL)[1], _ext.threads()), _llama),
            ]
            await channel.close()


async def _llama(programs: Llama) -> dict[Figure, list[float]]:
    rates = await programs.decode(PROMPT, list(DECODE))
    return {DECODE[rows]: [rate] for rows, rate in rates.items()} | {PREFILLED: [await programs.prefill(PREFILL)]}


PART = Part("engine", "The engine in process", _contenders)
