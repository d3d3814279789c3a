"""Memory with many entries: filtered search, sustained inserts with searches beside them, restart, recall, embedding.

The part `memory` of python -m tests.benchmarks. The actor is a process of its own, asked over its unix socket as a
gateway asks it. Its entries are 66,000 real sentences, asked with others; and 100,000 vectors of 384 and of 768
dimensions that are of no text: random around 1,000 centres.
"""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors.base.channel import connect
from actors.base.server import Server
from actors.base.telemetry import Telemetry
from actors.memory import policies
from actors.memory.config import MemoryConfig
from actors.memory.edge import EdgeStore
from actors.memory.embedder import Embedder
from actors.memory.service import MemoryService
from actors.memory.stores import schemas
from protos.gen import memory_pb2
from protos.gen.memory_pb2_grpc import MemoryStub, add_MemoryServicer_to_server
from tests.benchmarks import sentences
from tests.benchmarks.harness import Contender, Figure, Options, Part, Samples
from tests.benchmarks.processes import private_home

ENTRIES, SEARCHES, INSERT_S, KILL_S = 100_000, 1000, 20.0, 4.0
QUICK = 10
"""By how much all of these are smaller with --quick."""
CENTRES, NEAREST, BATCH = 1000, 10, 100
REAL_WIDTH = 384
START_S = 300.0
EMBEDDED = 2048

MEDIAN = Figure("policies of a type by similarity, median", "ms", 2.0, higher_is_better=False)
LATE = Figure("99th of 100 of these", "ms", 10.0, higher_is_better=False)
ALL = Figure("policies of any type by similarity, median", "ms", higher_is_better=False)
RECALL = Figure(f"of the true {NEAREST} nearest of a type found", "", 0.95)
RECALL_ALL = Figure(f"of the true {NEAREST} nearest of all found", "", 0.95)
INSERTS = Figure("witness entries written, sustained", "/s", 2000.0)
MEANWHILE = Figure("99th of 100 searches meanwhile", "ms", 50.0, higher_is_better=False)
RESTART = Figure("start with all of them", "s", 5.0, higher_is_better=False)
KILLED = Figure("the same after a kill amid writing", "s", 10.0, higher_is_better=False)
REBUILT = Figure("the same where the index has to be made anew", "s", higher_is_better=False)
TEXTS = Figure("texts of 5 to 15 words embedded", "/s", 300.0)


