"""The documents servicer: keeps files, makes chunks of them, finds those."""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

from actors.base.errors import InvalidArgument, NotFound, Unavailable
from actors.base.keys import Keyring
from actors.memory import limits
from actors.memory.config import MemoryConfig
from actors.memory.documents.catalogue import COMPLETED, IN_PROGRESS, Catalogue
from actors.memory.documents.ingestion import Ingestion
from actors.memory.documents.sealed import Kind, Sealed, where
from actors.memory.documents.texts import text_of
from actors.memory.embedder import Embedder
from actors.memory.reranking.reranker import POOL, Reranker
from actors.memory.store import PAGE, Collection
from protos.gen import documents_pb2, documents_pb2_grpc

log = logging.getLogger(__name__)
PART_CHARACTERS = 1 << 16
"""Of a file's text in one entry."""
MAX_STORES, MAX_CHUNKS, CHUNKS = 16, 50, 10
QUERY_CHARACTERS = 8192
TOKENS, OVERLAP = 200, 40
LEAST_TOKENS = 16
PURPOSES = ("assistants", "user_data")
"""Of OpenAI's, those of files that are read; the others are of its other products."""


class Documents(documents_pb2_grpc.DocumentsServicer):
    """See documents.proto for each method."""

    def __init__(self, config: MemoryConfig, collection: Collection, keyring: Keyring, embedder: Embedder) -> None:
        self._config = config
        self._collection = collection
        self._sealed = Sealed(keyring)
        self._embedder = embedder
        self.catalogue = Catalogue(collection, self._sealed, config.document_files)
        self._ingestion = Ingestion(self.catalogue, collection, self._sealed, embedder, self._text)
        self._reranker: Reranker | None = None
        self._changing = asyncio.Lock()
        """Held while cards change: what is deleted is not attached meanwhile."""

    def rank_by(self, reranker: Reranker) -> None:
        """Have usage say something where it may; without this, similarity alone does."""
        self._reranker = reranker

    async def start(self) -> None:
        """Read the cards, and go on with what was in progress."""
        await asyncio.to_thread(self.catalogue.load)
        self._ingestion.start()

    async def stop(self) -> None:
        """End; what is in progress goes on at the next start."""
        await self._ingestion.stop()

    async def PutFile(self, request: documents_pb2.PutFileRequest, context: Any) -> documents_pb2.File:
        """Keep a text."""
        tenant, purpose = request.tenant, request.purpose or "user_data"
        if purpose not in PURPOSES:
            raise InvalidArgument(f"purpose is {purpose[:40]!r}; accepted are {', '.join(PURPOSES)}", param="purpose")
        text = await asyncio.to_thread(text_of, request.name, request.content, self._config.document_bytes)
        async with self._changing:
            file = self.catalogue.new_file(tenant, request.name, len(text.encode()), purpose)
            parts = [text[at : at + PART_CHARACTERS] for at in range(0, len(text), PART_CHARACTERS)]
            entries = [
                self._sealed.entry("part", tenant, part.encode(), file_id=file.id, place=place)
                for place, part in enumerate(parts)
            ]
            await asyncio.to_thread(self._collection.upsert, entries)
            await self.catalogue.put_file(tenant, file)
        return file

    async def GetFile(self, request: documents_pb2.FileRequest, context: Any) -> documents_pb2.File:
        """One card."""
        return self.catalogue.file(request.tenant, request.file_id)

    async def ReadFile(self, request: documents_pb2.FileRequest, context: Any) -> documents_pb2.FileContent:
        """A card and its text."""
        file = self.catalogue.file(request.tenant, request.file_id)
        text = await self._text(request.tenant, request.file_id)
        return documents_pb2.FileContent(file=file, content=text.encode())

    async def ListFiles(self, request: documents_pb2.ListRequest, context: Any) -> documents_pb2.ListFilesReply:
        """A tenant's."""
        return documents_pb2.ListFilesReply(files=self.catalogue.files_of(request.tenant))

    async def DeleteFile(self, request: documents_pb2.FileRequest, context: Any) -> documents_pb2.DeleteReply:
        """Forget one everywhere."""
        tenant, file_id = request.tenant, request.file_id
        async with self._changing:
            found = (tenant, file_id) in self.catalogue.files
            if found:
                for store_id in self.catalogue.stores_with(tenant, file_id):
                    await self._detach(tenant, store_id, file_id)
                await self.catalogue.drop_file(tenant, file_id)
                await self._delete_all("part", tenant, file_id=file_id)
        return documents_pb2.DeleteReply(found=found)

    async def PutStore(self, request: documents_pb2.PutStoreRequest, context: Any) -> documents_pb2.VectorStore:
        """Make or change one."""
        async with self._changing:
            return await self.catalogue.put_store(request)

    async def GetStore(self, request: documents_pb2.StoreRequest, context: Any) -> documents_pb2.VectorStore:
        """One card."""
        return self.catalogue.store(request.tenant, request.store_id)

    async def ListStores(self, request: documents_pb2.ListRequest, context: Any) -> documents_pb2.ListStoresReply:
        """A tenant's."""
        return documents_pb2.ListStoresReply(stores=self.catalogue.stores_of(request.tenant))

    async def DeleteStore(self, request: documents_pb2.StoreRequest, context: Any) -> documents_pb2.DeleteReply:
        """Forget one with its chunks."""
        tenant, store_id = request.tenant, request.store_id
        async with self._changing:
            found = (tenant, store_id) in self.catalogue.stores
            if found:
                for file_id in list(self.catalogue.attached.get((tenant, store_id), ())):
                    await self._detach(tenant, store_id, file_id)
                await self.catalogue.drop_store(tenant, store_id)
        return documents_pb2.DeleteReply(found=found)

    async def Attach(self, request: documents_pb2.AttachRequest, context: Any) -> documents_pb2.Attached:
        """Begin to make chunks."""
        if not request.HasField("chunking"):
            request.chunking.max_tokens, request.chunking.overlap_tokens = self._default_chunking()
        request.chunking.max_tokens = request.chunking.max_tokens or self._default_chunking()[0]
        self._check_chunking(request.chunking)
        tenant, store_id, file_id = request.tenant, request.store_id, request.file_id
        async with self._changing:
            self.catalogue.file(tenant, file_id)
            self.catalogue.store(tenant, store_id)
            there = self.catalogue.attached.get((tenant, store_id), {}).get(file_id)
            if there is not None and there.status in (IN_PROGRESS, COMPLETED) and there.chunking == request.chunking:
                return there
            if there is not None:
                await self._detach(tenant, store_id, file_id)
            card = self.catalogue.attached_now(request)
            await self.catalogue.put_attached(tenant, card)
            self._ingestion.add((tenant, store_id, file_id))
            return card

    async def GetAttached(self, request: documents_pb2.AttachedRequest, context: Any) -> documents_pb2.Attached:
        """What became of it."""
        return self.catalogue.attachment(request.tenant, request.store_id, request.file_id)

    async def ListAttached(self, request: documents_pb2.StoreRequest, context: Any) -> documents_pb2.ListAttachedReply:
        """A vector store's files."""
        return documents_pb2.ListAttachedReply(files=self.catalogue.attached_to(request.tenant, request.store_id))

    async def Detach(self, request: documents_pb2.AttachedRequest, context: Any) -> documents_pb2.DeleteReply:
        """Take one out."""
        tenant, store_id, file_id = request.tenant, request.store_id, request.file_id
        async with self._changing:
            found = file_id in self.catalogue.attached.get((tenant, store_id), {})
            if found:
                await self._detach(tenant, store_id, file_id)
        return documents_pb2.DeleteReply(found=found)

    async def Search(self, request: documents_pb2.SearchRequest, context: Any) -> documents_pb2.SearchReply:
        """Nearest chunks of some vector stores."""
        tenant, stores = request.tenant, list(dict.fromkeys(request.store_ids))
        if not 1 <= len(stores) <= MAX_STORES:
            raise InvalidArgument(
                f"{len(stores)} vector stores are named; accepted are 1 to {MAX_STORES}", param="vector_store_ids"
            )
        if request.limit > MAX_CHUNKS:
            raise InvalidArgument(
                f"max_num_results is {request.limit}; accepted are 1 to {MAX_CHUNKS}", param="max_num_results"
            )
        limits.share(request.score_threshold, "score_threshold")
        if not request.query.strip():
            raise InvalidArgument("query is empty; accepted is a text", param="query")
        for store_id in stores:
            self.catalogue.store(tenant, store_id)
        began = time.monotonic()
        vectors, _ = await self._embedder.embed([request.query[:QUERY_CHARACTERS]])
        embedded = time.monotonic()
        vector, limit = vectors[0].tolist(), request.limit or CHUNKS
        reranker, by_usage = self._reranker, False
        asked = reranker is not None and reranker.has_a_say(tenant, stores)
        chunks = await self.nearest(vector, tenant, stores, POOL if asked else limit, request.score_threshold)
        if reranker is not None and asked:
            try:
                chunks, by_usage = await reranker.ordered(tenant, stores, vector, chunks), True
            except Unavailable as error:
                log.info("passages stay in the order of similarity: %s", error)
        return documents_pb2.SearchReply(
            chunks=chunks[:limit],
            by_usage=by_usage,
            embedding=vector,
            embedding_ms=(embedded - began) * 1e3,
            retrieval_ms=(time.monotonic() - embedded) * 1e3,
        )

    async def nearest(
        self, vector: Sequence[float], tenant: str, stores: Sequence[str], limit: int, least: float = 0.0
    ) -> list[documents_pb2.Chunk]:
        """The chunks nearest to a vector, with at least the cosine `least`."""
        return await asyncio.to_thread(self._nearest, vector, tenant, stores, limit, least)

    def _nearest(
        self, vector: Sequence[float], tenant: str, stores: Sequence[str], limit: int, least: float
    ) -> list[documents_pb2.Chunk]:
        found: dict[tuple[str, int, int], documents_pb2.Chunk] = {}
        for store_id in stores:
            for entry, score in self._collection.search(vector, limit, where("chunk", tenant, store_id)):
                if score < least or not self.catalogue.is_whole(tenant, store_id, entry.payload["file_id"]):
                    continue
                chunk = self._sealed.message(entry, documents_pb2.Chunk)
                chunk.score = min(score, 1.0)
                found.setdefault((chunk.file_id, chunk.start, chunk.end), chunk)
        return sorted(found.values(), key=lambda chunk: (-chunk.score, chunk.file_id, chunk.index))[:limit]

    async def _detach(self, tenant: str, store_id: str, file_id: str) -> None:
        await self._ingestion.drop((tenant, store_id, file_id))
        await self.catalogue.drop_attached(tenant, store_id, file_id)
        await self._delete_all("chunk", tenant, store_id, file_id)

    async def _delete_all(self, kind: Kind, tenant: str, store_id: str = "", file_id: str = "") -> None:
        pages = self._collection.pages(where(kind, tenant, store_id, file_id))
        ids = await asyncio.to_thread(lambda: [entry.id for page in pages for entry in page])
        for at in range(0, len(ids), PAGE):
            await asyncio.to_thread(self._collection.delete, ids[at : at + PAGE])

    async def _text(self, tenant: str, file_id: str) -> str:
        def read() -> str:
            pages = self._collection.pages(where("part", tenant, file_id=file_id))
            parts = {entry.payload["place"]: self._sealed.read(entry).decode() for page in pages for entry in page}
            return "".join(parts[place] for place in sorted(parts))

        text = await asyncio.to_thread(read)
        if not text:
            raise NotFound(f"file {file_id!r} was deleted", param="file_id")
        return text

    def _default_chunking(self) -> tuple[int, int]:
        tokens = min(TOKENS, self._embedder.most_tokens)
        return tokens, min(OVERLAP, tokens // 2)

    def _check_chunking(self, chunking: documents_pb2.Chunking) -> None:
        most = self._embedder.most_tokens
        if not LEAST_TOKENS <= chunking.max_tokens <= most:
            raise InvalidArgument(
                f"max_chunk_size_tokens is {chunking.max_tokens}; accepted are {LEAST_TOKENS} to {most}, which is what "
                f"{self._embedder.model} reads of a text",
                param="chunking_strategy.static.max_chunk_size_tokens",
            )
        if chunking.overlap_tokens * 2 > chunking.max_tokens:
            raise InvalidArgument(
                f"chunk_overlap_tokens is {chunking.overlap_tokens}; accepted is up to half of max_chunk_size_tokens, "
                f"{chunking.max_tokens // 2}",
                param="chunking_strategy.static.chunk_overlap_tokens",
            )
