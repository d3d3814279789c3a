"""Documents: how fast texts go in, how soon and how rightly passages are found, and what reading them again costs.

    python -m tests.benchmarks.documents, or the part `documents` of python -m tests.benchmarks.

The corpus is the answers of $RUSSET_DATA/text/gsm8k_train.jsonl, a hundred to a file, each a paragraph; a question's
right passage is the chunk in which its own answer begins. A prompt is cold where none with its passages came before,
and warm where another question that retrieves the same passages did. Everything goes over HTTP to a Russet in this
process.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from rich.console import Console

from actors.base.errors import NotFound, RussetError
from cluster.config import load
from cluster.local import LocalCluster
from tests.benchmarks.harness import Contender, Figure, Options, Part, Samples, show, take
from tests.benchmarks.processes import private_home
from tests.oracles.running import DATA

TEXT = DATA / "text" / "gsm8k_train.jsonl"
ANSWERS, PER_FILE, QUESTIONS, CHATS = 3000, 100, 300, 20
CHUNKING = {"type": "static", "static": {"max_chunk_size_tokens": 120, "chunk_overlap_tokens": 0}}

INGEST = Figure("text added, chunks embedded and written", "KB/s")
CHUNKS = Figure("the same", "chunks/s")
SEARCH = Figure("a search over HTTP, the question embedded, p50", "ms", higher_is_better=False)
LATE = Figure("p99 of these", "ms", higher_is_better=False)
LOOK = Figure("of it looking among the chunks, p50", "ms", higher_is_better=False)
FIRST = Figure("questions whose own answer's passage is first", "%")
FIVE = Figure("among the first five", "%")
COLD = Figure("time to first token, five passages not seen before", "ms", higher_is_better=False)
WARM = Figure("another question with the same five", "ms", higher_is_better=False)
CACHED = Figure("of its prompt's tokens, cached", "%", 90.0)


@dataclass(frozen=True)
class Asked:
    """A question, and the file and character at which its answer begins."""

    question: str
    file: str
    at: int


class Shelf:
    """A running Russet, asked as a client does."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._round = 0

    async def measured(self, quick: bool) -> Samples:
        """One round: a vector store of its own, filled, searched, asked about."""
        count = ANSWERS // 10 if quick else ANSWERS
        store = (await self._post("/v1/vector_stores", {"name": "bench"}))["id"]
        asked, rates = await self._fill(store, count)
        found = await self._search(store, asked[:: max(1, len(asked) // (QUESTIONS // 10 if quick else QUESTIONS))])
        told = await self._chat(store, asked[self._round * CHATS :][: 4 if quick else CHATS])
        self._round += 1
        await self._client.delete(f"/v1/vector_stores/{store}")
        for file in {each.file for each in asked}:
            await self._client.delete(f"/v1/files/{file}")
        return {**rates, **found, **told}

    async def _fill(self, store: str, count: int) -> tuple[list[Asked], Samples]:
        rows = [json.loads(line) for line in TEXT.read_text().splitlines()[:count]]
        asked: list[Asked] = []
        files, size = [], 0
        began = time.perf_counter()
        for first in range(0, len(rows), PER_FILE):
            some = rows[first : first + PER_FILE]
            text = "\n\n".join(row["answer"] for row in some)
            reply = await self._client.post("/v1/files", files={"file": (f"answers-{first}.txt", text.encode())})
            file = reply.json()["id"]
            files.append(file)
            size += len(text.encode())
            at = 0
            for row in some:
                asked.append(Asked(row["question"], file, at))
                at += len(row["answer"]) + 2
            body = {"file_id": file, "chunking_strategy": CHUNKING}
            await self._post(f"/v1/vector_stores/{store}/files", body)
        chunks = sum([await self._added(store, file) for file in files])
        seconds = time.perf_counter() - began
        return asked, {INGEST: [size / 1e3 / seconds], CHUNKS: [chunks / seconds]}

    async def _added(self, store: str, file: str) -> int:
        while True:
            card = (await self._client.get(f"/v1/vector_stores/{store}/files/{file}")).json()
            if card["status"] == "failed":
                raise RussetError(card["last_error"]["message"])
            if card["status"] == "completed":
                return card["russet"]["chunks"]
            await asyncio.sleep(0.05)

    async def _search(self, store: str, asked: Sequence[Asked]) -> Samples:
        seconds, looked, places = [], [], []
        for each in asked:
            began = time.perf_counter()
            page = await self._post(f"/v1/vector_stores/{store}/search", {"query": each.question, "max_num_results": 5})
            seconds.append(time.perf_counter() - began)
            looked.append(page["russet"]["retrieval_ms"])
            holds = [_holds(row, each) for row in page["data"]]
            places.append(holds.index(True) if True in holds else 5)
        return {
            SEARCH: [1e3 * _share(seconds, 0.5)],
            LATE: [1e3 * _share(seconds, 0.99)],
            LOOK: [_share(looked, 0.5)],
            FIRST: [100 * sum(place == 0 for place in places) / len(places)],
            FIVE: [100 * sum(place < 5 for place in places) / len(places)],
        }

    async def _chat(self, store: str, asked: Sequence[Asked]) -> Samples:
        cold, warm, cached = [], [], []
        for each in asked:
            first_s, _, passages = await self._first_token(store, each.question)
            again_s, usage, same = await self._first_token(store, f"{each.question} Answer in one word.")
            if passages != same:
                continue  # Asked otherwise, it finds other passages.
            cold.append(1e3 * first_s)
            warm.append(1e3 * again_s)
            cached.append(100 * usage["prompt_tokens_details"]["cached_tokens"] / usage["prompt_tokens"])
        return {COLD: [_share(cold, 0.5)], WARM: [_share(warm, 0.5)], CACHED: [_share(cached, 0.5)]} if cold else {}

    async def _first_token(self, store: str, question: str) -> tuple[float, dict[str, Any], list[Any]]:
        """Seconds to the first text, the usage, and the passages."""
        body = {
            "model": "auto",
            "messages": [{"role": "user", "content": question}],
            "max_tokens": 4,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "russet": {"retrieve": {"vector_store_ids": [store], "max_num_results": 5}},
        }
        began, first_s, usage, passages = time.perf_counter(), 0.0, {}, []
        async with self._client.stream("POST", "/v1/chat/completions", json=body) as reply:
            async for line in reply.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    raise RussetError(event["error"]["message"])
                if "retrieval" in event.get("russet", {}) and not passages:
                    told = event["russet"]["retrieval"]["citations"]
                    passages = [(each["file_id"], each["chunk_index"]) for each in told]
                if not first_s and event["choices"] and event["choices"][0]["delta"].get("content"):
                    first_s = time.perf_counter() - began
                usage = event.get("usage") or usage
        return first_s, usage, passages

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        reply = await self._client.post(path, json=body)
        if not reply.is_success:
            raise RussetError(reply.text)
        return reply.json()


def _holds(row: dict[str, Any], asked: Asked) -> bool:
    where = row["russet"]
    return row["file_id"] == asked.file and where["start"] <= asked.at < where["end"]


def _share(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@asynccontextmanager
async def _contenders(options: Options) -> AsyncGenerator[Sequence[Contender], None]:
    if not TEXT.is_file():
        raise NotFound(f"no text at {TEXT}: set RUSSET_DATA to where it is")
    async with AsyncExitStack() as stack:
        home = stack.enter_context(private_home())
        settings = {"home": home, "gateway.port": 0, "gateway.grpc_port": 0}
        cluster = await stack.enter_async_context(LocalCluster(load(home / "russet.toml", settings, environ={})))
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=cluster.http, timeout=600))
        shelf = Shelf(client)
        yield [Contender("Russet", lambda: shelf.measured(options.quick))]


PART = Part("documents", "Documents added, found and read again", _contenders)


def main() -> None:
    """Run it once."""
    show(asyncio.run(take(PART, Options(rounds=3), lambda what: None)), Console(width=140))


if __name__ == "__main__":
    main()
