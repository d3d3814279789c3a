"""The thread that moves units of KV between memory and disk, so that the token path never waits for one.

The engine hands it what plans ask for and goes on; what became of it travels in step results. The scheduler promises
that nobody writes a unit that is being saved, or uses one that is being loaded, until then. Memory is touched under a
lock and only in the epoch of the plan: when the engine begins another, no copy is under way and none follows.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from actors.base.errors import InvalidArgument
from actors.base.telemetry import Telemetry
from actors.worker.kept import Kept
from actors.worker.kept_jobs import Ask, Fetched, Load, News, Save
from actors.worker.results import KeptRecord
from actors.worker.seldom import Seldom
from kernels.decoder import Kv, KvTier

log = logging.getLogger(__name__)

FINISH_S = 3.0
"""How long a stop waits for saves that are queued."""

REST = 2.0
"""After a save with others behind it the thread rests, for so many times what it took of a processor: of those that
compute it has a third of one at most. Nobody waits for a save as for a load, which ends the rest."""

TELL_S = 0.005
"""While there is more to do, news are told this often: each telling wakes the event loop."""

DISK_BUCKETS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2)


class Keeper:
    """Saves and loads units. `submit` and `reset` are the engine thread's, the rest anybody's."""

    def __init__(self, kept: Kept, memory: Kv, telemetry: Telemetry) -> None:
        self._kept = kept
        self._memory = memory
        self._tiers = [(tier.first_page + tier.units * tier.unit_pages, tier) for tier in memory.tiers]
        """Each with the page id at which it ends, in rising order."""
        self._room = sum(tier.units for tier in memory.tiers)
        """Most units that may be queued: a unit is the matter of one job at a time."""
        self._buffer = np.empty(max(tier.unit_bytes for tier in memory.tiers), np.uint8)
        self._due = threading.Condition()
        self._loads: deque[Load | Fetched] = deque()
        self._saves: deque[Save] = deque()
        self._saving: set[bytes] = set()
        """Keys of saves that are not answered: of these no other loss is told, or it would be taken for the answer."""
        self._refused: list[Save | Load] = []
        self._missing: list[Load] = []
        """Loads of what is not on this disk, to be asked for together."""
        self._copying = threading.Lock()
        self._epoch = 0
        self._news = News(0)
        self._told = 0.0
        self._tell: Callable[[KeptRecord], None] = _nobody
        self._telling = threading.Lock()
        self._ask: Ask | None = None
        self._finish_until: float | None = None
        self._thread: threading.Thread | None = None
        self._warn = Seldom(log)
        self._bytes = telemetry.gauge("russet_kv_disk_bytes", "Bytes of KV on disk")
        self._saved = telemetry.counter("russet_kv_saved_total", "Units of KV written to disk")
        self._loaded = telemetry.counter("russet_kv_loaded_total", "Units of KV restored", labels=("source",))
        self._lost = telemetry.counter("russet_kv_lost_total", "Units of KV not kept, or no more", labels=("reason",))
        self._seconds = telemetry.histogram(
            "russet_kv_disk_seconds", "Saving or loading one unit of KV", buckets=DISK_BUCKETS_S, labels=("operation",)
        )
        self._bytes.set(kept.nbytes)

    def start(self, tell: Callable[[KeptRecord], None], ask: Ask | None = None) -> None:
        """Begin. `tell` takes news, from this thread, until `stop`; `ask` reaches other workers."""
        self._tell, self._ask = tell, ask
        self._thread = threading.Thread(target=self._run, name="worker-keeper", daemon=True)
        self._thread.start()

    def keys(self) -> bytes:
        """Keys of the units on disk, laid end to end."""
        return b"".join(self._kept)

    def sealed(self, key: bytes) -> bytes | None:
        """A unit as it lies on disk, for another worker; None where there is none."""
        return self._kept.sealed(key)

    def submit(self, jobs: Iterable[Save | Load]) -> None:
        """Queue what a plan asks for. Jobs for which there is no room fail."""
        with self._due:
            for job in jobs:
                if isinstance(job, Save) and job.key in self._saving:
                    continue  # the answer to the first is this one's too
                if len(self._saves) + len(self._loads) >= self._room:
                    self._refused.append(job)
                elif isinstance(job, Save):
                    self._saves.append(job)
                    self._saving.add(job.key)
                else:
                    self._loads.append(job)
            self._due.notify()

    def reset(self, epoch: int) -> None:
        """Drop what is queued. When this returns no unit of an older epoch is read or written any more.

        Where `epoch` only ends and no other begins, saves go on: memory stays as it is, and its rows may come again.
        """
        with self._due:
            self._drop_loads()
            if epoch != self._epoch:
                self._saves.clear()
                self._saving.clear()
                self._refused.clear()
        with self._copying:
            self._epoch = epoch

    def stop(self, finish_s: float = FINISH_S) -> None:
        """End, once queued saves are done or `finish_s` seconds are over. Nothing is told from here on."""
        with self._telling:
            self._tell = _nobody
        with self._due:
            self._finish_until = time.monotonic() + finish_s
            self._drop_loads()
            self._due.notify()
        if self._thread is not None:
            self._thread.join(finish_s + 1)
            if self._thread.is_alive():
                log.warning("the disk does not answer: what was being written to it is left behind")
        else:
            self._kept.close()

    def _drop_loads(self) -> None:
        for job in self._loads:
            if isinstance(job, Fetched):
                job.release()
        self._loads.clear()

    def _run(self) -> None:
        try:
            while self._wait():
                while (job := self._next()) is not None:
                    began = time.thread_time()
                    self._do(job)
                    rest = REST * (time.thread_time() - began) if isinstance(job, Save) else 0
                    self._report(at_once=rest > TELL_S)
                    self._rest(rest)
                self._ask_peers()
                self._report(at_once=True)
        finally:
            self._kept.close()

    def _wait(self) -> bool:
        """Until there is something to do; False where the end has come."""
        with self._due:
            self._due.wait_for(lambda: self._loads or self._saves or self._refused or self._finish_until is not None)
            return bool(self._saves) if self._finish_until is not None else True

    def _rest(self, seconds: float) -> None:
        with self._due:
            if seconds and self._saves:
                self._due.wait_for(lambda: self._loads or self._finish_until is not None, seconds)

    def _next(self) -> Load | Fetched | Save | None:
        """Loads first: requests wait for them."""
        with self._due:
            refused, self._refused = self._refused, []
            if self._loads:
                job = self._loads.popleft()
            elif self._finish_until is not None and time.monotonic() >= self._finish_until:
                if self._saves:
                    log.warning("%d units of KV were not saved: the worker stops", len(self._saves))
                self._saves.clear()
                job = None
            else:
                job = self._saves.popleft() if self._saves else None
        for one in refused:
            self._fail(one, "full")
        if isinstance(job, Save):
            self._ask_peers()
        return job

    def _do(self, job: Load | Fetched | Save) -> None:
        try:
            if isinstance(job, Save):
                self._save(job)
            elif isinstance(job, Load):
                self._load(job)
            else:
                self._take(job)
        except OSError as failure:
            self._warn.warning("the disk fails: %s; KV that is lost is computed again", failure)
            self._fail(job, "disk")
        except Exception:
            log.exception("a unit of KV could not be moved")
            self._fail(job, "defect")
        finally:
            if isinstance(job, Fetched):
                job.release()
            for key, cause in self._kept.gone():
                self._lost.labels(reason=cause).inc()
                if key not in self._saving:
                    self._of(self._epoch).kept[key] = False
            if isinstance(job, Save) and job.epoch == self._epoch:
                self._saving.discard(job.key)
            self._bytes.set(self._kept.nbytes)

    def _save(self, job: Save) -> None:
        if job.key not in self._kept:
            began = time.perf_counter()
            tier = self._tier(job.unit)
            unit = self._buffer[: tier.unit_bytes]
            if not self._copy(job.epoch, self._memory.read_unit, job.unit, unit):
                return
            self._kept.put(job.key, tier.format, unit.data)
            self._saved.inc()
            self._seconds.labels(operation="save").observe(time.perf_counter() - began)
        self._of(job.epoch).kept[job.key] = True

    def _load(self, job: Load) -> None:
        began = time.perf_counter()
        tier = self._tier(job.unit)
        unit = self._buffer[: tier.unit_bytes]
        known = job.key in self._kept
        if self._kept.get(job.key, tier.format, unit.data):
            if self._copy(job.epoch, self._memory.write_unit, job.unit, unit):
                self._done(job, tier, "disk", time.perf_counter() - began)
        elif job.sources and self._ask is not None:
            self._missing.append(job)
        else:
            self._fail(job, None if known else "absent")

    def _take(self, job: Fetched) -> None:
        """A unit that another worker had; it is kept here too, and once it is loaded nobody waits for that."""
        load, began = job.load, time.perf_counter()
        if load.epoch != self._epoch:
            return
        tier = self._tier(load.unit)
        unit = self._buffer[: tier.unit_bytes]
        if job.sealed is None:
            self._fail(load, "absent")
            return
        try:
            self._kept.open(load.key, tier.format, job.sealed, unit.data)
        except InvalidArgument as refusal:
            self._warn.warning("a unit of KV from %s is ignored: %s", load.sources[0], refusal.message)
            self._fail(load, "damaged")
            return
        if not self._copy(load.epoch, self._memory.write_unit, load.unit, unit):
            return
        self._done(load, tier, "peer", job.seconds + time.perf_counter() - began)
        if load.key not in self._kept:
            try:
                self._kept.put(load.key, tier.format, unit.data)
            except OSError as failure:
                self._warn.warning("the disk fails: %s; KV from another worker is not kept here", failure)
            else:
                self._of(load.epoch).kept[load.key] = True

    def _copy(self, epoch: int, copy: Callable[[int, NDArray[np.uint8]], None], unit: int, data: NDArray) -> bool:
        """Copy to or from memory; False where the epoch is over."""
        with self._copying:
            if epoch != self._epoch:
                return False
            copy(unit, data)
            return True

    def _done(self, job: Load, tier: KvTier, source: str, seconds: float) -> None:
        news = self._of(job.epoch)
        news.loaded.append(job.unit)
        news.load_bytes += tier.unit_bytes
        news.load_seconds += seconds
        self._loaded.labels(source=source).inc()
        self._seconds.labels(operation="load" if source == "disk" else "fetch").observe(seconds)

    def _fail(self, job: Load | Fetched | Save, reason: str | None) -> None:
        """Tell that it was not done; the key counts as lost, for `reason` where that is not counted already."""
        if isinstance(job, Fetched):
            job = job.load
        if reason is not None:
            self._lost.labels(reason=reason).inc()
        news = self._of(job.epoch)
        if isinstance(job, Load):
            news.unloaded.append(job.unit)
        if isinstance(job, Save) or job.key not in self._saving:
            news.kept[job.key] = False

    def _ask_peers(self) -> None:
        missing = [load for load in self._missing if load.epoch == self._epoch]
        self._missing.clear()
        if self._ask is not None:
            for sources, loads in groupby(missing, lambda load: load.sources):
                self._ask(sources, list(loads), self._kept.largest, self._fetched)

    def _fetched(self, job: Fetched) -> None:
        """Queue what another worker sent; from any thread."""
        with self._due:
            if self._finish_until is not None:
                job.release()
                return
            self._loads.append(job)
            self._due.notify()

    def _tier(self, unit: int) -> KvTier:
        return next(tier for end, tier in self._tiers if unit < end)

    def _of(self, epoch: int) -> News:
        """The news of this epoch; those of one that is over are for nobody."""
        if epoch > self._news.epoch:
            self._news = News(epoch)
        return self._news if epoch == self._news.epoch else News(epoch)

    def _report(self, *, at_once: bool) -> None:
        now = time.monotonic()
        if not self._news or (not at_once and now - self._told < TELL_S):
            return
        news, self._news, self._told = self._news, News(self._epoch), now
        with self._telling:
            self._tell(news.record())


def _nobody(record: KeptRecord) -> None:
    """Takes news that nobody wants any more."""
