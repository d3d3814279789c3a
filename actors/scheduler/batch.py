"""The batch of one epoch: rows at the worker, pages, and how a decision becomes a Plan message."""

from typing import NamedTuple

from actors.scheduler.config import SchedulerConfig
from actors.scheduler.pages import PageAllocator, pages_for
from actors.scheduler.planner import PlanState, StepPlan, admissible
from actors.scheduler.queue import WaitingQueue
from actors.scheduler.sequence import Sequence, Status
from protos.gen import worker_pb2


class Leaving(NamedTuple):
    """A row that plan `plan_id` no longer lists; the worker touches its pages until it has applied that plan."""

    sequence: Sequence
    plan_id: int


class Batch:
    """Everything that begins anew with a worker's Hello. The waiting queue outlives it."""

    def __init__(self, config: SchedulerConfig, hello: worker_pb2.HelloReply, queue: WaitingQueue) -> None:
        self.config = config
        self.epoch = hello.epoch
        self.queue = queue
        self.allocator = PageAllocator(hello.pages, hello.page_size, config.page_strategy)
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

    def state(self, now_s: float) -> PlanState:
        """What the planner sees."""
        waiting = self.queue.ordered(now_s) if len(self.queue) else []
        return PlanState(
            running=list(self.running.values()),
            waiting=admissible(self.running.values(), waiting, self.config.max_recoveries) if waiting else [],
            free_pages=self.allocator.num_free,
            pending_pages=sum(len(leaving.sequence.table) for leaving in self.leaving.values()),
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
            self._let_go(sequence)
        new_pages: dict[int, list[int]] = {}
        for lease in decision.extend:
            new_pages[lease.sequence.row] = lease.sequence.table.grow(self.allocator, lease.pages)
            lease.sequence.limit = lease.limit
        for lease in decision.admit:
            self._admit(lease.sequence, now_s)
            first_written = lease.sequence.num_cached_tokens // self.allocator.page_size
            copy = lease.sequence.table.make_writable(self.allocator, first_written)
            if copy is not None:
                message.copy_from.append(copy.source)
                message.copy_to.append(copy.target)
            # The worker's table of a new row is empty: it is told of every page, shared ones included.
            missing = pages_for(lease.limit, self.allocator.page_size) - len(lease.sequence.table)
            lease.sequence.table.grow(self.allocator, missing)
            new_pages[lease.sequence.row] = lease.sequence.table.pages
            lease.sequence.limit = lease.limit
            message.start.append(row_start(lease.sequence))
        # Prompt chunks are filled in this order: by level, then by admission (sorted() is stable).
        for row, sequence in sorted(self.running.items(), key=lambda item: -item[1].level):
            pages = new_pages.get(row, ())
            message.row.append(row)
            message.limit.append(sequence.limit)
            message.page_count.append(len(pages))
            message.pages.extend(pages)
        return message

    def check_integrity(self) -> list[str]:
        """Sentences about what is wrong with pages, tables and rows; empty where all is sound."""
        leaving = [entry.sequence for entry in self.leaving.values()]
        waiting = list(self.queue)
        tables = [sequence.table for sequence in (*self.running.values(), *leaving, *waiting)]
        problems = self.allocator.check_integrity(tables)
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
        if sequence.planned_s is None:
            sequence.planned_s = now_s
        self.running[sequence.row] = sequence

    def _let_go(self, sequence: Sequence) -> None:
        del self.running[sequence.row]
        sequence.status = Status.LEAVING
        self.leaving[sequence.row] = Leaving(sequence, self.plan_id)


def row_start(sequence: Sequence) -> worker_pb2.RowStart:
    """All that the worker must know of a row that enters the batch."""
    return worker_pb2.RowStart(
        row=sequence.row,
        token_ids=sequence.token_ids,
        prompt_tokens=sequence.num_prompt_tokens,
        cached_tokens=sequence.num_cached_tokens,
        sampling=sequence.sampling,
        max_length=sequence.max_length,
        min_tokens=sequence.min_tokens,
        stop_ids=sequence.stop_ids,
        traceparent=sequence.traceparent,
    )
