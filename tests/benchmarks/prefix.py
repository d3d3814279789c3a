"""The prefix cache: first tokens with a shared prefix cold and warm, and what looking up and inserting costs.

    python -m tests.benchmarks.prefix, or the part `prefix` of python -m tests.benchmarks.

The same questions go to a scheduler with the cache and to one without it, in one process and without HTTP. The tree is
measured alone, full with 100,000 pages, so that every page inserted is taken from another one.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from rich.console import Console

from actors.base.channel import connect
from actors.scheduler.kv_pool import KvPool
from actors.scheduler.pages import PageTable
from actors.scheduler.prefix import PrefixCache
from cluster.config import load
from cluster.local import LocalCluster
from protos.gen import scheduler_pb2_grpc
from tests.benchmarks.engine import Arrivals, Engine
from tests.benchmarks.harness import Contender, Figure, Options, Part, Samples, show, take
from tests.benchmarks.processes import private_home

PREFIX, QUESTION = 1000, 16
TOGETHER = 64
NODES, PAGE_SIZE = 100_000, 16
PROMPT_PAGES, SHARED_PAGES = 128, 64
ROUNDS = 300

COLD = Figure(f"first token of {PREFIX} + {QUESTION}, cold", "ms", higher_is_better=False)
WARM = Figure(f"first token of {PREFIX} + {QUESTION}, warm", "ms", higher_is_better=False)
TIMES = Figure("cold over warm", "x", 10.0)
ALL = Figure(f"first tokens of {TOGETHER} at once", "s", higher_is_better=False)
TREE = Figure(
    f"find {SHARED_PAGES} pages of {PROMPT_PAGES} and insert the rest, {NODES:,} nodes", "ms", 1.0,
    higher_is_better=False,
)  # fmt: skip


class Questions:
    """Requests that begin alike, to one scheduler."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._draw = random.Random(2)

    def prefix(self) -> list[int]:
        """One that nobody has sent yet."""
        return [self._draw.randrange(1000, 40000) for _ in range(PREFIX)]

    async def first_ms(self, prefix: Sequence[int]) -> float:
        """Until the first token of a question after this prefix."""
        began = time.perf_counter()
        arrivals = await self._engine.generate(QUESTION, 1, Arrivals(), prefix)
        return 1e3 * (arrivals.at_s[0] - began)

    async def measured(self, quick: bool) -> Samples:
        """One round."""
        prefix = self.prefix()
        cold = await self.first_ms(prefix)
        warm = [await self.first_ms(prefix) for _ in range(3 if quick else 10)]
        shared, began = self.prefix(), time.perf_counter()
        await asyncio.gather(*(self.first_ms(shared) for _ in range(4 if quick else TOGETHER)))
        together_s = time.perf_counter() - began
        return {COLD: [cold], WARM: warm, TIMES: [cold / each for each in warm], ALL: [together_s]}


class Tree:
    """A prefix cache of 100,000 pages, all in use by it and none by a sequence."""

    def __init__(self) -> None:
        self._allocator = KvPool.of_pages(NODES, PAGE_SIZE)
        self._cache = PrefixCache(self._allocator)
        self._draw = random.Random(3)
        self._prompts: list[list[int]] = []
        while self._allocator.num_free:
            self._prompts.append(self._tokens(PROMPT_PAGES))
            self._serve(self._prompts[-1])

    def measured_ms(self, rounds: int) -> list[float]:
        """Each of a prompt that shares its first half with another one."""
        times = []
        for _ in range(rounds):
            shared = self._draw.choice(self._prompts[-100:])[: SHARED_PAGES * PAGE_SIZE]
            prompt = shared + self._tokens(PROMPT_PAGES - SHARED_PAGES)
            began = time.perf_counter()
            self._serve(prompt)
            times.append(1e3 * (time.perf_counter() - began))
        return times

    def _tokens(self, pages: int) -> list[int]:
        return [self._draw.randrange(1000, 40000) for _ in range(pages * PAGE_SIZE)]

    def _serve(self, token_ids: list[int]) -> None:
        """All that the scheduler does to the tree for a request."""
        cache, allocator = self._cache, self._allocator
        hold, _ = cache.match(b"tenant", token_ids)
        allocator.share(hold.pages)
        table = PageTable(hold.pages)
        cache.promise(hold, token_ids, level=1)
        missing = len(token_ids) // PAGE_SIZE - len(table)
        cache.make_room(missing)
        table.grow(allocator, missing)
        cache.keep(hold, token_ids, table, len(token_ids))
        cache.release(hold)
        table.release(allocator)


@asynccontextmanager
async def _cluster(cached: bool, quick: bool) -> AsyncGenerator[Contender, None]:
    with private_home() as home:
        chosen = {"home": home, "gateway.port": 0, "gateway.grpc_port": 0, "scheduler.prefix_cache": cached}
        config = load(home / "russet.toml", chosen, environ={})
        async with LocalCluster(config) as cluster:
            scheduler = next(serving for serving in cluster.running if serving.name.startswith("scheduler-"))
            channel = connect(scheduler.addresses)
            engine = Engine(scheduler_pb2_grpc.SchedulerStub(channel))
            await engine.generate(QUESTION, 8)
            questions = Questions(engine)

            async def measure() -> Samples:
                samples = dict(await questions.measured(quick))
                return samples | {TREE: Tree().measured_ms(50 if quick else ROUNDS)} if cached else samples

            yield Contender("with the cache" if cached else "without", measure, peer=not cached)
            await channel.close()


@asynccontextmanager
async def _contenders(options: Options) -> AsyncGenerator[Sequence[Contender], None]:
    async with AsyncExitStack() as running:
        yield [await running.enter_async_context(_cluster(cached, options.quick)) for cached in (True, False)]


PART = Part("prefix", "Prompts that begin alike", _contenders)


def main() -> None:
    """Run it once."""
    show(asyncio.run(take(PART, Options(rounds=1), lambda what: None)), Console(width=140))


if __name__ == "__main__":
    main()
