"""The worker's gRPC face: loads the model, opens epochs, and carries plans to the engine and results back."""

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.base.errors import Conflict, Internal, InvalidArgument, StaleEpoch, Unavailable
from actors.base.telemetry import Telemetry
from actors.base.vocabulary import digest_of
from actors.worker.bell import Bell
from actors.worker.config import WorkerConfig
from actors.worker.disk import keeper_for
from actors.worker.draft.drafter import Drafter
from actors.worker.draft.model import DraftModel, load_draft_model
from actors.worker.engine import Engine, Reset
from actors.worker.experts import ExpertMetrics, expert_memory
from actors.worker.keeper import FINISH_S, Keeper
from actors.worker.ledger import Capacity, Ledger
from actors.worker.models import LoadedModel, load_model
from actors.worker.peers import Peers, asked_for, in_pieces
from actors.worker.results import KeptRecord, StepRecord, merge
from actors.worker.row_requests import RowRequests
from actors.worker.slab import allocate
from actors.worker.spans import RowSpans
from kernels.backend import build_decoder
from kernels.decoder import Decoder, ExpertMemory
from protos.gen import worker_pb2, worker_pb2_grpc

log = logging.getLogger(__name__)

STEP_BUCKETS_S = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1, 2, 4)
GAP_BUCKETS_S = (0.00005, 0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.05, 0.25, 1)
PASS_INVARIANT = ("x86-", "arm64-")
"""How the isa_class begins of decoders whose logits never depend on batch, chunking or threads: the C++ one's."""


@dataclass(frozen=True)
class Machine:
    """A loaded model on its engine, and how it introduces itself (everything but the epoch and the vocabulary)."""

    engine: Engine
    keeper: Keeper | None
    experts: ExpertMetrics | None
    capacity: Capacity
    hello: worker_pb2.HelloReply
    vocabulary: worker_pb2.Vocabulary


@dataclass
class Epoch:
    """One Hello and the Run that belongs to it."""

    ledger: Ledger
    scheduler_id: str
    spans: RowSpans
    requests: RowRequests = field(default_factory=RowRequests)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    has_run: bool = False

    @property
    def number(self) -> int:
        """Counts up with every Hello."""
        return self.ledger.epoch


