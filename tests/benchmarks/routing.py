"""What a decision costs inside the router: model by text, then replica, with 10,000 patterns and a fleet of eight.

The part `routing` of python -m tests.benchmarks. The router runs behind its server, asked in this process as a gateway
in the same process asks it. A named router answers from 10,000 examples of 100 labels; the cost router from as many
questions of known outcome (those that ship, repeated). The question's embedding is at hand, or made by wordllama, or by
MiniLM, each behind a server as memory is. Examples and questions are sentences of GSM8K; labels are those of the
nearest of 100 sentences: the cost is measured here, not the accuracy.
"""

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from actors.base.channel import connect
from actors.base.errors import InvalidArgument
from actors.base.server import Server
from actors.base.telemetry import Telemetry
from actors.memory import static_embedder
from actors.memory.embedder import Embedder
from actors.memory.static_embedder import StaticEmbedder
from actors.router.config import RouterConfig
from actors.router.fastgrnn.patterns import Bank
from actors.router.fastgrnn.registry import Serving
from actors.router.service import RouterService
from protos.gen import memory_pb2, memory_pb2_grpc, router_pb2
from protos.gen.memory_pb2_grpc import MemoryStub
from protos.gen.router_pb2_grpc import RouterStub, add_RouterServicer_to_server
from protos.gen.scheduler_pb2 import ReplicaLoad
from tests.benchmarks.harness import Contender, Figure, Options, Part, Samples
from tests.benchmarks.perplexity import TEXT

PATTERNS, LABELS, QUESTIONS, REPLICAS, MODELS = 10_000, 100, 1000, 8, 3
QUICK, BATCH = 10, 1024
TENANT, NAME = "t", "topics"
Embed = Callable[[Sequence[str]], Awaitable[NDArray[np.float32]]]

CHEAP = Figure("decision, embedding at hand or static, median", "ms", 1.0, higher_is_better=False)
LATE = Figure("decision, embedding at hand or static, 99th of 100", "ms", higher_is_better=False)
WHOLE = Figure("decision with MiniLM, median", "ms", 6.0, higher_is_better=False)
WHOLE_LATE = Figure("decision with MiniLM, 99th of 100", "ms", higher_is_better=False)


def sentences(count: int) -> list[str]:
    """Different sentences of GSM8K, in an order that is the same each time."""
    rows = [json.loads(line) for line in TEXT.read_text().splitlines()]
    texts = [text for row in rows for field in ("question", "answer") for text in re.split(r"(?<=[.?!])\s", row[field])]
    found = sorted({text.strip() for text in texts if 20 < len(text) < 200})
    if len(found) < count:
        raise InvalidArgument(f"{TEXT} has {len(found)} sentences; {count} are needed")
    return random.Random(0).sample(found, count)


class Kept(memory_pb2_grpc.MemoryServicer):
    """What a router needs of memory: embeddings, those at hand at once; patterns are taken and forgotten."""

    def __init__(self, model: str, width: int, embed: Embed) -> None:
        self._model, self._width, self._embed = model, width, embed
        self.known: dict[str, NDArray[np.float32]] = {}

    async def Embed(self, request: memory_pb2.EmbedRequest, context: Any) -> memory_pb2.EmbedReply:
        """Of texts that are known, what is known."""
        texts = list(request.texts)
        known = all(text in self.known for text in texts)
        rows = np.stack([self.known[text] for text in texts]) if known else await self._embed(texts)
        return memory_pb2.EmbedReply(model=self._model, values=rows.ravel().tolist(), width=self._width)

    async def Status(self, request: Any, context: Any) -> memory_pb2.StatusReply:
        """Who embeds."""
        return memory_pb2.StatusReply(embedder=self._model, width=self._width)

    async def ReadPatterns(self, request: Any, context: Any) -> AsyncIterator[memory_pb2.Patterns]:
        """None are kept."""
        yield memory_pb2.Patterns()

    async def PutPatterns(self, request: Any, context: Any) -> memory_pb2.PutPatternsReply:
        """Keep none."""
        return memory_pb2.PutPatternsReply()

    async def WatchPolicies(self, request: Any, context: Any) -> AsyncIterator[memory_pb2.Policy]:
        """None, for ever."""
        yield memory_pb2.Policy()
        await asyncio.Event().wait()


