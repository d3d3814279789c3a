"""One streamed request to an OpenAI-compatible server as its client sees it, and figures of many.

Times come from the arrival of text, tokens from the server's usage.
"""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx

from actors.base.errors import RussetError, Unavailable
from cluster.load_client import Connection

PERCENTILES = ("p50", "p90", "p95", "p99", "max")
CUT = "the stream ended before its finish_reason"


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


async def complete(connection: Connection, body: Mapping[str, Any]) -> Stream:
    """Ask /v1/completions for a stream and read it to its end; what fails is told by the Stream."""
    body = {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}, **body}
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


async def first_model(url: str, key: str | None) -> str:
    """The first model that the server lists. Raises Unavailable where nothing answers there."""
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


async def as_accepted(connection: Connection, body: Mapping[str, Any], more: Mapping[str, Any]) -> Mapping[str, Any]:
    """What of `more` the server takes with `body`, by asking it: ignore_eos is left out where that is refused.

    Raises RussetError with the server's words where it refuses anything else.
    """
    stream = await complete(connection, {**body, **more})
    if "ignore_eos" in stream.error and "ignore_eos" in more:
        less = {name: value for name, value in more.items() if name != "ignore_eos"}
        return await as_accepted(connection, body, less)
    if stream.error:
        raise RussetError(f"the warm-up request failed: {stream.error}")
    return more


def percentiles(seconds: Sequence[float]) -> dict[str, float | None]:
    """PERCENTILES of them, in milliseconds, interpolated; None where there are none."""
    if not seconds:
        return dict.fromkeys(PERCENTILES)
    cuts = statistics.quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else [*seconds] * 99
    return {
        name: round(1e3 * value, 3)
        for name, value in zip(PERCENTILES, (cuts[49], cuts[89], cuts[94], cuts[98], max(seconds)), strict=True)
    }
