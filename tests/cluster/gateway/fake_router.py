"""Router, named routers and cost router, which know what they were told."""

from collections.abc import Callable
from typing import Any

from actors.base.errors import InvalidArgument, NotFound, Unavailable
from actors.base.model_names import leaves_choice
from protos.gen import (
    inference_pb2,
    router_pb2,
    router_pb2_grpc,
)
from tests.cluster.gateway.fake_replica import Bell
from tests.cluster.gateway.tiny_model import CONTEXT


class FakeRouter(router_pb2_grpc.RouterServicer):
    """Routes to every replica not excluded, in order."""

    def __init__(self, bell: Bell) -> None:
        self.bell = bell
        self.replicas: dict[str, tuple[str, list[str]]] = {}
        self.unavailable: set[str] = set()
        """Replicas that the table says take no requests."""
        self.listed = 0
        self.routed: list[router_pb2.RouteRequest] = []
        self.reports: list[router_pb2.ReportRequest] = []
        self.refuse: Callable[[router_pb2.RouteRequest], Exception | None] = lambda request: None
        self.default = "tiny"
        self.isa_classes: dict[str, str] = {}
        self.epoch = 1
        self.aliases: dict[str, inference_pb2.Alias] = {}
        """Those that were put. Requests by them go to the first target, or the one settled on."""
        self.outcomes: list[router_pb2.Outcome] = []
        self.retired: list[str] = []
        self.choice: router_pb2.ModelChoice | None = None
        """What it says of models that it chooses itself."""

    async def Route(self, request: router_pb2.RouteRequest, context: Any) -> router_pb2.RouteReply:
        copy = router_pb2.RouteRequest()
        copy.CopyFrom(request)
        self.routed.append(copy)
        self.bell.ring()
        if (error := self.refuse(copy)) is not None:
            raise error
        model = self.default if leaves_choice(request.model) else request.model
        alias = self.aliases.get(model)
        if alias is not None:
            model = request.settled or alias.targets[0].model
        candidates = [
            router_pb2.Candidate(
                replica_id=replica, addresses=addresses, epoch=self.epoch, isa_class=self.isa_classes.get(replica, "")
            )
            for replica, (served, addresses) in self.replicas.items()
            if served == model and replica not in request.exclude
        ]
        if not candidates:
            raise Unavailable("no replica is left")
        return router_pb2.RouteReply(
            model=model,
            candidates=candidates,
            confidence=0.75,
            explanation=["it was the first"],
            alias=alias.name if alias else "",
            choice=self.choice if leaves_choice(request.model) else None,
        )

    async def ListReplicas(self, request: Any, context: Any) -> router_pb2.ListReplicasReply:
        self.listed += 1
        self.bell.ring()
        return router_pb2.ListReplicasReply(
            default_model=self.default,
            aliases=self.aliases.values(),
            retired=self.retired,
            replicas=[
                router_pb2.Replica(
                    available=replica not in self.unavailable,
                    since_s=1_700_000_000,
                    state=router_pb2.HeartbeatRequest(
                        replica_id=replica,
                        addresses=addresses,
                        model=model,
                        context_length=CONTEXT,
                        isa_class=self.isa_classes.get(replica, ""),
                        worker_addresses=[f"unix:/{replica}.worker"],
                    ),
                )
                for replica, (model, addresses) in self.replicas.items()
            ],
        )

    async def Report(self, request: router_pb2.ReportRequest, context: Any) -> router_pb2.ReportReply:
        self.reports.append(request)
        self.bell.ring()
        return router_pb2.ReportReply()

    async def ListAliases(self, request: Any, context: Any) -> router_pb2.ListAliasesReply:
        return router_pb2.ListAliasesReply(aliases=self.aliases.values())

    async def PutAlias(self, request: router_pb2.PutAliasRequest, context: Any) -> router_pb2.PutAliasReply:
        self.aliases[request.alias.name] = request.alias
        return router_pb2.PutAliasReply(alias=request.alias)

    async def DeleteAlias(self, request: router_pb2.DeleteAliasRequest, context: Any) -> router_pb2.DeleteAliasReply:
        return router_pb2.DeleteAliasReply(found=self.aliases.pop(request.name, None) is not None)

    async def ReportOutcomes(
        self, request: router_pb2.ReportOutcomesRequest, context: Any
    ) -> router_pb2.ReportOutcomesReply:
        self.outcomes.extend(request.outcomes)
        self.bell.ring()
        return router_pb2.ReportOutcomesReply()


