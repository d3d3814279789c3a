"""Speculative decoding: an engine that drafts beside one that does not, pair by pair.

Both are in this process, each with a scheduler and a worker of its own; the same prompts run on one and then on the
other, which begins changing. A pair's ratio is of tokens per second while rows decode: from the last row's first token
to the last token of all. Prompts that quote are those of tests.benchmarks.quotes whose answer without drafts was at
least half quoted; they are greedy. Of the chat, every second answer is sampled at temperature 0.7. No prompt is asked
twice within a tenant, so that no answer is drafted from itself.
"""

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Literal, NamedTuple

from actors.base.channel import connect
from actors.base.server import Server
from actors.base.telemetry import Telemetry
from actors.base.vocabulary import Vocabulary
from actors.scheduler.config import SchedulerConfig
from actors.scheduler.service import SchedulerService
from actors.worker.config import WorkerConfig
from actors.worker.models import load_model
from actors.worker.service import WorkerService
from cluster.gateway.chat import ChatTemplate
from protos.gen import inference_pb2, scheduler_pb2, scheduler_pb2_grpc, worker_pb2_grpc
from tests.benchmarks import quotes
from tests.benchmarks.decoding import MODEL
from tests.benchmarks.harness import Contender, Figure, Options, Part, Samples

OUTPUT = 160
QUOTED = 0.5
CANDIDATES = 150
LEAST_OUTPUT = 32
"""A candidate's answer of fewer tokens says little about decoding."""
AT_ONE = 6
"""Prompts of a pair, one after the other."""
TEMPERATURE = 0.7
BATCHES = (1, 8, 16)


class Ask(NamedTuple):
    """A prompt as tokens, and how its answer is drawn."""

    tokens: list[int]
    temperature: float


class Rate(NamedTuple):
    """What an engine did with some prompts."""

    tokens: int  # after the last row's first one
    seconds: float
    drafted: int
    accepted: int


class Engine:
    """A scheduler's stub."""

    def __init__(self, stub: scheduler_pb2_grpc.SchedulerStub) -> None:
        self._stub = stub

    async def answer(self, ask: Ask, tenant: str) -> tuple[list[int], list[tuple[float, int]], tuple[int, int]]:
        """The tokens; when how many came; drafted and accepted ones."""
        sampling = inference_pb2.Sampling(
            temperature=ask.temperature, top_p=1, top_k=0, min_p=0, repetition_penalty=1, presence_penalty=0,
            frequency_penalty=0, seed=7,
        )  # fmt: skip
        request = scheduler_pb2.GenerateRequest(
            request_id=uuid.uuid4().hex, token_ids=ask.tokens, prompt_tokens=len(ask.tokens), sampling=sampling,
            max_tokens=OUTPUT, tenant=tenant,
        )  # fmt: skip
        tokens: list[int] = []
        came: list[tuple[float, int]] = []
        drafted = accepted = 0
        async with aclosing(self._stub.Generate(request)) as events:
            async for event in events:
                if event.token_ids:
                    tokens += event.token_ids
                    came.append((time.perf_counter(), len(event.token_ids)))
                drafted += event.drafted_tokens
                accepted += event.accepted_tokens
        return tokens, came, (drafted, accepted)

    async def decode(self, asks: Sequence[Ask], tenant: str) -> Rate:
        """All of `asks` at once."""
        answers = await asyncio.gather(*(self.answer(ask, tenant) for ask in asks))
        begin = max(came[0][0] for _, came, _ in answers)
        arrivals = [(at, count) for _, came, _ in answers for at, count in came if at > begin]
        end = max((at for at, _ in arrivals), default=begin)
        drafted, accepted = (sum(drafts[which] for *_, drafts in answers) for which in range(2))
        return Rate(sum(count for _, count in arrivals), end - begin, drafted, accepted)


@asynccontextmanager
async def engine(name: str, speculation: Literal["auto", "off"]) -> AsyncGenerator[Engine, None]:
    """A worker and its scheduler in this process."""
    worker = WorkerService(WorkerConfig(speculation=speculation, kv_disk_bytes=0), Telemetry("worker"))
    async with AsyncExitStack() as stack:
        await worker.start()
        stack.push_async_callback(worker.stop)
        await _serve(stack, Server(f"{name}-worker", [(worker_pb2_grpc.add_WorkerServicer_to_server, worker)]))
        to_worker = connect(f"inproc:{name}-worker")
        stack.push_async_callback(to_worker.close)
        # Prompts first, then all rows decode together.
        config = SchedulerConfig(itl_target_ms=0)
        scheduler = SchedulerService(
            config, name, "here", worker_pb2_grpc.WorkerStub(to_worker), None, Telemetry("scheduler")
        )
        await scheduler.start()
        stack.push_async_callback(scheduler.stop)
        await _serve(stack, Server(name, [(scheduler_pb2_grpc.add_SchedulerServicer_to_server, scheduler)]))
        async for ready in scheduler.serving():
            if ready:
                break
        channel = connect(f"inproc:{name}")
        stack.push_async_callback(channel.close)
        yield Engine(scheduler_pb2_grpc.SchedulerStub(channel))


