"""What the next plan says: a pure function of the scheduler's state.

No clock, network or array here. The rules, in the order they are applied:

1. Rows whose client is gone are dropped.
2. Running rows get longer leases, the senior first. Where no page is free (and none is on its way back), a decoding
   row that runs low takes the pages of a junior one; without a junior it waits in place, keeping its own.
3. Waiting sequences are admitted in queue order while rows and pages last, a share of the pages left in reserve. The
   first that does not fit ends admission: nobody overtakes it, so it cannot starve. It may evict running rows of a
   strictly lower priority that are junior by a whole level: those then wait behind it.

Seniority is the total order (arrival - level * aging_s, index). It never changes, and a row is only ever preempted for
a senior one, so the most senior sequence always runs to its end and, by induction, so does every other: no livelock.
Among juniors the victim is the one of lowest level, then the one with least computed tokens (least work lost).
"""

from collections.abc import Iterable
from collections.abc import Sequence as Many
from typing import NamedTuple

from actors.scheduler.pages import pages_for
from actors.scheduler.sequence import Sequence


class PlanState(NamedTuple):
    """All that a plan depends on."""

    # In order of admission.
    running: Many[Sequence]
    # Those that may be admitted now, in queue order.
    waiting: Many[Sequence]
    free_pages: int
    # Pages of rows that were dropped but not acknowledged yet.
    pending_pages: int
    page_size: int
    max_rows: int
    # Pages that admission leaves free while anything runs.
    reserve_pages: int
    lease_tokens: int
    aging_s: float


class Lease(NamedTuple):
    """A row may grow to `limit` tokens of KV; `pages` more are needed for that (a copied page counts as one)."""

    sequence: Sequence
    limit: int
    pages: int


class StepPlan(NamedTuple):
    """The decision; nothing has been changed yet."""

    drop: list[Sequence]
    preempt: list[Sequence]
    extend: list[Lease]
    admit: list[Lease]
    # Whether it says anything that cannot wait: longer leases alone can, while no row runs low.
    urgent: bool


def seniority(sequence: Sequence, aging_s: float) -> tuple[float, int]:
    """Smaller is more senior: a level is worth aging_s seconds of arrival."""
    return sequence.arrival_s - sequence.level * aging_s, sequence.index


def runs_low(sequence: Sequence, lease_tokens: int) -> bool:
    """Whether less than half a lease is left although the sequence may need more."""
    return sequence.limit < sequence.max_kv and 2 * (sequence.limit - sequence.num_tokens + 1) < lease_tokens


def lease_target(sequence: Sequence, lease_tokens: int, page_size: int) -> int:
    """KV tokens of a full lease: whole pages, at most all that the sequence ever needs."""
    pages = pages_for(sequence.num_tokens + lease_tokens, page_size)
    return min(pages * page_size, sequence.max_kv)


def least_pages(sequence: Sequence, page_size: int) -> int:
    """Pages a sequence needs at least to produce a token, those it holds included."""
    return pages_for(min(sequence.num_tokens + 1, sequence.max_kv), page_size)


def copied_pages(sequence: Sequence, page_size: int) -> int:
    """Pages of a waiting sequence's table that it will write although others hold them: 1 where it is the last."""
    return int(sequence.num_cached_tokens < len(sequence.table) * page_size)


def plan(state: PlanState) -> StepPlan:
    """Decide the next plan. Reads the sequences and changes none."""
    drop = [sequence for sequence in state.running if sequence.cancelled]
    alive = [sequence for sequence in state.running if not sequence.cancelled]
    alive.sort(key=lambda sequence: seniority(sequence, state.aging_s))
    draft = _Draft(state, alive, soon=state.pending_pages + sum(len(sequence.table) for sequence in drop))
    draft.extend_leases()
    draft.admit_waiting()
    urgent = draft.urgent or bool(drop or draft.preempt or draft.admit)
    return StepPlan(drop, list(draft.preempt.values()), list(draft.extend.values()), draft.admit, urgent)


