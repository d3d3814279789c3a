"""The witness log: one entry a request, hash-chained, so that a change, a gap or a swap shows.

hash_n = SHA-256(hash_{n-1} || blob_n), where blob is the entry's deterministic protobuf encoding with texts and vectors
replaced by their SHA-256: the store normalises vectors, so they could not be compared bit by bit, and the log keeps no
text.
"""

import asyncio
import base64
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from actors.base.errors import RussetError
from actors.base.telemetry import Telemetry
from actors.memory.config import MemoryConfig
from actors.memory.store import Collection, Entry, Where
from protos.gen import memory_pb2

log = logging.getLogger(__name__)
GENESIS = bytes(32)
_IDS = uuid.UUID("6f1d5b0e-52d3-4f6e-9a53-6f9a1f2f7c11")
Embed = Callable[[Sequence[str]], Awaitable[tuple[NDArray[np.float32], int]]]
INTEGERS = ("sequence", "time_ms")
FLOATS = ("total_ms", "quality")
KEYWORDS = ("tenant", "failed", "session_id", "model", "entry_id")


def canonical(entry: memory_pb2.WitnessEntry) -> bytes:
    """The bytes an entry is hashed as: texts and vectors as digests, fields in order."""
    stored = memory_pb2.WitnessEntry()
    stored.CopyFrom(entry)
    for name in ("query_text", "response_text"):
        text = getattr(stored, name)
        if text and not text.startswith("sha256:"):
            setattr(stored, name, "sha256:" + sha256(text.encode()).hexdigest())
    for name in ("query_embedding", "response_embedding"):
        del getattr(stored, name)[:]
    return stored.SerializeToString(deterministic=True)


def point_id(entry_id: str) -> str:
    """The store's id of an entry: the same for each try to write it, which makes writing exactly once."""
    return str(uuid.uuid5(_IDS, entry_id))


def link(previous: bytes, blob: bytes) -> bytes:
    """The hash of an entry after `previous`."""
    return sha256(previous + blob).digest()


@dataclass
class Head:
    """The end of the chain: the next entry's sequence number, and the newest hash."""

    next_sequence: int = 0
    hash: bytes = GENESIS


