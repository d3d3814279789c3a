"""Chat requests as an OpenAI client sends them, with what their answers say of the prompt's KV; and text for them.

Text is of $RUSSET_DATA, and no two pieces of it begin alike: a server that has read one has read no part of another.
"""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import count, cycle
from typing import Any, NamedTuple

from actors.base.errors import RussetError
from actors.base.vocabulary import Vocabulary
from cluster.load_client import Connection
from tests.benchmarks.perplexity import TEXT

Message = dict[str, str]

SYSTEM_HEAD = "<|im_start|>system\n"
"""What the default model's chat template writes before a system message."""
BETWEEN = "<|im_end|>\n<|im_start|>user\n"
"""And between that and a user's."""


@dataclass(frozen=True)
class Answer:
    """One answer as its client saw it; seconds from the moment the request was sent."""

    text: str
    first_s: float
    total_s: float
    prompt_tokens: int
    cached_tokens: int
    """Of the prompt's, those whose KV was there."""
    output_tokens: int

    @property
    def first_ms(self) -> float:
        """The same in milliseconds."""
        return 1e3 * self.first_s


class Passage(NamedTuple):
    """A text, and how many tokens it has."""

    text: str
    tokens: int


class Texts:
    """Text that nobody was given yet: each piece bears its number in front, also where the records begin again."""

    def __init__(self, vocabulary: Vocabulary, records: Sequence[Mapping[str, str]]) -> None:
        self._vocabulary = vocabulary
        self._records = cycle(records)
        self._numbers = count(1)

    @classmethod
    def read(cls, vocabulary: Vocabulary) -> "Texts":
        """Those of $RUSSET_DATA."""
        return cls(vocabulary, [json.loads(line) for line in TEXT.read_text("utf-8").splitlines()])

    def passage(self, tokens: int) -> Passage:
        """One of this many tokens, but for one or two that its end may take more or less."""
        ids = self._vocabulary.encode(f"Text {next(self._numbers)}.", special=False)
        while len(ids) < tokens:
            record = next(self._records)
            ids += self._vocabulary.encode(f"\n\n{record['question']}\n{record['answer']}", special=False)
        text = self._vocabulary.decode(ids[:tokens])
        return Passage(text, len(self._vocabulary.encode(text, special=False)))

    def question(self) -> str:
        """Some 20 to 100 tokens."""
        return f"{next(self._numbers)}. {next(self._records)['question']}"

    def sentence(self) -> str:
        """Some 20 tokens."""
        return f"{next(self._numbers)}. {next(self._records)['question'].split('. ')[0]}"

    def tokens_before(self, system: str | None) -> int:
        """Tokens of a rendered conversation before its system message, or, after that, before the user's first."""
        head = SYSTEM_HEAD if system is None else f"{SYSTEM_HEAD}{system}{BETWEEN}"
        return len(self._vocabulary.encode(head, add_bos=False))


def found(answer: Answer, before: int, tokens: int) -> int:
    """How many of the `tokens` that begin after the prompt's first `before` had their KV there."""
    return min(max(answer.cached_tokens - before, 0), tokens)


def percent_found(answers: Sequence[Answer]) -> float:
    """Share of all prompts' tokens whose KV was there."""
    return 100 * sum(answer.cached_tokens for answer in answers) / sum(answer.prompt_tokens for answer in answers)


@dataclass
class Server:
    """An OpenAI-compatible server; connections are kept, one for each request at a time."""

    url: str
    model: str
    _idle: list[Connection] = field(default_factory=list)

    async def ask(self, messages: Sequence[Message], max_tokens: int, session: str | None = None) -> Answer:
        """The greedy answer to a conversation. Raises RussetError with the server's words where it gives none."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if session is not None:
            body["russet"] = {"session_id": session}
        connection = self._idle.pop() if self._idle else Connection(self.url)
        request, lines, rest, refusal = json.dumps(body).encode(), [], b"", b""
        began = time.perf_counter()
        async with aclosing(connection.post("/v1/chat/completions", request)) as pieces:
            async for status, piece in pieces:
                now = time.perf_counter() - began
                if status != 200:
                    refusal += piece
                    continue
                *whole, rest = (rest + piece).split(b"\n")
                lines += ((now, line) for line in whole if line.startswith(b"data:"))
        total_s = time.perf_counter() - began
        if refusal:
            raise RussetError(f"{self.url} refused a request: {refusal[:300].decode(errors='replace')}")
        self._idle.append(connection)
        return read(lines, total_s)

    async def aclose(self) -> None:
        """Close the connections."""
        for connection in self._idle:
            await connection.close()


def read(lines: Sequence[tuple[float, bytes]], total_s: float) -> Answer:
    """An answer from its server-sent events and their arrivals.

    The first token is the first text, or the end of an answer without any. Raises RussetError where a stream holds an
    error, or ends before its finish_reason or without a usage.
    """
    text, first_s, finished, usage = "", None, False, None
    for arrival, line in lines:
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            continue
        event = json.loads(data)
        if "error" in event:
            raise RussetError(f"a stream ended with {event['error']}")
        for choice in event.get("choices", ()):
            piece = choice.get("delta", {}).get("content") or ""
            finished = finished or choice.get("finish_reason") is not None
            if first_s is None and (piece or finished):
                first_s = arrival
            text += piece
        usage = event.get("usage") or usage
    if not finished or first_s is None or usage is None:
        raise RussetError(f"a stream ended {'without a usage' if finished else 'before its finish_reason'}: {text!r}")
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return Answer(text, first_s, total_s, usage["prompt_tokens"], cached, usage["completion_tokens"])