class Deciding:
    """A router with its fleet, patterns and memory."""

    def __init__(self, memory: Kept) -> None:
        self._memory = memory
        name = uuid4().hex
        self._servers = [Server(f"memory-{name}", [(memory_pb2_grpc.add_MemoryServicer_to_server, memory)])]
        self._name = name
        self._beats = 0

    async def start(self, examples: Sequence[tuple[str, str]]) -> None:
        """Begin, and train on the examples."""
        await self._servers[0].start()
        self._channels = [connect(f"inproc:memory-{self._name}")]
        service = self._service = RouterService(
            RouterConfig(), Telemetry("router"), memory=MemoryStub(self._channels[0])
        )
        await service.start()
        assert service.semantic is not None
        assert service.cost is not None
        await service.semantic.registry.put(TENANT, NAME, examples, replace=True)
        shipped = service.cost.registry.serving(TENANT).router
        places = np.arange(len(examples)) % len(shipped.bank.vectors)
        bank = Bank(shipped.bank.vectors[places], shipped.bank.outcomes[places])
        service.cost.registry._own[TENANT] = Serving(1, shipped._replace(bank=bank))
        self._servers.append(Server(f"router-{self._name}", [(add_RouterServicer_to_server, service)]))
        await self._servers[1].start()
        self._channels.append(connect(f"inproc:router-{self._name}"))
        self._stub = RouterStub(self._channels[1])

    async def _beat(self) -> None:
        """A heartbeat of every replica."""
        self._beats += 1
        for at in range(REPLICAS):
            load = ReplicaLoad(
                ready=True, pages_total=1000, pages_used=100 * at, page_size=16, queue_limit=64, running=at
            )
            await self._service.Heartbeat(
                router_pb2.HeartbeatRequest(
                    replica_id=f"r{at}", addresses=["tcp:x:1"], model=f"{at % MODELS:02}", load=load,
                    sequence=self._beats, incarnation="i", weight_bytes=1 + at % MODELS, context_length=8192,
                ),
                None,
            )  # fmt: skip

    async def stop(self) -> None:
        """End."""
        await self._servers[1].stop(0)
        await self._service.stop()
        await self._servers[0].stop(0)
        for channel in self._channels:
            await channel.close()

    async def decided(self, asked: str, questions: Sequence[str], known: NDArray[np.float32] | None) -> list[float]:
        """Milliseconds of each decision; `known`: the questions' embeddings, where they are at hand."""
        if known is not None:
            by_text = dict(zip(questions, known, strict=True))
            # Of few examples the parts are looked at too (--quick): theirs cost as little.
            parts = {part: row for text, row in by_text.items() for part in text.split(None, 1)}
            self._memory.known = parts | by_text
        taken = []
        for question in questions:
            await self._beat()
            request = router_pb2.RouteRequest(
                request_id=uuid4().hex, model=asked, tenant=TENANT, prompt_tokens=100, text=question
            )
            began = time.perf_counter()
            reply = await self._stub.Route(request)
            taken.append((time.perf_counter() - began) * 1e3)
            assert reply.HasField("choice")
        self._memory.known = {}
        return taken


@asynccontextmanager
async def _contenders(options: Options) -> AsyncGenerator[Sequence[Contender], None]:
    smaller = QUICK if options.quick else 1
    patterns, count = PATTERNS // smaller, QUESTIONS // smaller
    texts = sentences(patterns + count)
    examples, questions = texts[:patterns], texts[patterns:]
    installed = static_embedder.package()
    if installed is None:
        raise InvalidArgument("wordllama is not installed; it comes with Russet's requirements")
    static, deep = StaticEmbedder(installed), Embedder(None)
    try:

        async def quickly(some: Sequence[str]) -> NDArray[np.float32]:
            return (await static.embed(some, 0))[0]

        async def deeply(some: Sequence[str]) -> NDArray[np.float32]:
            return (await deep.embed(some))[0]

        parts = [texts[at : at + BATCH] for at in range(0, len(texts), BATCH)]
        rough, fine = [np.concatenate([await embed(part) for part in parts]) for embed in (quickly, deeply)]
        labels = (rough[:patterns] @ rough[:LABELS].T).argmax(axis=1)
        given = [(text, f"label {label:03}") for text, label in zip(examples, labels, strict=True)]
        running = []
        for model, rows, embed in ((static.model, rough, quickly), (deep.model, fine, deeply)):
            memory = Kept(model, rows.shape[1], embed)
            # Of many examples the whole alone is looked at; their parts need no embedding.
            memory.known = {part: rows[0] for text in examples for part in text.split(None, 1)}
            memory.known |= dict(zip(examples, rows, strict=False))
            deciding = Deciding(memory)
            await deciding.start(given)
            memory.known = {}
            running.append(deciding)
        by_static, by_deep = running

        def measuring(
            deciding: Deciding, asked: str, known: NDArray[np.float32] | None, figures: tuple[Figure, Figure]
        ) -> Callable[[], Awaitable[Samples]]:
            async def measure() -> Samples:
                taken = sorted(await deciding.decided(asked, questions, known))
                return {figures[0]: [taken[len(taken) // 2]], figures[1]: [taken[int(0.99 * len(taken))]]}

            return measure

        at_hand = fine[patterns:]
        yield [
            Contender("named, at hand", measuring(by_deep, f"router:{NAME}", at_hand, (CHEAP, LATE))),
            Contender("named, static", measuring(by_static, f"router:{NAME}", None, (CHEAP, LATE))),
            Contender("cost, at hand", measuring(by_deep, "auto", at_hand, (CHEAP, LATE))),
            Contender("named, MiniLM", measuring(by_deep, f"router:{NAME}", None, (WHOLE, WHOLE_LATE))),
            Contender("cost, MiniLM", measuring(by_deep, "auto", None, (WHOLE, WHOLE_LATE))),
        ]
        for deciding in running:
            await deciding.stop()
    finally:
        static.close()
        deep.close()


PART = Part("routing", f"A decision of the router, {PATTERNS:,} patterns, {REPLICAS} replicas", _contenders)