class _Stand:
    """An embedder of any width that is never asked."""

    def __init__(self, width: int) -> None:
        self.width, self.model = width, f"stand-in-{width}"

    async def embed(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """Nothing for nothing."""
        assert not texts
        return np.empty((0, self.width), np.float32), 0

    embed_last = embed


def vectors(count: int, width: int, seed: int) -> NDArray[np.float32]:
    """Unit vectors [count, width] around the same centres, whatever the seed."""
    centres = np.random.default_rng(0).normal(size=(CENTRES, width)).astype(np.float32)
    draw = np.random.default_rng(seed)
    found = centres[draw.integers(CENTRES, size=count)] + draw.normal(size=(count, width)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def kind_of(number: int) -> str:
    """Policy `number`'s type: each as often as the others."""
    return policies.TYPES[number % len(policies.TYPES)]


def fill(directory: Path, width: int, model: str, rows: NDArray[np.float32]) -> None:
    """Write a policy for each row."""
    directory.mkdir(mode=0o700, parents=True)
    collection = EdgeStore(directory).collection(schemas(width, model).policy)
    for start in range(0, len(rows), 500):
        some = [
            memory_pb2.Policy(
                id=str(number), type=kind_of(number), source="manual", embedding=rows[number], created_ms=number + 1
            )
            for number in range(start, min(start + 500, len(rows)))
        ]
        collection.upsert([policies._entry(policy) for policy in some])
    collection.close()


async def serve(directory: Path, width: int) -> None:
    """The actor: tells how long its start took, then answers until it is killed."""
    config = MemoryConfig(directory=directory, key_file=directory.parent / f"key-{width}", embedder=None)
    embedder = Embedder(None) if width == REAL_WIDTH else _Stand(width)
    service = MemoryService(config, Telemetry("memory"), embedder)  # type: ignore[arg-type]
    began = time.perf_counter()
    await service.start()
    server = Server("memory", [(add_MemoryServicer_to_server, service)], unix=str(directory.parent / f"m{width}.sock"))
    await server.start()
    print(time.perf_counter() - began, flush=True)
    try:
        await asyncio.to_thread(sys.stdin.read)
    finally:
        await server.stop(0)
        await service.stop()


class Full:
    """An actor full of policies, in a process of its own."""

    def __init__(
        self, home: Path, number: int, rows: NDArray[np.float32], queries: NDArray[np.float32], smaller: int
    ) -> None:
        self.rows, self.queries = rows, queries
        self._width = rows.shape[1]
        self._directory = home / f"memory-{number}"
        self._smaller = smaller
        self._sent = 0

    def fill(self) -> None:
        """Write them all."""
        model = "all-MiniLM-L6-v2" if self._width == REAL_WIDTH else f"stand-in-{self._width}"
        fill(self._directory, self._width, model, self.rows)

    async def measured(self) -> Samples:
        """One round, on actors started for it."""
        for collection in ("policy", "witness"):
            (self._directory / collection / "index.rows").unlink(missing_ok=True)
        async with self._started() as (process, stub, rebuilt_s):
            samples: dict[Figure, list[float]] = {REBUILT: [rebuilt_s]}
            await self._killed(process, stub)
        async with self._started() as (_, _, killed_s):
            samples[KILLED] = [killed_s]
        async with self._started() as (_, stub, started_s):
            samples[RESTART] = [started_s]
            await self._searched(stub, 20)
            alone, found = await self._searched(stub, len(self.queries))
            samples |= {MEDIAN: [_share(alone, 0.5)], LATE: [_share(alone, 0.99)], RECALL: [self._recall(found)]}
            alone, found = await self._searched(stub, len(self.queries), typed=False)
            samples |= {ALL: [_share(alone, 0.5)], RECALL_ALL: [self._recall(found, typed=False)]}
            written, meanwhile = await self._inserted(stub)
            samples |= {INSERTS: [written], MEANWHILE: [_share(meanwhile, 0.99)]}
            if self._width == REAL_WIDTH:
                samples[TEXTS] = [await self._embedded(stub)]
        return samples

    @asynccontextmanager
    async def _started(self) -> AsyncGenerator[tuple[asyncio.subprocess.Process, MemoryStub, float], None]:
        """The actor, and how long its start took; it ends in good order, where nobody killed it."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.benchmarks.memory", str(self._directory), str(self._width)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdin is not None
        async with AsyncExitStack() as stack:
            stack.push_async_callback(process.wait)
            stack.callback(process.stdin.close)
            async with asyncio.timeout(START_S):
                started_s = float(await process.stdout.readline())
            channel = connect(f"unix:{self._directory.parent}/m{self._width}.sock")
            stack.push_async_callback(channel.close)
            yield process, MemoryStub(channel), started_s

    async def _searched(
        self, stub: MemoryStub, count: int, *, typed: bool = True
    ) -> tuple[list[float], list[set[int]]]:
        """Milliseconds of so many searches one after the other, and what each found."""
        milliseconds, found = [], []
        for number in range(count):
            kind, query = kind_of(number) if typed else "", self.queries[number % len(self.queries)]
            request = memory_pb2.SearchPoliciesRequest(type=kind, embedding=query, limit=NEAREST)
            began = time.perf_counter()
            reply = await stub.SearchPolicies(request)
            milliseconds.append(1e3 * (time.perf_counter() - began))
            found.append({int(each.policy.id) for each in reply.policies})
        return milliseconds, found

    def _recall(self, found: Sequence[set[int]], *, typed: bool = True) -> float:
        """What share of each search's was truly nearest. Not between searches: to compare all takes the processors."""
        kinds, shares = len(policies.TYPES), []
        for number, ids in enumerate(found):
            own = np.arange(number % kinds, len(self.rows), kinds) if typed else np.arange(len(self.rows))
            nearest = own[np.argsort(self.rows[own] @ self.queries[number])[-NEAREST:]]
            shares.append(len(ids & set(nearest.tolist())) / len(nearest))
        return float(np.mean(shares))

    async def _killed(self, process: asyncio.subprocess.Process, stub: MemoryStub) -> None:
        """SIGKILL while entries are written."""
        over = asyncio.Event()
        sender = asyncio.create_task(self._send(stub, over))
        await asyncio.sleep(KILL_S / self._smaller)
        over.set()
        await sender
        process.kill()
        await process.wait()

    async def _inserted(self, stub: MemoryStub) -> tuple[float, list[float]]:
        """Entries written a second while the queue is never empty, and what searches took meanwhile, ms."""
        over = asyncio.Event()
        sender = asyncio.create_task(self._send(stub, over))
        milliseconds: list[float] = []
        before, began = (await stub.Status(memory_pb2.StatusRequest())).witness_entries, time.perf_counter()
        while time.perf_counter() - began < INSERT_S / self._smaller:
            milliseconds += (await self._searched(stub, 10))[0]
        written = (await stub.Status(memory_pb2.StatusRequest())).witness_entries - before
        seconds = time.perf_counter() - began
        over.set()
        await sender
        return written / seconds, milliseconds

    async def _send(self, stub: MemoryStub, over: asyncio.Event) -> None:
        """Batch after batch with vectors given; where the queue is long, it waits for what is written."""
        embedding = self.queries[0].tolist()
        while not over.is_set():
            entries = [
                memory_pb2.WitnessEntry(id=f"e{self._sent + number}", tenant="t", query_embedding=embedding)
                for number in range(BATCH)
            ]
            self._sent += BATCH
            await stub.AppendWitness(memory_pb2.AppendWitnessRequest(entries=entries))
            while (await stub.Status(memory_pb2.StatusRequest())).witness_queued > 20 * BATCH and not over.is_set():
                await asyncio.sleep(0.02)

    async def _embedded(self, stub: MemoryStub) -> float:
        draw = np.random.default_rng(3)
        words = [
            "how",
            "do",
            "i",
            "reset",
            "my",
            "password",
            "card",
            "bank",
            "transfer",
            "money",
            "please",
            "help",
            "with",
            "a",
            "new",
            "order",
            "weather",
        ]
        count = EMBEDDED // self._smaller
        texts = [" ".join(draw.choice(words, draw.integers(5, 16))) for _ in range(count)]
        began = time.perf_counter()
        await stub.Embed(memory_pb2.EmbedRequest(texts=texts))
        return count / (time.perf_counter() - began)


def _share(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@asynccontextmanager
async def _contenders(options: Options) -> AsyncGenerator[Sequence[Contender], None]:
    smaller = QUICK if options.quick else 1
    real = np.random.default_rng(4).permutation(await sentences.vectors())
    asked = SEARCHES // smaller
    with private_home() as home:
        kinds = [(real[asked : max(len(real) // smaller, 2 * asked)], real[:asked], "real sentences, by MiniLM")]
        kinds += [
            (vectors(ENTRIES // smaller, width, 1), vectors(asked, width, 2), "random vectors around 1,000 centres")
            for width in (REAL_WIDTH, 2 * REAL_WIDTH)
        ]
        contenders = []
        for number, (rows, queries, what) in enumerate(kinds):
            full = Full(home, number, rows, queries, smaller)
            await asyncio.to_thread(full.fill)
            name = f"{len(rows):,} x {rows.shape[1]}{'' if number else ' real'}"
            contenders.append(Contender(name, full.measured, note=f"{what}; embedded store"))
        yield contenders


PART = Part("memory", "Memory with many entries", _contenders)

if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
