"""One byte budget for all that a worker holds beside its weights: KV, adapters, router weights, temporaries.

A resident is either pinned (in use: it stays), unpinned (it may go) or gone. Who wants bytes makes room by evicting
unpinned residents in the order of their kinds, temporaries first, and within a kind by score. KV goes last; it is not a
resident but pages of its own (actors/scheduler/kv_pool.py), so the pool asks it to shrink.

What has a `persist` is persisted first and then freed; where that fails nothing is freed, the resident stays as it was,
and whoever wanted the bytes is told why.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

from actors.base.errors import RussetError, Unavailable

log = logging.getLogger(__name__)

HIGH, LOW = 0.85, 0.70
"""Shares of the budget: above HIGH memory is short, and stays so until it is at LOW."""

RECENCY, SIZE, TYPE = 0.6, 0.2, 0.2
"""Weights of the eviction score (MECHANISMS.md, unified pool)."""


class Kind(IntEnum):
    """What a resident is; the least goes first."""

    TEMPORARY = 0
    COLD_ADAPTER = 1
    WARM_ADAPTER = 2
    ROUTER_WEIGHTS = 3
    KV = 4


class OutOfMemory(Unavailable):
    """Bytes were asked for that the budget does not have, and nothing more can be evicted."""


@dataclass(slots=True, eq=False)
class Resident:
    """Something in the pool. Pinned while `pins` > 0."""

    kind: Kind
    nbytes: int
    free: Callable[[], None]
    # Raises RussetError or OSError where it cannot be kept.
    persist: Callable[[], None] | None = None
    pins: int = 0
    used_s: float = 0.0
    # Whether somebody evicts it at this moment: it can neither be pinned nor evicted by another.
    leaving: bool = field(default=False)


class Budget:
    """Bytes taken and left, and the residents that may make room. Safe to call from many threads.

    The bytes taken never exceed the capacity: they are booked before they are used and given back after they are freed.
    `footprint` measures the bytes really in use where the system counts otherwise than we do (macOS); the larger of the
    two decides whether memory is short.
    """

    def __init__(
        self,
        capacity: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        footprint: Callable[[], int] | None = None,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"a budget needs at least one byte, got {capacity}")
        self.capacity = capacity
        self.shrink_kv: Callable[[int], None] | None = None
        """Called with bytes that are wanted, outside the lock, when all else is gone: evict KV that nobody uses."""
        self._clock = clock
        self._footprint = footprint
        self._lock = threading.Lock()
        self._taken = 0
        self._residents: set[Resident] = set()
        self._short = False

    @property
    def taken(self) -> int:
        """Bytes booked."""
        return self._taken

    @property
    def left(self) -> int:
        """Bytes that can be booked without evicting anything."""
        return self.capacity - self._taken

    def book(self, nbytes: int) -> bool:
        """Take bytes if they are there."""
        with self._lock:
            if self._taken + nbytes > self.capacity:
                return False
            self._taken += nbytes
            return True

    def give_back(self, nbytes: int) -> None:
        """Return bytes that were booked."""
        with self._lock:
            if nbytes > self._taken:
                raise ValueError(f"{nbytes} bytes cannot be given back: {self._taken} are taken")
            self._taken -= nbytes

    def admit(
        self, kind: Kind, nbytes: int, free: Callable[[], None], persist: Callable[[], None] | None = None
    ) -> Resident:
        """Book room for a resident, evicting others where needed; it comes pinned. Load it after this returns.

        Raises OutOfMemory, saying what was in the way, and books nothing then.
        """
        self.book_or_evict(nbytes)
        resident = Resident(kind, nbytes, free, persist, pins=1, used_s=self._clock())
        with self._lock:
            self._residents.add(resident)
        return resident

    def book_or_evict(self, nbytes: int) -> None:
        """As `book`, evicting what it takes. Raises OutOfMemory, with nothing evicted where there can never be room."""
        failures: list[str] = []
        if nbytes > self.capacity:
            raise OutOfMemory(f"{nbytes} bytes are wanted; the budget is {self.capacity} in all")
        while not self.book(nbytes):
            if not self._evict_one(failures) and not self._shrink_kv(nbytes):
                reasons = f" ({'; '.join(failures)})" if failures else ""
                raise OutOfMemory(
                    f"{nbytes} bytes are wanted, {self.left} of {self.capacity} are left, and nothing more can be "
                    f"evicted{reasons}",
                    retry_after_s=1.0,
                )

    def pin(self, resident: Resident) -> bool:
        """Keep a resident from being evicted. False where it is gone, or is going."""
        with self._lock:
            if resident not in self._residents or resident.leaving:
                return False
            resident.pins += 1
            resident.used_s = self._clock()
            return True

    def unpin(self, resident: Resident) -> None:
        """Undo one `pin`, or the pin that `admit` gave."""
        with self._lock:
            if resident.pins < 1:
                raise ValueError(f"a resident of {resident.nbytes} bytes is not pinned")
            resident.pins -= 1
            resident.used_s = self._clock()

    def remove(self, resident: Resident) -> None:
        """A resident that its owner freed; it may still be pinned by the caller alone."""
        with self._lock:
            if resident in self._residents:  # else it was evicted at the same time
                self._residents.remove(resident)
                self._taken -= resident.nbytes

    def short(self) -> bool:
        """Whether memory is short: since HIGH was exceeded, until LOW is reached."""
        used = max(self._taken, self._footprint() if self._footprint else 0)
        self._short = used > (LOW if self._short else HIGH) * self.capacity
        return self._short

    def relieve(self) -> int:
        """Where memory is short, evict unpinned residents down to LOW. Returns the bytes freed."""
        before, failures = self._taken, []
        while self.short() and self._evict_one(failures):
            pass
        return before - self._taken

    def _shrink_kv(self, nbytes: int) -> bool:
        if self.shrink_kv is None:
            return False
        before = self._taken
        self.shrink_kv(nbytes)
        return self._taken < before

    def _evict_one(self, failures: list[str]) -> bool:
        """Persist and free the next resident. False where there is none, or all were tried and none could go."""
        with self._lock:
            victim = next_victim(self._residents, self._clock())
            if victim is None:
                return False
            victim.leaving = True
        try:
            if victim.persist is not None:
                victim.persist()
        except (RussetError, OSError) as failure:
            log.warning("%d bytes of %s stay in memory: %s", victim.nbytes, victim.kind.name, failure)
            failures.append(str(failure))
            with self._lock:
                # As if it had just been used: others get their turn before it is tried again.
                victim.leaving, victim.used_s = False, self._clock()
                return len(failures) < len(self._residents)
        victim.free()
        self.remove(victim)
        return True


def next_victim(residents: set[Resident], now_s: float) -> Resident | None:
    """The unpinned resident to evict next: least kind first, then the highest score."""
    candidates = [resident for resident in residents if not resident.pins and not resident.leaving]
    if not candidates:
        return None
    kind = min(resident.kind for resident in candidates)
    candidates = [resident for resident in candidates if resident.kind == kind]
    oldest = max(max(now_s - resident.used_s for resident in candidates), 1e-9)
    largest = max(resident.nbytes for resident in candidates)
    return max(candidates, key=lambda resident: score(resident, now_s, oldest, largest))


def score(resident: Resident, now_s: float, oldest_s: float, largest: int) -> float:
    """0..1, higher goes first: long unused, large, of a kind that is easily had again."""
    recency = (now_s - resident.used_s) / oldest_s
    priority = 1 - resident.kind / max(Kind)
    return RECENCY * recency + SIZE * resident.nbytes / max(largest, 1) + TYPE * priority
