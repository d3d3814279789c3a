"""Which files and vector stores there are: all of them in memory, each change written before it counts.

A card is small and its text is elsewhere; so lists, counts and limits cost no query, and a search knows at once which
chunks belong to what is whole.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from actors.base.errors import InvalidArgument, NotFound
from actors.memory import limits
from actors.memory.documents.sealed import Kind, Sealed, point
from actors.memory.store import Collection, Where
from protos.gen import documents_pb2

MAX_STORES = 1000
"""Of one tenant."""
COMPLETED, FAILED = documents_pb2.STATUS_COMPLETED, documents_pb2.STATUS_FAILED
IN_PROGRESS = documents_pb2.STATUS_IN_PROGRESS
Key = tuple[str, str]
"""Tenant and id."""
Card = TypeVar("Card", documents_pb2.File, documents_pb2.VectorStore, documents_pb2.Attached)


class Catalogue:
    """Cards by tenant and id; no method reaches across tenants."""

    def __init__(
        self, collection: Collection, sealed: Sealed, most_files: int, clock: Callable[[], float] = time.time
    ) -> None:
        """`clock` gives Unix seconds."""
        self._collection = collection
        self._sealed = sealed
        self._most_files = most_files
        self._clock = clock
        self.files: dict[Key, documents_pb2.File] = {}
        self.stores: dict[Key, documents_pb2.VectorStore] = {}
        self.attached: dict[Key, dict[str, documents_pb2.Attached]] = {}
        """By tenant and vector store, then by file."""

    def load(self) -> None:
        """Read all cards. Blocks: call off the loop."""
        for page in self._collection.pages(Where({"kind": "file"})):
            for entry in page:
                file = self._sealed.message(entry, documents_pb2.File)
                self.files[entry.payload["tenant"], file.id] = file
        for page in self._collection.pages(Where({"kind": "store"})):
            for entry in page:
                store = self._sealed.message(entry, documents_pb2.VectorStore)
                self.stores[entry.payload["tenant"], store.id] = store
        for page in self._collection.pages(Where({"kind": "attached"})):
            for entry in page:
                card = self._sealed.message(entry, documents_pb2.Attached)
                self.attached.setdefault((entry.payload["tenant"], card.store_id), {})[card.file_id] = card

    def file(self, tenant: str, file_id: str) -> documents_pb2.File:
        """One of the tenant's. Raises NotFound."""
        found = self.files.get((tenant, file_id))
        if found is None:
            raise NotFound(f"there is no file {file_id[:80]!r}", param="file_id")
        return found

    def store(self, tenant: str, store_id: str) -> documents_pb2.VectorStore:
        """One of the tenant's, with the counts of its files. Raises NotFound."""
        found = self.stores.get((tenant, store_id))
        if found is None:
            raise NotFound(f"there is no vector store {store_id[:80]!r}", param="vector_store_id")
        shown = documents_pb2.VectorStore()
        shown.CopyFrom(found)
        for card in self.attached.get((tenant, store_id), {}).values():
            shown.in_progress += card.status == IN_PROGRESS
            shown.completed += card.status == COMPLETED
            shown.failed += card.status == FAILED
            shown.usage_bytes += card.usage_bytes
        return shown

    def attachment(self, tenant: str, store_id: str, file_id: str) -> documents_pb2.Attached:
        """A file in a vector store. Raises NotFound."""
        self.store(tenant, store_id)
        found = self.attached.get((tenant, store_id), {}).get(file_id)
        if found is None:
            raise NotFound(f"vector store {store_id[:80]!r} has no file {file_id[:80]!r}", param="file_id")
        return found

    def files_of(self, tenant: str) -> list[documents_pb2.File]:
        """Newest first."""
        return _newest((file for (owner, _), file in self.files.items() if owner == tenant), lambda file: file.id)

    def stores_of(self, tenant: str) -> list[documents_pb2.VectorStore]:
        """Newest first."""
        mine = [self.store(tenant, store.id) for (owner, _), store in self.stores.items() if owner == tenant]
        return _newest(mine, lambda store: store.id)

    def attached_to(self, tenant: str, store_id: str) -> list[documents_pb2.Attached]:
        """The files of a vector store, newest first. Raises NotFound."""
        self.store(tenant, store_id)
        return _newest(self.attached.get((tenant, store_id), {}).values(), lambda card: card.file_id)

    def stores_with(self, tenant: str, file_id: str) -> list[str]:
        """The vector stores that a file is in."""
        return [store for (owner, store), cards in self.attached.items() if owner == tenant and file_id in cards]

    def new_file(self, tenant: str, name: str, size: int, purpose: str) -> documents_pb2.File:
        """A card that is not kept yet. Raises InvalidArgument where there are too many."""
        limits.name(tenant, "tenant", empty=True)
        if len(self.files) >= self._most_files:
            raise InvalidArgument(
                f"{len(self.files)} files are kept; accepted are up to {self._most_files} (memory.document_files): "
                "delete some",
                param="file",
            )
        id = f"file-{secrets.token_hex(12)}"
        return documents_pb2.File(id=id, name=name, bytes=size, created_ms=self._now_ms(), purpose=purpose)

    async def put_file(self, tenant: str, file: documents_pb2.File) -> None:
        """Keep its card."""
        await self._put("file", tenant, file.SerializeToString(), file_id=file.id)
        self.files[tenant, file.id] = file

    async def put_store(self, request: documents_pb2.PutStoreRequest) -> documents_pb2.VectorStore:
        """Make one, or change it. Raises NotFound."""
        tenant = request.tenant
        limits.name(tenant, "tenant", empty=True)
        limits.name(request.name, "name", empty=True)
        limits.metadata(request.metadata)
        if request.id:
            card = documents_pb2.VectorStore(id=request.id, created_ms=self.store(tenant, request.id).created_ms)
        else:
            count = sum(owner == tenant for owner, _ in self.stores)
            if count >= MAX_STORES:
                raise InvalidArgument(f"there are {count} vector stores; accepted are up to {MAX_STORES}", param="name")
            card = documents_pb2.VectorStore(id=f"vs_{secrets.token_hex(12)}", created_ms=self._now_ms())
        card.name = request.name
        card.metadata.update(request.metadata)
        await self._put("store", tenant, card.SerializeToString(), store_id=card.id)
        self.stores[tenant, card.id] = card
        return self.store(tenant, card.id)

    async def put_attached(self, tenant: str, card: documents_pb2.Attached) -> None:
        """Keep what became of a file in a vector store."""
        await self._put("attached", tenant, card.SerializeToString(), store_id=card.store_id, file_id=card.file_id)
        self.attached.setdefault((tenant, card.store_id), {})[card.file_id] = card

    async def drop_file(self, tenant: str, file_id: str) -> None:
        """Forget its card."""
        self.files.pop((tenant, file_id), None)
        await self._delete(point("file", tenant, "", file_id))

    async def drop_store(self, tenant: str, store_id: str) -> None:
        """Forget its card."""
        self.stores.pop((tenant, store_id), None)
        self.attached.pop((tenant, store_id), None)
        await self._delete(point("store", tenant, store_id, ""))

    async def drop_attached(self, tenant: str, store_id: str, file_id: str) -> None:
        """Forget that a file was in a vector store."""
        self.attached.get((tenant, store_id), {}).pop(file_id, None)
        await self._delete(point("attached", tenant, store_id, file_id))

    def unfinished(self) -> list[tuple[str, documents_pb2.Attached]]:
        """Files whose chunks are still to be made, each with its tenant; oldest first."""
        cards = [
            (tenant, card)
            for (tenant, _), cards in self.attached.items()
            for card in cards.values()
            if card.status == IN_PROGRESS
        ]
        return sorted(cards, key=lambda each: (each[1].created_ms, each[1].file_id))

    def is_whole(self, tenant: str, store_id: str, file_id: str) -> bool:
        """Whether a chunk of this file in this vector store may be found."""
        card = self.attached.get((tenant, store_id), {}).get(file_id)
        return card is not None and card.status == COMPLETED

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def attached_now(self, request: documents_pb2.AttachRequest) -> documents_pb2.Attached:
        """The card of a file whose chunks are to be made, not kept yet."""
        return documents_pb2.Attached(
            store_id=request.store_id,
            file_id=request.file_id,
            created_ms=self._now_ms(),
            status=IN_PROGRESS,
            chunking=request.chunking,
        )

    async def _put(self, kind: Kind, tenant: str, said: bytes, *, store_id: str = "", file_id: str = "") -> None:
        entry = self._sealed.entry(kind, tenant, said, store_id=store_id, file_id=file_id)
        await asyncio.to_thread(self._collection.upsert, [entry])

    async def _delete(self, id: str) -> None:
        await asyncio.to_thread(self._collection.delete, [id])


def _newest(cards: Iterable[Card], name: Callable[[Card], str]) -> list[Card]:
    return sorted(cards, key=lambda card: (-card.created_ms, name(card)))