class WorkerService(worker_pb2_grpc.WorkerServicer):
    """Serves one model. `start` before the first call, `stop` after the last; the calls are as in worker.proto."""

    def __init__(self, config: WorkerConfig, telemetry: Telemetry) -> None:
        self._config = config
        self._telemetry = telemetry
        self._machine: Machine | None = None
        self._thread: threading.Thread | None = None
        self._failed: asyncio.Future[BaseException]
        self._watchdog: asyncio.Task[None] | None = None
        self._stuck = False
        self._peers: Peers | None = None
        self._epoch: Epoch | None = None
        self._epochs = 0
        self._step_seconds = telemetry.histogram(
            "russet_worker_step_seconds", "Forward and sampling of one step", buckets=STEP_BUCKETS_S
        )
        self._gap_seconds = telemetry.histogram(
            "russet_worker_gap_seconds", "Between two steps, while there were rows to run", buckets=GAP_BUCKETS_S
        )
        tokens = telemetry.counter("russet_worker_tokens_total", "Tokens computed", labels=("kind",))
        self._prefill_tokens, self._decode_tokens = tokens.labels(kind="prefill"), tokens.labels(kind="decode")
        self._row_errors = telemetry.counter("russet_worker_row_errors_total", "Rows that ended by an error")
        self._rows = telemetry.gauge("russet_worker_rows", "Rows of the newest plan")
        self._step_error = telemetry.gauge(
            "russet_worker_step_error_ratio", "Mean relative error of the step times predicted to size prompt chunks"
        )
        self._pages = telemetry.gauge("russet_worker_kv_pages", "KV pages of the slab")

    async def start(self) -> None:
        """Load the model and start the engine thread. Raises what loading raises."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[Machine] = loop.create_future()
        self._failed = loop.create_future()
        self._peers = peers = Peers()
        self._thread = threading.Thread(
            target=self._serve, args=(loop, ready, peers), name="worker-engine", daemon=True
        )
        self._thread.start()
        self._machine = await ready
        self._pages.set(self._machine.capacity.pages)
        self._watchdog = asyncio.create_task(self._watch(self._machine.engine))

    async def stop(self) -> None:
        """End the engine after the step in progress; open Runs end with Unavailable."""
        machine, self._machine = self._machine, None
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            watchdog.cancel()
            await asyncio.gather(watchdog, return_exceptions=True)
        if machine is not None:
            machine.engine.stop()
        # A forward that does not return cannot be ended, only left behind.
        if self._thread is not None and not self._stuck:
            await asyncio.to_thread(self._thread.join)
        elif machine is not None and machine.keeper is not None:
            await asyncio.to_thread(machine.keeper.stop, 0)
        if self._peers is not None:
            await self._peers.close()
        self._wake()

    async def failed(self) -> BaseException:
        """Waits until the engine ended by itself or is stuck; returns why. The service is of no more use then."""
        return await asyncio.shield(self._failed)

    async def serving(self) -> AsyncIterator[bool]:
        """Whether tokens can come out, now and when that changes: true until the engine fails."""
        yield True
        await self.failed()
        yield False

    async def Hello(self, request: worker_pb2.HelloRequest, context: Any) -> worker_pb2.HelloReply:
        """Open an epoch: every row is forgotten, an older epoch's Run ends with StaleEpoch."""
        machine = self._living()
        self._epochs += 1
        epoch = Epoch(Ledger(self._epochs, machine.capacity), request.scheduler_id, RowSpans(self._telemetry))
        self._wake()
        self._epoch = epoch
        machine.engine.submit(Reset(epoch.number))
        self._rows.set(0)
        log.info("epoch %d begins for scheduler %r", epoch.number, request.scheduler_id)
        reply = worker_pb2.HelloReply()
        reply.CopyFrom(machine.hello)
        reply.epoch = epoch.number
        if machine.keeper is not None:
            # What the older epoch's jobs still change is not told to anybody; a load finds out.
            reply.kept = machine.keeper.keys()
        if request.known_vocabulary != reply.vocabulary_digest:
            reply.vocabulary.CopyFrom(machine.vocabulary)
        return reply

    async def Run(
        self, request_iterator: AsyncIterator[worker_pb2.Plan], context: Any
    ) -> AsyncIterator[worker_pb2.StepResult]:
        """Execute an epoch's plans until the caller closes its side or goes away; its rows end with it.

        Raises InvalidArgument or StaleEpoch for a plan that cannot be executed, and Internal when the engine failed.
        """
        engine, epoch = self._living().engine, self._epoch
        if epoch is None:
            raise StaleEpoch("no epoch is open; call Hello first")
        if epoch.has_run:
            raise Conflict(f"epoch {epoch.number} has its Run already; call Hello for a new epoch")
        epoch.has_run = True
        reader = asyncio.create_task(self._read(epoch, engine, request_iterator))
        reader.add_done_callback(lambda _: epoch.news.set())
        result: worker_pb2.StepResult | None = None
        try:
            while True:
                await epoch.news.wait()
                epoch.news.clear()
                if epoch is not self._epoch:
                    raise StaleEpoch(f"epoch {epoch.number} is over: another scheduler said Hello", param="epoch")
                records = [record for record in engine.take() if record.epoch == epoch.number]
                if records:
                    self._observe(records)
                    if self._machine is not None and self._machine.experts is not None:
                        self._machine.experts.observe()
                    self._step_error.set(engine.prediction_error)
                    result = merge(records, result)
                    epoch.spans.reported(result)
                    epoch.requests.reported(result)
                    yield result
                self._living()
                if reader.done():
                    reader.result()
                    return
        finally:
            reader.cancel()
            epoch.spans.close()
            if epoch is self._epoch:
                self._epoch = None
                engine.submit(Reset(epoch.number))
                self._rows.set(0)
                log.info("epoch %d of scheduler %r ends", epoch.number, epoch.scheduler_id)
            await asyncio.gather(reader, return_exceptions=True)

    async def Fetch(self, request: worker_pb2.FetchRequest, context: Any) -> AsyncIterator[worker_pb2.KeptUnit]:
        """Units from this worker's disk, sealed. Raises InvalidArgument for keys that are malformed or too many."""
        keeper = self._living().keeper
        for key in asked_for(request):
            sealed = await asyncio.to_thread(keeper.sealed, key) if keeper is not None else None
            if sealed is not None:
                for piece in in_pieces(key, sealed):
                    yield piece

    async def _read(self, epoch: Epoch, engine: Engine, plans: AsyncIterator[worker_pb2.Plan]) -> None:
        async for plan in plans:
            epoch.ledger.accept(plan)
            engine.submit(plan)
            epoch.spans.planned(plan)
            epoch.requests.planned(plan)
            self._rows.set(len(plan.row))

    def _living(self) -> Machine:
        if self._machine is None:
            raise Unavailable("the worker is not running: it has not been started, or it is stopping")
        failure = self._machine.engine.failure
        if failure is not None:
            raise Internal(f"the engine failed: {type(failure).__name__}: {failure}; restart this worker")
        return self._machine

    def _observe(self, records: Sequence[StepRecord | KeptRecord]) -> None:
        for record in records:
            if isinstance(record, StepRecord) and len(record.row):
                self._step_seconds.observe(record.step_seconds)
                self._gap_seconds.observe(record.gap_seconds)
                self._prefill_tokens.inc(record.prefill_tokens)
                self._decode_tokens.inc(record.decode_tokens)
                self._row_errors.inc(len(record.errors))

    def _wake(self) -> None:
        if self._epoch is not None:
            self._epoch.news.set()

    def _serve(self, loop: asyncio.AbstractEventLoop, ready: asyncio.Future[Machine], peers: Peers) -> None:
        """The engine thread: MLX arrays are made, used and released on this one thread."""
        bell = Bell()
        loop.call_soon_threadsafe(bell.listen, self._wake)
        try:
            machine = load(self._config, bell.fd, self._telemetry)
        except BaseException as failure:
            loop.call_soon_threadsafe(_settle, ready, failure)
        else:
            keeper = machine.keeper
            if keeper is not None:
                keeper.start(machine.engine.tell, peers.ask)
            loop.call_soon_threadsafe(_settle, ready, machine)
            machine.engine.run()
            if keeper is not None:
                keeper.stop(FINISH_S if machine.engine.failure is None else 0)
            if machine.engine.failure is not None and not self._stuck:
                loop.call_soon_threadsafe(self._fail, machine.engine.failure)
        try:
            loop.call_soon_threadsafe(self._end, bell)
        except RuntimeError:
            bell.close()  # the loop is closed: nobody is left to tell

    def _end(self, bell: Bell) -> None:
        """The engine has ended: its last ring may not have been heard."""
        bell.close()
        self._wake()

    def _fail(self, failure: BaseException) -> None:
        if not self._failed.done():
            self._failed.set_result(failure)

    async def _watch(self, engine: Engine) -> None:
        """Give an engine up whose step does not end: its thread lives, and nobody gets a token."""
        timeout_s = self._config.step_timeout_s
        # A step that began meanwhile gets its time too.
        while True:
            left_s = timeout_s - engine.step_age_s
            if left_s <= 0:
                break
            await asyncio.sleep(left_s)
        self._stuck = True
        stuck = TimeoutError(f"a step runs for more than step_timeout_s = {timeout_s:g} s")
        log.critical("the engine is stuck: %s", stuck)
        engine.give_up(stuck)
        self._fail(stuck)


