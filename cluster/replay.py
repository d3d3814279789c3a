"""`russet bench load`: a trace replayed against any OpenAI-compatible server, open-loop.

A request is sent when the trace says so, however many still run: what a server cannot keep up with shows as waits, as
it does to its users (a closed loop of clients would send less instead).
"""

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.bench import WORDS
from cluster.load_client import Connection
from cluster.load_stream import Stream, as_accepted, complete, first_model, percentiles
from cluster.simulation.traffic import PAGE_TOKENS, Arrival

WARM_UP_TOKENS = 8


@dataclass(frozen=True)
class Slo:
    """What a request shall keep to, seconds; None asks for nothing. One of one chunk has no time per token to miss."""

    ttft_s: float | None = None
    tpot_s: float | None = None

    def misses(self, sent: "Sent") -> list[str]:
        """What of it a request missed: `ttft`, `tpot`, or `failed`."""
        if sent.stream.error:
            return ["failed"]
        missed = []
        if self.ttft_s is not None and (sent.stream.arrivals or (sent.stream.total_s,))[0] > self.ttft_s:
            missed.append("ttft")
        each_s = sent.stream.time_per_output_token_s
        if self.tpot_s is not None and each_s is not None and each_s > self.tpot_s:
            missed.append("tpot")
        return missed


@dataclass(frozen=True)
class Replay:
    """What is replayed: `arrivals` of a trace, `speed` times as fast."""

    arrivals: Sequence[Arrival]
    speed: float = 1.0
    model: str | None = None
    """None asks the server for its first model."""
    slo: Slo = Slo()
    seed: int = field(default_factory=lambda: random.randrange(1 << 32))
    """Of the prompts: another seed shares nothing with what a server has cached."""
    body: Mapping[str, Any] = field(default_factory=lambda: {"ignore_eos": True})
    """Further fields of each request; a server that refuses ignore_eos is asked without it."""

    def due_s(self, arrival: Arrival) -> float:
        """When it is sent, seconds from the start."""
        return (arrival.time_s - self.arrivals[0].time_s) / self.speed

    def prompt(self, arrival: Arrival) -> str:
        """Common words, a token each; pages that the trace says are shared have the same ones."""
        names = [*arrival.page_keys(arrival.prompt_tokens), f"rest of {arrival.own}"]
        words: list[str] = []
        for name in names:
            draw = random.Random(f"{self.seed} {name}")
            words += [draw.choice(WORDS) for _ in range(min(PAGE_TOKENS, arrival.prompt_tokens - len(words)))]
        return " ".join(words)


@dataclass(frozen=True)
class Sent:
    """One request. `sent_s` is seconds from the start, `late_s` how much later than due this client sent it."""

    arrival: Arrival
    sent_s: float
    late_s: float
    stream: Stream


