"""The witness log under load: entries as a gateway's spool sends them, queries meanwhile, and memory killed amid them.

The part `witness` of python -m tests.benchmarks. Memory is a process of its own behind its unix socket. Its sender is
the gateway's spool: it keeps what came in the last 0.2 s on disk, and asks memory to write it (`wait`), one call after
the other. Questions come with their vectors, or as texts that MiniLM embeds later, behind everything else.

After a minute memory dies by SIGKILL in the middle of such a call, some of its entries written, while others go on to
come. It is started again, and every entry ever given to the spool is then asked for by its time.
"""

import asyncio
import itertools
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psutil

from actors.base.channel import connect
from actors.base.keys import Keyring
from actors.base.telemetry import Telemetry
from actors.memory import limits
from cluster.gateway.spool import Spool
from protos.gen import inference_pb2, memory_pb2
from protos.gen.memory_pb2_grpc import MemoryStub
from tests.benchmarks.harness import ROOT, Contender, Figure, Options, Part, Samples, cpu_seconds
from tests.benchmarks.memory import vectors
from tests.benchmarks.processes import private_home

OFFERED = 2100
"""Entries a second: somewhat more than is asked for, as the time for the last ones counts too."""
LOAD_S, QUICK_S = 60.0, 5.0
RECORD_S = 0.2
"""What comes in this time goes into the spool together: gateway.record_delay_s."""
QUERY_S = 0.2
BEFORE_KILL_S, LOOK_S = 2.0, 0.002
"""When memory is killed: so long after entries come again, as soon as some are written and not acknowledged yet."""
WIDTH = 384
SPOOL_BYTES = 64 << 20
PATIENCE_S = 300.0
FAILED_EVERY, SESSIONS = 50, 100
READ = limits.MAX_LIST // 2
"""Entries asked for at once: half of what a query gives, so that those which are there twice are seen."""

WRITTEN = Figure("entries accepted and written", "/s", 2000.0)
PUT = Figure("longest that the gateway's records waited", "ms", higher_is_better=False)
APPEND = Figure("p99 of the calls that append", "ms", higher_is_better=False)
LONGEST = Figure("longest of these", "ms", higher_is_better=False)
DROPPED = Figure("entries dropped", "", 0.0, higher_is_better=False)
LIST = Figure("p99 of listing the newest 20 meanwhile", "ms", higher_is_better=False)
SIMILAR = Figure("p99 of searching failures like a text meanwhile", "ms", higher_is_better=False)
UNEMBEDDED = Figure("questions not embedded yet at the end", "", higher_is_better=False)
PROCESSOR = Figure("of one core used by memory", "%", higher_is_better=False)
RESTART = Figure("start after SIGKILL, until it answers", "s", 10.0, higher_is_better=False)
AGAIN = Figure("entries not acknowledged by then, sent after it", "", higher_is_better=False)
ALREADY = Figure("of these, written already", "", higher_is_better=False)
LOST = Figure("acknowledged entries lost", "", 0.0, higher_is_better=False)
MISSING = Figure("others lost", "", 0.0, higher_is_better=False)
TWICE = Figure("entries there more than once", "", 0.0, higher_is_better=False)
SOUND = Figure("entries of a chain verified as sound", "%", 100.0)


class _Actor:
    """Memory in a process of its own, started as often as it takes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: asyncio.subprocess.Process | None = None
        self._channel = connect(f"unix:{directory.parent}/m{WIDTH}.sock")
        self.stub = MemoryStub(self._channel)

    async def start(self) -> float:
        """Return once it answers; the seconds that took, its process's start and imports included."""
        began = time.perf_counter()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.benchmarks.memory", str(self._directory), str(WIDTH)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            await self._process.stdout.readline()
            await self.status()
        return time.perf_counter() - began

    async def status(self) -> memory_pb2.StatusReply:
        """Its counts."""
        return await self.stub.Status(memory_pb2.StatusRequest())

    def processor_s(self) -> float:
        """Processor time of the process that runs."""
        assert self._process is not None
        return cpu_seconds(psutil.Process(self._process.pid))

    async def kill(self) -> None:
        """SIGKILL, wherever it is."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        """End it in good order."""
        await self._channel.close()
        if self._process is not None and self._process.returncode is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            await self._process.wait()


class _Heard:
    """Memory as the spool asks it: how long each call took, and which entries were acknowledged."""

    def __init__(self, stub: MemoryStub) -> None:
        self._stub = stub
        self.milliseconds: list[float] = []
        self.acknowledged: set[str] = set()

    async def AppendWitness(
        self, request: memory_pb2.AppendWitnessRequest, timeout: float
    ) -> memory_pb2.AppendWitnessReply:
        """As memory's."""
        began = time.perf_counter()
        reply = await self._stub.AppendWitness(request, timeout=timeout)
        self.milliseconds.append(1e3 * (time.perf_counter() - began))
        if not reply.dropped:
            self.acknowledged.update(entry.id for entry in request.entries)
        return reply


