"""One replica's front: requests in, tokens out; see loop.py for what happens between."""

import asyncio
import itertools
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from opentelemetry.trace import SpanKind

from actors.base import genai
from actors.base.errors import InvalidArgument, QueueFull, RussetError, Unavailable
from actors.base.telemetry import Telemetry, propagated
from actors.scheduler.admission import admit
from actors.scheduler.config import SchedulerConfig
from actors.scheduler.heartbeat import Announcer
from actors.scheduler.loop import LeaseLoop
from actors.scheduler.metrics import SchedulerMetrics
from actors.scheduler.sequence import Sequence
from protos.gen import (
    inference_pb2,
    router_pb2,
    router_pb2_grpc,
    scheduler_pb2,
    scheduler_pb2_grpc,
    worker_pb2,
    worker_pb2_grpc,
)

log = logging.getLogger(__name__)

# What a refused client is told to wait, seconds.
RETRY_AFTER_S = 1.0
LONGEST_RETRY_AFTER_S = 30.0


class SchedulerService(scheduler_pb2_grpc.SchedulerServicer):
    """The Scheduler service over one worker.

    `worker` and `router` are stubs; without a router no heartbeats are sent. start() returns at once: a worker that
    is not there yet is awaited in the background, and requests are refused as Unavailable until its first Hello.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        replica_id: str,
        node: str,
        worker: worker_pb2_grpc.WorkerStub,
        router: router_pb2_grpc.RouterStub | None,
        telemetry: Telemetry,
    ) -> None:
        self._config = config
        self._replica_id = replica_id
        self._node = node
        self._telemetry = telemetry
        self._metrics = SchedulerMetrics(telemetry)
        self._announcer = Announcer(router, self._heartbeat, config.heartbeat_s) if router is not None else None
        self._loop = LeaseLoop(config, replica_id, worker, self._metrics, self._changed)
        self._addresses: list[str] = []
        self._worker_addresses: Callable[[], Iterable[str]] = tuple
        self._incarnation = uuid.uuid4().hex
        self._indices = itertools.count(1)
        self._live: set[Sequence] = set()
        self._none_live = asyncio.Event()
        self._none_live.set()
        self._draining = False
        self._unloading = False
        self._turned = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look for the worker."""
        self._task = asyncio.create_task(self._loop.run())

    async def stop(self) -> None:
        """Say goodbye to the router, end every stream with Unavailable, and close the worker's epoch."""
        self._draining = True
        if self._announcer is not None:
            await self._announcer.stop()
        self._fail_live(Unavailable(f"Replica {self._replica_id} is stopping.", retry_after_s=RETRY_AFTER_S))
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def serving(self) -> AsyncIterator[bool]:
        """Whether requests are taken (a worker is connected, nobody drains), now and whenever that changes.

        For one reader.
        """
        last = None
        while True:
            self._turned.clear()
            taken = self._loop.batch is not None and not self._draining
            if taken is not last:
                last = taken
                yield taken
            await self._turned.wait()

    def announce(self, addresses: list[str], worker_addresses: Callable[[], Iterable[str]] = tuple) -> None:
        """Begin heartbeats, once the worker has said hello: gateways reach us at `addresses`, cheapest first.

        `worker_addresses` says where other workers reach ours, which may be elsewhere after a restart.
        """
        self._addresses = list(addresses)
        self._worker_addresses = worker_addresses
        if self._announcer is not None:
            self._announcer.start()
            self._announcer.changed()

    async def Generate(
        self, request: scheduler_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[scheduler_pb2.GenerateEvent]:
        """Stream tokens until the request ends; closing the stream frees its row and pages.

        Raises InvalidArgument naming the parameter, QueueFull, or Unavailable (draining, or no worker yet).
        """
        sequence = self._accept(request)
        if sequence.num_tokens >= sequence.max_length:
            # A resumed stream whose last token had reached the client before.
            yield scheduler_pb2.GenerateEvent(
                finish_reason=inference_pb2.FINISH_LENGTH,
                admission=self._admission(sequence),
                timings=scheduler_pb2.Timings(),
            )
            return
        self._live.add(sequence)
        self._none_live.clear()
        try:
            with self._telemetry.span("scheduler.generate", _attributes(sequence), SpanKind.SERVER) as span:
                sequence.traceparent = dict(propagated()).get("traceparent", "")
                self._loop.submit(sequence)
                first, drafted, accepted = True, 0, 0
                finish_reason = inference_pb2.FINISH_UNSPECIFIED
                while not finish_reason:
                    taken = await sequence.stream.take()
                    if taken.stalled:
                        yield scheduler_pb2.GenerateEvent(stalled=True, losses=sequence.num_losses)
                        continue
                    token_ids, finish_reason, logprobs, prompt_logprobs, _ = taken
                    event = scheduler_pb2.GenerateEvent(
                        token_ids=token_ids,
                        finish_reason=finish_reason,
                        logprobs=logprobs,
                        prompt_logprobs=prompt_logprobs,
                        drafted_tokens=sequence.num_drafted_tokens - drafted,
                        accepted_tokens=sequence.num_accepted_tokens - accepted,
                    )
                    drafted, accepted = sequence.num_drafted_tokens, sequence.num_accepted_tokens
                    if first:
                        event.admission.CopyFrom(self._admission(sequence))
                        first = False
                    if finish_reason:
                        event.timings.CopyFrom(_timings(sequence))
                        emitted = sequence.num_tokens - sequence.num_prompt_tokens
                        log.info("%s sent %d tokens", self._replica_id, emitted)
                        span.set_attributes(
                            {genai.OUTPUT_TOKENS: emitted, "russet.preemptions": sequence.num_preemptions}
                        )
                    yield event
        finally:
            self._loop.cancel(sequence)
            self._live.discard(sequence)
            if not self._live:
                self._none_live.set()

    async def Describe(self, request: scheduler_pb2.DescribeRequest, context: Any) -> scheduler_pb2.DescribeReply:
        """Model, vocabulary (unless the caller has it) and state; Unavailable before the worker's first Hello."""
        hello = self._require_hello()
        known = bool(hello.vocabulary_digest) and hello.vocabulary_digest in request.known_vocabularies
        return scheduler_pb2.DescribeReply(
            replica_id=self._replica_id,
            model=hello.model,
            vocabulary=None if known else hello.vocabulary,
            vocabulary_digest=hello.vocabulary_digest,
            load=self._load(),
        )

    async def Drain(self, request: scheduler_pb2.DrainRequest, context: Any) -> scheduler_pb2.DrainReply:
        """Admit nothing more, wait for what is there and until its KV is on disk; a drained scheduler stays drained."""
        if not 0 <= request.timeout_s < float("inf"):
            raise InvalidArgument(
                f"timeout_s is {request.timeout_s}; accepted: seconds, at least 0.", param="timeout_s"
            )
        self._draining = True
        self._unloading = request.unload
        self._changed()
        try:
            async with asyncio.timeout(request.timeout_s):
                await self._none_live.wait()
                await self._loop.at_rest.wait()
        except TimeoutError:
            return scheduler_pb2.DrainReply(remaining=len(self._live))
        return scheduler_pb2.DrainReply(remaining=0)

    async def Check(self, request: scheduler_pb2.CheckRequest, context: Any) -> scheduler_pb2.CheckReply:
        """Check pages, tables and rows against each other."""
        batch = self._loop.batch
        return scheduler_pb2.CheckReply(
            problems=batch.check_integrity() if batch else [],
            live_sequences=len(self._live),
            pages_used=batch.pages_in_use if batch else 0,
        )

    def _accept(self, request: scheduler_pb2.GenerateRequest) -> Sequence:
        try:
            if self._draining:
                raise Unavailable(f"Replica {self._replica_id} is draining.", retry_after_s=RETRY_AFTER_S)
            hello = self._require_hello()
            sequence = admit(request, hello, self._config, index=next(self._indices), now_s=time.monotonic())
            if len(self._loop.queue) >= self._config.queue_limit:
                raise QueueFull(
                    f"{len(self._loop.queue)} requests wait at replica {self._replica_id}, which is all it takes.",
                    retry_after_s=self._retry_after_s(),
                )
            if self._loop.batch is not None and self._loop.batch.is_overcommitted:
                self._metrics.pressure.labels(policy="reject").inc()
                raise Unavailable(
                    f"KV memory of replica {self._replica_id} is short, and those that wait want "
                    f"{self._config.kv_backlog:g} times all of it.",
                    retry_after_s=self._retry_after_s(),
                )
        except RussetError as error:
            self._metrics.refused.labels(reason=type(error).__name__).inc()
            raise
        return sequence

    def _retry_after_s(self) -> float:
        """Until about a tenth of the queue has moved on, at the present pace."""
        pace_s = self._loop.rates.finish.value(time.monotonic())
        return min(max(RETRY_AFTER_S, pace_s * self._config.queue_limit / 10), LONGEST_RETRY_AFTER_S)

    def _require_hello(self) -> worker_pb2.HelloReply:
        if self._loop.hello is None:
            raise Unavailable(
                f"Replica {self._replica_id} has no worker yet; it is being awaited.", retry_after_s=RETRY_AFTER_S
            )
        return self._loop.hello

    def _fail_live(self, error: RussetError) -> None:
        for sequence in list(self._live):
            self._loop.cancel(sequence)
            sequence.stream.fail(error)

    def _changed(self) -> None:
        self._turned.set()
        if self._announcer is not None:
            self._announcer.changed()

    def _admission(self, sequence: Sequence) -> scheduler_pb2.Admission:
        return scheduler_pb2.Admission(
            replica_id=self._replica_id,
            epoch=self._require_hello().epoch,
            cached_tokens=sequence.num_found_tokens,
            queue_us=_microseconds(sequence.arrival_s, sequence.planned_s),
            kv_format=sequence.kv_format,
            restored_tokens=min(sequence.num_restored_tokens, sequence.num_found_tokens),
        )

    def _load(self) -> scheduler_pb2.ReplicaLoad:
        batch, hello, queue, rates = self._loop.batch, self._loop.hello, self._loop.queue, self._loop.rates
        now = time.monotonic()
        running = list(batch.running.values()) if batch else []
        backlog = sum(
            sequence.num_tokens - sequence.num_computed_tokens
            for sequence in (*running, *queue)
            if not sequence.is_decoding or sequence.num_computed_tokens == 0
        )
        return scheduler_pb2.ReplicaLoad(
            epoch=batch.epoch if batch else 0,
            ready=batch is not None,
            draining=self._draining,
            running=len(running),
            waiting=len(queue),
            queue_limit=self._config.queue_limit,
            running_limit=batch.max_rows if batch else self._config.max_running,
            queue_delay_s=max((now - sequence.arrival_s for sequence in queue), default=0.0),
            pages_used=batch.pages_in_use if batch else 0,
            pages_total=hello.pages if hello else 0,
            page_size=hello.page_size if hello else 0,
            prefill_backlog_tokens=backlog,
            prefill_tokens_per_s=rates.prefill.value(now),
            decode_tokens_per_s=rates.decode.value(now),
            step_us=rates.step.value(now) * 1e6,
            kv_bytes=batch.allocator.budget.capacity if batch else 0,
            kv_tiers=[scheduler_pb2.KvTierLoad(**use._asdict()) for use in batch.allocator.uses()] if batch else (),
            kv_kept_tokens=batch.tokens_kept if batch else 0,
        )

    def _heartbeat(self) -> router_pb2.HeartbeatRequest | None:
        hello = self._loop.hello
        if hello is None:
            return None
        return router_pb2.HeartbeatRequest(
            replica_id=self._replica_id,
            addresses=self._addresses,
            node=self._node,
            model=hello.model.id,
            context_length=hello.model.context_length,
            weight_bytes=hello.model.weight_bytes,
            isa_class=hello.isa_class,
            load=self._load(),
            incarnation=self._incarnation,
            worker_addresses=self._worker_addresses(),
            unloading=self._unloading,
        )


def _attributes(sequence: Sequence) -> dict[str, str | int]:
    """Of a request's span."""
    return {
        "russet.request_id": sequence.request_id,
        "russet.level": sequence.level,
        genai.INPUT_TOKENS: sequence.num_prompt_tokens,
        genai.REQUEST_MAX_TOKENS: sequence.max_length - sequence.num_prompt_tokens,
    }


def _timings(sequence: Sequence) -> scheduler_pb2.Timings:
    return scheduler_pb2.Timings(
        queue_us=_microseconds(sequence.arrival_s, sequence.planned_s),
        prefill_us=_microseconds(sequence.planned_s, sequence.first_token_s),
        decode_us=_microseconds(sequence.first_token_s, sequence.last_token_s),
        preemptions=sequence.num_preemptions,
    )


def _microseconds(start_s: float | None, end_s: float | None) -> int:
    """Between two moments; 0 where one has not come."""
    return 0 if start_s is None or end_s is None else max(0, round((end_s - start_s) * 1e6))
