"""A stream of tokens that outlives the replica it came from.

Where a stream breaks before its finish, prompt and emitted tokens go to another replica, or to the same one once it is
back. Seeds are keyed by position, so the tokens that follow are those that would have followed.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from actors.base import genai
from actors.base.channel import Stream
from actors.base.errors import Conflict, DeadlineExceeded, Internal, NotFound, QueueFull, RussetError, Unavailable
from actors.base.telemetry import Telemetry, happened
from cluster.gateway.catalog import Catalog, ModelView
from cluster.gateway.config import GatewayConfig
from cluster.gateway.routes import Routes
from protos.gen import inference_pb2, router_pb2, scheduler_pb2

log = logging.getLogger(__name__)

LOOK_S = 0.1
"""Between looks for another replica, while the one that a stream is at has lost its worker."""
PAUSE_S = 0.05
MAX_PAUSE_S = 0.5


class ModelChanged(Exception):
    """The replica chosen serves another model, or revision, than was expected: make the prompt anew with `view`."""

    def __init__(self, view: ModelView) -> None:
        super().__init__(view.model.revision)
        self.view = view


@dataclass
class Job:
    """One request on its way: what it asks, and how far it came."""

    route: router_pb2.RouteRequest
    """How it is routed; `exclude` holds the replicas that just failed it, `isa_class` is the last one's."""
    generate: scheduler_pb2.GenerateRequest
    """The request with the prompt alone."""
    view: ModelView
    wait_s: float
    """Longest wait for a replica without a new token, seconds."""
    kept_by: str = ""
    """The replica that kept the session's KV; empty where none did."""
    emitted: list[int] = field(default_factory=list)
    scored: int = 0
    """Prompt tokens whose log-probabilities were told."""
    losses: int = 0
    """How often in a row, without a token between, a worker was lost while it ran this."""
    decision: router_pb2.RouteReply | None = None
    alias: str = ""
    """The alias that led to its model; empty where none did."""
    candidate: router_pb2.Candidate | None = None
    """Where it runs, or ran last."""
    admission: scheduler_pb2.Admission | None = None
    """The first replica's: what of the prompt was cached."""
    routing_s: float = 0.0
    failovers: int = 0

    def request(self) -> scheduler_pb2.GenerateRequest:
        """What to ask the next replica: prompt and emitted tokens."""
        request = scheduler_pb2.GenerateRequest()
        request.CopyFrom(self.generate)
        request.token_ids.extend(self.emitted)
        request.losses = self.losses
        if request.score_from:
            following = request.score_from + self.scored
            request.score_from = following if following < request.prompt_tokens else 0
        if self.emitted and self.candidate:
            request.resumed_from_epoch = self.candidate.epoch
        return request

    @property
    def kv(self) -> inference_pb2.Kv:
        """How its KV is held, as the replica says; empty before it does."""
        told = self.admission
        if told is None:
            return inference_pb2.Kv()
        return inference_pb2.Kv(format=told.kv_format, restored_tokens=told.restored_tokens)

    @property
    def told_route(self) -> inference_pb2.Route:
        """Where it went and why; empty before that is known."""
        if self.decision is None:
            return inference_pb2.Route()
        return inference_pb2.Route(
            model=self.decision.model,
            replica=self.candidate.replica_id if self.candidate else "",
            explanation=self.decision.explanation,
            confidence=self.decision.confidence,
            alias=self.alias,
            patterns=self.decision.choice.patterns,
            pattern=self.decision.choice.pattern,
        )

    @property
    def spent(self) -> bool:
        """Whether every token asked for is there: the stream broke just before it said so."""
        room = self.view.model.context_length - self.generate.prompt_tokens
        limit = min(self.generate.max_tokens or room, room)
        return len(self.emitted) >= limit


class _Patience:
    """How long to go on trying. The first try after a failure comes at once, later ones after growing pauses."""

    def __init__(self, wait_s: float, attempts: int) -> None:
        self._wait_s = wait_s
        self._attempts = attempts
        self.renew()

    def renew(self) -> None:
        """There was progress."""
        self._deadline = time.monotonic() + self._wait_s
        self._pause_s = 0.0
        self._internal = 0

    async def pause(self, error: RussetError, route: router_pb2.RouteRequest) -> None:
        """Wait before the next try, or raise where it is not worth one."""
        self._internal += isinstance(error, Internal)
        if self._internal >= self._attempts:
            raise error
        if time.monotonic() + self._pause_s >= self._deadline:
            if isinstance(error, QueueFull):
                raise error
            raise Unavailable(
                f"no replica of {route.model or 'any model'} answered within {self._wait_s:g} s; last: {error}",
                retry_after_s=error.retry_after_s or 1.0,
            ) from error
        if self._pause_s:
            del route.exclude[:]
            await asyncio.sleep(self._pause_s)
        self._pause_s = min(max(PAUSE_S, 2 * self._pause_s), MAX_PAUSE_S)


