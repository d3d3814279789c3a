"""The router's servicer."""

import time
from typing import Any

from actors.base.errors import InvalidArgument, NotFound, Unavailable
from actors.base.telemetry import Telemetry
from actors.router.affinity import Affinity
from actors.router.config import RouterConfig
from actors.router.fleet import Fleet, Replica
from actors.router.policy import Ask, View, confidence, explain, rank
from protos.gen import router_pb2, router_pb2_grpc

AUTO = ("", "auto")
RETRY_AFTER_S = 1.0
DECISION_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05)


class RouterService(router_pb2_grpc.RouterServicer):
    """Answers Route from memory alone: no call of another actor, no lock. See router.proto."""

    def __init__(self, config: RouterConfig, telemetry: Telemetry) -> None:
        self._config = config
        self.fleet = Fleet(config, telemetry)
        self._affinity = Affinity(config.affinity_entries)
        self._seconds = telemetry.histogram("russet_router_decision_seconds", "Time of a decision", DECISION_SECONDS)
        self._decisions = telemetry.counter("russet_router_decisions_total", "Decisions by outcome", ("outcome",))

    async def start(self) -> None:
        """Replicas announce themselves; there is nothing to begin."""

    async def stop(self) -> None:
        """There is nothing to end."""

    async def Route(self, request: router_pb2.RouteRequest, context: Any) -> router_pb2.RouteReply:
        """Choose. Raises NotFound for a model that nobody serves, Unavailable where nobody is ready to."""
        began = time.perf_counter()
        model = self._model(request.model)
        of_model = [replica for replica in self.fleet.replicas() if replica.state.model == model]
        ready = [
            replica
            for replica in of_model
            if self.fleet.available(replica) and replica.state.replica_id not in request.exclude
        ]
        if not ready:
            self._decisions.labels(outcome="unavailable").inc()
            raise Unavailable(f"no replica of {model} is ready; {self._reasons(of_model)}", retry_after_s=RETRY_AFTER_S)
        session = self._affinity.session(request.tenant, request.session_id)
        pages = self._affinity.prefix_pages(request.tenant, request.prefix_hashes)
        views = [_view(replica, session, pages) for replica in ready]
        ranked = rank(views, Ask(request.prompt_tokens, request.isa_class), self._config)
        states = {replica.state.replica_id: replica.state for replica in ready}
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
        rows = [
            router_pb2.Replica(
                state=replica.state,
                age_s=self.fleet.age_s(replica),
                available=self.fleet.available(replica),
                since_s=replica.since_s,
            )
            for replica in self.fleet.replicas()
        ]
        return router_pb2.ListReplicasReply(replicas=rows, default_model=self._config.default_model)

    async def Report(self, request: router_pb2.ReportRequest, context: Any) -> router_pb2.ReportReply:
        """Learn how a request went."""
        replica = self.fleet.get(request.replica_id)
        if replica is not None:
            rate = self._config.history_rate
            replica.history.add(request.succeeded, request.ttft_ms, request.tpot_ms, rate)
        if request.succeeded:
            hashes = request.prefix_hashes
            self._affinity.served(request.tenant, request.session_id, hashes, request.replica_id)
        return router_pb2.ReportReply()

    def _model(self, asked: str) -> str:
        served = self.fleet.models()
        model = (self._config.default_model or next(iter(served), "")) if asked in AUTO else asked
        # The default may be loading still: that is Unavailable, not NotFound.
        if model not in served and asked not in AUTO and model != self._config.default_model:
            self._decisions.labels(outcome="unknown_model").inc()
            raise NotFound(
                f"model {model!r} is not served here; these are: {', '.join(served) or 'none yet'}", param="model"
            )
        return model

    def _reasons(self, replicas: list[Replica]) -> str:
        if not replicas:
            return "none has announced itself yet"
        states = []
        for replica in replicas:
            load = replica.state.load
            stale = self.fleet.age_s(replica) >= self._config.stale_after_s
            why = (
                "not heard from" if stale else "draining" if load.draining else "excluded" if load.ready else "loading"
            )
            states.append(f"{replica.state.replica_id} is {why}")
        return ", ".join(states)


def _view(replica: Replica, session: str | None, pages: dict[str, int]) -> View:
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
        success=replica.history.success,
        isa_class=state.isa_class,
        holds_session=state.replica_id == session,
        prefix_pages=pages.get(state.replica_id, 0),
    )
