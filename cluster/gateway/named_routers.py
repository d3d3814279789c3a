"""HTTP of the named routers: train, change, list and delete them, and ask which label a text belongs to."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.routing import Route

from cluster.gateway.answers import dumps
from cluster.gateway.asgi import Handler, Reply
from cluster.gateway.bodies import Body, parse
from cluster.gateway.caller import Caller
from protos.gen import router_pb2
from protos.gen.router_pb2_grpc import SemanticStub

CLASSIFY_TIMEOUT_S = 30.0
TRAIN_TIMEOUT_S = 1800.0
"""Embedding 20,000 texts on a busy machine takes minutes."""


class ClassifyBody(Body):
    """Of POST /v1/router/classify."""

    router: str
    text: str


class ExampleBody(Body):
    """A text and its label; null: out of the router's scope."""

    text: str
    label: str | None


class ExamplesBody(Body):
    """What a router is trained on."""

    examples: list[ExampleBody]


class PruneBody(Body):
    """Which examples to remove."""

    texts: list[str] | None = None
    labels: list[str] | None = None
    merge_above: float | None = None


class NamedRouters:
    """The handlers. A caller sees the routers of its tenant and those that ship with Russet."""

    def __init__(self, semantic: SemanticStub) -> None:
        self._semantic = semantic

    def routes(self, route: Callable[[str, str, Handler], Route]) -> list[Route]:
        """Where they are reached; `route` makes one of path, method and handler."""
        return [
            route("/v1/router/classify", "POST", self.classify),
            route("/v1/routers", "GET", self.listed),
            route("/v1/routers/{router}", "PUT", self.train),
            route("/v1/routers/{router}", "DELETE", self.delete),
            route("/v1/routers/{router}/examples", "POST", self.add),
            route("/v1/routers/{router}/prune", "POST", self.prune),
        ]

    async def classify(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """POST /v1/router/classify."""
        message = classify_request(parse(body, ClassifyBody))
        message.tenant = caller.tenant
        reply = await self._semantic.Classify(message, timeout=CLASSIFY_TIMEOUT_S)
        found = {
            "id": reply.id,
            "router": message.router,
            "label": reply.label,
            "confidence": reply.confidence,
            "in_scope": reply.in_scope,
            "scope": {"score": reply.scope_score, "threshold": reply.scope_threshold},
            "alternatives": [{"label": each.label, "confidence": each.confidence} for each in reply.alternatives],
            "neighbours": [
                {"text": near.text, "label": near.label, "similarity": near.similarity} for near in reply.neighbours
            ],
        }
        return Reply(dumps(found))

    async def train(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """PUT /v1/routers/{router}: make it, or replace its examples."""
        return _changed(await self._semantic.TrainRouter(_examples(request, body, caller), timeout=TRAIN_TIMEOUT_S))

    async def add(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """POST /v1/routers/{router}/examples: add, or relabel."""
        return _changed(await self._semantic.AddExamples(_examples(request, body, caller), timeout=TRAIN_TIMEOUT_S))

    async def prune(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """POST /v1/routers/{router}/prune: remove by text, by label, or by repeating another."""
        message = prune_request(parse(body, PruneBody))
        message.tenant, message.router = caller.tenant, request.path_params["router"]
        return _changed(await self._semantic.PruneRouter(message, timeout=TRAIN_TIMEOUT_S))

    async def listed(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/routers: by name."""
        reply = await self._semantic.ListRouters(
            router_pb2.ListRoutersRequest(tenant=caller.tenant), timeout=CLASSIFY_TIMEOUT_S
        )
        return Reply(dumps({"object": "list", "data": [_row(card) for card in reply.routers]}))

    async def delete(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """DELETE /v1/routers/{router}."""
        name = request.path_params["router"]
        message = router_pb2.DeleteRouterRequest(tenant=caller.tenant, router=name)
        reply = await self._semantic.DeleteRouter(message, timeout=CLASSIFY_TIMEOUT_S)
        return Reply(dumps({"id": name, "object": "router", "deleted": reply.found}))


def classify_request(asked: ClassifyBody) -> router_pb2.ClassifyRequest:
    """The body as the router reads it."""
    return router_pb2.ClassifyRequest(router=asked.router, text=asked.text)


def examples_of(given: ExamplesBody) -> list[router_pb2.Example]:
    """The body as the router reads it."""
    return [router_pb2.Example(text=each.text, label=each.label or "") for each in given.examples]


def prune_request(asked: PruneBody) -> router_pb2.PruneRouterRequest:
    """The body as the router reads it."""
    return router_pb2.PruneRouterRequest(texts=asked.texts, labels=asked.labels, merge_above=asked.merge_above or 0)


def _examples(request: Request, body: bytes, caller: Caller) -> router_pb2.TrainRouterRequest:
    examples = examples_of(parse(body, ExamplesBody))
    return router_pb2.TrainRouterRequest(tenant=caller.tenant, router=request.path_params["router"], examples=examples)


def _changed(reply: router_pb2.RouterReply) -> Reply:
    return Reply(dumps(_row(reply.router) | {"changed": reply.changed}))


def _row(card: router_pb2.RouterCard) -> dict:
    return {
        "id": card.router,
        "object": "router",
        "examples": card.examples,
        "labels": list(card.labels),
        "embedder": card.embedder,
        "held_out": {"accuracy": card.accuracy, "calibration_error": card.calibration_error},
        "head_weight": card.head_weight,
        "shipped": card.shipped,
    }
