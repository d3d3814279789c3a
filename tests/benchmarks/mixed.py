"""A batch of rows that ask for quite different things beside the same batch plain, over HTTP, pair by pair.

Half of the mixed rows are held to a grammar: JSON schemas of their own, and every fourth row to the call of a tool.
The free ones have seeds, log-probabilities, penalties and filters by turns. The plain rows have prompts of the same
lengths and ask for nothing but as many tokens. All are streamed, and every answer has its full length. Prompts are in
the prefix cache on both sides. A pair's ratio is of tokens per second, from the first request sent to the last token
of all, and of the processor time of everything in this process, clients included. Batches of one kind, at 8 rows, say
what an option costs by itself. Drafts are off, so that a structure that is easy to guess does not pay for its mask.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, NamedTuple

from cluster.config import load
from cluster.load_client import Connection
from cluster.local import LocalCluster
from tests.benchmarks.harness import Contender, Figure, Options, Part, Samples
from tests.benchmarks.processes import private_home

OUTPUT = 128
BATCHES = (8, 16)
PAIRS = 5
"""Of each kind in a round."""
LEAST = 0.92
"""What is asked for: a throughput loss of at most 8 %."""


class Row(NamedTuple):
    """A request, and the same one plain."""

    path: str
    asked: dict[str, Any]

    def body(self, seed: int) -> bytes:
        """The request; the seed is that of the draw where it has one."""
        seeded = {"seed": seed} if "seed" in self.asked else {}
        common = {"max_tokens": OUTPUT, "stream": True, "stream_options": {"include_usage": True}}
        return json.dumps(common | self.asked | seeded).encode()


class Cost(NamedTuple):
    """Of one round of a batch."""

    rate: float  # tokens per second
    processor: float  # milliseconds per token


def record(row: int) -> dict[str, Any]:
    """A schema of the row's own, whose answers do not end before OUTPUT tokens."""
    item = {
        "type": "object",
        "properties": {
            f"name{row}": {"type": "string", "maxLength": 24},
            "count": {"type": "integer", "minimum": 0, "maximum": 999},
            "kind": {"enum": ["small", "large", "other"]},
        },
        "required": [f"name{row}", "count", "kind"],
        "additionalProperties": False,
    }
    items = {"type": "array", "items": item, "minItems": OUTPUT}
    return {"type": "object", "properties": {"items": items}, "required": ["items"], "additionalProperties": False}


def schema(row: int) -> dict[str, Any]:
    """Held to a schema."""
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "list", "schema": record(row)}}}


def tool(row: int) -> dict[str, Any]:
    """Held to the call of a tool."""
    function = {"name": "keep", "description": "Keep a list.", "parameters": record(row)}
    return {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}


FREE: tuple[dict[str, Any], ...] = (
    {"seed": 1, "ignore_eos": True},
    {"logprobs": True, "top_logprobs": 5, "seed": 1, "ignore_eos": True},
    {"frequency_penalty": 0.5, "repetition_penalty": 1.1, "top_p": 0.9, "ignore_eos": True},
    {"top_k": 40, "min_p": 0.05, "logit_bias": {"260": -2}, "seed": 1, "ignore_eos": True},
)
"""Of the free rows, by turns."""
ALONE: dict[str, tuple[dict[str, Any], ...]] = {
    "free": FREE,
    "5 log-probabilities": FREE[1:2],
}
"""Batches of one kind, beside those of schemas and of tools."""


def messages(row: int) -> list[dict[str, str]]:
    """What each row's prompt is of."""
    return [{"role": "user", "content": f"List the things that can be found in room {row} of an old house by the sea."}]


def chats(asked: Sequence[dict[str, Any]]) -> list[Row]:
    """A chat for each."""
    return [Row("/v1/chat/completions", {"messages": messages(row)} | each) for row, each in enumerate(asked)]