def load(config: WorkerConfig, bell: int, telemetry: Telemetry) -> Machine:
    """Load the model, build its decoder and slab. `bell` as in Engine."""
    model = load_model(config.model)
    experts = expert_memory(config)
    decoder = _decoder_of(config, model, experts)
    compiled = decoder.isa_class.startswith(PASS_INVARIANT)
    if config.deterministic and not compiled:
        raise InvalidArgument(
            f"deterministic = true: on {decoder.isa_class} a token's numbers depend on its batch; only the compiled "
            "CPU decoder (backend 'cpu') promises the same ones",
            param="deterministic",
        )
    # Which tokens are quantized, and when, depends on what else runs.
    tiered = compiled and not config.deterministic
    kv = allocate(decoder, config.page_size, config.max_rows, config.kv_memory_bytes, tiered)
    context_length = min(model.spec.context_length, kv.pages * kv.page_size)
    if context_length < model.spec.context_length:
        log.warning(
            "the KV slab holds %d tokens: shorter than the model's %d", context_length, model.spec.context_length
        )
    keeper = keeper_for(config, kv, model.info.revision, decoder.isa_class, telemetry)
    capacity = Capacity(
        kv.pages,
        kv.page_size,
        config.max_rows,
        config.max_step_tokens,
        context_length,
        model.spec.vocab,
        kv.tiers,
        keeps=keeper is not None,
    )
    info = worker_pb2.ModelInfo()
    info.CopyFrom(model.info)
    info.id = config.served_name
    info.context_length = context_length
    info.kv_bytes_per_token = kv.nbytes // (kv.pages * kv.page_size)
    hello = worker_pb2.HelloReply(
        model=info,
        vocabulary_digest=digest_of(model.vocabulary),
        pages=kv.pages,
        page_size=kv.page_size,
        max_step_tokens=config.max_step_tokens,
        max_rows=config.max_rows,
        isa_class=decoder.isa_class,
        pid=os.getpid(),
        tiers=[worker_pb2.KvTier(**tier._asdict()) for tier in kv.tiers],
        kv_bytes=kv.tiers[0].units * kv.tiers[0].unit_bytes,
        keeps=keeper is not None,
    )
    engine = Engine(
        decoder,
        kv,
        max_rows=config.max_rows,
        context_length=context_length,
        bell=bell,
        keeper=keeper,
        vocabulary=model.vocabulary,
        drafter=_drafter(config, model.vocabulary, context_length),
    )
    metrics = ExpertMetrics(decoder, telemetry)
    return Machine(engine, keeper, metrics if experts else None, capacity, hello, model.vocabulary)


