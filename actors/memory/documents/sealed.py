"""Entries of the `documents` collection: what they are found by in the clear, what they say encrypted.

kind   file        store       attached        part              chunk
ids    file        store       store, file     file, place       store, file, place
says   File        VectorStore Attached        a piece of text   Chunk, beside its vector
"""

import base64
import json
import uuid
from collections.abc import Sequence
from typing import Literal, TypeVar

from google.protobuf.message import Message

from actors.base.errors import Internal, InvalidArgument
from actors.base.keys import Keyring
from actors.memory.store import Entry, Where

Kind = Literal["file", "store", "attached", "part", "chunk"]
KEYWORDS = ("tenant", "kind", "store_id", "file_id")
_IDS = uuid.UUID("0f4d0b6e-6a35-4f0f-9a77-50a6a6c6b1d4")
Said = TypeVar("Said", bound=Message)


def point(kind: Kind, tenant: str, store_id: str, file_id: str, place: int = 0) -> str:
    """The id of an entry."""
    return str(uuid.uuid5(_IDS, json.dumps([kind, tenant, store_id, file_id, place])))


def where(kind: Kind, tenant: str, store_id: str = "", file_id: str = "") -> Where:
    """All of a kind that a tenant has, of one store or file where given."""
    wanted = {"tenant": tenant, "kind": kind, "store_id": store_id, "file_id": file_id}
    return Where({name: value for name, value in wanted.items() if value or name == "tenant"})


class Sealed:
    """Writes and reads entries with the cluster key. An entry's id is its context: moved elsewhere it does not open."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def entry(
        self,
        kind: Kind,
        tenant: str,
        said: bytes,
        *,
        store_id: str = "",
        file_id: str = "",
        place: int = 0,
        vector: Sequence[float] | None = None,
    ) -> Entry:
        """What `said` becomes."""
        id = point(kind, tenant, store_id, file_id, place)
        payload = {
            "tenant": tenant,
            "kind": kind,
            "store_id": store_id,
            "file_id": file_id,
            "place": place,
            "sealed": base64.b64encode(self._keyring.seal(said, context_of(id))).decode(),
        }
        return Entry(id, payload, vector)

    def read(self, entry: Entry) -> bytes:
        """What it says. Raises Internal where it was changed, or the key is another."""
        try:
            return self._keyring.open(base64.b64decode(entry.payload["sealed"]), context_of(entry.id))
        except InvalidArgument as error:
            raise Internal(f"an entry of documents cannot be opened: {error}") from None

    def message(self, entry: Entry, kind: type[Said]) -> Said:
        """The message that it says."""
        return kind.FromString(self.read(entry))


def context_of(id: str) -> bytes:
    """What the entry with this id is sealed with, beside the key."""
    return b"document\0" + id.encode()
