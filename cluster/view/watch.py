"""The last minutes: a look every few seconds, kept in a ring."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterator
from itertools import pairwise

from actors.base.errors import RussetError
from cluster.view.figures import grown
from cluster.view.look import NOTHING, Look, Published, look

log = logging.getLogger(__name__)

EVERY_S = 5.0
LOOKS = 121
"""Ten minutes of them."""
FRESH_S = 1.0
"""Who asks within so long of the last look gets that one: many watchers cost what one does."""
RATE_S = 12.0
"""Rates are those of so many last seconds."""
MINUTE_S = 60.0


class Watch:
    """Looks every EVERY_S, and when asked. `published` is asked which services there are."""

    def __init__(self, published: Published) -> None:
        self._published = published
        self._looking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self.ring: deque[Look] = deque(maxlen=LOOKS)
        """EVERY_S apart, the newest last."""
        self.newest = NOTHING

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look(self) -> Look:
        """A look that is no older than FRESH_S."""
        async with self._looking:
            if self.newest is NOTHING or time.monotonic() - self.newest.at_s > FRESH_S:
                self.newest = await look(self._published, self.newest)
            return self.newest

    def since(self, seconds: float) -> Look:
        """The oldest look within so many seconds of the newest: the newest itself where there is no other."""
        return next((each for each in self.ring if self.newest.at_s - each.at_s <= seconds), self.newest)

    async def _run(self) -> None:
        while True:
            try:
                self.ring.append(await self.look())
            except RussetError as error:
                log.warning("no look at the services: %s", error)
            await asyncio.sleep(EVERY_S)


def rate(now: Look, before: Look, name: str, field: str) -> float:
    """What a count of one service grew by in a second between two looks; 0 where it did not answer in both.

    One that was not there before began meanwhile, at 0.
    """
    new, old, seconds = now.services.get(name), before.services.get(name), now.at_s - before.at_s
    if new is None or new.problem or (old is not None and old.problem) or seconds <= 0:
        return 0.0
    return grown(getattr(new.figures, field), getattr(old.figures, field) if old else 0.0) / seconds


def total_rate(now: Look, before: Look, field: str) -> float:
    """The same over all services."""
    return sum(rate(now, before, name, field) for name in now.services)


def total_growth(now: Look, before: Look, field: str) -> int:
    """What a count of all services grew by between two looks."""
    return round(total_rate(now, before, field) * (now.at_s - before.at_s))


def history(ring: deque[Look]) -> Iterator[tuple[float, float, float, float]]:
    """Oldest first: seconds before the newest look, tokens a second in the time that ended then, running, waiting."""
    for before, now in pairwise(ring):
        schedulers = [each.figures for each in now.of("scheduler")]
        yield (
            ring[-1].at_s - now.at_s,
            total_rate(now, before, "generated_tokens"),
            sum(each.running for each in schedulers),
            sum(each.waiting for each in schedulers),
        )
