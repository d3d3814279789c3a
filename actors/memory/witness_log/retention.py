"""Moving what is past retention from the store to the archive, in the background.

    periods wholly past witness_keep_s ── checked ──> archive file, durable ──> checkpoint ──> removed from the store

In this order, so that a kill between two steps loses nothing: entries that are in both are removed by the next sweep,
and until then are answered from the archive alone. What the chain does not vouch for is not moved.
"""

import asyncio
import base64
import itertools
import logging
import time
from collections.abc import Callable

from actors.base.telemetry import Telemetry
from actors.memory.chain import Head
from actors.memory.config import MemoryConfig
from actors.memory.store import Collection, Where
from actors.memory.witness_log.archive import MOST_ENTRIES, Archive
from actors.memory.witness_log.files import Checkpoint, WitnessFiles
from actors.memory.witness_log.verification import Broken, stored
from protos.gen import memory_pb2

log = logging.getLogger(__name__)
FIRST_PAUSE_S, PAUSE_S = 30.0, 300.0
BUDGET_S = 10.0
"""Of each PAUSE_S, spent moving at most."""
AHEAD_MS = 86_400_000
"""A sender's clock may be ahead by this much; what claims to come from later holds up nobody."""


class Retention:
    """Archives old entries, and removes old archives."""

    def __init__(
        self,
        config: MemoryConfig,
        collection: Collection,
        archive: Archive,
        files: WitnessFiles,
        lock: asyncio.Lock,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`lock` is held while points are removed; `clock` gives Unix seconds."""
        self._config, self._collection, self._archive, self._files = config, collection, archive, files
        self._lock, self._clock = lock, clock
        self._moved = telemetry.counter("russet_witness_archived_total", "Witness entries moved to the archive")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin: after FIRST_PAUSE_S, then every PAUSE_S."""
        self._task = asyncio.create_task(self._run(), name="witness retention")

    async def stop(self) -> None:
        """End; a file that is being written is finished."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def sweep(self, budget_s: float = BUDGET_S) -> int:
        """Move what is due, then drop archives that are; how many entries were moved."""
        began, moved = time.monotonic(), 0
        await asyncio.shield(self._remove())
        while time.monotonic() - began < budget_s:
            count = await asyncio.shield(asyncio.to_thread(self._keep))
            if not count:
                break
            await asyncio.shield(self._remove())
            self._moved.inc(count)
            moved += count
        await asyncio.shield(asyncio.to_thread(self._forget))
        return moved

    async def _run(self) -> None:
        await asyncio.sleep(FIRST_PAUSE_S)
        while True:
            try:
                if moved := await self.sweep():
                    log.info("moved %d witness entries to the archive", moved)
            except Broken as broken:
                log.error("witness entries are not archived: %s", broken.problem)
            except Exception:
                # The store, or the disk: the entries stay where they are, and are tried again.
                log.exception("witness entries were not archived; trying again in %.0f s", PAUSE_S)
            await asyncio.sleep(PAUSE_S)

    def _keep(self) -> int:
        """Write the next file and the checkpoint after it; how many entries, 0 where none is due."""
        checkpoint = self._files.checkpoint.get()
        live, end = checkpoint.live, self._due(checkpoint.live)
        if end <= live.next_sequence:
            return 0
        end = min(end, live.next_sequence + MOST_ENTRIES)
        last, entries = live, []
        for found in itertools.islice(stored(self._collection, live, Head(end)), MOST_ENTRIES):
            last = Head(found.sequence + 1, found.hash)
            entries.append(
                memory_pb2.ArchivedEntry(blob=base64.b64decode(found.payload["blob"]), vectors=found.payload["vectors"])
            )
        self._archive.write(live.next_sequence, live.hash, entries)
        self._files.checkpoint.put(Checkpoint(checkpoint.kept, last))
        return len(entries)

    def _due(self, live: Head) -> int:
        """Number of the first entry that stays: the first of a period that is not wholly past."""
        period_s = self._config.witness_period_s
        cut_ms = int((self._clock() - self._config.witness_keep_s) // period_s * period_s * 1000)
        young = {"time_ms": (float(cut_ms), self._clock() * 1000 + AHEAD_MS), "sequence": (live.next_sequence, None)}
        first = self._collection.scan(Where(between=young), 1, "sequence", descending=False)
        if first:
            return first[0].payload["sequence"]
        newest = self._collection.scan(Where(), 1, "sequence")
        return newest[0].payload["sequence"] + 1 if newest else 0

    async def _remove(self) -> None:
        """Take from the store what the checkpoint says is archived."""
        live = self._files.checkpoint.get().live
        if not live.next_sequence:
            return
        before = Where(between={"sequence": (None, live.next_sequence - 1)})
        while True:
            async with self._lock:
                entries = await asyncio.to_thread(self._collection.scan, before, 1000, "sequence")
                await asyncio.to_thread(self._collection.delete, [each.id for each in entries])
            if len(entries) < 1000:
                return

    def _forget(self) -> None:
        """Remove archives past witness_archive_keep_s, once the checkpoint says so."""
        if self._config.witness_archive_keep_s is None:
            return
        before_ms = (self._clock() - self._config.witness_archive_keep_s) * 1000
        old = list(itertools.takewhile(lambda head: head.to_ms < before_ms, self._archive.heads))
        if not old:
            return
        checkpoint = self._files.checkpoint.get()
        kept = max(checkpoint.kept, Head(old[-1].first + old[-1].entries, old[-1].last), key=_place)
        self._files.checkpoint.put(Checkpoint(kept, checkpoint.live))
        for head in old:
            self._archive.remove(head)
        log.info("removed %d witness archives, of entries before %d", len(old), kept.next_sequence)


def _place(head: Head) -> int:
    return head.next_sequence