def _decoder_of(config: WorkerConfig, model: LoadedModel, experts: ExpertMemory | None = None) -> Decoder:
    """What runs a model here. Raises InvalidArgument for a backend that cannot."""
    try:
        return build_decoder(
            model.spec,
            model.weights,
            backend=config.backend,
            threads=config.threads,
            cpus=config.cpus,
            awake_us=config.awake_us,
            rounding=config.rounding,
            isa=config.isa,
            experts=experts,
        )
    except ValueError as refusal:
        raise InvalidArgument(f"backend = {config.backend!r}: {refusal}", param="backend") from refusal


def _drafter(config: WorkerConfig, vocabulary: worker_pb2.Vocabulary, context_length: int) -> Drafter | None:
    """What guesses tokens; None where nothing is to be guessed."""
    if config.speculation == "off":
        return None
    if not config.draft_model:
        return Drafter()
    decoder = load_draft_model(config.draft_model, vocabulary, lambda model: _decoder_of(config, model))
    context = min(context_length, decoder.spec.context_length)
    pages = config.draft_rows * -(-context // config.page_size)
    draft = DraftModel(decoder, pages=pages, page_size=config.page_size, context_length=context)
    return Drafter(proposers=[draft])


def _settle(ready: asyncio.Future[Machine], outcome: Machine | BaseException) -> None:
    if ready.cancelled():
        # Nobody waits for this engine any more.
        if isinstance(outcome, Machine):
            outcome.engine.stop()
        return
    if isinstance(outcome, BaseException):
        ready.set_exception(outcome)
    else:
        ready.set_result(outcome)
