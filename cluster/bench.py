"""`russet bench`: a closed loop of concurrent streams against any OpenAI-compatible server, as its clients see it.

Times come from the arrival of text, tokens from the server's usage. A chunk may carry several tokens, so the time per
output token of a stream is (last text - first text) / (tokens - 1); how the text stutters is said by the gaps between
chunks, of all streams together.
"""

import asyncio
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

import httpx
from rich.console import Group
from rich.table import Table
from rich.text import Text

from actors.base.errors import RussetError, Unavailable
from cluster.load_client import Connection

WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state")
PERCENTILES = ("p50", "p90", "p99", "max")
CUT = "the stream ended before its finish_reason"


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
class Stream:
    """One request as its client saw it; seconds from the moment it was sent."""

    arrivals: tuple[float, ...] = ()
    """When each chunk with text came; none where every token was a special one."""
    total_s: float = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: str = ""
    """Why it failed; empty where it did not."""
    counted: bool = True
    """Whether the server said how many tokens there were; otherwise each chunk is taken for one."""

    @property
    def time_per_output_token_s(self) -> float | None:
        """After the first; None where all text came at once."""
        if self.output_tokens < 2 or len(self.arrivals) < 2:
            return None
        return (self.arrivals[-1] - self.arrivals[0]) / (self.output_tokens - 1)


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
            "ttft_ms": _percentiles([stream.arrivals[0] for stream in good if stream.arrivals]),
            "time_per_output_token_ms": _percentiles(per_token),
            "chunk_gap_ms": _percentiles(gaps),
            "total_ms": _percentiles([stream.total_s for stream in good]),
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
    load = replace(load, model=load.model or await _first_model(url, key))
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
                streams.append(await _stream(connection, load, index))
                on_stream(streams[-1])

        began = time.perf_counter()
        await asyncio.gather(*map(client, connections))
        return Result(load, url, time.perf_counter() - began, tuple(streams))
    finally:
        for connection in connections:
            await connection.close()


async def _first_model(url: str, key: str | None) -> str:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with httpx.AsyncClient(headers=headers, timeout=10) as http:
            response = await http.get(f"{url}/v1/models")
    except httpx.TransportError as error:
        raise Unavailable(f"no answer from {url} ({error or type(error).__name__})") from None
    if not response.is_success:
        raise RussetError(f"{url}/v1/models: {_refusal(response.status_code, response.content)}")
    try:
        return response.json()["data"][0]["id"]
    except (KeyError, IndexError, TypeError, ValueError):
        raise Unavailable(f"{url}/v1/models lists no model: {response.text[:200]}") from None


async def _warm_up(connection: Connection, load: Load) -> Load:
    """The load as the server takes it: without ignore_eos where that is refused."""
    short = replace(load, output_tokens=min(load.warm_up_tokens, load.output_tokens))
    stream = await _stream(connection, short, -1)
    if "ignore_eos" in stream.error and "ignore_eos" in load.body:
        body = {name: value for name, value in load.body.items() if name != "ignore_eos"}
        return await _warm_up(connection, replace(load, body=body))
    if stream.error:
        raise RussetError(f"the warm-up request failed: {stream.error}")
    return load


async def _stream(connection: Connection, load: Load, index: int) -> Stream:
    body = {
        "model": load.model,
        "prompt": load.prompt(index),
        "max_tokens": load.output_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **load.body,
    }
    lines: list[tuple[float, bytes]] = []
    refusal = rest = b""
    status = 0
    request = json.dumps(body).encode()
    began = time.perf_counter()
    try:
        async with aclosing(connection.post("/v1/completions", request)) as pieces:
            async for status, piece in pieces:
                now = time.perf_counter() - began
                if status == 200:
                    *whole, rest = (rest + piece).split(b"\n")
                    lines += ((now, line) for line in whole if line.startswith(b"data:"))
                else:
                    refusal += piece
    except Unavailable as error:
        return Stream(error=str(error))
    if status != 200:
        return Stream(error=_refusal(status, refusal) if status else "the connection closed without an answer")
    # Only now, so that parsing delays no arrival of this stream.
    return _read(lines, time.perf_counter() - began)


def _read(lines: Sequence[tuple[float, bytes]], total_s: float) -> Stream:
    """A stream from its server-sent events and their arrivals."""
    arrivals: list[float] = []
    usage: dict[str, int] = {}
    finished = False
    for arrival, line in lines:
        data = line[len(b"data:") :].strip()
        if data == b"[DONE]":
            continue
        try:
            event: dict[str, Any] = json.loads(data)
        except ValueError:
            return Stream(error=f"an event is not JSON: {data[:100]!r}")
        if "error" in event:
            return Stream(error=_message(event))
        for choice in event.get("choices", ()):
            # One arrival a moment: events written together are one chunk to their reader.
            if choice.get("text") and (not arrivals or arrivals[-1] != arrival):
                arrivals.append(arrival)
            finished = finished or choice.get("finish_reason") is not None
        usage = event.get("usage") or usage
    if not finished:
        return Stream(error=CUT)
    output_tokens = usage.get("completion_tokens")
    return Stream(
        tuple(arrivals),
        total_s,
        usage.get("prompt_tokens", 0),
        len(arrivals) if output_tokens is None else output_tokens,
        counted=output_tokens is not None,
    )


def _refusal(status: int, body: bytes) -> str:
    try:
        return f"{status}: {_message(json.loads(body))}"
    except (ValueError, TypeError, AttributeError):
        return f"{status}: {body[:200].decode(errors='replace')}"


def _message(answer: dict[str, Any]) -> str:
    error = answer.get("error", answer)
    return str(error.get("message", error) if isinstance(error, dict) else error)[:300]


def _percentiles(seconds: Sequence[float]) -> dict[str, float | None]:
    """In milliseconds, interpolated."""
    if not seconds:
        return dict.fromkeys(PERCENTILES)
    cuts = statistics.quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else [*seconds] * 99
    return {
        name: round(1e3 * value, 3)
        for name, value in zip(PERCENTILES, (cuts[49], cuts[89], cuts[98], max(seconds)), strict=True)
    }
