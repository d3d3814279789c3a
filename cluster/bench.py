"""`russet bench`: a closed loop of concurrent streams against any OpenAI-compatible server, as its clients see it.

Times come from the arrival of text, tokens from the server's usage. A chunk may carry several tokens, so the time per
output token of a stream is (last text - first text) / (tokens - 1); how the text stutters is said by the gaps between
chunks, of all streams together.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from cluster.load_client import Connection
from cluster.load_stream import PERCENTILES, Stream, as_accepted, complete, first_model, percentiles

WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state")


@dataclass(frozen=True)
class Load:
    """`clients` streams at a time, `requests` in all, of about `prompt_tokens` in and `output_tokens` out."""

    clients: int
    requests: int
    prompt_tokens: int
    output_tokens: int
    model: str | None = None
    """None asks the server for its first model."""
    seed: int = field(default_factory=lambda: random.randrange(1 << 32))
    """Of the prompts: another seed shares no prefix, so no cache helps from run to run."""
    body: Mapping[str, Any] = field(default_factory=lambda: {"ignore_eos": True})
    """Further fields of each request; a server that refuses ignore_eos is asked without it."""
    warm_up_tokens: int = 8
    """Asked for in one request before the clock starts; 0 sends none."""
    pause_s: float = 0.0
    """A client's rest before each request: an idle server's first token is not one that follows on another answer."""

    def prompt(self, index: int) -> str:
        """Different for each request; common words are a token each."""
        draw = random.Random(f"{self.seed} {index}")
        return " ".join(draw.choice(WORDS) for _ in range(self.prompt_tokens))


@dataclass(frozen=True)
class Result:
    """A load's outcome. `wall_s` is the loop's time, without the warm-up."""

    load: Load
    url: str
    wall_s: float
    streams: tuple[Stream, ...]

    @property
    def good(self) -> list[Stream]:
        """The streams that ended as they should."""
        return [stream for stream in self.streams if not stream.error]

    @property
    def output_tokens_per_s(self) -> float:
        """Of the streams that ended as they should, over the whole wall time."""
        return sum(stream.output_tokens for stream in self.good) / self.wall_s

    def as_dict(self) -> dict[str, Any]:
        """Figures by name; times in milliseconds, None where there was nothing to measure."""
        good = self.good
        prompt_tokens = sum(stream.prompt_tokens for stream in good)
        per_token = [seconds for stream in good if (seconds := stream.time_per_output_token_s) is not None]
        gaps = [later - earlier for stream in good for earlier, later in pairwise(stream.arrivals)]
        return {
            "url": self.url,
            "load": asdict(self.load),
            "wall_s": round(self.wall_s, 3),
            "answered": len(good),
            "failed": len(self.streams) - len(good),
            "errors": dict(Counter(stream.error for stream in self.streams if stream.error).most_common()),
            "short": sum(stream.output_tokens < self.load.output_tokens for stream in good),
            "usage_reported": all(stream.counted for stream in good),
            "prompt_tokens": prompt_tokens,
            "output_tokens": sum(stream.output_tokens for stream in good),
            "output_tokens_per_s": round(self.output_tokens_per_s, 2),
            "total_tokens_per_s": round(self.output_tokens_per_s + prompt_tokens / self.wall_s, 2),
            "requests_per_s": round(len(good) / self.wall_s, 3),
            "ttft_ms": percentiles([stream.arrivals[0] for stream in good if stream.arrivals]),
            "time_per_output_token_ms": percentiles(per_token),
            "chunk_gap_ms": percentiles(gaps),
            "total_ms": percentiles([stream.total_s for stream in good]),
        }

    def table(self) -> Group:
        """The same for a reader."""
        figures, load = self.as_dict(), self.load
        title = (
            f"{load.model} at {self.url}: {load.requests} requests of {load.prompt_tokens} + {load.output_tokens} "
            f"tokens, {load.clients} at a time"
        )
        table = Table()
        table.add_column("milliseconds")
        for name in PERCENTILES:
            table.add_column(name, justify="right")
        for label, name in (
            ("first token", "ttft_ms"),
            ("per output token", "time_per_output_token_ms"),
            ("between chunks", "chunk_gap_ms"),
            ("whole request", "total_ms"),
        ):
            table.add_row(label, *("-" if figures[name][p] is None else f"{figures[name][p]:.1f}" for p in PERCENTILES))
        rates = Text.assemble(
            (f"{figures['output_tokens_per_s']:,.1f} output tokens/s", "bold"),
            f", {figures['total_tokens_per_s']:,.1f} with prompts, {figures['requests_per_s']:.2f} requests/s: "
            f"{figures['answered']} answered in {figures['wall_s']:.1f} s",
        )
        notes = [Text(f"{count} failed: {error}", "red") for error, count in figures["errors"].items()]
        if figures["short"]:
            notes.append(Text(f"{figures['short']} answers ended before {load.output_tokens} tokens", "yellow"))
        if not figures["usage_reported"]:
            notes.append(Text("the server reports no usage: each chunk is counted as one token", "yellow"))
        return Group(title, table, rates, *notes)


async def run(
    url: str, load: Load, key: str | None = None, on_stream: Callable[[Stream], None] = lambda stream: None
) -> Result:
    """Drive `load` against `url` after a short request to warm up; `on_stream` hears of each stream that ended.

    Raises Unavailable where nothing answers there, RussetError with the server's words where the warm-up fails.
    """
    url = url.rstrip("/").removesuffix("/v1")
    load = replace(load, model=load.model or await first_model(url, key))
    connections = [Connection(url, key) for _ in range(load.clients)]
    try:
        if load.warm_up_tokens:
            load = await _warm_up(connections[0], load)
        pending = iter(range(load.requests))
        streams: list[Stream] = []

        async def client(connection: Connection) -> None:
            for index in pending:
                if load.pause_s:
                    await asyncio.sleep(load.pause_s)
                streams.append(await complete(connection, {**_body(load, index), **load.body}))
                on_stream(streams[-1])

        began = time.perf_counter()
        await asyncio.gather(*map(client, connections))
        return Result(load, url, time.perf_counter() - began, tuple(streams))
    finally:
        for connection in connections:
            await connection.close()


async def _warm_up(connection: Connection, load: Load) -> Load:
    """The load as the server takes it."""
    short = replace(load, output_tokens=min(load.warm_up_tokens, load.output_tokens))
    return replace(load, body=await as_accepted(connection, _body(short, -1), load.body))


def _body(load: Load, index: int) -> dict[str, Any]:
    return {"model": load.model, "prompt": load.prompt(index), "max_tokens": load.output_tokens}
