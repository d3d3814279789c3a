"""The witness log: one entry a request, queued without waiting, written in batches, hash-chained (see `chain`).

append -> queue -> batch (full, or old enough) -> embed -> chain -> store -> sealed head in a file of its own
"""

import asyncio
import contextlib
import itertools
import logging
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors.base.errors import InvalidArgument
from actors.base.keys import Keyring
from actors.base.telemetry import Telemetry
from actors.memory import limits
from actors.memory.chain import GENESIS, Draft, Head, append, check, draft, head_of, record
from actors.memory.config import MemoryConfig
from actors.memory.ownership import write_whole
from actors.memory.store import Collection, Where
from protos.gen import memory_pb2

log = logging.getLogger(__name__)
Embed = Callable[[Sequence[str]], Awaitable[tuple[NDArray[np.float32], int]]]
WINDOW = 1000
STOP_S = 10.0
MAX_PAUSE_S = 5.0


class HeadFile:
    """The head outside the store, sealed with the cluster key: entries cut from the chain's end are missed by it."""

    _CONTEXT = b"witness head"

    def __init__(self, path: Path, keyring: Keyring) -> None:
        self._path = path
        self._keyring = keyring

    def write(self, head: Head) -> None:
        """Replace it."""
        write_whole(self._path, self._keyring.seal(struct.pack("<Q", head.next_sequence) + head.hash, self._CONTEXT))

    def read(self) -> Head:
        """The head as last written; an empty chain's where it never was. Raises InvalidArgument if it was changed."""
        if not self._path.exists():
            return Head()
        try:
            content = self._keyring.open(self._path.read_bytes(), self._CONTEXT)
        except InvalidArgument as error:
            raise InvalidArgument(f"{self._path}: {error}; restore it, or move it away and trust the store") from None
        return Head(struct.unpack("<Q", content[:8])[0], content[8:])


