"""Files become chunks beside serving: one after the other, embedded whenever nobody else asks the embedder.

A file's chunks are written when all of them are embedded, and found when its card says completed. A file that was in
progress when the process ended begins anew; its chunks have the same ids again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from actors.base.errors import RussetError
from actors.memory.documents.catalogue import COMPLETED, FAILED, Catalogue
from actors.memory.documents.chunking import chunks_of
from actors.memory.documents.sealed import Sealed
from actors.memory.embedder import Embedder
from actors.memory.store import PAGE, Collection, Entry
from protos.gen import documents_pb2

log = logging.getLogger(__name__)
EMBED_AT_ONCE = 256

Job = tuple[str, str, str]
"""Tenant, vector store and file."""


class Ingestion:
    """Works through files in the order they come."""

    def __init__(
        self,
        catalogue: Catalogue,
        collection: Collection,
        sealed: Sealed,
        embedder: Embedder,
        read: Callable[[str, str], Awaitable[str]],
    ) -> None:
        """`read` gives the text of a tenant's file."""
        self._catalogue = catalogue
        self._collection = collection
        self._sealed = sealed
        self._embedder = embedder
        self._read = read
        self._jobs: deque[Job] = deque()
        self._more = asyncio.Event()
        self._running: Job | None = None
        self._writing = False
        self._work: asyncio.Task[None] | None = None
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Go on with what was in progress."""
        for tenant, card in self._catalogue.unfinished():
            self.add((tenant, card.store_id, card.file_id))
        self._loop = asyncio.create_task(self._run(), name="documents")

    async def stop(self) -> None:
        """End; what is in progress goes on at the next start."""
        tasks = [task for task in (self._loop, self._work) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def add(self, job: Job) -> None:
        """Queue one; its card says in progress."""
        self._jobs.append(job)
        self._more.set()

    async def drop(self, job: Job) -> None:
        """Return when nothing is written for it any more."""
        if job in self._jobs:
            self._jobs.remove(job)
        if job == self._running and self._work is not None:
            if not self._writing:  # A thread that writes is not ended by cancelling who waits for it.
                self._work.cancel()
            await asyncio.wait([self._work])

    async def _run(self) -> None:
        while True:
            while self._jobs:
                self._running = self._jobs.popleft()
                self._work = asyncio.create_task(self._ingest(*self._running), name="ingest")
                await asyncio.wait([self._work])
                self._running = self._work = None
                self._writing = False
            self._more.clear()
            await self._more.wait()

    async def _ingest(self, tenant: str, store_id: str, file_id: str) -> None:
        card = documents_pb2.Attached()
        card.CopyFrom(self._catalogue.attachment(tenant, store_id, file_id))
        try:
            chunks, entries = await self._chunks(tenant, card)
            self._writing = True
            for at in range(0, len(entries), PAGE):
                await asyncio.to_thread(self._collection.upsert, entries[at : at + PAGE])
            card.status, card.chunks = COMPLETED, len(chunks)
            card.usage_bytes = sum(len(chunk.text.encode()) for chunk in chunks)
        except RussetError as error:
            log.warning("file %s could not be put into vector store %s: %s", file_id, store_id, error)
            card.status, card.error = FAILED, error.message
        except Exception as error:  # a defect must not end the loop, nor leave the file in progress for ever
            log.exception("file %s could not be put into vector store %s", file_id, store_id)
            card.status, card.error = FAILED, f"{type(error).__name__}: {error}"
        self._writing = True
        await self._catalogue.put_attached(tenant, card)

    async def _chunks(self, tenant: str, card: documents_pb2.Attached) -> tuple[list[documents_pb2.Chunk], list[Entry]]:
        name = self._catalogue.file(tenant, card.file_id).name
        text = await self._read(tenant, card.file_id)
        cut = card.chunking
        ranges = await chunks_of(text, cut.max_tokens, cut.overlap_tokens, self._embedder.count_last)
        chunks = [
            documents_pb2.Chunk(
                store_id=card.store_id,
                file_id=card.file_id,
                file_name=name,
                index=index,
                start=start,
                end=end,
                text=text[start:end],
            )
            for index, (start, end) in enumerate(ranges)
        ]
        entries: list[Entry] = []
        for at in range(0, len(chunks), EMBED_AT_ONCE):
            some = chunks[at : at + EMBED_AT_ONCE]
            vectors, _ = await self._embedder.embed_last([chunk.text for chunk in some])
            entries += [
                self._sealed.entry(
                    "chunk",
                    tenant,
                    chunk.SerializeToString(),
                    store_id=card.store_id,
                    file_id=card.file_id,
                    place=chunk.index,
                    vector=vector.tolist(),
                )
                for chunk, vector in zip(some, vectors, strict=True)
            ]
        return chunks, entries
