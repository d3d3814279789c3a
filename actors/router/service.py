"""The router's servicer."""

import time
from collections.abc import Callable
from typing import Any

from opentelemetry.trace import SpanKind

from actors.base import genai
from actors.base.errors import InvalidArgument, NotFound, Unavailable
from actors.base.telemetry import Telemetry
from actors.router.affinity import Affinity
from actors.router.config import RouterConfig
from actors.router.fleet import Fleet, Replica
from actors.router.policy import Ask, View, confidence, explain, rank, uncached
from actors.router.semantic.service import SemanticService
from protos.gen import router_pb2, router_pb2_grpc
from protos.gen.memory_pb2_grpc import MemoryStub

AUTO = ("", "auto")
RETRY_AFTER_S = 1.0
DECISION_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05)


class RouterService(router_pb2_grpc.RouterServicer):
    """Answers Route from memory alone: no call of another actor, no lock. See router.proto."""

    def __init__(
        self,
        config: RouterConfig,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.monotonic,
        memory: MemoryStub | None = None,
    ) -> None:
        """Without `memory` there are no named routers."""
        self.semantic = None if memory is None else SemanticService(memory, telemetry)
        """The named routers, a service of their own."""
        self._config = config
        self._telemetry = telemetry
        self.fleet = Fleet(config, telemetry, clock)
        self._affinity = Affinity(config.affinity_entries)
        self._seconds = telemetry.histogram("russet_router_decision_seconds", "Time of a decision", DECISION_SECONDS)
        self._decisions = telemetry.counter("russet_router_decisions_total", "Decisions by outcome", ("outcome",))

    async def start(self) -> None:
        """Begin to rebuild the named routers; replicas announce themselves."""
        if self.semantic is not None:
            await self.semantic.start()

    async def stop(self) -> None:
        """End what start() began."""
        if self.semantic is not None:
            await self.semantic.stop()

    async def Route(self, request: router_pb2.RouteRequest, context: Any) -> router_pb2.RouteReply:
        """Choose. Raises NotFound for a model that nobody serves, Unavailable where nobody is ready to."""
        with self._telemetry.span("router.route", {"russet.request_id": request.request_id}, SpanKind.SERVER) as span:
            reply = self._route(request)
            span.set_attributes({genai.RESPONSE_MODEL: reply.model, "russet.replica": reply.candidates[0].replica_id})
            return reply

    def _route(self, request: router_pb2.RouteRequest) -> router_pb2.RouteReply:
        began = time.perf_counter()
        known = self.fleet.replicas()
        model = self._model(request.model, known)
        of_model = [replica for replica in known if replica.state.model == model]
        ready = [
            replica
            for replica in of_model
            if self.fleet.available(replica) and replica.replica_id not in request.exclude
        ]
        if not ready:
            self._decisions.labels(outcome="unavailable").inc()
            reasons = ", ".join(f"{replica.replica_id} {self._reason(replica)}" for replica in of_model)
            raise Unavailable(
                f"no replica of {model or 'any model'} is ready; {reasons or 'none has announced itself yet'}",
                retry_after_s=RETRY_AFTER_S,
            )
        session = self._affinity.session(request.tenant, request.session_id) or request.session_replica
        pages = self._affinity.prefix_pages(request.tenant, request.prefix_hashes)
        views = [_view(replica, self.fleet.success(replica), session, pages) for replica in ready]
        ask = Ask(request.prompt_tokens, request.isa_class)
        ranked = rank(views, ask, self._config)
        states = {replica.replica_id: replica.state for replica in ready}
        # Requests that come between two heartbeats must not all go where it was empty at the first.
        winner = ranked[0].view
        self.fleet.sent(winner.replica_id, request.request_id, uncached(winner, ask))
        explanation = explain(ranked)
        if request.model in AUTO:
            explanation.insert(0, f"no model was asked for; {model} is the default")
        self._decisions.labels(outcome="routed").inc()
        self._seconds.observe(time.perf_counter() - began)
        return router_pb2.RouteReply(
            model=model,
            confidence=confidence(ranked),
            explanation=explanation,
            candidates=[
                router_pb2.Candidate(
                    replica_id=each.view.replica_id,
                    addresses=states[each.view.replica_id].addresses,
                    score=each.score,
                    terms=each.terms,
                    epoch=states[each.view.replica_id].load.epoch,
                    isa_class=each.view.isa_class,
                )
                for each in ranked
            ],
        )

    async def Heartbeat(self, request: router_pb2.HeartbeatRequest, context: Any) -> router_pb2.HeartbeatReply:
        """A replica lives, or says goodbye."""
        if not request.replica_id or not request.model or not request.addresses:
            raise InvalidArgument(f"a heartbeat without replica_id, model or addresses: {request.replica_id!r}")
        return router_pb2.HeartbeatReply(known=self.fleet.heard(request))

    async def ListReplicas(self, request: router_pb2.ListReplicasRequest, context: Any) -> router_pb2.ListReplicasReply:
        """The table."""
        replicas = self.fleet.replicas()
        rows = [
            router_pb2.Replica(
                state=replica.state,
                age_s=self.fleet.age_s(replica),
                available=self.fleet.available(replica),
                since_s=replica.since_s,
            )
            for replica in replicas
        ]
        return router_pb2.ListReplicasReply(replicas=rows, default_model=self._default(replicas))

    async def Report(self, request: router_pb2.ReportRequest, context: Any) -> router_pb2.ReportReply:
        """Learn how a request went."""
        self.fleet.answered(request.replica_id, request.request_id, request.succeeded, request.ttft_ms, request.tpot_ms)
        if request.succeeded:
            self._affinity.served(request.tenant, request.session_id, request.prefix_hashes, request.replica_id)
        return router_pb2.ReportReply()

    def _default(self, known: list[Replica]) -> str:
        """The model of requests that ask for none; empty while there is none."""
        return self._config.default_model or min((replica.state.model for replica in known), default="")

    def _model(self, asked: str, known: list[Replica]) -> str:
        if asked in AUTO:
            return self._default(known)
        served = sorted({replica.state.model for replica in known})
        # A router that has heard of nobody cannot tell what there is; and the default model may be loading still.
        if served and asked not in served and asked != self._config.default_model:
            self._decisions.labels(outcome="unknown_model").inc()
            raise NotFound(f"model {asked!r} is not served here; these are: {', '.join(served)}", param="model")
        return asked

    def _reason(self, replica: Replica) -> str:
        """Why it cannot be chosen."""
        if self.fleet.stale(replica):
            return f"was not heard from for {self.fleet.age_s(replica):.0f} s"
        if replica.state.load.draining:
            return "is draining"
        return "has just failed this request" if replica.state.load.ready else "is loading"


def _view(replica: Replica, success: float, session: str | None, pages: dict[str, int]) -> View:
    state, load = replica.state, replica.state.load
    return View(
        replica_id=state.replica_id,
        running=load.running,
        waiting=load.waiting,
        queue_limit=load.queue_limit,
        pages_used=load.pages_used,
        pages_total=load.pages_total,
        page_size=load.page_size,
        prefill_backlog_tokens=load.prefill_backlog_tokens,
        prefill_tokens_per_s=load.prefill_tokens_per_s,
        step_ms=load.step_us / 1e3,
        sent=len(replica.sent),
        sent_tokens=sum(replica.sent.values()),
        success=success,
        tpot_ms=replica.history.tpot_ms,
        isa_class=state.isa_class,
        holds_session=state.replica_id == session,
        prefix_pages=pages.get(state.replica_id, 0),
    )