class WitnessLog:
    """Queues entries without waiting, writes them in batches, answers queries, verifies the chain."""

    def __init__(
        self, config: MemoryConfig, collection: Collection, embed: Embed, head_file: HeadFile, telemetry: Telemetry
    ) -> None:
        self._config = config
        self._collection = collection
        self._embed = embed
        self._head_file = head_file
        # Entries leave it when they are written: its length is all that waits, and a batch that failed is still there.
        self._queue: deque[Draft] = deque()
        self._arrived = asyncio.Event()
        self._hurry = asyncio.Event()
        self._progress = asyncio.Condition()
        self._accepted = self._done = self._flushers = 0
        self._task: asyncio.Task[None] | None = None
        self._dropped = telemetry.counter("russet_witness_dropped_total", "Witness entries dropped on a full queue")
        self._written = telemetry.counter("russet_witness_written_total", "Witness entries written")
        self._failed = telemetry.counter("russet_witness_retries_total", "Witness batches that had to be written again")
        self.dropped = 0
        self._doubtful = False
        self.head = self._find_head()

    @property
    def queued(self) -> int:
        """Entries not yet written."""
        return len(self._queue)

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._write_forever(), name="witness")

    async def stop(self) -> None:
        """Write what is queued, then end; a store that takes nothing for STOP_S loses it, and the log says how much."""
        try:
            async with asyncio.timeout(STOP_S):
                await self.flush()
        except TimeoutError:
            log.error("%d witness entries were not written in %.0f s and are lost", self.queued, STOP_S)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def flush(self) -> None:
        """Return when everything queued so far is written."""
        accepted = self._accepted
        if self._done >= accepted:
            return
        self._flushers += 1
        self._hurry.set()
        try:
            async with self._progress:
                await self._progress.wait_for(lambda: self._done >= accepted)
        finally:
            self._flushers -= 1

    def append(self, entries: Sequence[memory_pb2.WitnessEntry]) -> int:
        """Queue entries; returns how many were dropped because the queue was full.

        Raises InvalidArgument or TooLarge, and queues none, where one of them could never be written.
        """
        drafts = [draft(entry, self._collection.schema.width) for entry in entries]
        room = self._config.witness_queue - len(self._queue)
        self._queue.extend(drafts[:room])
        self._accepted += min(len(drafts), room)
        if self._queue:
            self._arrived.set()
        if len(self._queue) >= self._config.witness_batch:
            self._hurry.set()
        dropped = max(len(drafts) - room, 0)
        if dropped:
            self.dropped += dropped
            self._dropped.inc(dropped)
        return dropped

    async def query(self, request: memory_pb2.QueryWitnessRequest) -> list[memory_pb2.WitnessRecord]:
        """Newest first; see the proto for what may be asked."""
        limit = limits.listed(request.limit, 100)
        where = _where(request)
        found = await asyncio.to_thread(self._collection.scan, where, limit, "sequence")
        return [record(entry.payload) for entry in found]

    async def verify(self) -> memory_pb2.VerifyWitnessReply:
        """Walk the chain from its first entry; names the first that is missing, moved or changed."""
        await self.flush()
        return await asyncio.to_thread(self._verify, self.head)

    def _verify(self, head: Head) -> memory_pb2.VerifyWitnessReply:
        def broken(sequence: int, problem: str) -> memory_pb2.VerifyWitnessReply:
            return memory_pb2.VerifyWitnessReply(
                entries=sequence, sound=False, broken_at=sequence, problem=problem, head=head.hash
            )

        previous, expected = GENESIS, 0
        while expected < head.next_sequence:
            last = min(expected + WINDOW, head.next_sequence) - 1
            # Twice the window, so that entries which share a sequence number are seen.
            found = self._collection.scan(Where(between={"sequence": (expected, last)}), 2 * WINDOW, "sequence")
            for entry in reversed(found):
                sequence = entry.payload["sequence"]
                if sequence < expected:
                    return broken(sequence, f"two entries claim to be number {sequence}")
                if sequence > expected:
                    return broken(expected, f"entry {expected} is missing; {sequence} follows")
                previous, problem = check(previous, expected, entry.payload)
                if problem:
                    return broken(expected, problem)
                expected += 1
            if expected <= last:
                return broken(expected, f"entries {expected} to {last} are missing")
        if previous != head.hash:
            return broken(expected - 1, f"entry {expected - 1} is not the one that was written last")
        return memory_pb2.VerifyWitnessReply(entries=expected, sound=True, head=previous)

    def _find_head(self) -> Head:
        """Where the chain goes on: after the newest entry stored, or after the newest known to have been."""
        kept = self._head_file.read()
        newest = self._collection.scan(Where(), 1, "sequence")
        stored = head_of(newest[0].payload) if newest else Head()
        if stored.next_sequence < kept.next_sequence:
            log.error(
                "the witness log ends at entry %d, but %d were written: its end was cut off",
                stored.next_sequence,
                kept.next_sequence,
            )
            return kept
        return stored

    async def _write_forever(self) -> None:
        while True:
            await self._arrived.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._config.witness_flush_s):
                    await self._hurry.wait()
            batch = list(itertools.islice(self._queue, self._config.witness_batch))
            await self._write_until_written(batch)
            for _ in batch:
                self._queue.popleft()
            if not self._queue:
                self._arrived.clear()
            async with self._progress:
                self._done += len(batch)
                self._progress.notify_all()
            if len(self._queue) < self._config.witness_batch and not self._flushers:
                self._hurry.clear()

    async def _write_until_written(self, batch: list[Draft]) -> None:
        """A batch that failed is tried again, with pauses: an accepted entry is not lost to a passing fault."""
        pause_s = 0.1
        while True:
            try:
                if self._doubtful:
                    self.head = await asyncio.to_thread(self._find_head)
                    self._doubtful = False
                queries = await self._queries(batch)
                written = await asyncio.to_thread(self._write, batch, queries)
            except Exception:
                # Whatever it was, the queue is the only place that still has these entries.
                # The store may have written before it failed: ask it where the chain ends.
                self._doubtful = True
                self._failed.inc()
                log.exception("witness batch of %d not written; trying again in %.1f s", len(batch), pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, MAX_PAUSE_S)
            else:
                self._written.inc(written)
                return

    async def _queries(self, batch: list[Draft]) -> list[Sequence[float]]:
        """Each entry's query vector: given, or embedded from its text now; empty where it brought neither."""
        vectors, _ = await self._embed([each.question for each in batch if each.question])
        fresh = iter(vectors)
        return [next(fresh).tolist() if each.question else each.query for each in batch]

    def _write(self, batch: list[Draft], queries: list[Sequence[float]]) -> int:
        """Append those that are not in the store yet; how many."""
        head, points = self.head, []
        known = {entry.id for entry in self._collection.get([each.point for each in batch])}
        for each, query in zip(batch, queries, strict=True):
            if each.point in known:
                continue
            known.add(each.point)
            head, point = append(head, each, query)
            points.append(point)
        if points:
            self._collection.upsert(points)
            self._head_file.write(head)
        self.head = head
        return len(points)


def _where(request: memory_pb2.QueryWitnessRequest) -> Where:
    equals: dict[str, str | int | bool] = {"tenant": request.tenant}
    between: dict[str, tuple[float | None, float | None]] = {}
    if request.id:
        equals["entry_id"] = request.id
    if request.errors_only:
        equals["failed"] = "yes"
    if request.from_ms or request.to_ms:
        between["time_ms"] = (request.from_ms or None, request.to_ms or None)
    if request.HasField("quality_below"):
        limits.finite([request.quality_below], "quality_below")
        between["quality"] = (None, float(np.nextafter(request.quality_below, -np.inf)))
    if request.HasField("slower_than_ms"):
        limits.finite([request.slower_than_ms], "slower_than_ms")
        between["total_ms"] = (float(np.nextafter(request.slower_than_ms, np.inf)), None)
    return Where(equals, between)
