"""Questions that came without a vector, embedded when there is time: writing entries never waits for the encoder.

write a batch ──> a sealed file of its texts ──> embed, when nobody else wants the encoder ──> vectors to the store

The files outlive a kill, and go once their vectors are stored: then no text is left. Such vectors are no part of the
chain, which was linked before they were there.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.base.errors import InvalidArgument
from actors.base.files import write_whole
from actors.base.keys import Keyring
from actors.base.telemetry import Telemetry
from actors.memory.store import Collection, Entry

log = logging.getLogger(__name__)
Embed = Callable[[Sequence[str]], Awaitable[tuple[NDArray[np.float32], int]]]
AT_ONCE = 32
"""Texts embedded, and points written, together."""
MAX_PAUSE_S = 60.0
CONTEXT = b"witness unembedded"
"""Of its files' seals."""


class Text(NamedTuple):
    """A question, and the point that it belongs to."""

    point: str
    text: str


class Embedding:
    """Takes texts of entries that are written, and adds their vectors."""

    def __init__(
        self,
        directory: Path,
        keyring: Keyring,
        collection: Collection,
        embed: Embed,
        most: int,
        telemetry: Telemetry,
    ) -> None:
        """`most` texts wait; entries past that stay without a vector, and are counted. Takes up what was left."""
        self._directory, self._keyring, self._collection, self._embed = directory, keyring, collection, embed
        self._most = most
        self.lock = asyncio.Lock()
        """Held while points are read and written again: nobody may remove them meanwhile."""
        self._without = telemetry.counter(
            "russet_witness_unembedded_total", "Witness entries left without an embedding, for too many waited"
        )
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._files = deque((path, len(self._read(path))) for path in sorted(directory.glob("*.texts")))
        self._next = int(self._files[-1][0].stem) + 1 if self._files else 0
        self.waiting = sum(count for _, count in self._files)
        """Texts that wait."""
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._told()
        self._task = asyncio.create_task(self._run(), name="witness embedding")

    async def stop(self) -> None:
        """End; what waits is taken up again by the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def idle(self) -> None:
        """Return when nothing waits."""
        await self._idle.wait()

    def keep(self, texts: Sequence[Text]) -> tuple[Path, int] | None:
        """Put the texts of a batch on disk, before its entries are stored. Blocks. Hand what it returns to `take`."""
        texts = texts[: max(0, self._most - self.waiting)]
        if not texts:
            return None
        path = self._directory / f"{self._next:012d}.texts"
        self._next += 1
        write_whole(path, self._keyring.seal(json.dumps(texts).encode(), CONTEXT), synced=False)
        return path, len(texts)

    def take(self, kept: tuple[Path, int] | None, count: int) -> None:
        """Queue what `keep` put there of a batch with `count` texts."""
        queued = kept[1] if kept else 0
        if queued < count:
            self._without.inc(count - queued)
        if kept:
            self._files.append(kept)
            self.waiting += queued
            self._told()

    def _told(self) -> None:
        if self._files:
            self._idle.clear()
            self._arrived.set()
        else:
            self._arrived.clear()
            self._idle.set()

    async def _run(self) -> None:
        pause_s = 0.1
        while True:
            await self._arrived.wait()
            path, count = self._files[0]
            try:
                texts = await asyncio.to_thread(self._read, path)
                for start in range(0, len(texts), AT_ONCE):
                    await self._some(texts[start : start + AT_ONCE])
                path.unlink()
            except Exception:
                # The texts are nowhere else: whatever it was, they are tried again.
                log.exception("%d questions of witness entries not embedded; trying again in %.1f s", count, pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
                continue
            pause_s = 0.1
            self._files.popleft()
            self.waiting -= count
            self._told()

    async def _some(self, texts: Sequence[Text]) -> None:
        vectors, _ = await self._embed([each.text for each in texts])
        by_point = {each.point: vector for each, vector in zip(texts, vectors, strict=True)}
        async with self.lock:
            await asyncio.to_thread(self._add, by_point)

    def _add(self, by_point: dict[str, NDArray[np.float32]]) -> None:
        """Write the points again, with their vectors; those that are gone by now stay gone."""
        found = self._collection.get(list(by_point))
        self._collection.upsert([Entry(each.id, each.payload, by_point[each.id].tolist()) for each in found])

    def _read(self, path: Path) -> list[Text]:
        try:
            return [Text(*each) for each in json.loads(self._keyring.open(path.read_bytes(), CONTEXT))]
        except InvalidArgument as error:
            raise InvalidArgument(f"{path}: {error}; remove it, and its entries stay without embeddings") from None