class _Stream:
    """Entries at the offered rate, put into the spool as they come."""

    def __init__(self, spool: Spool, *, lazy: bool, first_ms: int) -> None:
        self._spool, self._lazy, self._first_ms = spool, lazy, first_ms
        self._questions = vectors(1024, WIDTH, 1).tolist()
        self._over = asyncio.Event()
        self.sent = 0
        self.put_ms: list[float] = []

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Entries come for as long as the block runs."""
        self._over.clear()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._run())
            try:
                yield
            finally:
                self._over.set()

    async def _run(self) -> None:
        began, before = time.perf_counter(), self.sent
        while not self._over.is_set():
            await asyncio.sleep(RECORD_S)
            due = before + int(OFFERED * (time.perf_counter() - began))
            entries = [self._entry(number) for number in range(self.sent, due)]
            put = time.perf_counter()
            await self._spool.put(entries)
            self.put_ms.append(1e3 * (time.perf_counter() - put))
            self.sent = due

    def _entry(self, number: int) -> memory_pb2.WitnessEntry:
        """As a gateway's; its time is its number, so that those of a range can be asked for."""
        failed = number % FAILED_EVERY == 0
        entry = memory_pb2.WitnessEntry(
            id=name_of(number),
            tenant="t",
            session_id=f"session-{number % SESSIONS}",
            time_ms=self._first_ms + number,
            model="smollm2-135m-instruct",
            model_revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
            replica_id=f"replica-{number % 4}",
            usage=inference_pb2.Usage(prompt_tokens=120 + number % 64, completion_tokens=40, cached_tokens=64),
            latency=memory_pb2.Latency(
                routing_ms=0.4, queue_ms=1.5, prefill_ms=48, decode_ms=310, total_ms=360, ttft_ms=50, tpot_ms=7.8
            ),
            finish="error" if failed else "stop",
            error=f"connection to replica-{number % 4} lost after {number} ms" if failed else "",
            quality=0.8,
        )
        if self._lazy:
            entry.query_text = f"How do I get back the {number} euros that I sent to the wrong account?"
        else:
            entry.query_embedding.extend(self._questions[number % len(self._questions)])
        return entry


def name_of(number: int) -> str:
    """The id of an entry."""
    return f"chatcmpl-{number:014d}"


