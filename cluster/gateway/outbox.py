"""A bounded queue to one receiver, which may be away for a while."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from actors.base.errors import DeadlineExceeded, Unavailable

log = logging.getLogger(__name__)

MAX_PAUSE_S = 5.0

Item = TypeVar("Item")


class Outbox(Generic[Item]):
    """A bounded queue with one sender: batches, in order, tried again while the other side is away."""

    def __init__(
        self,
        to: str,
        send: Callable[[Sequence[Item]], Awaitable[None]],
        dropped: Callable[[int], None],
        limit: int,
        batch: int,
        delay_s: float,
        overflow: Callable[[Item], None] | None = None,
    ) -> None:
        """`overflow` takes what a full queue has no room for; without it, that is dropped and counted."""
        self._to, self._send, self._dropped, self._overflow = to, send, dropped, overflow
        self._items: deque[Item] = deque()
        self._limit, self._batch, self._delay_s = limit, batch, delay_s
        self._arrived = asyncio.Event()
        self._hurry = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send."""
        self._task = asyncio.create_task(self._run(), name=f"records to {self._to}")

    @property
    def waiting(self) -> int:
        """Items that are not being sent yet."""
        return len(self._items)

    def put(self, item: Item) -> None:
        """Queue one; a full queue lets go of its oldest."""
        if len(self._items) >= self._limit:
            oldest = self._items.popleft()
            if self._overflow is not None:
                self._overflow(oldest)
            else:
                self._dropped(1)
        self._items.append(item)
        self._empty.clear()
        self._arrived.set()
        if len(self._items) >= self._batch:
            self._hurry.set()

    async def flush(self) -> None:
        """Return when the queue is empty and nothing is being sent."""
        self._hurry.set()
        await self._empty.wait()

    async def stop(self) -> None:
        """End; what is still queued is dropped and counted."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._items:
            self._dropped(len(self._items))
            self._items.clear()

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            await self._wait_for_more()
            batch = [self._items.popleft() for _ in range(min(self._batch, len(self._items)))]
            await self._deliver(batch)
            if not self._items:
                self._arrived.clear()
                self._hurry.clear()
                self._empty.set()

    async def _wait_for_more(self) -> None:
        if self._delay_s:
            try:
                await asyncio.wait_for(self._hurry.wait(), self._delay_s)
            except TimeoutError:
                return

    async def _deliver(self, batch: Sequence[Item]) -> None:
        pause_s = 0.1
        while True:
            try:
                return await self._send(batch)
            except (Unavailable, DeadlineExceeded) as error:
                log.info("%s is away, %d records wait: %s", self._to, len(batch) + len(self._items), error)
            except Exception:
                log.exception("%d records to %s are lost", len(batch), self._to)
                return self._dropped(len(batch))
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)
