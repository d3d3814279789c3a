"""The witness log's chain: what is hashed, what is stored, and how a stored entry is checked. Pure.

hash_n = SHA-256(hash_{n-1} || vectors_n || blob_n)

blob is the entry's deterministic protobuf encoding, its texts replaced by their SHA-256 and its vectors left out;
vectors is the SHA-256 of those. The log keeps no text, and the store normalises vectors: no bits to compare.
"""

import base64
import struct
import uuid
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from actors.memory import limits
from actors.memory.store import Entry
from protos.gen import memory_pb2

GENESIS = bytes(32)
INTEGERS = ("sequence", "time_ms")
FLOATS = ("total_ms", "quality")
KEYWORDS = ("tenant", "failed", "session_id", "model", "entry_id")
BLOB_BYTES = 64 << 10
EMBEDDED_CHARACTERS = 4096
"""Of a question, kept until it is embedded: four times what the encoder reads."""
Vector = NDArray[np.float32]
_IDS = uuid.UUID("6f1d5b0e-52d3-4f6e-9a53-6f9a1f2f7c11")


@dataclass(frozen=True)
class Head:
    """The end of the chain: the next entry's sequence number, and the newest hash."""

    next_sequence: int = 0
    hash: bytes = GENESIS


@dataclass(frozen=True)
class Draft:
    """An entry that waits to be written: checked, without its texts. `point` is the same for each try to write it."""

    point: str
    entry: memory_pb2.WitnessEntry
    """As it is stored: without texts and vectors."""
    blob: bytes
    """The same, encoded."""
    question: str
    """To be embedded later; empty where its vector was given."""
    query: Vector
    response: Vector


def draft(entry: memory_pb2.WitnessEntry, width: int) -> Draft:
    """What is kept of an entry. Raises InvalidArgument or TooLarge for one that could never be written."""
    limits.name(entry.id, "id")
    for what in ("tenant", "session_id", "model", "model_revision", "replica_id"):
        limits.name(getattr(entry, what), what, empty=True)
    limits.finite([value for _, value in entry.latency.ListFields()], "latency")
    if entry.HasField("quality"):
        limits.share(entry.quality, "quality")
    for field, score in entry.scores.ListFields():
        limits.share(score, f"scores.{field.name}")
    query = limits.vector(entry.query_embedding, width, "query_embedding")
    response = limits.vector(entry.response_embedding, width, "response_embedding")
    stored = memory_pb2.WitnessEntry()
    stored.CopyFrom(entry)
    for what in ("query_text", "response_text"):
        if text := getattr(stored, what):
            setattr(stored, what, "sha256:" + sha256(text.encode()).hexdigest())
    del stored.query_embedding[:]
    del stored.response_embedding[:]
    blob = stored.SerializeToString(deterministic=True)
    limits.size(len(blob), BLOB_BYTES, f"entry {entry.id}")
    question = "" if query.size else entry.query_text[:EMBEDDED_CHARACTERS]
    return Draft(point_id(entry.id), stored, blob, question, query, response)


def append(head: Head, draft: Draft) -> tuple[Head, Entry]:
    """The chain with one entry more, and the point to store for it."""
    digest = _digest(draft.query, draft.response) if draft.query.size or draft.response.size else ""
    new = Head(head.next_sequence + 1, link(head.hash, digest, draft.blob))
    payload = _payload(head.next_sequence, new.hash, digest, draft.blob, draft.entry)
    # Read as a whole by the index, which a list of numbers is not.
    return new, Entry(draft.point, payload, array("f", draft.query.tobytes()) or None)


def check(previous: bytes, sequence: int, stored: Mapping[str, Any]) -> tuple[bytes, str]:
    """The hash that entry `sequence` must have after `previous`, and what is wrong with the stored one, if anything."""
    try:
        blob, digest = base64.b64decode(stored["blob"], validate=True), str(stored["vectors"])
        found = link(previous, digest, blob)
        expected = _payload(sequence, found, digest, blob, memory_pb2.WitnessEntry.FromString(blob))
    except (KeyError, TypeError, ValueError, DecodeError) as error:
        return previous, f"entry {sequence} cannot be read: {error!r}"
    if found.hex() != stored.get("hash"):
        return found, f"entry {sequence} ({expected['entry_id']}) was changed, or one before it moved"
    changed = sorted(key for key in {*expected, *stored} if not _equal(expected.get(key), stored.get(key)))
    if changed:
        return found, f"entry {sequence} ({expected['entry_id']}) was changed in {', '.join(changed)}"
    return found, ""


def link(previous: bytes, vectors: str, blob: bytes) -> bytes:
    """The hash of an entry after `previous`; `vectors` is a digest in hex, or empty."""
    return sha256(previous + b"%d:" % len(vectors) + vectors.encode() + blob).digest()


def head_of(stored: Mapping[str, Any]) -> Head:
    """The head where this is the newest entry."""
    return Head(int(stored["sequence"]) + 1, bytes.fromhex(stored["hash"]))


def record(stored: Mapping[str, Any]) -> memory_pb2.WitnessRecord:
    """A stored entry as it is answered."""
    entry = memory_pb2.WitnessEntry.FromString(base64.b64decode(stored["blob"]))
    return memory_pb2.WitnessRecord(entry=entry, sequence=stored["sequence"], hash=bytes.fromhex(stored["hash"]))


def point_id(entry_id: str) -> str:
    """The store's id of an entry: the same for each try to write it, which makes writing exactly once."""
    return str(uuid.uuid5(_IDS, entry_id))


def _payload(sequence: int, hash_: bytes, vectors: str, blob: bytes, entry: memory_pb2.WitnessEntry) -> dict[str, Any]:
    """All that is stored of an entry. What queries filter by follows from the blob, so that it is checked with it."""
    payload = {
        "sequence": sequence,
        "hash": hash_.hex(),
        "vectors": vectors,
        "blob": base64.b64encode(blob).decode(),
        "entry_id": entry.id,
        "tenant": entry.tenant,
        "session_id": entry.session_id,
        "model": entry.model,
        "time_ms": entry.time_ms,
        "total_ms": entry.latency.total_ms,
        "failed": "yes" if entry.error else "no",
    }
    return payload | ({"quality": entry.quality} if entry.HasField("quality") else {})


def _equal(expected: Any, stored: Any) -> bool:
    """The store's JSON may lose the last bit of a float; these were float32 before, and are equal as such."""
    if isinstance(expected, float) and isinstance(stored, float | int):
        return np.float32(expected) == np.float32(stored)
    return expected == stored


def _digest(query: Vector, response: Vector) -> str:
    values = struct.pack("<I", len(query)) + query.astype("<f4").tobytes() + response.astype("<f4").tobytes()
    return sha256(values).hexdigest()
