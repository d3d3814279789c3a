"""The engine: one thread that owns decoder, KV and rows, applies plans, and runs steps while leases last."""

import logging
import sys
import threading
import time
from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.worker.batch import Step, assemble, choose
from actors.worker.draft.drafter import Drafter
from actors.worker.drawing import Drawn, draw, failed, gathered
from actors.worker.grammar import Grammars
from actors.worker.keeper import Keeper
from actors.worker.kept_jobs import loads_of, saves_of
from actors.worker.results import KeptRecord, StepRecord, applied_only
from actors.worker.rows import Rows
from actors.worker.scoring import bounded, scored
from actors.worker.speculation import Speculation
from actors.worker.steady import Steady
from actors.worker.step_cost import CostModel
from actors.worker.units import Units
from kernels.bell import NO_BELL, ring
from kernels.decoder import Decoder, Int32, Kv
from protos.gen import worker_pb2

log = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.0001
"""A GIL-free forward of 1.9 ms took 7.0 ms beside one busy Python thread at the default 5 ms, 2.1 ms at this."""

FATAL_AFTER = 3
"""Steps in a row in which no row could be computed, after which the engine gives up: the fault is not the rows'."""

LEAST_STRETCH = 4
"""Steps without drafts from which on it is worth to gather what they share."""

NO_SLOTS = np.zeros(0, np.int32)


class Reset(NamedTuple):
    """Forget every row; what follows belongs to `epoch`."""

    epoch: int


