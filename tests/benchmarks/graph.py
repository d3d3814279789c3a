"""Reading the graph: neighbours and two hops among 100,000 nodes, in the memory actor and by RPC as others ask it.

    python -m tests.benchmarks.graph, or the part `graph` of python -m tests.benchmarks.

Every node is a question with as many `similar` edges as are allowed, and one `used` edge. Client and server share a
process and its one event loop, so that what an RPC costs either of them counts; the hot tier is the embedded Valkey.
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

NODES, SIMILAR, READS, AT_ONCE = 100_000, 8, 2000, 100

ACTOR = Figure(f"neighbours in the actor, {NODES:,} nodes, median", "ms", 1.0, higher_is_better=False)
LATE_ACTOR = Figure("99th of 100 of these", "ms", higher_is_better=False)
RPC = Figure("neighbours by RPC over a unix socket, median", "ms", 1.0, higher_is_better=False)
LATE_RPC = Figure("99th of 100 of them", "ms", higher_is_better=False)
HOPS = Figure("two hops from a node (some 80 edges) in the actor, median", "ms", higher_is_better=False)
HOPS_RPC = Figure("the same by RPC, median", "ms", higher_is_better=False)
WRITES = Figure("edges written by RPC", "/s")


class Reads:
    """A memory actor with a graph, and a stub to it."""

    def __init__(self, service: MemoryService, stub: MemoryStub, nodes: int) -> None:
        self._edges = service.graph.edges
        self._stub = stub
        self._nodes = nodes
        self._draw = random.Random(1)
        self._written: list[float] = []

    async def fill(self) -> None:
        """Write every edge."""
        for first in range(0, self._nodes, AT_ONCE):
            updates = []
            for number in range(first, first + AT_ONCE):
                source = f"query:{number}"
                updates += [
                    memory_pb2.EdgeUpdate(source=source, target=self._any(), kind="similar", add=self._draw.random())
                    for _ in range(SIMILAR)
                ]
                updates.append(memory_pb2.EdgeUpdate(source=source, target=f"passage:{number}", kind="used", add=0.5))
            began = time.perf_counter()
            await self._stub.UpdateEdges(memory_pb2.UpdateEdgesRequest(tenant="t", updates=updates))
            self._written.append(len(updates) / (time.perf_counter() - began))

    async def measured(self, quick: bool) -> Samples:
        """One round: the median and the 99th of 100 over many nodes."""
        count = READS // 10 if quick else READS

        async def neighbours(node: str) -> Sequence[memory_pb2.Edge]:
            return (await self._stub.Neighbours(memory_pb2.NeighboursRequest(tenant="t", node=node))).edges

        async def hops(node: str) -> Sequence[memory_pb2.Edge]:
            request = memory_pb2.NeighbourhoodRequest(tenant="t", nodes=[node])
            return (await self._stub.Neighbourhood(request)).edges

        actor = await self._timed(lambda node: self._edges.neighbours("t", node, "", 100), count)
        rpc = await self._timed(neighbours, count)
        two = await self._timed(lambda node: self._edges.neighbourhood("t", [node], 16, 8), count)
        two_rpc = await self._timed(hops, count)
        return {
            ACTOR: [_share(actor, 0.5)],
            LATE_ACTOR: [_share(actor, 0.99)],
            RPC: [_share(rpc, 0.5)],
            LATE_RPC: [_share(rpc, 0.99)],
            HOPS: [_share(two, 0.5)],
            HOPS_RPC: [_share(two_rpc, 0.5)],
            WRITES: [_share(self._written, 0.5)],
        }

    async def _timed(self, read: Callable[[str], Awaitable[Sequence[memory_pb2.Edge]]], count: int) -> list[float]:
        milliseconds = []
        for _ in range(count):
            node = self._any()
            began = time.perf_counter()
            edges = await read(node)
            milliseconds.append(1e3 * (time.perf_counter() - began))
            assert len(edges) > 1
        return milliseconds

    def _any(self) -> str:
        return f"query:{self._draw.randrange(self._nodes)}"


def _share(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@asynccontextmanager
async def _contenders(options: Options) -> AsyncGenerator[Sequence[Contender], None]:
    async with AsyncExitStack() as stack:
        home = stack.enter_context(private_home())
        config = MemoryConfig(directory=home / "memory", key_file=home / "cluster.key")
        service = MemoryService(config, Telemetry("memory"))
        await service.start()
        stack.push_async_callback(service.stop)
        server = Server("memory-bench", [(add_MemoryServicer_to_server, service)], unix=str(home / "memory.sock"))
        addresses = await server.start()
        stack.push_async_callback(server.stop, 0)
        channel = connect(next(address for address in addresses if address.startswith("unix")))
        stack.push_async_callback(channel.close)
        reads = Reads(service, MemoryStub(channel), NODES // 10 if options.quick else NODES)
        await reads.fill()
        yield [Contender("Russet", lambda: reads.measured(options.quick))]


PART = Part("graph", "The graph read", _contenders)


def main() -> None:
    """Run it once."""
    show(asyncio.run(take(PART, Options(rounds=3), lambda what: None)), Console(width=140))


if __name__ == "__main__":
    main()
