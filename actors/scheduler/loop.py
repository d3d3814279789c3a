"""The loop: one worker, one epoch at a time; plans go one way, results come the other."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable

from actors.base.errors import Internal, RussetError, Unavailable
from actors.scheduler.admission import offered_formats
from actors.scheduler.batch import Batch
from actors.scheduler.config import SchedulerConfig
from actors.scheduler.costs import Costs
from actors.scheduler.kept import PATIENCE_S
from actors.scheduler.metrics import SchedulerMetrics
from actors.scheduler.pages import pages_for
from actors.scheduler.queue import WaitingQueue
from actors.scheduler.rates import Rates
from actors.scheduler.reconcile import News, reconcile
from actors.scheduler.sequence import Sequence, Status
from protos.gen import inference_pb2, worker_pb2, worker_pb2_grpc

log = logging.getLogger(__name__)

HELLO_TIMEOUT_S = 10.0
FIRST_RETRY_S, LAST_RETRY_S = 0.05, 2.0


class LeaseLoop:
    """Keeps the worker supplied with leases and hands its tokens to their streams.

    Everything but run() is synchronous and belongs to one event loop, so no lock is needed: between two awaits
    queue, batch and pages agree.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        scheduler_id: str,
        worker: worker_pb2_grpc.WorkerStub,
        metrics: SchedulerMetrics,
        on_change: Callable[[], None],
    ) -> None:
        self.queue = WaitingQueue(config.policy, config.aging_s)
        self.rates = Rates()
        self._costs = Costs()
        # Of the newest epoch; stays when the worker is lost.
        self.hello: worker_pb2.HelloReply | None = None
        # None while no worker is connected.
        self.batch: Batch | None = None
        self.at_rest = asyncio.Event()
        """Whether nothing runs, and nothing is on its way to disk."""
        self.at_rest.set()
        self._config = config
        self._scheduler_id = scheduler_id
        self._worker = worker
        self._metrics = metrics
        self._on_change = on_change
        self._woken = asyncio.Event()
        self._plans: asyncio.Queue[worker_pb2.Plan] = asyncio.Queue()
        self._step = 0
        self._watchdog: asyncio.Timeout | None = None

    def submit(self, sequence: Sequence) -> None:
        """A new request; it ends through its stream."""
        self.queue.arrive(sequence)
        if self.batch is None:
            sequence.stream.stall()
        self._woken.set()

    def cancel(self, sequence: Sequence) -> None:
        """Its client is gone: the next plan drops the row. Nothing happens to a sequence that has ended."""
        if sequence.status is Status.FINISHED:
            return
        if sequence.status is Status.WAITING:
            self._end(sequence)
        sequence.cancelled = True
        self._woken.set()

    async def run(self) -> None:
        """Serve epoch after epoch until cancelled; a worker that is away is tried again."""
        delay_s = FIRST_RETRY_S
        while True:
            self._step = 0
            try:
                hello = await self._worker.Hello(
                    worker_pb2.HelloRequest(
                        scheduler_id=self._scheduler_id,
                        known_vocabulary=self.hello.vocabulary_digest if self.hello else b"",
                    ),
                    timeout=HELLO_TIMEOUT_S,
                )
                self._begin(hello)
                await self._run_epoch()
            except (RussetError, TimeoutError) as error:
                # Said once an outage; the retries after it are quiet.
                level = logging.WARNING if delay_s == FIRST_RETRY_S else logging.DEBUG
                log.log(level, "No worker for %s: %s", self._scheduler_id, error or "no result in time")
            except Exception:
                log.exception("The epoch of %s failed; its rows go back to waiting", self._scheduler_id)
            finally:
                self._lose_worker()
            delay_s = FIRST_RETRY_S if self._step else min(2 * delay_s, LAST_RETRY_S)
            await asyncio.sleep(delay_s)

    async def _run_epoch(self) -> None:
        call = self._worker.Run(_each(self._plans))
        reader = asyncio.create_task(self._read_results(call))
        planner = asyncio.create_task(self._plan_when_woken())
        try:
            done, _ = await asyncio.wait((planner, reader), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            planner.cancel()
            reader.cancel()
            await asyncio.gather(planner, reader, return_exceptions=True)
            call.cancel()

    async def _plan_when_woken(self) -> None:
        # Requests that arrive together are woken for once and enter with one plan.
        while True:
            awaits_disk = self.batch is not None and self.batch.awaits_disk
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S if awaits_disk else None):
                    await self._woken.wait()
            self._woken.clear()
            self._advance()

    async def _read_results(self, call: AsyncIterator[worker_pb2.StepResult]) -> None:
        try:
            async with asyncio.timeout(None) as self._watchdog:
                async for result in call:
                    self._apply(result)
                    self._watch()
        finally:
            self._watchdog = None
        raise Unavailable("The worker closed its stream of results.")

    def _advance(self) -> None:
        """Plan, and send the plan if it says anything that cannot wait."""
        batch = self.batch
        if batch is None:
            return
        now = time.monotonic()
        decision = batch.decide(now)
        if decision.urgent or batch.has_moves:
            message = batch.enact(decision, now)
            self._plans.put_nowait(message)
            if message.save or message.load:
                # To look again, should the disk be stuck; and loads from elsewhere go with a plan of their own.
                self._woken.set()
            self._metrics.plan_seconds.observe(time.monotonic() - now)
            self._metrics.observe_plan(decision)
            self._watch()
        self._metrics.observe_batch(batch, len(self.queue))
        self._note_rest()

    def _apply(self, result: worker_pb2.StepResult) -> None:
        batch = self.batch
        if batch is None or result.epoch != batch.epoch:
            raise Internal(f"A result of epoch {result.epoch} arrived in epoch {batch.epoch if batch else 'none'}.")
        now = time.monotonic()
        steps, self._step = result.step - self._step, result.step
        self.rates.observe_steps(steps, result.busy_us * 1e-6, result.prefill_tokens, result.decode_tokens, now)
        self._metrics.observe_gap(result, steps)
        self._metrics.observe_drafts(result)
        restored = batch.settle(result, now)
        self._metrics.observe_restores(restored)
        outcome = reconcile(batch, result)
        for news in outcome.news:
            self._deliver(news, now)
        # What was pinned until it was on disk may be free now.
        if outcome.replan or restored or result.saved or result.lost:
            self._advance()
        self._note_rest()

    def _deliver(self, news: News, now: float) -> None:
        sequence = news.sequence
        if news.token_ids:
            self._metrics.observe_tokens(sequence, len(news.token_ids), now)
            if sequence.first_token_s is None:
                sequence.first_token_s = now
            sequence.last_token_s = now
        if news.token_ids or news.prompt_logprobs is not None:
            sequence.stream.put(news.token_ids, news.logprobs, news.prompt_logprobs)
        match news.end:
            case worker_pb2.ROW_STOP:
                sequence.stream.finish(inference_pb2.FINISH_STOP)
            case worker_pb2.ROW_LENGTH:
                sequence.stream.finish(inference_pb2.FINISH_LENGTH)
            case worker_pb2.ROW_ERROR:
                sequence.stream.fail(Internal(f"Request {sequence.request_id} failed at the worker: {news.error}"))
        if news.end:
            self.rates.observe_finish(now)
            self._metrics.latency.observe(now - sequence.arrival_s)

    def _note_rest(self) -> None:
        if self.batch is None or self.batch.is_at_rest:
            self.at_rest.set()
        else:
            self.at_rest.clear()

    def _watch(self) -> None:
        """Expect a result soon where rows may run or a plan waits to be acknowledged; else be patient."""
        if self._watchdog is None or self.batch is None:
            return
        expecting = self.batch.leaving or any(
            sequence.num_computed_tokens < sequence.limit for sequence in self.batch.running.values()
        )
        now = asyncio.get_running_loop().time()
        self._watchdog.reschedule(now + self._config.worker_silence_s if expecting else None)

    def _begin(self, hello: worker_pb2.HelloReply) -> None:
        """A new epoch: every page is free, every sequence waits."""
        if not (hello.pages and hello.page_size and hello.max_rows and hello.max_step_tokens):
            raise Internal(
                f"The worker offers {hello.pages} pages of {hello.page_size} tokens, {hello.max_rows} rows and "
                f"{hello.max_step_tokens} tokens a step; none of them may be 0."
            )
        former, self.hello = self.hello, _completed(hello, self.hello)
        self._plans = asyncio.Queue()
        self.batch = Batch(self._config, hello, self.queue, self._costs)
        self._metrics.begin(self.batch)
        for sequence in list(self.queue):
            if former is not None and former.model.revision != hello.model.revision:
                self._end(sequence, Unavailable("The replica came back with another model.", retry_after_s=1.0))
            elif pages_for(sequence.max_kv, hello.page_size) > hello.pages:
                self._end(sequence, Unavailable(f"The replica came back with only {hello.pages} pages of KV."))
        if self._config.kv_format not in offered_formats(hello):
            log.warning(
                "kv_format is %r, which the worker of %s does not offer: KV is f16 unless a request says otherwise",
                self._config.kv_format,
                self._scheduler_id,
            )
        log.info("Epoch %d of %s: %s, %d pages", hello.epoch, self._scheduler_id, hello.model.id, hello.pages)
        self._woken.set()
        self._on_change()

    def _lose_worker(self) -> None:
        """The epoch is over: rows go back to waiting with prompt and emitted tokens; their streams stay open."""
        batch, self.batch = self.batch, None
        if batch is None:
            return
        self._metrics.worker_losses.inc()
        for sequence in self.queue:
            # A plan that failed halfway leaves waiting sequences with the cached pages they would have begun with.
            sequence.table.release(batch.allocator)
            sequence.forget_kv()
        for sequence in (*batch.running.values(), *(entry.sequence for entry in batch.leaving.values())):
            sequence.table.release(batch.allocator)
            sequence.num_losses += sequence.status is Status.RUNNING
            sequence.forget_kv()
            self.queue.put_back(sequence)
            if sequence.cancelled:
                self._end(sequence)
            elif sequence.num_losses > self._config.max_recoveries:
                self._end(
                    sequence,
                    Internal(f"The worker was lost {sequence.num_losses} times while it ran {sequence.request_id}."),
                )
        for sequence in self.queue:
            sequence.stream.stall()
        self._metrics.observe_batch(None, len(self.queue))
        self._note_rest()
        self._on_change()

    def _end(self, sequence: Sequence, error: RussetError | None = None) -> None:
        """End a waiting sequence without running it; with an error, its client is told."""
        self.queue.discard(sequence)
        sequence.status = Status.FINISHED
        if error is not None:
            sequence.stream.fail(error)


def _completed(hello: worker_pb2.HelloReply, former: worker_pb2.HelloReply | None) -> worker_pb2.HelloReply:
    """`hello` with the vocabulary that it leaves out because we have it from `former`."""
    if hello.HasField("vocabulary") or former is None:
        return hello
    whole = worker_pb2.HelloReply()
    whole.CopyFrom(hello)
    whole.vocabulary.CopyFrom(former.vocabulary)
    return whole


async def _each(plans: asyncio.Queue[worker_pb2.Plan]) -> AsyncIterator[worker_pb2.Plan]:
    while True:
        yield await plans.get()
