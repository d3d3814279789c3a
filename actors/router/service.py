"""The router's servicer."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.trace import SpanKind
from pydantic import ValidationError

from actors.base import genai
from actors.base.errors import InvalidArgument, NotFound, Unavailable
from actors.base.model_names import leaves_choice
from actors.base.telemetry import Telemetry
from actors.router.aliases import Aliases
from actors.router.choosing import Chooser, Chosen, message_of
from actors.router.config import MAX_FAILURES, AliasConfig, RouterConfig
from actors.router.fastgrnn.service import CostService
from actors.router.fleet import Fleet, Replica
from actors.router.naming import Alias, Choice, Resolution, Tables, is_failing, led, resolve, routing_key
from actors.router.placement import Placement
from actors.router.policy import EXPLAINED, confidence, explain
from actors.router.question import question_of, served_of
from actors.router.semantic.service import SemanticService
from protos.gen import inference_pb2, router_pb2, router_pb2_grpc
from protos.gen.memory_pb2_grpc import MemoryStub

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
        """Without `memory` there are no named routers and no cost router."""
        self.semantic = None if memory is None else SemanticService(memory, telemetry)
        """The named routers, a service of their own."""
        self.cost = None if memory is None else CostService(memory, telemetry)
        """The cost router, another."""
        self.aliases = Aliases(config, memory, clock)
        """Names that lead to models."""
        self._chooser = None
        if self.semantic is not None and self.cost is not None:
            self._chooser = Chooser(self.semantic, self.cost.registry, config.auto == "learned")
        self._config = config
        self._telemetry = telemetry
        self.fleet = Fleet(config, telemetry, clock)
        self._placement = Placement(config, self.fleet, clock)
        self._seconds = telemetry.histogram("russet_router_decision_seconds", "Time of a decision", DECISION_SECONDS)
        self._decisions = telemetry.counter("russet_router_decisions_total", "Decisions by outcome", ("outcome",))
        self._routed_count = self._decisions.labels(outcome="routed")
        variant = ("alias", "model")
        self._ended = telemetry.counter(
            "russet_split_requests_total", "Requests by alias that ended, by how", (*variant, "outcome")
        )
        self._first_token = telemetry.histogram(
            "russet_split_ttft_seconds", "Wait for the first token of requests by alias", labels=variant
        )
        self._quality = telemetry.gauge("russet_split_quality", "Mean quality of answers by alias, 0..1", variant)
        self._rating = telemetry.gauge("russet_split_rating", "Mean rating of answers by alias, -1..1", variant)

    async def start(self) -> None:
        """Begin to read aliases and to rebuild what memory has; replicas announce themselves."""
        await self.aliases.start()
        if self.semantic is not None:
            await self.semantic.start()
        if self.cost is not None:
            await self.cost.start()

    async def stop(self) -> None:
        """End what start() began."""
        await self.aliases.stop()
        if self.semantic is not None:
            await self.semantic.stop()
        if self.cost is not None:
            await self.cost.stop()

    async def Route(self, request: router_pb2.RouteRequest, context: Any) -> router_pb2.RouteReply:
        """Choose. Raises NotFound for a model that nobody serves, Unavailable where nobody is ready to."""
        with self._telemetry.span("router.route", {"russet.request_id": request.request_id}, SpanKind.SERVER) as span:
            reply = await self._routed(request)
            span.set_attributes({genai.RESPONSE_MODEL: reply.model, "russet.replica": reply.candidates[0].replica_id})
            return reply

    async def _routed(self, request: router_pb2.RouteRequest) -> router_pb2.RouteReply:
        """Choose a model where that is left to the router, then a replica of it."""
        if self._chooser is None or not leaves_choice(request.model):
            return self.decide(request)
        available = self.fleet.up(self.fleet.replicas())
        default = self._default(available)
        chosen = await self._chooser.choose(question_of(request, available), served_of(available), default)
        return self.decide(request, chosen)

    def decide(self, request: router_pb2.RouteRequest, chosen: Chosen | None = None) -> router_pb2.RouteReply:
        """Route without the span around it; `chosen` is the model, where that was left to the router."""
        began = time.perf_counter()
        known = self.fleet.replicas()
        resolution = self._resolve(request, chosen, known)
        model, ready = self._settle(request, resolution.choices, known)
        placed = self._placement.choose(ready, request)
        ranking = placed.ranking
        terms = [ranking.terms_of(place) for place in ranking.order[:EXPLAINED]]
        explanation = [*resolution.explanation, *explain(ranking, placed.views.replica_ids, terms)]
        if not placed.predicted:
            explanation.append("waits were foretold far worse of late than by counting requests; the load decides")
        if model != resolution.choices[0].model:
            explanation.insert(len(resolution.explanation), f"it went to {model} before, and stays there")
        self._routed_count.inc()
        self._seconds.observe(time.perf_counter() - began)
        reply = router_pb2.RouteReply(
            model=model,
            confidence=confidence(ranking),
            explanation=explanation,
            alias=resolution.alias,
            choice=message_of(chosen) if chosen is not None else None,
            candidates=[ready[place].candidate for place in ranking.order],
        )
        for place, candidate in zip(ranking.order, reply.candidates, strict=True):
            candidate.score = ranking.scores[place]
        for candidate, each in zip(reply.candidates, terms, strict=False):
            candidate.terms.update(each)
        return reply

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
        tables = self._tables(replicas)
        aliases = [self._alias(alias, tables) for _, alias in sorted(tables.aliases.items())]
        return router_pb2.ListReplicasReply(
            replicas=rows, default_model=tables.default, aliases=aliases, retired=sorted(self.fleet.retired)
        )

    async def Report(self, request: router_pb2.ReportRequest, context: Any) -> router_pb2.ReportReply:
        """Learn how a request went."""
        self.learn(request)
        return router_pb2.ReportReply()

    def learn(self, report: router_pb2.ReportRequest) -> None:
        """Take a report."""
        self._placement.answered(report)

    async def ListAliases(self, request: router_pb2.ListAliasesRequest, context: Any) -> router_pb2.ListAliasesReply:
        """All, with how their targets do."""
        tables = self._tables(self.fleet.replicas())
        return router_pb2.ListAliasesReply(
            aliases=[self._alias(alias, tables, told=True) for _, alias in sorted(tables.aliases.items())]
        )

    async def PutAlias(self, request: router_pb2.PutAliasRequest, context: Any) -> router_pb2.PutAliasReply:
        """Set one. Raises InvalidArgument, NotFound for a target that nobody serves, Unavailable without memory."""
        asked, known = request.alias, self.fleet.replicas()
        config = alias_config(asked)
        served = sorted({replica.figures.model for replica in known})
        if wrong := next((model for model in config.models if model not in served), None):
            raise NotFound(
                f"alias {asked.name[:80]!r} would lead to {wrong[:80]!r}, which is not served here; these are: "
                f"{', '.join(served) or 'none yet'}",
                param="models",
            )
        alias = await self.aliases.put(asked.name, config)
        return router_pb2.PutAliasReply(alias=self._alias(alias, self._tables(known), told=True))

    async def DeleteAlias(self, request: router_pb2.DeleteAliasRequest, context: Any) -> router_pb2.DeleteAliasReply:
        """Forget one that was put."""
        return router_pb2.DeleteAliasReply(found=await self.aliases.delete(request.name))

    async def ReportOutcomes(
        self, request: router_pb2.ReportOutcomesRequest, context: Any
    ) -> router_pb2.ReportOutcomesReply:
        """Count how requests by alias went."""
        for outcome in request.outcomes:
            if self.aliases.report(outcome):
                self._count(outcome)
        return router_pb2.ReportOutcomesReply()

    def _count(self, outcome: router_pb2.Outcome) -> None:
        variant = {"alias": outcome.alias, "model": outcome.model}
        if outcome.HasField("succeeded"):
            self._ended.labels(**variant, outcome="answered" if outcome.succeeded else "failed").inc()
        if outcome.HasField("ttft_ms"):
            self._first_token.labels(**variant).observe(outcome.ttft_ms / 1e3)
        known = self.aliases.variants.message((outcome.alias, outcome.model))
        if outcome.HasField("quality"):
            self._quality.labels(**variant).set(known.quality.mean)
        if outcome.HasField("rating"):
            self._rating.labels(**variant).set(known.rating.mean)

    def _alias(self, alias: Alias, tables: Tables, *, told: bool = False) -> inference_pb2.Alias:
        """As it is told; `told`: with the outcomes of its targets."""
        keys = [(alias.name, target.model) for target in alias.targets]
        return inference_pb2.Alias(
            name=alias.name,
            max_failures=alias.max_failures,
            source=self.aliases.source(alias.name),
            targets=[
                inference_pb2.AliasTarget(
                    model=target.model,
                    weight=target.weight,
                    ready=target.model in tables.ready,
                    failing=is_failing(alias, tables.failures.get(key)),
                    outcomes=self.aliases.variants.message(key) if told else None,
                )
                for key, target in zip(keys, alias.targets, strict=True)
            ],
        )

    def _default(self, known: list[Replica]) -> str:
        """The model of requests that ask for none; empty while there is none."""
        default = self._config.default_model
        there = {replica.state.model for replica in known} - self.fleet.retired
        return default if default and (default not in self.fleet.retired or not there) else min(there, default="")

    def _resolve(self, request: router_pb2.RouteRequest, chosen: Chosen | None, known: list[Replica]) -> Resolution:
        """Where the name that was asked for leads; a begun request's, to its own model. Raises NotFound."""
        served = sorted({replica.figures.model for replica in known} - self.fleet.retired)
        if request.begun:
            resolution = Resolution("", (Choice(request.settled, 1.0, "it has begun"),), ())
        elif chosen is not None:
            resolution = led(chosen, served, routing_key(request), self._tables(known))
        else:
            resolution = resolve(request.model, routing_key(request), self._tables(known))
        models, retired = {choice.model for choice in resolution.choices}, self.fleet.retired
        if not request.begun and models <= retired:
            raise NotFound(
                f"model {resolution.choices[0].model!r} was unloaded; these are served: {', '.join(served) or 'none'}",
                param="model",
            )
        # A router that has heard of nobody cannot tell what there is; and the default model may be loading still.
        if served and not models & {*served, self._config.default_model, request.settled}:
            self._decisions.labels(outcome="unknown_model").inc()
            here = f"served here; these are: {', '.join(served)}"
            if resolution.alias:
                targets = ", ".join(choice.model for choice in resolution.choices)
                raise NotFound(f"{resolution.alias!r} leads to {targets}, which is not {here}", param="model")
            raise NotFound(f"model {resolution.choices[0].model!r} is not {here}", param="model")
        return resolution

    def _settle(
        self, request: router_pb2.RouteRequest, choices: Sequence[Choice], known: list[Replica]
    ) -> tuple[str, list[Replica]]:
        """The first of the choices that replicas are ready for, and these.

        A request that was led to one of them before stays there where it can. Raises Unavailable.
        """
        models = [choice.model for choice in choices]
        if request.settled in models:
            models = [request.settled, *(model for model in models if model != request.settled)]
        by_model = {model: [replica for replica in known if replica.figures.model == model] for model in models}
        for model, replicas in by_model.items():
            ready = self.fleet.up(replicas)
            if request.exclude:
                ready = [replica for replica in ready if replica.replica_id not in request.exclude]
            if ready:
                return model, ready
        self._decisions.labels(outcome="unavailable").inc()
        of_models = [replica for replicas in by_model.values() for replica in replicas]
        reasons = ", ".join(f"{replica.replica_id} {self._reason(replica)}" for replica in of_models)
        names = " or ".join(models) or "any model"
        raise Unavailable(
            f"no replica of {names} is ready; {reasons or 'none has announced itself yet'}",
            retry_after_s=RETRY_AFTER_S,
        )

    def _tables(self, known: list[Replica]) -> Tables:
        ready = {replica.figures.model for replica in self.fleet.up(known)}
        return Tables(self.aliases.by_name, self._default(known), ready, self.aliases.variants.failures())

    def _reason(self, replica: Replica) -> str:
        """Why it cannot be chosen."""
        if self.fleet.stale(replica):
            return f"was not heard from for {self.fleet.age_s(replica):.0f} s"
        if replica.state.load.draining:
            return "is draining"
        return "has just failed this request" if replica.state.load.ready else "is loading"


def alias_config(asked: inference_pb2.Alias) -> AliasConfig:
    """An alias as it was asked for. Raises InvalidArgument naming what is wrong."""
    weights = {target.model: target.weight for target in asked.targets}
    if len(weights) < len(asked.targets):
        raise InvalidArgument(f"alias {asked.name[:80]!r} names a model twice; accepted is each once", param="models")
    try:
        return AliasConfig(models=weights, max_failures=asked.max_failures or MAX_FAILURES)
    except ValidationError as wrong:
        error = wrong.errors()[0]
        place = ".".join(map(str, error["loc"]))
        raise InvalidArgument(
            f"alias {asked.name[:80]!r}: {place} is {error['input']!r}: {error['msg']}", param=place
        ) from None
