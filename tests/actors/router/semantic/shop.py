"""A memory that keeps patterns and embeds by the words of a text, and a router on it that may be started again."""

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np

from actors.base.channel import connect
from actors.base.errors import Unavailable
from actors.base.server import Server
from actors.base.telemetry import Telemetry
from actors.router.semantic.service import SemanticService
from protos.gen import memory_pb2, memory_pb2_grpc
from protos.gen.memory_pb2_grpc import MemoryStub, add_MemoryServicer_to_server
from protos.gen.router_pb2 import ClassifyRequest, Example, TrainRouterRequest
from protos.gen.router_pb2_grpc import SemanticStub, add_SemanticServicer_to_server

WIDTH = 64
FRUIT = [f"{verb} the {size} pear" for verb in ("eat", "peel", "buy") for size in ("big", "small", "ripe", "green")]
TOOLS = [f"{verb} the {size} hammer" for verb in ("swing", "lift", "lend") for size in ("big", "small", "old", "new")]


class FakeMemory(memory_pb2_grpc.MemoryServicer):
    """Keeps patterns; a text's vector is the sum of its words'."""

    def __init__(self) -> None:
        self.patterns: dict[tuple[str, str, str], memory_pb2.Pattern] = {}
        self.embedded = 0
        self.away = False
        self.deaf = False
        """Whether it embeds nothing."""
        self.hold: asyncio.Event | None = None
        """What embedding waits for."""
        self.refuses = 0
        """Puts to refuse from now on."""
        self.model = "words"

    async def Embed(self, request: memory_pb2.EmbedRequest, context: Any) -> memory_pb2.EmbedReply:
        if self.deaf:
            raise Unavailable("memory is away")
        if self.hold is not None:
            await self.hold.wait()
        self.embedded += len(request.texts)
        rows = np.zeros((len(request.texts), WIDTH), np.float32)
        for row, text in zip(rows, request.texts, strict=True):
            for word in text.split():
                row += np.random.default_rng(zlib.crc32(word.encode())).normal(size=WIDTH)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return memory_pb2.EmbedReply(model=self.model, values=rows.ravel(), width=WIDTH)

    async def Status(self, request: Any, context: Any) -> memory_pb2.StatusReply:
        return memory_pb2.StatusReply(embedder=self.model, width=WIDTH)

    async def PutPatterns(self, request: memory_pb2.PutPatternsRequest, context: Any) -> memory_pb2.PutPatternsReply:
        if self.refuses:
            self.refuses -= 1
            raise Unavailable("memory is away")
        self.patterns |= {(each.tenant, each.router, each.text): each for each in request.patterns}
        return memory_pb2.PutPatternsReply()

    async def DeletePatterns(self, request: Any, context: Any) -> memory_pb2.DeletePatternsReply:
        for each in request.patterns:
            self.patterns.pop((each.tenant, each.router, each.text), None)
        return memory_pb2.DeletePatternsReply()

    async def ReadPatterns(self, request: Any, context: Any) -> AsyncIterator[memory_pb2.Patterns]:
        if self.away:
            raise Unavailable("memory is away")
        yield memory_pb2.Patterns(patterns=list(self.patterns.values()))


class Running:
    """A memory, and a router that is started and may be started again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.memory = FakeMemory()
        self.stub: SemanticStub

    async def start(self) -> None:
        self.servers = [Server(f"{self.name}-memory", [(add_MemoryServicer_to_server, self.memory)])]
        await self.servers[0].start()
        self.channels = [connect(f"inproc:{self.name}-memory")]
        self.service = SemanticService(MemoryStub(self.channels[0]), Telemetry("router"))
        await self.service.start()
        self.servers.append(Server(f"{self.name}-router", [(add_SemanticServicer_to_server, self.service)]))
        await self.servers[1].start()
        self.channels.append(connect(f"inproc:{self.name}-router"))
        self.stub = SemanticStub(self.channels[1])

    async def stop(self) -> None:
        await self.servers[1].stop(0)
        await self.service.stop()
        await self.servers[0].stop(0)
        for channel in self.channels:
            await channel.close()

    async def again(self) -> None:
        """A new router on the same memory."""
        await self.stop()
        await self.start()
        await self.service.registry.restored()

    async def train(self, tenant: str = "t", router: str = "shop", **more: list[str]) -> Any:
        """Of FRUIT and TOOLS, or of labels and their texts."""
        return await self.stub.TrainRouter(examples_of(tenant, router, **(more or {"fruit": FRUIT, "tool": TOOLS})))

    async def label(self, text: str, tenant: str = "t", router: str = "shop") -> str:
        return (await self.stub.Classify(ClassifyRequest(tenant=tenant, router=router, text=text))).label


def examples_of(tenant: str, router: str, **texts: list[str]) -> TrainRouterRequest:
    examples = [Example(text=text, label=label) for label, of_label in texts.items() for text in of_label]
    return TrainRouterRequest(tenant=tenant, router=router, examples=examples)