class Engine:
    """Runs checked plans (see actors.worker.ledger) over a decoder.

    `submit`, `take` and `stop` may be called from any thread; `run` is the body of the one thread that computes, and
    must be the thread that built the decoder. `tick` is one turn of it.
    """

    def __init__(
        self,
        decoder: Decoder,
        kv: Kv,
        *,
        max_rows: int,
        context_length: int,
        bell: int = NO_BELL,
        keeper: Keeper | None = None,
        vocabulary: worker_pb2.Vocabulary | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        """`bell` (kernels.bell) is rung when `take` has something after it had nothing.

        `keeper` saves and loads units of `kv`; without one no plan may ask for that. `vocabulary` is what grammars are
        matched over; without one, rows that have a grammar fail. `drafter` guesses tokens that steps verify.
        """
        self._decoder = decoder
        self._kv = kv
        self._units = Units(kv.tiers)
        self._keeper = keeper
        self._written: set[int] = set()
        """Units that plans of this epoch may have written, and whose memory they did not release."""
        self._rows = Rows(max_rows, context_length, kv.page_size, decoder.spec.vocab)
        self._grammars = Grammars(self._rows, vocabulary or worker_pb2.Vocabulary(), self._nudge)
        self._speculation = Speculation(self._rows, self._grammars, drafter)
        self._pause: int | None = self._speculation.pause
        """Steps before drafts are asked for again; None where nobody guesses, so that there need be no such steps."""
        self._live = NO_SLOTS
        """Slots of the plan's rows that have not ended, in order of precedence."""
        self._steady: Steady | None = None
        self._step_tokens = 1
        self._itl_target_ms = 0.0
        self._cost = CostModel()
        self._epoch = self._plan_id = self._steps = 0
        self._failed_steps = 0
        self._waiting_since: float | None = None
        """Since when there are rows but no step runs."""
        self._inbox: deque[worker_pb2.Plan | Reset] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._outbox: deque[StepRecord | KeptRecord] = deque()
        self._announced = False
        self._bell = bell
        self.failure: BaseException | None = None
        """What ended `run`, where it did not end by `stop`."""
        self._step_began: float | None = None

    def submit(self, command: worker_pb2.Plan | Reset) -> None:
        """Queue a plan or a reset; they are applied in order, between steps."""
        self._inbox.append(command)
        self._nudge()

    def _nudge(self) -> None:
        """Let the engine look whether there is something to do."""
        with self._wake:
            self._wake.notify()

    def tell(self, record: KeptRecord) -> None:
        """Let `take` have what became of units, also while no step runs; from the keeper's thread."""
        self._outbox.append(record)
        self._announce()

    def take(self) -> list[StepRecord | KeptRecord]:
        """Everything that happened since the last call, oldest first."""
        self._announced = False  # before reading: a record that comes meanwhile announces itself again
        records = []
        while self._outbox:
            records.append(self._outbox.popleft())
        return records

    def stop(self) -> None:
        """End `run` after the step in progress."""
        with self._wake:
            self._stopping = True
            self._wake.notify()

    @property
    def step_age_s(self) -> float:
        """For how long the step in progress has run; 0 where there is none."""
        began = self._step_began
        return 0.0 if began is None else time.perf_counter() - began

    @property
    def prediction_error(self) -> float:
        """Mean relative error, of late, of the step times by which prompt chunks are sized."""
        return self._cost.error

    def give_up(self, failure: BaseException) -> None:
        """Count the engine as failed although its thread is still busy; it ends once its step does."""
        self.failure = failure
        self.stop()
        self._announce()
        # Whoever listens may be gone by the time that the step ends.
        self._bell = NO_BELL

    def run(self) -> None:
        """Compute until `stop`. Never raises: a fault that is no row's own ends it and is kept in `failure`."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        runnable = True
        try:
            while True:
                if not runnable:
                    with self._wake:
                        self._wake.wait_for(lambda: self._inbox or self._stopping or self._grammars.arrived)
                if self._stopping:
                    return
                runnable = self.tick()
        except BaseException as failure:
            log.critical("the engine failed after step %d of epoch %d", self._steps, self._epoch, exc_info=True)
            # Its frames hold decoder and KV, which must be gone before a successor loads its own.
            self.failure = failure.with_traceback(None)
            self._announce()
        finally:
            self._grammars.close()

    def tick(self) -> bool:
        """Apply the plans that arrived, then run one step. False where no row was runnable."""
        if self._inbox:
            self._settle()
            self._apply_arrived()
        if self._grammars.arrived:
            self._grammars.collect()
        step = self._steady.step() if self._steady is not None else self._chosen_step()
        if step is None:
            self._announce()
            return False
        self._step_began = started = time.perf_counter()
        outcome = self._compute(step)
        finished = time.perf_counter()
        self._step_began = None

        waited = started - self._waiting_since if self._waiting_since is not None else 0.0
        self._finish(step, outcome, finished - started, waited)
        self._waiting_since = finished if len(self._live) else None
        return True

    def _chosen_step(self) -> Step | None:
        """The step that rows and leases allow; None where no row may run."""
        rows, live = self._rows, self._live
        known, computed, limit = rows.known[live], rows.computed[live], rows.limit[live]
        if (waiting := rows.waiting[live]).any():
            limit = np.where(waiting, np.minimum(limit, known - 1), limit)  # all but the token that draws
        counts = choose(known, computed, limit, self._step_tokens, self._itl_target_ms, self._cost.cost)
        counts = bounded(rows, live, counts)
        runs = counts > 0
        if not runs.any():
            return None
        slots, counts = live[runs], counts[runs]
        if self._pause and not self._grammars.forcing:
            self._pause -= 1
            return assemble(rows, slots, counts)
        drafted = self._speculation.drafted(slots, counts, self._step_tokens, self._cost.cost)
        self._pause = self._speculation.pause
        return assemble(rows, slots, counts, drafted)

    def _settle(self) -> None:
        """End the steady stretch: Rows is up to date again."""
        steady, self._steady = self._steady, None
        if steady is not None:
            steps, rows = steady.settle(), len(steady.row)
            if steps and steady.seconds:
                self._speculation.took(rows, rows, steady.seconds * 1e3 / steps, None, steps)

    def _apply_arrived(self) -> None:
        applied = False
        while self._inbox:
            command = self._inbox.popleft()
            if isinstance(command, Reset):
                self._reset(command.epoch)
            elif command.epoch == self._epoch:
                self._apply(command)
                applied = True
        if applied:
            self._outbox.append(applied_only(self._epoch, self._plan_id, self._steps))

    def _reset(self, epoch: int) -> None:
        if self._keeper is not None:
            self._keeper.reset(epoch)
        for row in list(self._rows.slot_of):
            self._drop(row)
        self._live, self._waiting_since = NO_SLOTS, None
        if epoch != self._epoch and len(self._kv.tiers) > 1:
            # The next scheduler counts from nothing: what lies in one tier would come on top of its budget for all.
            self._kv.release_units(np.array(sorted(self._written), np.int32))
            self._written.clear()
        self._epoch, self._plan_id, self._steps = epoch, 0, 0

    def _apply(self, plan: worker_pb2.Plan) -> None:
        """The plan becomes the batch. Rows leave before rows enter: together they may be more than max_rows."""
        rows = self._rows
        self._move_kv(plan)
        for row in rows.slot_of.keys() - set(plan.row):
            self._drop(row)
        for start in plan.start:
            slot = rows.start(start)
            self._speculation.start(slot, start)
            if start.HasField("grammar"):
                self._grammars.start(slot, start)
        slots = np.array([rows.slot_of[row] for row in plan.row], np.int32)
        pages, taken = list(plan.pages), 0
        for slot, count in zip(slots.tolist(), plan.page_count, strict=True):
            if count:
                rows.extend(slot, pages[taken : taken + count])
                taken += count
        rows.limit[slots] = plan.limit
        if plan.copy_from:
            self._kv.copy_pages(np.array(plan.copy_from, np.int32), np.array(plan.copy_to, np.int32))
        self._live = slots[~rows.ended[slots]]
        self._ask_again()
        self._step_tokens, self._plan_id = plan.step_tokens, plan.plan_id
        self._itl_target_ms = plan.itl_target_us / 1e3
        if not len(self._live):
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = time.perf_counter()

    def _drop(self, row: int) -> None:
        slot = self._rows.slot_of[row]
        self._speculation.drop(slot)
        self._grammars.drop(slot)
        self._rows.drop(row)

    def _move_kv(self, plan: worker_pb2.Plan) -> None:
        """Release units, save, demote (rows go on with the blocks in place of the pages), and load."""
        self._written.difference_update(plan.release)
        self._written.update(plan.demote_to, plan.load, plan.copy_to)
        self._written.update(page for page in plan.pages if page < self._kv.pages)
        if plan.release:
            self._kv.release_units(np.array(plan.release, np.int32))
        if self._keeper is not None and plan.save:
            self._keeper.submit(saves_of(plan))
        if plan.demote_to:
            source, target = np.array(plan.demote_from, np.int32), np.array(plan.demote_to, np.int32)
            self._kv.demote(source, target)
            self._rows.replace_pages(source, self._units.pages_of(target).ravel())
        if self._keeper is not None and plan.load:
            self._keeper.submit(loads_of(plan))

    def _compute(self, step: Step) -> Drawn:
        """Forward and sample.

        A step that fails is run again row by row, so that only the rows that fail alone end: computing a token twice
        writes the same KV in the same place.
        """
        try:
            drawn = draw(self._decoder, self._kv, self._rows, self._grammars, step, self._due_bell())
            if drawn.errors:
                self._settle()
            return drawn
        except Exception as failure:
            self._settle()
            self._announced = False  # perhaps it failed before it rang
            if len(step.slots) == 1 and step.drafted is None:
                log.exception("row %d failed at %d tokens", self._rows.row[step.slots[0]], step.batch.lengths[0])
                return failed(f"{type(failure).__name__}: {failure}")
            log.warning("a step of %d rows failed (%r); running its rows one by one", len(step.slots), failure)
        return gathered(
            [
                self._compute(assemble(self._rows, step.slots[index : index + 1], step.counts[index : index + 1]))
                for index in range(len(step.slots))
            ]
        )

    def _finish(self, step: Step, outcome: Drawn, seconds: float, waited: float) -> None:
        """Move the rows forward, end those that are done, and tell."""
        rows, slots, counts = self._rows, step.slots, outcome.counts
        drawn, errors = outcome.tokens, outcome.errors
        if self._steady is not None:
            computed = self._steady.take(drawn[:, 0])
            if self._steady.left and not self._grammars.forcing:
                self._steps += 1
                self._steady.seconds += seconds + waited
                end, row = self._steady.running, self._steady.row
                self._record(row, computed, outcome, end, {}, seconds, waited, decoded=len(drawn), prefilled=0)
                self._failed_steps = 0
                return
            self._settle()
        else:
            rows.advance(slots, counts, drawn)
            if step.scores is not None:
                scored(rows, slots)
        self._steps += 1
        ends = rows.ends(slots, drawn)
        if errors:
            ends[list(errors)] = worker_pb2.ROW_ERROR
        ended = ends != worker_pb2.ROW_RUNNING
        if ended.any():
            rows.ended[slots[ended]] = True
            self._live = self._live[~rows.ended[self._live]]
            self._ask_again()
        decoded = int(counts[step.decode].sum())
        by_row = {int(rows.row[slots[index]]): message for index, message in errors.items()}
        prefilled = int(counts.sum()) - decoded
        computed = rows.computed[slots]
        drafted = step.drafted.counts if step.drafted is not None else None
        self._record(rows.row[slots], computed, outcome, ends, by_row, seconds, waited, decoded, prefilled, drafted)
        self._failed_steps = self._failed_steps + 1 if len(errors) == len(slots) else 0
        if self._failed_steps == FATAL_AFTER:
            reason = next(iter(errors.values()))
            raise RuntimeError(f"no row could be computed in {FATAL_AFTER} steps; the last: {reason}")
        if not errors:
            self._cost.learn(step.work, seconds * 1e3)
            if not prefilled:
                self._speculation.took(len(slots), decoded, (seconds + waited) * 1e3, step.drafted)
            self._rest()

    def _ask_again(self) -> None:
        """The batch is another one: what was said of guessing held for the one before."""
        if self._pause is not None:
            self._pause = 0

    def _rest(self) -> None:
        """Begin a stretch of steps without drafts, where there is to be one."""
        pause = self._pause
        if not self._grammars.forcing and (pause is None or pause >= LEAST_STRETCH):
            self._steady = Steady.of(self._rows, self._live, pause)
            if self._steady is not None and pause is not None:
                self._pause = 0

    def _record(
        self,
        row: NDArray[np.int64],
        computed: Int32,
        outcome: Drawn,
        end: NDArray[np.int8],
        errors: dict[int, str],
        seconds: float,
        waited: float,
        decoded: int,
        prefilled: int,
        drafted: Int32 | None = None,
    ) -> None:
        self._outbox.append(
            StepRecord(
                epoch=self._epoch,
                plan_id=self._plan_id,
                step=self._steps,
                row=row,
                computed=computed,
                drawn=outcome.tokens,
                end=end,
                errors=errors,
                step_seconds=seconds,
                gap_seconds=waited,
                prefill_tokens=prefilled,
                decode_tokens=decoded,
                logprobs=outcome.logprobs,
                prompt_logprobs=outcome.prompt_logprobs,
                drafted=drafted if outcome.accepted is not None else None,
                accepted=outcome.accepted,
            )
        )

    def _due_bell(self) -> int:
        """The bell where the outbox holds something that nobody was told of; who asks rings it."""
        if self._announced or not (self._outbox or self.failure is not None):
            return NO_BELL
        self._announced = True
        return self._bell

    def _announce(self) -> None:
        """Tell of what the outbox holds, once."""
        ring(self._due_bell())