class WitnessLog:
    """Queues entries without waiting, writes them in batches, answers queries, verifies the chain."""

    def __init__(self, config: MemoryConfig, collection: Collection, embed: Embed, telemetry: Telemetry) -> None:
        self._config = config
        self._collection = collection
        self._embed = embed
        self._queue: asyncio.Queue[memory_pb2.WitnessEntry] = asyncio.Queue(config.witness_queue)
        self._task: asyncio.Task[None] | None = None
        self._dropped = telemetry.counter("russet_witness_dropped_total", "Witness entries dropped on a full queue")
        self._written = telemetry.counter("russet_witness_written_total", "Witness entries written")
        self._failed = telemetry.counter("russet_witness_retries_total", "Witness batches that had to be written again")
        self.dropped = 0
        newest = collection.scan(Where(), 1, "sequence")
        self.head = Head()
        if newest:
            payload = newest[0].payload
            self.head = Head(payload["sequence"] + 1, bytes.fromhex(payload["hash"]))

    @property
    def queued(self) -> int:
        """Entries not yet written."""
        return self._queue.qsize()

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._write_forever(), name="witness")

    async def stop(self) -> None:
        """Write what is queued, then end."""
        await self.flush()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def flush(self) -> None:
        """Return when everything queued so far is durable."""
        await self._queue.join()

    def append(self, entries: Sequence[memory_pb2.WitnessEntry]) -> int:
        """Queue entries; returns how many were dropped because the queue was full."""
        dropped = 0
        for entry in entries:
            try:
                self._queue.put_nowait(entry)
            except asyncio.QueueFull:
                dropped += 1
        if dropped:
            self.dropped += dropped
            self._dropped.inc(dropped)
        return dropped

    async def query(self, request: memory_pb2.QueryWitnessRequest) -> list[memory_pb2.WitnessRecord]:
        """Newest first; see the proto for what may be asked."""
        equals: dict[str, str | int | float | bool] = {"tenant": request.tenant}
        between: dict[str, tuple[float | None, float | None]] = {}
        if request.id:
            equals["entry_id"] = request.id
        if request.errors_only:
            equals["failed"] = "yes"
        if request.from_ms or request.to_ms:
            between["time_ms"] = (request.from_ms or None, request.to_ms or None)
        if request.HasField("quality_below"):
            between["quality"] = (None, float(np.nextafter(request.quality_below, -1)))
        if request.HasField("slower_than_ms"):
            between["total_ms"] = (float(np.nextafter(request.slower_than_ms, np.inf)), None)
        found = await asyncio.to_thread(self._collection.scan, Where(equals, between), request.limit or 100, "sequence")
        return [_record(entry) for entry in found]

    async def verify(self) -> memory_pb2.VerifyWitnessReply:
        """Walk the chain from its first entry; names the first that is missing, moved or changed."""
        await self.flush()
        return await asyncio.to_thread(self._verify)

    def _verify(self) -> memory_pb2.VerifyWitnessReply:
        previous, expected, window = GENESIS, 0, 1000
        while expected < self.head.next_sequence:
            span = Where(between={"sequence": (expected, expected + window - 1)})
            entries = sorted(
                self._collection.scan(span, window, "sequence"), key=lambda entry: entry.payload["sequence"]
            )
            for entry in entries:
                sequence, blob = entry.payload["sequence"], base64.b64decode(entry.payload["blob"])
                if sequence != expected:
                    return self._broken(expected, f"entry {expected} is missing; {sequence} follows")
                previous = link(previous, blob)
                if previous.hex() != entry.payload["hash"]:
                    return self._broken(
                        expected, f"entry {expected} ({_entry(blob).id}) was changed, or one before it moved"
                    )
                expected += 1
            if not entries:
                return self._broken(
                    expected, f"entries {expected} to {min(expected + window, self.head.next_sequence) - 1} are missing"
                )
        return memory_pb2.VerifyWitnessReply(entries=expected, sound=True, head=previous)

    def _broken(self, sequence: int, problem: str) -> memory_pb2.VerifyWitnessReply:
        return memory_pb2.VerifyWitnessReply(
            entries=self._collection.count(), sound=False, broken_at=sequence, problem=problem, head=self.head.hash
        )

    async def _write_forever(self) -> None:
        while True:
            batch = [await self._queue.get()]
            deadline = asyncio.get_running_loop().time() + self._config.witness_flush_s
            while len(batch) < self._config.witness_batch:
                try:
                    async with asyncio.timeout_at(deadline):
                        batch.append(await self._queue.get())
                except TimeoutError:
                    break
            await self._write_until_durable(batch)
            for _ in batch:
                self._queue.task_done()

    async def _write_until_durable(self, batch: list[memory_pb2.WitnessEntry]) -> None:
        """A batch that failed is tried again, with pauses: an accepted entry is not lost to a passing fault."""
        pause_s = 0.1
        while True:
            try:
                vectors = await self._vectors(batch)
                written = await asyncio.to_thread(self._write, batch, vectors)
            except (RussetError, OSError, RuntimeError) as error:
                self._failed.inc()
                log.warning("witness batch of %d not written (%s); trying again", len(batch), error)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 5.0)
            else:
                self._written.inc(written)
                return

    async def _vectors(self, batch: list[memory_pb2.WitnessEntry]) -> list[Sequence[float] | None]:
        """Each entry's query vector: given, or embedded from its text now; None where it brought neither."""
        wanting = [entry for entry in batch if not entry.query_embedding and entry.query_text]
        vectors, _ = await self._embed([entry.query_text for entry in wanting])
        fresh = {entry.id: vector.tolist() for entry, vector in zip(wanting, vectors, strict=True)}
        return [list(entry.query_embedding) or fresh.get(entry.id) for entry in batch]

    def _write(self, batch: list[memory_pb2.WitnessEntry], vectors: list[Sequence[float] | None]) -> int:
        known = {entry.id for entry in self._collection.get([point_id(entry.id) for entry in batch])}
        head, points = Head(self.head.next_sequence, self.head.hash), []
        for entry, vector in zip(batch, vectors, strict=True):
            point = point_id(entry.id)
            if point in known:
                continue
            known.add(point)
            blob = canonical(entry)
            head.hash = link(head.hash, blob)
            payload = {
                "sequence": head.next_sequence,
                "hash": head.hash.hex(),
                "blob": base64.b64encode(blob).decode(),
                "entry_id": entry.id,
                "tenant": entry.tenant,
                "session_id": entry.session_id,
                "model": entry.model,
                "time_ms": entry.time_ms,
                "total_ms": entry.latency.total_ms,
                "failed": "yes" if entry.error else "no",
            }
            if entry.HasField("quality"):
                payload["quality"] = entry.quality
            points.append(Entry(point, payload, vector))
            head.next_sequence += 1
        if points:
            self._collection.upsert(points)
        self.head = head
        return len(points)


def _entry(blob: bytes) -> memory_pb2.WitnessEntry:
    return memory_pb2.WitnessEntry.FromString(blob)


def _record(entry: Entry) -> memory_pb2.WitnessRecord:
    payload = entry.payload
    stored = _entry(base64.b64decode(payload["blob"]))
    return memory_pb2.WitnessRecord(entry=stored, sequence=payload["sequence"], hash=bytes.fromhex(payload["hash"]))