def admissible(running: Iterable[Sequence], waiting: list[Sequence], max_recoveries: int) -> list[Sequence]:
    """Who of `waiting` (in queue order) may enter the batch, given who took part in worker losses.

    A sequence that was running at max_recoveries losses in a row, without a token of its own between, is a suspect:
    perhaps it kills its workers, perhaps it stood beside one that does. Suspects enter first, one at a time, each only
    once the one before got a token, and nothing else until they are through. So whatever runs beside a suspect has
    just shown that it does no harm, and a suspect that is lost once more is plausibly the cause.
    """
    if any(sequence.num_losses >= max_recoveries for sequence in running):
        return []
    suspect = next((sequence for sequence in waiting if sequence.num_losses >= max_recoveries), None)
    return waiting if suspect is None else [suspect]


class _Draft:
    """A plan in the making and what is left of the budget."""

    def __init__(self, state: PlanState, alive: list[Sequence], soon: int) -> None:
        self.state = state
        # Most senior first.
        self.alive = alive
        self.free = state.free_pages
        # Pages that come back once the worker has acknowledged, less those already spoken for.
        self.soon = soon
        self.rows = len(alive)
        self.urgent = False
        self.preempt: dict[int, Sequence] = {}
        self.extend: dict[int, Lease] = {}
        self.admit: list[Lease] = []

    def extend_leases(self) -> None:
        page_size, lease_tokens = self.state.page_size, self.state.lease_tokens
        for rank, sequence in enumerate(self.alive):
            target = lease_target(sequence, lease_tokens, page_size)
            if target <= sequence.limit or sequence.row in self.preempt:
                continue
            held = len(sequence.table)
            granted = min(pages_for(target, page_size) - held, self.free)
            limit = min(target, (held + granted) * page_size)
            low = runs_low(sequence, lease_tokens)
            if limit > sequence.limit:
                self.extend[sequence.row] = Lease(sequence, limit, granted)
                self.free -= granted
                self.urgent |= low
            elif low and sequence.is_decoding:
                if self.soon < 1:
                    self._preempt_one(self.alive[rank + 1 :])
                self.soon = max(0, self.soon - 1)

    def admit_waiting(self) -> None:
        state = self.state
        for sequence in state.waiting:
            held = len(sequence.table) - copied_pages(sequence, state.page_size)
            least = least_pages(sequence, state.page_size) - held
            if not self._fits(least):
                self._evict_for(sequence, least)
            if not self._fits(least):
                return
            target = lease_target(sequence, state.lease_tokens, state.page_size)
            spare = self.free - self._reserve()
            granted = max(least, min(pages_for(target, state.page_size) - held, spare))
            limit = min(target, (held + granted) * state.page_size)
            self.admit.append(Lease(sequence, limit, granted))
            self.free -= granted
            self.rows += 1

    def _reserve(self) -> int:
        return self.state.reserve_pages if self.rows else 0

    def _fits(self, pages: int) -> bool:
        return self.rows < self.state.max_rows and pages + self._reserve() <= self.free

    def _evict_for(self, sequence: Sequence, pages: int) -> None:
        """Preempt just enough rows of lower level for a waiting sequence, or none if all together would not do."""
        aging_s = self.state.aging_s
        mine, _ = seniority(sequence, aging_s)
        juniors = [
            victim
            for victim in self.alive
            if victim.row not in self.preempt
            and victim.level < sequence.level
            and seniority(victim, aging_s)[0] > mine + aging_s
        ]
        juniors.sort(key=_loss)
        rows, room, victims = self.rows, self.free + self.soon, []
        for victim in juniors:
            if rows < self.state.max_rows and pages + self.state.reserve_pages <= room:
                break
            victims.append(victim)
            rows -= 1
            room += len(victim.table)
            if victim.row in self.extend:
                room += self.extend[victim.row].pages
        reserve = self.state.reserve_pages if rows else 0
        if rows < self.state.max_rows and pages + reserve <= room:
            for victim in victims:
                self._preempt(victim)

    def _preempt_one(self, juniors: Iterable[Sequence]) -> None:
        candidates = [victim for victim in juniors if victim.row not in self.preempt]
        if candidates:
            self._preempt(min(candidates, key=_loss))

    def _preempt(self, victim: Sequence) -> None:
        self.preempt[victim.row] = victim
        self.rows -= 1
        self.soon += len(victim.table)
        lease = self.extend.pop(victim.row, None)
        if lease is not None:
            self.free += lease.pages


def _loss(sequence: Sequence) -> tuple[int, int, int]:
    return sequence.level, sequence.num_computed_tokens, -sequence.index
