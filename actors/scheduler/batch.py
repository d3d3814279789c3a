"""The batch of one epoch: rows at the worker, pages, and how a decision becomes a Plan message."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from actors.scheduler.config import SchedulerConfig
from actors.scheduler.costs import Costs
from actors.scheduler.kept import Kept, Restore, Restored, salt_of
from actors.scheduler.kv_pool import KvPool
from actors.scheduler.pages import PageTable, pages_for
from actors.scheduler.planner import PlanState, StepPlan, admissible, copied_pages, lease_target, least_pages, plan
from actors.scheduler.prefix import Hold, Node, PrefixCache
from actors.scheduler.queue import WaitingQueue
from actors.scheduler.sequence import Sequence, Status, row_start
from actors.scheduler.tiering import Tiering
from protos.gen import worker_pb2

# Waiting sequences that one plan looks up at most, for each row that the batch may have.
_LOOK_UPS_PER_ROW = 4


class Moves(NamedTuple):
    """What was done with KV so far in an epoch."""

    # Pages that the prefix cache gave up.
    evicted: int = 0
    # Rows that gave way, and those among them that were written to disk.
    preempted: int = 0
    swapped: int = 0
    # Tokens that went to each quantized tier, and those among them that went because memory was short.
    demoted: Mapping[str, int] = MappingProxyType({})
    quantized: int = 0


class Leaving(NamedTuple):
    """A row that plan `plan_id` no longer lists; the worker touches its pages until it has applied that plan."""

    sequence: Sequence
    plan_id: int


class Batch:
    """Everything that begins anew with a worker's Hello. The waiting queue outlives it."""

    def __init__(
        self, config: SchedulerConfig, hello: worker_pb2.HelloReply, queue: WaitingQueue, costs: Costs | None = None
    ) -> None:
        self.config = config
        self.epoch = hello.epoch
        self.queue = queue
        self.allocator = KvPool.of_worker(hello, config.page_strategy)
        self.cache = PrefixCache(self.allocator) if config.prefix_cache else None
        if self.cache is not None:
            self.allocator.budget.shrink_kv = self._shrink
        self.kept: Kept | None = None
        """What is on disk; None where the worker keeps nothing, or nothing has a name."""
        if self.cache is not None and hello.keeps:
            self.kept = Kept(hello, self.allocator, self.cache, costs or Costs())
        self.tiering = Tiering(config, self.allocator, self.cache, self.kept, self._tables)
        self._preempted = self._swapped = 0
        # Index of a waiting sequence -> the last page promised by another that it waits for.
        self._awaited: dict[int, Node] = {}
        self.step_tokens = min(config.step_tokens, hello.max_step_tokens)
        # Every decoding row takes a token of each step.
        self.max_rows = min(config.max_running, hello.max_rows, self.step_tokens)
        self.reserve_pages = int(config.reserve_fraction * hello.pages)
        # Row -> sequence, in order of admission.
        self.running: dict[int, Sequence] = {}
        self.leaving: dict[int, Leaving] = {}
        # The newest plan sent and the newest acknowledged.
        self.plan_id = 0
        self.acknowledged = 0
        self._next_row = 1

    @property
    def pages_in_use(self) -> int:
        """Pages that live sequences hold; cached ones that nobody uses are as good as free."""
        return self.allocator.num_pages - self.allocator.num_available

    @property
    def pages_cached(self) -> int:
        """Pages that the prefix cache keeps, in use or not."""
        return self.cache.num_pages if self.cache else 0

    @property
    def moves(self) -> Moves:
        """What was done with KV so far."""
        return Moves(
            self.cache.num_evicted if self.cache else 0,
            self._preempted,
            self._swapped,
            dict(self.tiering.demoted),
            self.tiering.quantized,
        )

    @property
    def tokens_kept(self) -> int:
        """Tokens whose KV is on disk."""
        return self.kept.num_tokens if self.kept is not None else 0

    @property
    def awaits_disk(self) -> bool:
        """Whether the worker has not answered all that it was asked to save and load."""
        return self.kept is not None and self.kept.outstanding

    @property
    def is_at_rest(self) -> bool:
        """Whether no row runs or leaves, and all that was to be kept is on disk."""
        return not (self.running or self.leaving or self.awaits_disk)

    @property
    def has_moves(self) -> bool:
        """Whether KV is to be moved, within memory or between memory and disk."""
        return (self.kept is not None and self.kept.pending) or any(map(self.tiering.is_due, self.running.values()))

    @property
    def is_overcommitted(self) -> bool:
        """Whether memory is short, whatever was done, and those that wait want more than is reasonable to wait for."""
        if not self.tiering.short:
            return False
        page_size = self.allocator.page_size
        wanted = sum(pages_for(sequence.num_tokens, page_size) for sequence in self.queue)
        return wanted > self.config.kv_backlog * self.allocator.num_pages

    def settle(self, result: worker_pb2.StepResult, now_s: float) -> list[Restored]:
        """What became of moves between memory and disk."""
        return self.kept.settle(result, now_s) if self.kept is not None else []

    def keep_on_disk(self, sequence: Sequence) -> None:
        """Write all that is computed of a sequence to disk, as far as it is not there."""
        if self.kept is not None and sequence.hold is not None:
            self.kept.save(sequence, sequence.hold.kept)

    def decide(self, now_s: float) -> StepPlan:
        """Plan the next step. Whom it admits holds the cached pages of its prompt: enact the decision."""
        for sequence in self.running.values():
            if self.cache is not None and sequence.hold is not None and sequence.hold.copies:
                self.cache.adopt(sequence.hold, sequence.table, sequence.num_computed_tokens)
        self.tiering.look()
        if self.kept is not None:
            self.kept.look(now_s)
        waiting = self.queue.ordered(now_s) if len(self.queue) else []
        if waiting:
            waiting = admissible(self.running.values(), waiting, self.config.max_recoveries)
        if waiting and self.cache is not None:
            waiting = self._find_prefixes(self.cache, waiting, now_s)
        decision = plan(self._state(waiting))
        admitted = {lease.sequence.index for lease in decision.admit}
        for sequence in waiting:
            if sequence.hold is not None and sequence.index not in admitted:
                self.give_up_pages(sequence)
                sequence.forget_kv()
        return decision

    def give_up_pages(self, sequence: Sequence) -> None:
        """Let go of a sequence's pages; those that the prefix cache keeps stay there."""
        if self.cache is not None and sequence.hold is not None:
            self.cache.release(sequence.hold)
            sequence.hold = None
        sequence.table.release(self.allocator)

    def keep_pages(self, sequence: Sequence) -> bool:
        """Offer the pages computed by now to others; returns whether somebody waited for one of them."""
        hold = sequence.hold
        computed = sequence.num_computed_tokens
        if self.cache is None or hold is None or computed < (hold.kept + 1) * self.allocator.page_size:
            return False
        return self.cache.keep(hold, sequence.token_ids, sequence.table, computed)

    def _find_prefixes(self, cache: PrefixCache, waiting: list[Sequence], now_s: float) -> list[Sequence]:
        """Give those who may be admitted next their cached pages, and let them promise what they will compute.

        Who would compute what another is computing is left out and waits for that, unless the other's prompt comes
        after its own. It is overtaken, but not for long: who promised runs, is admitted by this very plan or breaks its
        promise now, and nobody behind it in the queue can promise more of the same way.
        """
        rows, room = self.max_rows - len(self.running), self.allocator.num_available - self._wanted_by_rows()
        look_ups = _LOOK_UPS_PER_ROW * self.max_rows
        awaited, self._awaited = self._awaited, {}
        found: list[Sequence] = []
        for sequence in waiting:
            last = awaited.get(sequence.index)
            if last is None or not last.promised:
                if (found and len(found) >= rows) or not look_ups:
                    break
                look_ups -= 1
                available = self.allocator.num_available
                last = self._hold_prefix(cache, sequence, room, now_s)
                if last is not None:
                    room -= available - self.allocator.num_available
                else:
                    # What it holds while it waits cannot be evicted for a row that runs: rows come first.
                    room -= self._still_needed(sequence) + available - self.allocator.num_available
                    if room >= 0:
                        found.append(sequence)
                        continue
                    self.give_up_pages(sequence)
                    sequence.forget_kv()
                    if not found:  # it may still be worth preempting for
                        found.append(sequence)
                    break
            last.awaited = True
            self._awaited[sequence.index] = last
        return found

    def _hold_prefix(self, cache: PrefixCache, sequence: Sequence, room: int, now_s: float) -> Node | None:
        """Let a waiting sequence hold its cached pages, or return the promised page that it should wait for.

        One whose prompt is scored wants the logits of all of it, which are not cached: it computes everything.
        """
        if sequence.score_from:
            return None
        available = self.allocator.num_available
        hold, last = cache.match(salt_of(sequence), sequence.token_ids)
        if last is not None and last.level >= sequence.level:
            cache.release(hold)
            return last
        if last is None and self.kept is not None:
            left = room - (available - self.allocator.num_available)
            last = self._begin_restore(cache, self.kept, sequence, hold, left, now_s)
            if last is not None:
                return last
        self.allocator.share(hold.pages)
        sequence.hold, sequence.table = hold, PageTable(hold.pages)
        # One token at least is computed: its logits are wanted.
        sequence.num_cached_tokens = min(len(hold.nodes) * self.allocator.page_size, sequence.num_tokens - 1)
        cache.promise(hold, sequence.token_ids, sequence.level)
        return None

    def _begin_restore(
        self, cache: PrefixCache, kept: Kept, sequence: Sequence, hold: Hold, room: int, now_s: float
    ) -> Node | None:
        """Read what follows a hold's pages from disk; returns the last page promised.

        None where computing it is cheaper, where the whole sequence does not fit into `room` pages (it would have to
        wait, and what was read might be gone by then), and where this was considered since the sequence last ran.
        """
        pool, tried = self.allocator, (self.epoch, sequence.num_preemptions)
        if kept.stuck or sequence.restore_tried == tried:
            return None
        units = kept.find(sequence, len(hold.nodes), self.config.kv_tail_tokens)
        nbytes = sum(pool.unit_bytes(unit.format) for unit in units)
        computed = least_pages(sequence, pool.page_size) - len(hold.nodes) - sum(unit.pages for unit in units)
        if not units or nbytes + computed * pool.unit_bytes("f16") > room * pool.unit_bytes("f16"):
            return None
        sequence.restore_tried = tried
        if not kept.worth(units):
            return None
        pool.share(hold.pages)
        table = PageTable(hold.pages)
        awaited = {}
        for unit in units:
            self._make_room(pool.as_pages(unit.format))
            if not pool.has_room(unit.format):
                break
            pages = pool.take_unit(unit.format)
            awaited[pages[0]] = unit
            table.pages += pages[unit.skip : unit.skip + unit.pages]
            pool.release([*pages[: unit.skip], *pages[unit.skip + unit.pages :]])
        if not awaited:
            table.release(pool)
            return None
        cache.promise(hold, sequence.token_ids[: len(table) * pool.page_size], sequence.level)
        kept.restore(Restore(sequence, hold, table, awaited, sequence.kv_source, now_s))
        return hold.end

    def _still_needed(self, sequence: Sequence) -> int:
        """Pages beside those it holds that a waiting sequence needs at least."""
        page_size = self.allocator.page_size
        return least_pages(sequence, page_size) - len(sequence.table) + copied_pages(sequence, page_size)

    def _wanted_by_rows(self) -> int:
        """Pages that full leases of all rows would take."""
        lease_tokens, page_size = self.config.lease_tokens, self.allocator.page_size
        return sum(
            max(0, pages_for(lease_target(sequence, lease_tokens, page_size), page_size) - len(sequence.table))
            for sequence in self.running.values()
            if not sequence.cancelled
        )

    def _make_room(self, pages: int) -> None:
        if self.cache is not None:
            self.cache.make_room(pages)

    def _shrink(self, wanted_bytes: int) -> None:
        """Evict until so many bytes are left in the budget or nothing is left to evict."""
        self._make_room(-(-wanted_bytes // self.allocator.unit_bytes("f16")))

    def _state(self, waiting: list[Sequence]) -> PlanState:
        return PlanState(
            running=list(self.running.values()),
            waiting=waiting,
            free_pages=self.allocator.num_available,
            pending_pages=sum(len(leaving.sequence.table) for leaving in self.leaving.values())
            + (self.kept.num_pinned if self.kept is not None and not self.kept.stuck else 0),
            page_size=self.allocator.page_size,
            max_rows=self.max_rows,
            reserve_pages=self.reserve_pages,
            lease_tokens=self.config.lease_tokens,
            aging_s=self.config.aging_s,
        )

    def enact(self, decision: StepPlan, now_s: float) -> worker_pb2.Plan:
        """Carry out a decision made on this very state; returns the message that tells the worker."""
        self.plan_id += 1
        message = worker_pb2.Plan(
            epoch=self.epoch,
            plan_id=self.plan_id,
            step_tokens=self.step_tokens,
            itl_target_us=round(self.config.itl_target_ms * 1e3),
        )
        for sequence in decision.drop:
            self._let_go(sequence)
        for sequence in decision.preempt:
            sequence.num_preemptions += 1
            self._preempted += 1
            if self.kept is not None and self.kept.worth_swapping(sequence):
                self.keep_on_disk(sequence)
                self._swapped += 1
            self._let_go(sequence)
        new_pages: dict[int, list[int]] = {}
        for lease in decision.extend:
            self._make_room(lease.pages)
            new_pages[lease.sequence.row] = lease.sequence.table.grow(self.allocator, lease.pages)
            lease.sequence.limit = lease.limit
        for lease in decision.admit:
            self._admit(lease.sequence, now_s)
            self._make_room(lease.pages)
            first_written = lease.sequence.num_cached_tokens // self.allocator.page_size
            copy = lease.sequence.table.make_writable(self.allocator, first_written)
            if copy is not None:
                message.copy_from.append(copy.source)
                message.copy_to.append(copy.target)
                if lease.sequence.hold is not None:
                    lease.sequence.hold.copies.add(first_written)
            missing = pages_for(lease.limit, self.allocator.page_size) - len(lease.sequence.table)
            lease.sequence.table.grow(self.allocator, missing)
            lease.sequence.limit = lease.limit
            message.start.append(row_start(lease.sequence))
        # After all that takes pages: what is moved away by this plan is used again by the next. And before tables are
        # told, since the worker moves first.
        self.tiering.demote(self.running.values(), message)
        self.tiering.archive(message)
        # The worker's table of a new row is empty: it is told of every page, shared ones included.
        new_pages |= {lease.sequence.row: lease.sequence.table.pages for lease in decision.admit}
        # Prompt chunks are filled in this order: by level, then by admission (sorted() is stable).
        for row, sequence in sorted(self.running.items(), key=lambda item: -item[1].level):
            pages = new_pages.get(row, ())
            message.row.append(row)
            message.limit.append(sequence.limit)
            message.page_count.append(len(pages))
            message.pages.extend(pages)
        if self.kept is not None:
            self.kept.tell(message, now_s)
        message.release.extend(self.allocator.take_releases())
        self.tiering.look()
        return message

    def _tables(self) -> list[PageTable]:
        """Every table but the cache's own."""
        sequences = (*self.running.values(), *(entry.sequence for entry in self.leaving.values()), *self.queue)
        return [sequence.table for sequence in sequences] + (self.kept.tables() if self.kept is not None else [])

    def check_integrity(self) -> list[str]:
        """Sentences about what is wrong with pages, tables and rows; empty where all is sound."""
        waiting = list(self.queue)
        tables = self._tables()
        if self.cache is not None:
            tables.append(self.cache.table())
        problems = self.allocator.check_integrity(tables)
        problems += self.cache.check_integrity() if self.cache is not None else []
        page_size = self.allocator.page_size
        for row, sequence in self.running.items():
            name = f"Row {row} ({sequence.request_id})"
            if sequence.row != row or sequence.status is not Status.RUNNING:
                problems.append(f"{name} believes it is row {sequence.row}, {sequence.status.value}.")
            if sequence.limit > len(sequence.table) * page_size:
                problems.append(f"{name} may reach {sequence.limit} tokens but holds {len(sequence.table)} pages.")
            if sequence.num_computed_tokens > sequence.limit:
                problems.append(
                    f"{name} has computed {sequence.num_computed_tokens} of {sequence.limit} leased tokens."
                )
        for sequence in waiting:
            if sequence.status is not Status.WAITING:
                problems.append(f"{sequence.request_id} waits in the queue but is {sequence.status.value}.")
        if len(self.running) > self.max_rows:
            problems.append(f"{len(self.running)} rows run; the worker takes {self.max_rows}.")
        return problems

    def _admit(self, sequence: Sequence, now_s: float) -> None:
        self.queue.admit(sequence)
        sequence.status = Status.RUNNING
        sequence.row = self._next_row
        self._next_row += 1
        sequence.num_computed_tokens = sequence.num_cached_tokens
        # What it computed itself before it was preempted was not found.
        found = min(sequence.num_cached_tokens, sequence.num_prompt_tokens)
        if sequence.planned_s is None:
            sequence.planned_s = now_s
            sequence.num_found_tokens = found
        sequence.num_found_tokens = min(sequence.num_found_tokens, found)
        if self.kept is not None:
            self.kept.count_hits(sequence)
        self.running[sequence.row] = sequence

    def _let_go(self, sequence: Sequence) -> None:
        del self.running[sequence.row]
        sequence.status = Status.LEAVING
        self.leaving[sequence.row] = Leaving(sequence, self.plan_id)