def batches(count: int) -> dict[str, list[Row]]:
    """The mixed batch, of which every second row is held and every fourth to a tool's call, and those of one kind."""
    held = [tool(row) if row % 4 else schema(row) for row in range(count)]
    turns = {what: [options[row // 2 % len(options)] for row in range(count)] for what, options in ALONE.items()}
    kinds = {
        "mixed": [held[row] if row % 2 == 0 else turns["free"][row] for row in range(count)],
        "schemas": [schema(row) for row in range(count)],
        "tool calls": [tool(row) for row in range(count)],
        **turns,
    }
    return {what: chats(asked) for what, asked in kinds.items()}


class Rows:
    """Batches over HTTP."""

    def __init__(self, url: str, most: int) -> None:
        self._connections = [Connection(url) for _ in range(most)]

    async def run(self, rows: Sequence[Row], seed: int) -> Cost:
        """All at once."""
        bodies = [row.body(1000 * seed + place) for place, row in enumerate(rows)]
        processor, began = time.process_time(), time.perf_counter()
        each = await asyncio.gather(*map(self._one, self._connections, rows, bodies))
        processor = time.process_time() - processor
        wall = time.perf_counter() - began
        tokens = sum(usage["completion_tokens"] for usage in each)
        if tokens != OUTPUT * len(rows):
            raise RuntimeError(f"rows of {[usage['completion_tokens'] for usage in each]} tokens; asked was {OUTPUT}")
        return Cost(tokens / wall, 1e3 * processor / tokens)

    async def usage(self, row: Row) -> dict[str, Any]:
        """What a row counts."""
        return await self._one(self._connections[0], row, row.body(0))

    async def _one(self, connection: Connection, row: Row, body: bytes) -> dict[str, Any]:
        """Read a stream to its end; the usage that stands there."""
        tail = b""
        async with aclosing(connection.post(row.path, body)) as pieces:
            async for status, piece in pieces:
                if status != 200:
                    raise RuntimeError(f"{status}: {piece[:300]!r}")
                tail = (tail + piece)[-4000:]
        return json.loads(tail.split(b"data: ")[-2])["usage"]

    async def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            await connection.close()

    async def plain(self, rows: Sequence[Row]) -> list[Row]:
        """Completions of prompts as long as theirs, that ask for nothing."""
        lengths = [(await self.usage(row))["prompt_tokens"] for row in rows]
        prompts = [[1000 + (7919 * row + 31 * at) % 40000 for at in range(size)] for row, size in enumerate(lengths)]
        return [Row("/v1/completions", {"prompt": prompt, "ignore_eos": True}) for prompt in prompts]


def _rate(what: str, rows: int) -> Figure:
    return Figure(f"{what}, {rows} rows: tokens per second over plain", "x", LEAST if what == "mixed" else None)


def _processor(what: str, rows: int) -> Figure:
    return Figure(f"{what}, {rows} rows: processor time over plain", "x", higher_is_better=False)


class Pairs:
    """Batches and their plain ones."""

    def __init__(self, load: Rows, batches: dict[tuple[str, int], tuple[list[Row], list[Row]]]) -> None:
        self._load, self._batches, self._seed = load, batches, 0

    async def measure(self, pairs: int) -> Samples:
        """So many pairs of each batch, whose order changes."""
        samples: dict[Figure, list[float]] = {}
        for _ in range(pairs):
            for (what, count), both in self._batches.items():
                self._seed += 1
                first = self._seed % 2
                costs = [await self._load.run(both[which], self._seed) for which in (first, 1 - first)]
                own, plain = costs[first], costs[1 - first]
                samples.setdefault(_rate(what, count), []).append(own.rate / plain.rate)
                samples.setdefault(_processor(what, count), []).append(own.processor / plain.processor)
                samples.setdefault(Figure(f"plain, {count} rows", "tokens/s"), []).append(plain.rate)
        return samples


@asynccontextmanager
async def _contenders(options: Options) -> AsyncGenerator[Sequence[Contender], None]:
    with private_home() as home:
        settings = {"home": home, "gateway.port": 0, "gateway.grpc_port": 0, "models.0.speculation": "off"}
        async with LocalCluster(load(home / "russet.toml", settings, environ={})) as cluster:
            rows = Rows(cluster.http, max(BATCHES))
            chosen: dict[tuple[str, int], tuple[list[Row], list[Row]]] = {}
            for count in BATCHES[:1] if options.quick else BATCHES:
                for what, batch in batches(count).items():
                    if what != "mixed" and (options.quick or count != BATCHES[0]):
                        continue
                    chosen[what, count] = (batch, await rows.plain(batch))
                    for each in chosen[what, count]:
                        await rows.run(each, 0)
            pairs = Pairs(rows, chosen)

            async def measure() -> Samples:
                return await pairs.measure(1 if options.quick else PAIRS)

            yield [Contender("Russet", measure, f"streams of {OUTPUT} tokens over HTTP, prompts cached, drafts off")]
            await rows.close()


PART = Part("mixed", "Rows that ask for different things beside the same batch plain, paired rounds", _contenders)
