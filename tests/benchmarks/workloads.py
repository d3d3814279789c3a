"""Chat, retrieval and batch work over HTTP, cold and warm, beside mlx-lm's server; and a session after a restart.

Cold is text that no server has read (tests.benchmarks.chats), anew in each round; warm is the same text again. In the
chat, each turn sends the whole conversation; the very first request is alone, then all conversations go on at once.
Retrieval asks once about each document of a corpus, then about documents drawn by Zipf's law. The batch is sent at
once. The mix is new conversations and a new batch beside questions about the corpus that was read. After the restart,
a session of 4,000 tokens is continued in turn with prompts of that length that nobody has read; its files have left the
system's memory. mlx-lm's server, which has a prompt cache too, gets as many conversations of fewer turns, and a part
of the corpus.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from actors.base.errors import Unavailable
from actors.base.vocabulary import Vocabulary
from actors.worker.models import load_model
from tests.benchmarks import peers
from tests.benchmarks.chats import Answer, Message, Passage, Server, Texts, found, percent_found
from tests.benchmarks.decoding import MODEL
from tests.benchmarks.harness import Contender, Figure, Options, Part, Samples
from tests.benchmarks.perplexity import TEXT
from tests.benchmarks.processes import private_home, russet_serve, serve_in

SYSTEM, TURN_OUTPUT = 1000, 32
DOCUMENT, ANSWER = (600, 1000), 16
RETRIEVAL_SYSTEM = "Answer the question from the text, in one sentence."
INSTRUCTION, LABEL = 400, 8
SESSION = 4000
PAGE_SIZE = 16
KEEP_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Size:
    """How much of each there is in a round."""

    conversations: int
    turns: int
    documents: int
    questions: int
    inputs: int = 64
    sessions: int = 2


FULL, QUICK, PEER = Size(4, 5, 16, 48), Size(2, 3, 4, 8, 16, 1), Size(4, 3, 3, 6)


def _first(name: str) -> Figure:
    return Figure(name, "ms", higher_is_better=False)


TURNS = {
    turn: _first(f"chat: first token of turn {turn}{', cold' if turn == 1 else ''}")
    for turn in range(1, FULL.turns + 1)
}
CHAT_RATE = Figure("chat: output, all conversations", "tokens/s")
CHAT_SYSTEM = Figure("chat: of the system prompt found after the first request", "%", 98.0)
CHAT_FOUND = Figure("chat: of all prompts found", "%")
RETRIEVAL_COLD = _first("retrieval: first token, cold")
RETRIEVAL_WARM = _first("retrieval: first token, warm")
RETRIEVAL_TIMES = Figure("retrieval: cold over warm", "x")
RETRIEVAL_FOUND = Figure("retrieval: of the documents found after the first pass", "%", 90.0)
BATCH_COLD = Figure("batch: all requests, cold", "s", higher_is_better=False)
BATCH_WARM = Figure("batch: all requests, warm", "s", higher_is_better=False)
BATCH_COMPUTED = Figure("batch: requests that computed the instruction, cold", "", 1.0, higher_is_better=False)
MIXED_FOUND = Figure("mixed: of all prompts found", "%", 80.0)
MIXED_RATE = Figure("mixed: output", "tokens/s")
RESTORED = _first("restart: first token of the session, restored")
RECOMPUTED = _first("restart: first token of as long a prompt, computed")
RESTART_TIMES = Figure("restart: computed over restored", "x", 5.0)
RESTART_FOUND = Figure("restart: of the session's prompt restored", "%")


@dataclass
class Conversation:
    """What was said, and how each turn was answered."""

    messages: list[Message]
    answers: list[Answer]

    async def turn(self, server: Server, question: str) -> None:
        """Ask, sending all that was said before."""
        self.messages.append({"role": "user", "content": question})
        answer = await server.ask(self.messages, TURN_OUTPUT)
        self.messages.append({"role": "assistant", "content": answer.text})
        self.answers.append(answer)


class Workloads:
    """One round's requests to one server."""

    def __init__(self, server: Server, texts: Texts, size: Size) -> None:
        self._server = server
        self._texts = texts
        self._size = size
        self._draw = random.Random(5)
        low, high = DOCUMENT
        self._corpus = [texts.passage(self._draw.randint(low, high)) for _ in range(size.documents)]

    async def chat(self) -> Samples:
        """Conversations that begin with one system prompt."""
        system = self._texts.passage(SYSTEM)
        conversations, seconds = await self._converse(system)
        (cold, *_), *_ = (each.answers for each in conversations)
        answers = [answer for each in conversations for answer in each.answers]
        later = [answer for answer in answers if answer is not cold]
        before = self._texts.tokens_before(None)
        of_system = sum(found(answer, before, system.tokens) for answer in later) / (system.tokens * len(later))
        turns = {
            TURNS[turn]: [each.answers[turn - 1].first_ms for each in conversations]
            for turn in range(2, self._size.turns + 1)
        }
        return {
            TURNS[1]: [cold.first_ms],
            **turns,
            CHAT_RATE: [_output(later) / seconds],
            CHAT_SYSTEM: [100 * of_system],
            CHAT_FOUND: [percent_found(answers)],
        }

    async def retrieval(self) -> Samples:
        """A question about each document, then about documents as they are asked for in life: few of them often."""
        cold = [await self._ask_about(document) for document in self._corpus]
        drawn = zipf(self._draw, self._corpus, self._size.questions)
        warm = [await self._ask_about(document) for document in drawn]
        before = self._texts.tokens_before(RETRIEVAL_SYSTEM)
        hits = sum(found(answer, before, document.tokens) for answer, document in zip(warm, drawn, strict=True))
        cold_ms, warm_ms = ([answer.first_ms for answer in answers] for answers in (cold, warm))
        return {
            RETRIEVAL_COLD: cold_ms,
            RETRIEVAL_WARM: warm_ms,
            RETRIEVAL_FOUND: [100 * hits / sum(document.tokens for document in drawn)],
        }

    async def batch(self) -> Samples:
        """One instruction for many inputs, and for as many others once more."""
        instruction = self._texts.passage(INSTRUCTION)
        began = time.perf_counter()
        cold = await self._label(instruction)
        between = time.perf_counter()
        await self._label(instruction)
        warm_s = time.perf_counter() - between
        whole_pages = instruction.tokens // PAGE_SIZE * PAGE_SIZE
        computed = sum(answer.cached_tokens < whole_pages for answer in cold)
        return {BATCH_COLD: [between - began], BATCH_WARM: [warm_s], BATCH_COMPUTED: [computed]}

    async def mixed(self) -> Samples:
        """All of it at once."""
        began = time.perf_counter()
        (conversations, _), labels, questions = await asyncio.gather(
            self._converse(self._texts.passage(SYSTEM)),
            self._label(self._texts.passage(INSTRUCTION)),
            asyncio.gather(*map(self._ask_about, zipf(self._draw, self._corpus, self._size.questions))),
        )
        seconds = time.perf_counter() - began
        answers = [*labels, *questions, *(answer for each in conversations for answer in each.answers)]
        return {MIXED_FOUND: [percent_found(answers)], MIXED_RATE: [_output(answers) / seconds]}

    async def _converse(self, system: Passage) -> tuple[list[Conversation], float]:
        """All conversations, and the seconds in which they went on at once after the first request."""
        conversations = [
            Conversation([{"role": "system", "content": system.text}], []) for _ in range(self._size.conversations)
        ]
        await conversations[0].turn(self._server, self._texts.question())

        async def go_on(conversation: Conversation) -> None:
            while len(conversation.answers) < self._size.turns:
                await conversation.turn(self._server, self._texts.question())

        began = time.perf_counter()
        await asyncio.gather(*map(go_on, conversations))
        return conversations, time.perf_counter() - began

    async def _ask_about(self, document: Passage) -> Answer:
        messages = _messages(RETRIEVAL_SYSTEM, f"{document.text}\n\n{self._texts.question()}")
        return await self._server.ask(messages, ANSWER)

    async def _label(self, instruction: Passage) -> list[Answer]:
        inputs = [self._texts.sentence() for _ in range(self._size.inputs)]
        return await asyncio.gather(*(self._server.ask(_messages(instruction.text, text), LABEL) for text in inputs))