class Load:
    """One way to give questions, measured on a memory that is empty at first."""

    def __init__(self, home: Path, seconds: float, *, lazy: bool) -> None:
        self._home, self._seconds, self._lazy = home, seconds, lazy
        self._rounds = itertools.count()

    async def measured(self) -> Samples:
        """One round."""
        name = f"{'texts' if self._lazy else 'vectors'}-{next(self._rounds)}"
        actor = _Actor(self._home / f"memory-{name}")
        heard = _Heard(actor.stub)
        spool = Spool(
            self._home / f"spool-{name}",
            Keyring.load_or_create(self._home / f"key-{WIDTH}"),
            heard,  # type: ignore[arg-type]
            SPOOL_BYTES,
            Telemetry("gateway"),
        )
        async with AsyncExitStack() as stack:
            stack.push_async_callback(actor.stop)
            await actor.start()
            await spool.start()
            stack.push_async_callback(spool.stop, 0)
            first_ms = int(1e3 * (time.time() - 2 * self._seconds))
            stream = _Stream(spool, lazy=self._lazy, first_ms=first_ms)
            samples = await self._loaded(actor, spool, stream, heard)
            samples |= await self._killed(actor, spool, stream, heard)
            return samples | await _read(actor.stub, stream.sent, first_ms, heard.acknowledged)

    async def _loaded(self, actor: _Actor, spool: Spool, stream: _Stream, heard: _Heard) -> dict[Figure, list[float]]:
        began, processor_s = time.perf_counter(), actor.processor_s()
        async with stream.running():
            listed, similar = await self._queried(actor.stub, began + self._seconds)
        unembedded = (await actor.status()).witness_unembedded
        await asyncio.wait_for(spool.flush(), PATIENCE_S)
        passed_s = time.perf_counter() - began
        status = await actor.status()
        samples = {
            WRITTEN: [status.witness_entries / passed_s],
            PUT: [max(stream.put_ms)],
            APPEND: [_late(heard.milliseconds)],
            LONGEST: [max(heard.milliseconds)],
            DROPPED: [float(status.witness_dropped + stream.sent - status.witness_entries)],
            LIST: [_late(listed)],
            SIMILAR: [_late(similar)],
            PROCESSOR: [100 * (actor.processor_s() - processor_s) / passed_s],
        }
        return samples | ({UNEMBEDDED: [float(unembedded)]} if self._lazy else {})

    async def _queried(self, stub: MemoryStub, until: float) -> tuple[list[float], list[float]]:
        """Milliseconds of each query of both kinds, a pair every QUERY_S."""
        newest = memory_pb2.QueryWitnessRequest(tenant="t", limit=20)
        alike = memory_pb2.SimilarWitnessRequest(tenant="t", text="connection to replica-1 lost", limit=10)
        listed: list[float] = []
        similar: list[float] = []
        while time.perf_counter() < until:
            for ask, kept in (
                (lambda: stub.QueryWitness(newest), listed),
                (lambda: stub.SimilarWitness(alike), similar),
            ):
                began = time.perf_counter()
                await ask()
                kept.append(1e3 * (time.perf_counter() - began))
            await asyncio.sleep(QUERY_S)
        return listed, similar

    async def _killed(self, actor: _Actor, spool: Spool, stream: _Stream, heard: _Heard) -> dict[Figure, list[float]]:
        """Entries go on to come before, during and after it."""
        async with stream.running():
            await asyncio.sleep(BEFORE_KILL_S)
            written = 0
            while written <= len(heard.acknowledged):
                await asyncio.sleep(LOOK_S)
                written = (await actor.status()).witness_entries
            already = written - len(heard.acknowledged)
            await actor.kill()
            again = stream.sent - len(heard.acknowledged)
            started_s = await actor.start()
        await asyncio.wait_for(spool.flush(), PATIENCE_S)
        return {RESTART: [started_s], AGAIN: [float(again)], ALREADY: [float(already)]}


async def _read(stub: MemoryStub, sent: int, first_ms: int, acknowledged: set[str]) -> dict[Figure, list[float]]:
    """Every entry, asked for by its time, and the chain's verdict."""
    found: Counter[str] = Counter()
    for start in range(first_ms, first_ms + sent, READ):
        request = memory_pb2.QueryWitnessRequest(tenant="t", from_ms=start, to_ms=start + READ - 1, limit=2 * READ)
        found.update(record.entry.id for record in (await stub.QueryWitness(request)).records)
    missing = {name_of(number) for number in range(sent)} - set(found)
    verdict = await stub.VerifyWitness(memory_pb2.VerifyWitnessRequest(), timeout=PATIENCE_S)
    return {
        LOST: [float(len(missing & acknowledged))],
        MISSING: [float(len(missing - acknowledged))],
        TWICE: [float(sum(count > 1 for count in found.values()))],
        SOUND: [100.0 * verdict.entries / sent if verdict.sound else 0.0],
    }


def _late(values: Sequence[float]) -> float:
    """The 99th percentile: one of the values."""
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]


@asynccontextmanager
async def _contenders(options: Options) -> AsyncGenerator[Sequence[Contender], None]:
    seconds = QUICK_S if options.quick else LOAD_S
    with private_home() as home:
        offered = f"{OFFERED:,} entries/s for {seconds:g} s"
        yield [
            Contender("vectors given", Load(home, seconds, lazy=False).measured, note=offered),
            Contender(
                "embedded later",
                Load(home, seconds, lazy=True).measured,
                note="questions as texts; 100,000 of them may wait",
            ),
        ]


PART = Part("witness", "Witness log under load, and killed", _contenders)
