"""`russet bench`: concurrent streams against any OpenAI-compatible server; throughput and latency percentiles."""

import asyncio
import json
import random
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import httpx
from rich.table import Table

from actors.base.errors import Unavailable

WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state")


@dataclass(frozen=True)
class Load:
    """A closed loop: `clients` streams at a time, `requests` in all, about `prompt_tokens` in, `output_tokens` out."""

    clients: int
    requests: int
    prompt_tokens: int
    output_tokens: int
    model: str | None = None

    def prompt(self, index: int) -> str:
        """Different for each request, so that no prefix cache helps; common words are a token each."""
        draw = random.Random(index)
        return " ".join(draw.choice(WORDS) for _ in range(self.prompt_tokens))


@dataclass(frozen=True)
class Stream:
    """One request as the client saw it. Seconds; `chunks` are the arrival times of its text, from the start."""

    chunks: tuple[float, ...]
    total_s: float
    prompt_tokens: int
    output_tokens: int
    error: str = ""


@dataclass(frozen=True)
class Result:
    """A load's outcome. Times in milliseconds, tokens per second over the whole wall time."""

    load: Load
    wall_s: float
    streams: tuple[Stream, ...]

    def as_dict(self) -> dict[str, Any]:
        """Figures by name."""
        good = [stream for stream in self.streams if not stream.error]
        ttft = [stream.chunks[0] * 1e3 for stream in good if stream.chunks]
        gaps = [
            (stream.chunks[-1] - stream.chunks[0]) / (stream.output_tokens - 1) * 1e3
            for stream in good
            if stream.output_tokens > 1 and len(stream.chunks) > 1
        ]
        return {
            "load": asdict(self.load),
            "errors": sorted({stream.error for stream in self.streams if stream.error}),
            "failed": len(self.streams) - len(good),
            "wall_s": round(self.wall_s, 3),
            "prompt_tokens": sum(stream.prompt_tokens for stream in good),
            "output_tokens": sum(stream.output_tokens for stream in good),
            "output_tokens_per_s": round(sum(stream.output_tokens for stream in good) / self.wall_s, 2),
            "ttft_ms": _percentiles(ttft),
            "time_per_output_token_ms": _percentiles(gaps),
            "total_ms": _percentiles([stream.total_s * 1e3 for stream in good]),
        }

    def table(self) -> Table:
        """The same for a reader."""
        figures, load = self.as_dict(), self.load
        shape = f"{load.prompt_tokens} + {load.output_tokens} tokens"
        rate = f"{figures['output_tokens_per_s']} output tokens/s in {figures['wall_s']} s"
        table = Table(
            title=f"{load.clients} clients, {load.requests} requests of {shape}",
            caption=f"{rate}, {figures['failed']} failed",
        )
        for column in ("ms", "p50", "p90", "p99", "max"):
            table.add_column(column, justify="left" if column == "ms" else "right")
        for label, name in (
            ("first token", "ttft_ms"),
            ("per output token", "time_per_output_token_ms"),
            ("whole", "total_ms"),
        ):
            table.add_row(label, *(f"{figures[name][p]:.1f}" for p in ("p50", "p90", "p99", "max")))
        for error in figures["errors"]:
            table.add_row(f"[red]{error}[/red]")
        return table


async def run(url: str, load: Load, key: str | None = None) -> Result:
    """Drive `load` against `url`. Raises Unavailable where nothing answers there."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=load.clients, max_keepalive_connections=load.clients)
    async with httpx.AsyncClient(
        base_url=url.rstrip("/").removesuffix("/v1"),
        headers=headers,
        limits=limits,
        timeout=httpx.Timeout(10, read=600),
    ) as http:
        try:
            model = load.model or (await http.get("/v1/models")).json()["data"][0]["id"]
        except (httpx.TransportError, KeyError, IndexError, ValueError) as error:
            raise Unavailable(f"no models at {url}: {error!r}") from None
        pending = iter(range(load.requests))
        streams: list[Stream] = []

        async def client() -> None:
            for index in pending:
                streams.append(await _stream(http, model, load, index))

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(load.clients)))
        return Result(load, time.perf_counter() - began, tuple(streams))


async def _stream(http: httpx.AsyncClient, model: str, load: Load, index: int) -> Stream:
    body = {
        "model": model,
        "prompt": load.prompt(index),
        "max_tokens": load.output_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if not load.model or "mlx" not in load.model:
        body |= {"ignore_eos": True}
    began = time.perf_counter()
    chunks: list[float] = []
    usage: dict[str, int] = {}
    try:
        async with http.stream("POST", "/v1/completions", json=body) as response:
            if not response.is_success:
                return Stream((), 0, 0, 0, f"{response.status_code}: {(await response.aread()).decode()[:200]}")
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                now = time.perf_counter() - began
                event = json.loads(line[6:])
                if event.get("choices"):
                    chunks.append(now)
                usage = event.get("usage") or usage
                if "error" in event:
                    return Stream((), 0, 0, 0, event["error"]["message"])
    except httpx.TransportError as error:
        return Stream((), 0, 0, 0, repr(error))
    total = time.perf_counter() - began
    return Stream(tuple(chunks), total, usage.get("prompt_tokens", 0), usage.get("completion_tokens", len(chunks)))


def _percentiles(values: list[float]) -> dict[str, float]:
    if not values:
        return dict.fromkeys(("p50", "p90", "p99", "max"), float("nan"))
    cuts = statistics.quantiles(values, n=100, method="inclusive") if len(values) > 1 else values * 99
    return {"p50": cuts[49], "p90": cuts[89], "p99": cuts[98], "max": max(values)}
