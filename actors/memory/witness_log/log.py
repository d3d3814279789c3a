"""The witness log's writer: entries are queued without waiting, written in batches, and linked (see `chain`).

append -> queue -> batch (full, or old enough) -> chain -> store -> sealed head in a file of its own -> signed heads
"""

import asyncio
import contextlib
import itertools
import logging
from collections import deque
from collections.abc import Sequence

from actors.base.telemetry import Telemetry
from actors.memory.chain import Draft, Head, append, draft
from actors.memory.config import MemoryConfig
from actors.memory.store import Collection
from actors.memory.witness_log.embedding import Embed, Embedding, Text
from actors.memory.witness_log.files import WitnessFiles
from actors.memory.witness_log.verification import newest
from protos.gen import memory_pb2

log = logging.getLogger(__name__)
STOP_S = 10.0
MAX_PAUSE_S = 5.0


class WitnessLog:
    """Queues entries without waiting, and writes them in batches."""

    def __init__(
        self, config: MemoryConfig, collection: Collection, embed: Embed, files: WitnessFiles, telemetry: Telemetry
    ) -> None:
        self._config = config
        self._collection = collection
        self._files = files
        self.embedding = Embedding(
            files.directory / "witness-unembedded",
            files.keyring,
            collection,
            embed,
            config.witness_unembedded,
            telemetry,
        )
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
        self._signed = self.head.next_sequence

    @property
    def queued(self) -> int:
        """Entries not yet written."""
        return len(self._queue)

    def start(self) -> None:
        """Begin to write."""
        if not self._files.opened():
            log.warning(
                "memory was killed while the witness log was written: it goes on after entry %d; what was accepted "
                "after that and not written is sent again by the senders that waited for it",
                self.head.next_sequence - 1,
            )
        self.embedding.start()
        self._task = asyncio.create_task(self._write_forever(), name="witness")

    async def stop(self) -> None:
        """Write what is queued, then end; a store that takes nothing for STOP_S loses it, and the log says how much."""
        try:
            async with asyncio.timeout(STOP_S):
                await self.flush()
        except TimeoutError:
            log.error("%d witness entries were not written in %.0f s and are lost", self.queued, STOP_S)
        await self.embedding.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await asyncio.to_thread(self._sign)
            if not self._queue:
                self._files.closed()

    async def flush(self) -> None:
        """Return when everything queued so far is written; what comes later is not waited for, nor a batch filled."""
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

    def _find_head(self) -> Head:
        """Where the chain goes on: after the newest entry stored, or after the newest known to have been."""
        stored, kept = newest(self._collection, self._files)
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
                texts = [Text(each.point, each.question) for each in batch if each.question]
                kept = await asyncio.to_thread(self.embedding.keep, texts) if texts else None
                written = await asyncio.to_thread(self._write, batch)
            except Exception:
                # Whatever it was, the queue is the only place that still has these entries.
                # The store may have written before it failed: ask it where the chain ends.
                self._doubtful = True
                self._failed.inc()
                log.exception("witness batch of %d not written; trying again in %.1f s", len(batch), pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, MAX_PAUSE_S)
            else:
                if texts:
                    self.embedding.take(kept, len(texts))
                self._written.inc(written)
                return

    def _write(self, batch: Sequence[Draft]) -> int:
        """Append those that are not in the store yet; how many."""
        head, points = self.head, []
        known = {entry.id for entry in self._collection.get([each.point for each in batch])}
        for each in batch:
            if each.point in known:
                continue
            known.add(each.point)
            head, point = append(head, each)
            points.append(point)
        if points:
            self._collection.upsert(points)
            self._files.head.put(head)
        self.head = head
        if head.next_sequence - self._signed >= self._config.witness_sign_every:
            self._sign()
        return len(points)

    def _sign(self) -> None:
        """Sign the head, where it is not yet."""
        if self.head.next_sequence > self._signed:
            self._files.signed.add(self.head)
            self._signed = self.head.next_sequence