def zipf(draw: random.Random, documents: Sequence[Passage], questions: int) -> list[Passage]:
    """Documents as they are asked for: the n-th of them n times less often than the first."""
    return draw.choices(documents, [1 / rank for rank in range(1, len(documents) + 1)], k=questions)


async def restart(texts: Texts, size: Size) -> Samples:
    """Sessions in one process, continued in another."""
    names = [f"s{number}" for number in range(size.sessions)]
    with private_home() as home:
        async with serve_in(home) as (url, _), _connected(url, "auto") as server:
            prompts = [await server.ask([_user(texts.passage(SESSION).text)], ANSWER, session=name) for name in names]
            await _kept(url, sum(answer.prompt_tokens // PAGE_SIZE * PAGE_SIZE for answer in prompts))
        leave_memory(home / "kv")
        async with serve_in(home) as (url, _), _connected(url, "auto") as server:
            await server.ask([_user(texts.question())], ANSWER)
            restored, computed = [], []
            for name, before in zip(names, prompts, strict=True):
                restored.append(await server.ask([_user(texts.question())], ANSWER, session=name))
                computed.append(await server.ask([_user(texts.passage(before.prompt_tokens).text)], ANSWER))
    restored_ms, computed_ms = ([answer.first_ms for answer in answers] for answers in (restored, computed))
    return {
        RESTORED: restored_ms,
        RECOMPUTED: computed_ms,
        RESTART_TIMES: [float(np.median(computed_ms) / np.median(restored_ms))],
        RESTART_FOUND: [percent_found(restored)],
    }


async def _kept(url: str, tokens: int) -> None:
    """Return once the KV of so many tokens is on disk. Raises Unavailable where that takes a minute."""
    began, kept = time.monotonic(), 0.0
    async with httpx.AsyncClient(timeout=30) as http:
        while time.monotonic() - began < KEEP_TIMEOUT_S:
            text = (await http.get(f"{url}/metrics")).raise_for_status().text
            samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
            kept = sum(sample.value for sample in samples if sample.name == "russet_kv_kept_tokens")
            if kept >= tokens:
                return
            await asyncio.sleep(0.2)
    raise Unavailable(f"the KV of {kept:.0f} of {tokens} tokens is on disk after {KEEP_TIMEOUT_S:.0f} s")


def leave_memory(directory: Path) -> None:
    """Have the system read these files from disk when they are next asked for, where it takes such wishes (Linux)."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _messages(system: str, text: str) -> list[Message]:
    return [{"role": "system", "content": system}, _user(text)]


def _output(answers: Sequence[Answer]) -> int:
    return sum(answer.output_tokens for answer in answers)


@asynccontextmanager
async def _connected(url: str, model: str) -> AsyncGenerator[Server, None]:
    async with aclosing(Server(url, model)) as server:
        yield server


def _russet(server: Server, texts: Texts, size: Size) -> Callable[[], Awaitable[Samples]]:
    async def measure() -> Samples:
        work = Workloads(server, texts, size)
        retrieval = await work.retrieval()
        times = np.median(retrieval[RETRIEVAL_COLD]) / np.median(retrieval[RETRIEVAL_WARM])
        read = {**retrieval, RETRIEVAL_TIMES: [float(times)]}
        return {**await work.chat(), **read, **await work.batch(), **await work.mixed(), **await restart(texts, size)}

    return measure


def _mlx_lm(server: Server, texts: Texts) -> Callable[[], Awaitable[Samples]]:
    async def measure() -> Samples:
        work = Workloads(server, texts, PEER)
        return {**await work.chat(), **await work.retrieval()}

    return measure


async def _nothing() -> Samples:
    return {}


def _amount(size: Size) -> str:
    return (
        f"{size.conversations} conversations of {size.turns} turns, {size.documents} documents, "
        f"{size.questions} questions"
    )


@asynccontextmanager
async def _contenders(options: Options) -> AsyncGenerator[Sequence[Contender], None]:
    if not TEXT.exists():
        yield [Contender("Russet", _nothing, f"no text at {TEXT}: set RUSSET_DATA")]
        return
    texts, size = Texts.read(Vocabulary(load_model(MODEL).vocabulary)), QUICK if options.quick else FULL
    async with AsyncExitStack() as running:
        url, _ = await running.enter_async_context(russet_serve())
        server = await running.enter_async_context(_connected(url, "auto"))
        await server.ask([_user(texts.question())], ANSWER)
        note = (
            f"`russet serve`, default settings; a system prompt of {SYSTEM:,} tokens, an instruction of {INSTRUCTION} "
            f"for {size.inputs} inputs, {_amount(size)}"
        )
        contenders = [Contender("Russet", _russet(server, texts, size), note)]
        if not options.quick:
            contenders.append(await _mlx_lm_server(texts, running))
        yield contenders


async def _mlx_lm_server(texts: Texts, running: AsyncExitStack) -> Contender:
    peer = next(peer for peer in peers.PEERS if peer.name == peers.WITH_OPENBLAS)
    if (missing := peer.missing()) is not None:
        return Contender(peer.name, _nothing, missing, peer=True)
    url = await running.enter_async_context(peer.server())
    server = await running.enter_async_context(_connected(url, peers.MODEL_NAME))
    note = f"{peer.note}; {_amount(PEER)}"
    return Contender(peer.name, _mlx_lm(server, texts), note, peer=True)


PART = Part("workloads", "Chat, retrieval and batch work, cold and warm", _contenders)
