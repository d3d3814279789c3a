"""Looking up sessions: in the memory actor, and by RPC as a gateway does it, among more than a thousand in use.

    python -m tests.benchmarks.sessions, or the part `sessions` of python -m tests.benchmarks.

Client and server share a process and its one event loop, so that what an RPC costs either of them counts.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from rich.console import Console

from actors.base.channel import connect
from actors.base.server import Server
from actors.base.telemetry import Telemetry
from actors.memory.config import MemoryConfig
from actors.memory.service import MemoryService
from protos.gen import memory_pb2
from protos.gen.memory_pb2_grpc import MemoryStub, add_MemoryServicer_to_server
from tests.benchmarks.harness import Contender, Figure, Options, Part, Samples, show, take
from tests.benchmarks.processes import private_home

SESSIONS, TURNS, TOKENS = 1200, 20, 2000
LOOKUPS = 2000

ACTOR = Figure(f"look-up in the actor, {SESSIONS:,} in use", "us", 100.0, higher_is_better=False)
LATE_ACTOR = Figure("99th of 100 of these", "us", higher_is_better=False)
INPROC = Figure("by RPC within the process", "ms", 1.0, higher_is_better=False)
UNIX = Figure("by RPC over a unix socket", "ms", 1.0, higher_is_better=False)
TCP = Figure("by RPC over TCP", "ms", 1.0, higher_is_better=False)
LATE_TCP = Figure("99th of 100 of these", "ms", higher_is_better=False)
PUT = Figure("a turn persisted", "ms", higher_is_better=False)


def session(number: int, draw: random.Random) -> memory_pb2.Session:
    """A conversation of some 8 KB of text."""
    words = ["lighthouse", "of", "the", "island", "keeper", "said", "tomorrow", "a", "storm", "will"]
    turns = [
        memory_pb2.Turn(role=("user", "assistant")[at % 2], content=" ".join(draw.choices(words, k=70)))
        for at in range(TURNS)
    ]
    ids = [draw.randrange(49152) for _ in range(TOKENS)]
    return memory_pb2.Session(session_id=f"s{number}", tenant="t", turns=turns, token_ids=ids)


class Lookups:
    """A memory actor with its sessions, and stubs to it over every transport."""

    def __init__(self, service: MemoryService, stubs: dict[Figure, MemoryStub]) -> None:
        self._service = service
        self._stubs = stubs
        self._draw = random.Random(1)

    async def fill(self) -> None:
        """Put every session."""
        for number in range(SESSIONS):
            await self._service.sessions.put(session(number, self._draw))

    async def measured(self, quick: bool) -> Samples:
        """One round: the median and the 99th of 100 over many sessions."""
        count = LOOKUPS // 10 if quick else LOOKUPS
        in_actor = await self._timed(lambda name: self._service.sessions.get("t", name), count)
        samples = {ACTOR: [1e6 * _share(in_actor, 0.5)], LATE_ACTOR: [1e6 * _share(in_actor, 0.99)]}
        for figure, stub in self._stubs.items():
            seconds = await self._timed(_asking(stub), count)
            samples[figure] = [1e3 * _share(seconds, 0.5)]
            if figure is TCP:
                samples[LATE_TCP] = [1e3 * _share(seconds, 0.99)]
        puts = []
        for number in range(count // 20):
            turn = session(number, self._draw)
            began = time.perf_counter()
            await self._service.sessions.put(turn)
            puts.append(time.perf_counter() - began)
        return samples | {PUT: [1e3 * _share(puts, 0.5)]}

    async def _timed(self, look_up: Callable[[str], Awaitable[memory_pb2.Session | None]], count: int) -> list[float]:
        seconds = []
        for _ in range(count):
            name = f"s{self._draw.randrange(SESSIONS)}"
            began = time.perf_counter()
            found = await look_up(name)
            seconds.append(time.perf_counter() - began)
            assert found is not None
            assert found.session_id == name
        return seconds


def _asking(stub: MemoryStub) -> Callable[[str], Awaitable[memory_pb2.Session]]:
    async def ask(name: str) -> memory_pb2.Session:
        return (await stub.GetSession(memory_pb2.GetSessionRequest(tenant="t", session_id=name))).session

    return ask


def _share(seconds: Sequence[float], share: float) -> float:
    return sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))]


@asynccontextmanager
async def _contenders(options: Options) -> AsyncGenerator[Sequence[Contender], None]:
    async with AsyncExitStack() as stack:
        home = stack.enter_context(private_home())
        config = MemoryConfig(directory=home / "memory", key_file=home / "cluster.key")
        service = MemoryService(config, Telemetry("memory"))
        await service.start()
        stack.push_async_callback(service.stop)
        servicers = [(add_MemoryServicer_to_server, service)]
        server = Server("memory-bench", servicers, tcp="127.0.0.1:0", unix=str(home / "memory.sock"))
        addresses = await server.start()
        stack.push_async_callback(server.stop, 0)
        stubs = {}
        for figure, address in zip((INPROC, UNIX, TCP), addresses, strict=True):
            channel = connect(address)
            stack.push_async_callback(channel.close)
            stubs[figure] = MemoryStub(channel)
        lookups = Lookups(service, stubs)
        await lookups.fill()
        yield [Contender("Russet", lambda: lookups.measured(options.quick))]


PART = Part("sessions", "Sessions looked up", _contenders)


def main() -> None:
    """Run it once."""
    show(asyncio.run(take(PART, Options(rounds=3), lambda what: None)), Console(width=140))


if __name__ == "__main__":
    main()
