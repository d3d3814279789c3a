"""Streams of requests whose answers are known: each is compared, and its longest silence is kept."""

import json
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from actors.base.errors import RussetError
from cluster.load_client import Connection

MAX_TOLD = 20


@dataclass(frozen=True)
class Silence:
    """The longest wait between two events of a stream: when it ended (monotonic seconds), and how long it was."""

    ended_s: float
    lasted_s: float


@dataclass
class Tally:
    """What became of all streams."""

    done: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    wrong: list[str] = field(default_factory=list)
    """Of the first MAX_TOLD that failed or differ: which, and how."""
    failed: int = 0
    silences: list[Silence] = field(default_factory=list)

    def fault(self, said: str) -> None:
        """One failed."""
        self.failed += 1
        if len(self.wrong) < MAX_TOLD:
            self.wrong.append(said)


def answer_of(events: Sequence[Mapping[str, Any]]) -> str:
    """What a stream's events say in all: texts, calls, log-probabilities and the reason of the end, as JSON.

    Raises ValueError for an error among them, or where it did not end.
    """
    text, calls, logprobs, finish = "", {}, [], None
    for event in events:
        if "error" in event:
            raise ValueError(f"an error came: {event['error']}")
        for choice in event["choices"]:
            delta = choice.get("delta") or {}
            text += choice.get("text") or delta.get("content") or ""
            for call in delta.get("tool_calls") or []:
                function = call.get("function") or {}
                name, arguments = calls.get(call["index"], ("", ""))
                calls[call["index"]] = (name + (function.get("name") or ""), arguments + function.get("arguments", ""))
            logprobs += (choice.get("logprobs") or {}).get("content") or []
            finish = choice.get("finish_reason") or finish
    if finish is None:
        raise ValueError("the stream ended without a reason")
    told = [(each["token"], [other["token"] for other in each["top_logprobs"]]) for each in logprobs]
    return json.dumps({"text": text, "calls": sorted(calls.items()), "logprobs": told, "finish": finish})


async def ask(connection: Connection, path: str, body: Mapping[str, Any]) -> tuple[str, Silence, int]:
    """The answer of one request as a stream, its longest silence, and how many events it had.

    Raises ValueError for what is no whole answer, RussetError where the connection breaks.
    """
    buffer, events, longest, status = b"", [], Silence(0, 0), 200
    last = time.monotonic()
    request = json.dumps({**body, "stream": True}).encode()
    async with aclosing(connection.post(path, request)) as pieces:
        async for answered, piece in pieces:
            status, now = answered, time.monotonic()
            if events and now - last > longest.lasted_s:
                longest = Silence(now, now - last)
            last = now
            buffer += piece
            *lines, buffer = buffer.split(b"\n")
            events += [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
    if status != 200:
        raise ValueError(f"status {status}: {buffer[:200].decode(errors='replace')}")
    return answer_of(events), longest, len(events)


async def run(
    url: str,
    known: Mapping[str, str],
    requests: Mapping[str, tuple[str, dict[str, Any]]],
    tally: Tally,
    until_s: float,
    chance: random.Random,
) -> None:
    """One client: request after request, drawn by `chance`, until the monotonic clock shows `until_s`."""
    connection = Connection(url)
    names = sorted(requests)
    while time.monotonic() < until_s:
        name = chance.choice(names)
        try:
            told, silence, events = await ask(connection, *requests[name])
        except (RussetError, ValueError) as error:
            tally.fault(f"{name}: {error}")
            await connection.close()
            continue
        tally.done[name] += 1
        tally.tokens += events
        tally.silences.append(silence)
        if told != known[name]:
            tally.fault(f"{name}: answered {told[:300]}, and before {known[name][:300]}")
    await connection.close()