@dataclass(frozen=True)
class Report:
    """A replay's outcome."""

    replay: Replay
    url: str
    wall_s: float
    sent: tuple[Sent, ...]

    def as_dict(self) -> dict[str, Any]:
        """Figures by name; times in milliseconds, None where there was nothing to measure."""
        good = [each for each in self.sent if not each.stream.error]
        streams = [each.stream for each in good]
        each_s = [seconds for stream in streams if (seconds := stream.time_per_output_token_s) is not None]
        ttft_s = [stream.arrivals[0] for stream in streams if stream.arrivals]
        slo, spans = self.replay.slo, [self.replay.due_s(each.arrival) for each in self.sent]
        misses = [slo.misses(each) for each in self.sent]
        met = sum(not missed for missed in misses)
        asked = sum(each.arrival.output_tokens for each in self.sent)
        return {
            "url": self.url,
            "model": self.replay.model,
            "speed": self.replay.speed,
            "requests": len(self.sent),
            "offered_per_s": round(len(self.sent) / max(max(spans), 1e-9), 3) if len(self.sent) > 1 else None,
            "wall_s": round(self.wall_s, 3),
            "answered": len(good),
            "failed": len(self.sent) - len(good),
            "errors": dict(Counter(each.stream.error for each in self.sent if each.stream.error).most_common()),
            "prompt_tokens": sum(stream.prompt_tokens for stream in streams),
            "output_tokens": sum(stream.output_tokens for stream in streams),
            "output_tokens_asked": asked,
            "output_tokens_per_s": round(sum(stream.output_tokens for stream in streams) / self.wall_s, 2),
            "requests_per_s": round(len(good) / self.wall_s, 3),
            "most_at_once": max(running for _, running in self.levels()),
            "late_ms": percentiles([each.late_s for each in self.sent]),
            "ttft_ms": _described(ttft_s),
            "time_per_output_token_ms": _described(each_s),
            "total_ms": _described([stream.total_s for stream in streams]),
            "slo": {
                "ttft_ms": None if slo.ttft_s is None else slo.ttft_s * 1e3,
                "tpot_ms": None if slo.tpot_s is None else slo.tpot_s * 1e3,
                "met": met,
                "share": round(met / len(self.sent), 4),
                "missed": dict(Counter(name for missed in misses for name in missed)),
                "goodput_per_s": round(met / self.wall_s, 3),
            },
        }

    def rows(self) -> list[dict[str, Any]]:
        """Each request, in the order of the trace; times in milliseconds."""
        return [
            {
                "time_s": round(each.sent_s, 4),
                "late_ms": round(1e3 * each.late_s, 2),
                "prompt_tokens": each.stream.prompt_tokens or each.arrival.prompt_tokens,
                "output_tokens": each.stream.output_tokens,
                "ttft_ms": round(1e3 * each.stream.arrivals[0], 2) if each.stream.arrivals else None,
                "tpot_ms": None if (tpot := each.stream.time_per_output_token_s) is None else round(1e3 * tpot, 3),
                "total_ms": round(1e3 * each.stream.total_s, 2),
                "missed": self.replay.slo.misses(each),
                "error": each.stream.error or None,
            }
            for each in self.sent
        ]

    def levels(self) -> list[tuple[float, int]]:
        """Seconds from the start, and how many requests run or wait from then on."""
        ends = [(each.sent_s + each.stream.total_s, -1) for each in self.sent]
        running, found = 0, []
        moments = [(each.sent_s, 1) for each in self.sent] + ends
        for moment, change in sorted(moments, key=lambda each: (each[0], -each[1])):
            running += change
            found.append((moment, running))
        return found


def _described(seconds: Sequence[float]) -> dict[str, float | None]:
    return {"mean": round(1e3 * statistics.fmean(seconds), 3) if seconds else None} | percentiles(seconds)


async def replay(
    url: str, asked: Replay, key: str | None = None, on_end: Callable[[Sent], None] = lambda sent: None
) -> Report:
    """Send the trace to `url` after one short request to warm up; `on_end` hears of each request that ended.

    Raises Unavailable where nothing answers there, RussetError with the server's words where the warm-up fails.
    """
    url = url.rstrip("/").removesuffix("/v1")
    asked = replace(asked, model=asked.model or await first_model(url, key))
    idle = [Connection(url, key)]
    try:
        short = {"model": asked.model, "prompt": " ".join(WORDS), "max_tokens": WARM_UP_TOKENS}
        asked = replace(asked, body=await as_accepted(idle[0], short, asked.body))
        began = time.perf_counter()

        async def send(arrival: Arrival) -> Sent:
            connection = idle.pop() if idle else Connection(url, key)
            body = {"model": asked.model, "prompt": asked.prompt(arrival), "max_tokens": arrival.output_tokens}
            sent_s = time.perf_counter() - began
            stream = await complete(connection, {**body, **asked.body})
            idle.append(connection)
            sent = Sent(arrival, sent_s, max(0.0, sent_s - asked.due_s(arrival)), stream)
            on_end(sent)
            return sent

        async with asyncio.TaskGroup() as group:
            tasks = []
            for arrival in asked.arrivals:
                await asyncio.sleep(max(0.0, asked.due_s(arrival) - (time.perf_counter() - began)))
                tasks.append(group.create_task(send(arrival)))
        return Report(asked, url, time.perf_counter() - began, tuple(task.result() for task in tasks))
    finally:
        for connection in idle:
            await connection.close()