class FakeSemantic(router_pb2_grpc.SemanticServicer):
    """One router "shop" a tenant, of what it was last trained on; a text's label is the first there is."""

    def __init__(self) -> None:
        self.trained: dict[str, router_pb2.TrainRouterRequest] = {}
        """By tenant."""
        self.asked: list[Any] = []
        self.outcomes: list[router_pb2.OutcomeRequest] = []

    def _reply(self, request: Any) -> router_pb2.RouterReply:
        self.asked.append(request)
        trained = self.trained.get(request.tenant, router_pb2.TrainRouterRequest())
        labels = sorted({each.label for each in trained.examples if each.label})
        card = router_pb2.RouterCard(router=trained.router, examples=len(trained.examples), labels=labels, accuracy=0.5)
        return router_pb2.RouterReply(router=card, changed=1)

    async def TrainRouter(self, request: router_pb2.TrainRouterRequest, context: Any) -> router_pb2.RouterReply:
        self.trained[request.tenant] = request
        return self._reply(request)

    async def AddExamples(self, request: router_pb2.TrainRouterRequest, context: Any) -> router_pb2.RouterReply:
        return self._reply(request)

    async def PruneRouter(self, request: router_pb2.PruneRouterRequest, context: Any) -> router_pb2.RouterReply:
        return self._reply(request)

    async def DeleteRouter(self, request: router_pb2.DeleteRouterRequest, context: Any) -> router_pb2.DeleteRouterReply:
        return router_pb2.DeleteRouterReply(found=self.trained.pop(request.tenant, None) is not None)

    async def ListRouters(self, request: router_pb2.ListRoutersRequest, context: Any) -> router_pb2.ListRoutersReply:
        return router_pb2.ListRoutersReply(routers=[self._reply(request).router] if self.trained else [])

    async def Classify(self, request: router_pb2.ClassifyRequest, context: Any) -> router_pb2.ClassifyReply:
        if request.tenant not in self.trained:
            raise NotFound("there is no router", param="router")
        return router_pb2.ClassifyReply(
            label=self._reply(request).router.labels[0],
            confidence=0.75,
            alternatives=[router_pb2.LabelScore(label="other", confidence=0.25)],
            neighbours=[router_pb2.Near(text=request.text, label="other", similarity=0.5)],
            scope_score=1,
            scope_threshold=2,
            id="route-1",
        )

    async def Outcome(self, request: router_pb2.OutcomeRequest, context: Any) -> router_pb2.OutcomeReply:
        if request.id != "route-1":
            return router_pb2.OutcomeReply(found=False)
        self.outcomes.append(request)
        return router_pb2.OutcomeReply(found=True, change="learned")


class FakeCost(router_pb2_grpc.CostServicer):
    """A prompt's score is one over its length and one; candidates pass where the margin is below 0."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def Score(self, request: router_pb2.ScoreRequest, context: Any) -> router_pb2.ScoreReply:
        self.asked.append(request)
        if not request.prompts:
            raise InvalidArgument("0 prompts", param="prompts")
        return router_pb2.ScoreReply(p=[1 / (1 + len(prompt)) for prompt in request.prompts], version=2, embedded=True)

    async def TrainCost(self, request: router_pb2.TrainCostRequest, context: Any) -> router_pb2.TrainCostReply:
        self.asked.append(request)
        card = await self.GetCost(router_pb2.GetCostRequest(tenant=request.tenant), context)
        lead = router_pb2.Estimate(value=0.5, low=0.25, high=0.75)
        return router_pb2.TrainCostReply(served=request.margin < 0, reasons=["so"], over_current=lead, serving=card)

    async def GetCost(self, request: router_pb2.GetCostRequest, context: Any) -> router_pb2.CostCard:
        return router_pb2.CostCard(version=3 if request.tenant == "t" else 0, rows=400, embedder="words")