async def _serve(stack: AsyncExitStack, server: Server) -> None:
    await server.start()
    stack.push_async_callback(server.stop, 1)


def _ratio(what: str, rows: int) -> Figure:
    asked = {("quoting", 1): 1.6, ("chat", 1): 1.1}.get((what, rows), 1.0)
    return Figure(f"{what}, {rows} row{'s' * (rows > 1)}: drafting over not", "x", asked)


class Pairs:
    """Pairs of rounds, and the prompts that they take in turn."""

    def __init__(self, plain: Engine, drafting: Engine, prompts: dict[str, list[Ask]]) -> None:
        self._engines = (plain, drafting)
        self._prompts: dict[tuple[str, int], Iterator[Ask]] = {
            (what, rows): itertools.cycle(asks) for what, asks in prompts.items() for rows in BATCHES
        }
        self._numbers = itertools.count()

    async def pair(self, what: str, rows: int) -> dict[Figure, float]:
        """One pair, of tokens per second and what became of drafts."""
        number = next(self._numbers)
        count = AT_ONE if rows == 1 else rows
        asks = list(itertools.islice(self._prompts[what, rows], count))
        totals = {0: [0.0] * 4, 1: [0.0] * 4}
        for turn, batch in enumerate([[ask] for ask in asks] if rows == 1 else [asks]):
            order = (0, 1) if (number + turn) % 2 else (1, 0)
            for which in order:
                rate = await self._engines[which].decode(batch, f"pair-{number}")
                totals[which] = [total + value for total, value in zip(totals[which], rate, strict=True)]
        plain, drafting = totals[0], totals[1]
        rates = [total[0] / total[1] for total in (plain, drafting)]
        name = f"{what}, {rows} row{'s' * (rows > 1)}"
        return {
            _ratio(what, rows): rates[1] / rates[0],
            Figure(f"{name}: not drafting", "tokens/s"): rates[0],
            Figure(f"{name}: drafting", "tokens/s"): rates[1],
            Figure(f"{name}: drafted tokens", "% of output"): 100 * drafting[2] / drafting[0],
            Figure(f"{name}: of them accepted", "%"): 100 * drafting[3] / max(drafting[2], 1),
        }


async def _prompts(plain: Engine, quick: bool) -> dict[str, list[Ask]]:
    vocabulary = Vocabulary(load_model(MODEL).vocabulary)
    template = ChatTemplate(vocabulary, timeout_s=5, max_chars=1 << 20)

    def asks(prompts: Sequence[quotes.Prompt], *temperatures: float) -> list[Ask]:
        ids = [vocabulary.encode(template.render(prompt.messages), add_bos=False) for prompt in prompts]
        return [Ask(tokens, heat) for tokens, heat in zip(ids, itertools.cycle(temperatures), strict=False)]

    candidates = asks(quotes.quoting(16 if quick else CANDIDATES), 0.0)
    quoting = []
    for at in range(0, len(candidates), max(BATCHES)):
        batch = candidates[at : at + max(BATCHES)]
        answers = await asyncio.gather(*(plain.answer(ask, "candidates") for ask in batch))
        quoting += [
            ask
            for ask, (tokens, *_) in zip(batch, answers, strict=True)
            if len(tokens) >= LEAST_OUTPUT and quotes.quoted(ask.tokens, tokens) >= QUOTED
        ]
    return {"quoting": quoting, "chat": asks(quotes.chat(), 0.0, TEMPERATURE)}


@asynccontextmanager
async def _contenders(options: Options) -> AsyncGenerator[Sequence[Contender], None]:
    async with engine("plain", "off") as plain, engine("drafting", "auto") as drafting:
        prompts = await _prompts(plain, options.quick)
        pairs = Pairs(plain, drafting, prompts)
        for warm in (plain, drafting):
            await warm.decode(prompts["chat"][:2], "warm")

        async def measure() -> Samples:
            samples: dict[Figure, list[float]] = {}
            for _ in range(1 if options.quick else 3):
                for rows in BATCHES:
                    for what in prompts:
                        for figure, value in (await pairs.pair(what, rows)).items():
                            samples.setdefault(figure, []).append(value)
            return samples

        share = f"{len(prompts['quoting'])} of {16 if options.quick else CANDIDATES} candidates' answers quote"
        yield [Contender("Russet", measure, f"answers of up to {OUTPUT} tokens; {share}")]


PART = Part("speculation", "Speculative decoding, paired rounds", _contenders)
