"""What outcomes change: examples gain or lose weight at once, labels that were told are learned soon after.

Both are written to memory beside serving, and again where memory was away.
"""

import asyncio
import logging

from actors.base.errors import DeadlineExceeded, Internal, QueueFull, RussetError, Unavailable
from actors.base.telemetry import Telemetry
from actors.router.semantic.decisions import Decided
from actors.router.semantic.registry import Key, Registry

log = logging.getLogger(__name__)
TOLD = 10_000
"""Labels that may wait to be learned; more are refused by name, for learning has to keep up."""
RETRY_S = 1.0
PASSING = (Unavailable, DeadlineExceeded, QueueFull, Internal)


class Outcomes:
    """Takes outcomes of decisions."""

    def __init__(self, registry: Registry, telemetry: Telemetry) -> None:
        self._registry = registry
        self._touched: dict[Key, set[str]] = {}
        self._told: dict[Key, dict[str, str]] = {}
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._taken = telemetry.counter(
            "russet_semantic_outcomes_total", "Outcomes of decisions by what they were", ("outcome",)
        )

    def start(self) -> None:
        """Begin to write and to learn."""
        self._task = asyncio.create_task(self._work(), name="router outcomes")

    async def stop(self) -> None:
        """End; what memory has not taken is lost with this process, and the log says how much."""
        waiting = sum(map(len, self._touched.values())) + sum(map(len, self._told.values()))
        if waiting:
            log.warning("%d outcomes that memory has not taken are lost", waiting)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def flush(self) -> None:
        """Return when everything taken so far is learned and written."""
        await self._idle.wait()

    def take(self, decided: Decided, outcome: float | None, label: str) -> str:
        """Learn from what became of a decision; returns what that changes, a sentence.

        `outcome` is 0 (bad) to 1 (good); `label` the right one, empty where it is not told.
        """
        key = decided.tenant, decided.router
        changes = []
        if outcome is None and label:
            outcome = float(label == decided.label)
        if outcome is not None:
            self._taken.labels(outcome="good" if outcome >= 0.5 else "bad").inc()
            if decided.by is not None and self._registry.credit(key, decided.by.text, outcome):
                self._touched.setdefault(key, set()).add(decided.by.text)
                changes.append(f"the example {decided.by.text[:80]!r}, which decided, counts {outcome:.2f} more")
        repeated = decided.repeated
        if label and not (repeated is not None and repeated.label == label):
            text = repeated.text if repeated is not None else decided.text
            told = self._told.setdefault(key, {})
            if len(told) >= TOLD:
                changes.append(f"the label is not learned: {TOLD} wait to be")
            else:
                told[text] = label
                verb = "is relabelled" if repeated is not None else "becomes an example:"
                changes.append(f"{text[:80]!r} {verb} {label!r}")
        if self._touched or self._told:
            self._idle.clear()
            self._arrived.set()
        return "; ".join(changes) or "nothing: no example lay near enough to answer for it"

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._touched or self._told:
                try:
                    await self._write()
                except PASSING as error:
                    log.warning("outcomes of named routers wait for memory: %s", error.message)
                    await asyncio.sleep(RETRY_S)
                except RussetError as error:
                    log.error("an outcome is not learned: %s", error.message)
            if not self._arrived.is_set():
                self._idle.set()

    async def _write(self) -> None:
        while self._touched:
            key, texts = self._touched.popitem()
            try:
                await self._registry.write(key, sorted(texts))
            except PASSING:
                self._touched.setdefault(key, set()).update(texts)
                raise
        while self._told:
            key, told = self._told.popitem()
            try:
                await self._registry.put(*key, list(told.items()), replace=False)
            except PASSING:
                # What was told of a text meanwhile is newer.
                self._told[key] = told | self._told.get(key, {})
                raise