class Dispatcher:
    """Runs jobs on replicas."""

    def __init__(self, config: GatewayConfig, routes: Routes, catalog: Catalog, telemetry: Telemetry) -> None:
        self._config = config
        self._routes = routes
        self._catalog = catalog
        self._failovers = telemetry.counter("russet_gateway_failovers_total", "Streams that went on at another replica")

    async def locate(self, route: router_pb2.RouteRequest, wait_s: float) -> ModelView:
        """The model that `route` leads to, where it is settled then.

        Raises NotFound for one that nobody serves, Unavailable after wait_s.
        """
        patience = _Patience(wait_s, self._config.failover_attempts)
        failure: RussetError = Unavailable("the router named no candidate")
        while True:
            try:
                decision = await self._routes.choose(route)
                for candidate in decision.candidates:
                    try:
                        view = await self._catalog.view(candidate)
                    except _BROKEN as error:
                        failure = error
                        route.exclude.append(candidate.replica_id)
                    else:
                        route.settled = decision.model
                        return view
            except _BROKEN as error:
                failure = error
            await patience.pause(failure, route)

    async def stream(self, job: Job) -> AsyncGenerator[scheduler_pb2.GenerateEvent, None]:
        """The job's events, the last with finish_reason, whatever replicas do meanwhile.

        Raises what a replica refused, QueueFull where all are full, Unavailable after job.wait_s without any, and
        ModelChanged before the first token.
        """
        patience = _Patience(job.wait_s, self._config.failover_attempts)
        while True:
            failure: RussetError
            try:
                async with aclosing(self._attempt(job)) as events:
                    async for event in events:
                        if event.token_ids or event.HasField("prompt_logprobs"):
                            job.emitted.extend(event.token_ids)
                            job.scored += len(event.prompt_logprobs.chosen)
                            job.losses = 0
                            patience.renew()
                        yield event
                return
            except _BROKEN as error:
                failure = error
                self._broke(job, error)
            except QueueFull as error:
                if not job.emitted:
                    raise
                failure = error
            except NotFound as error:
                if job.decision is None:
                    raise
                failure = error
            if job.emitted and job.spent:
                yield scheduler_pb2.GenerateEvent(finish_reason=inference_pb2.FINISH_LENGTH)
                return
            await patience.pause(failure, job.route)

    async def _attempt(self, job: Job) -> AsyncGenerator[scheduler_pb2.GenerateEvent, None]:
        """Events of the first candidate that takes the job."""
        began = time.monotonic()
        try:
            job.route.begun = bool(job.emitted or job.scored)
            decision = job.decision = await self._routes.choose(job.route)
        finally:
            job.routing_s += time.monotonic() - began
        job.route.settled = decision.model
        job.alias = decision.alias or job.alias
        full: QueueFull | None = None
        broken: RussetError | None = None
        for candidate in decision.candidates:
            started = False
            try:
                view = await self._catalog.view(candidate)
                if not view.same_tokens(job.view) or view.model.id != job.view.model.id:
                    if not job.route.begun:
                        raise ModelChanged(view)
                    raise Unavailable(
                        f"replica {candidate.replica_id} serves revision {view.model.revision}, not the stream's"
                    )
                request = job.request()
                if job.kept_by and job.kept_by != candidate.replica_id:
                    request.kv_source.extend(await self._routes.workers_of(job.kept_by))
                call = self._catalog.scheduler(candidate).Generate(request)
                try:
                    async for event in call:
                        if event.stalled:
                            event = await self._after_stall(event, call, job, candidate.replica_id)
                        if not started:
                            started = True
                            self._arrive(job, candidate)
                        if job.admission is None and event.HasField("admission"):
                            job.admission = event.admission
                        yield event
                        if event.finish_reason:
                            return
                finally:
                    call.cancel()
                raise Unavailable(f"replica {candidate.replica_id} ended the stream without a finish")
            except QueueFull as error:
                full = error
            except _BROKEN as error:
                self._catalog.forget(candidate.replica_id)
                job.route.exclude.append(candidate.replica_id)
                if started:
                    raise
                broken = error
        raise full or broken or Unavailable("the router named no candidate")

    async def _after_stall(
        self, event: scheduler_pb2.GenerateEvent, call: Stream, job: Job, replica_id: str
    ) -> scheduler_pb2.GenerateEvent:
        """The stream's next event with something in it, once its replica has a worker again.

        Raises Unavailable where another replica is ready before: what was computed is lost in either case.
        """
        reading: asyncio.Future[scheduler_pb2.GenerateEvent | None] | None = None
        try:
            while event.stalled:
                job.losses = event.losses
                reading = asyncio.ensure_future(anext(call, None))
                while not reading.done():
                    if await self._routes.another(job.view.model.id, replica_id):
                        raise Unavailable(f"replica {replica_id} has lost its worker, and another one is ready")
                    await asyncio.wait((reading,), timeout=LOOK_S)
                following = reading.result()
                if following is None:
                    raise Unavailable(f"replica {replica_id} ended the stream without a finish")
                event = following
        finally:
            if reading is not None:
                reading.cancel()
        return event

    def _broke(self, job: Job, error: RussetError) -> None:
        """Say of an attempt that failed where the job was and why."""
        replica = job.candidate.replica_id if job.candidate else ""
        attributes = {"russet.replica": replica, "russet.tokens": len(job.emitted), "exception.message": error.message}
        happened("attempt failed", **attributes, **{genai.ERROR_TYPE: type(error).__name__})
        log.info("an attempt at %s failed after %d tokens: %s", replica or "a replica", len(job.emitted), error)

    def _arrive(self, job: Job, candidate: router_pb2.Candidate) -> None:
        """The candidate answered: the job runs there now."""
        if job.emitted:
            job.failovers += 1
            self._failovers.inc()
            happened("failover", **{"russet.replica": candidate.replica_id, "russet.tokens": len(job.emitted)})
            log.info("goes on at %s after %d tokens", candidate.replica_id, len(job.emitted))
        job.candidate = candidate
        # Where the stream breaks, it goes on with equal tokens only within one ISA class.
        job.route.isa_class = candidate.isa_class


_BROKEN = (Unavailable, Internal, Conflict, DeadlineExceeded)
"""Errors after which another replica, or another time, may do."""
