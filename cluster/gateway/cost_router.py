"""HTTP of the cost router: score prompts, train a router of one's own, and look at what serves."""

from collections.abc import Callable

from pydantic import Field
from starlette.requests import Request
from starlette.routing import Route

from cluster.gateway.answers import dumps
from cluster.gateway.asgi import Handler, Reply
from cluster.gateway.bodies import Body, parse
from cluster.gateway.caller import Caller
from protos.gen import router_pb2
from protos.gen.router_pb2_grpc import CostStub

SCORE_TIMEOUT_S, TRAIN_TIMEOUT_S = 600.0, 3600.0
"""Embedding 2,048 long prompts takes minutes on a busy machine."""
MOST_TOKENS = (1 << 32) - 1
"""As the message to the router holds it."""


class ScoreBody(Body):
    """Of POST /v1/router/score."""

    prompts: list[str]


class CostRowBody(Body):
    """A question that both models answered; the last three where known."""

    prompt: str
    weak_correct: bool
    strong_correct: bool
    tokens: int | None = Field(default=None, ge=0, le=MOST_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)


class TrainCostBody(Body):
    """Of PUT /v1/router/cost."""

    rows: list[CostRowBody]
    margin: float | None = Field(default=None, ge=-1, le=1)


class CostRouting:
    """The handlers. A caller is answered by its tenant's router, or by the one that ships with Russet."""

    def __init__(self, cost: CostStub) -> None:
        self._cost = cost

    def routes(self, route: Callable[[str, str, Handler], Route]) -> list[Route]:
        """Where they are reached; `route` makes one of path, method and handler."""
        return [
            route("/v1/router/score", "POST", self.score),
            route("/v1/router/cost", "GET", self.card),
            route("/v1/router/cost", "PUT", self.train),
        ]

    async def score(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """POST /v1/router/score."""
        message = score_request(parse(body, ScoreBody))
        message.tenant = caller.tenant
        reply = await self._cost.Score(message, timeout=SCORE_TIMEOUT_S)
        return Reply(
            dumps({"p": list(reply.p), "router": "cost", "version": reply.version, "embedded": reply.embedded})
        )

    async def train(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """PUT /v1/router/cost: train, and serve if the gate lets it."""
        message = train_request(parse(body, TrainCostBody))
        message.tenant = caller.tenant
        reply = await self._cost.TrainCost(message, timeout=TRAIN_TIMEOUT_S)
        told = {
            "served": reply.served,
            "reasons": list(reply.reasons),
            "over_current": _interval(reply.over_current),
            "serving": _card(reply.serving),
        }
        return Reply(dumps(told))

    async def card(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/router/cost."""
        message = router_pb2.GetCostRequest(tenant=caller.tenant)
        return Reply(dumps(_card(await self._cost.GetCost(message, timeout=SCORE_TIMEOUT_S))))


def score_request(asked: ScoreBody) -> router_pb2.ScoreRequest:
    """The body as the router reads it."""
    return router_pb2.ScoreRequest(prompts=asked.prompts)


def train_request(given: TrainCostBody) -> router_pb2.TrainCostRequest:
    """The body as the router reads it."""
    rows = [router_pb2.CostRow(**row.model_dump(exclude_none=True)) for row in given.rows]
    return router_pb2.TrainCostRequest(rows=rows, margin=given.margin or 0.0)


def _card(card: router_pb2.CostCard) -> dict:
    return {
        "id": "cost",
        "object": "router",
        "version": card.version,
        "rows": card.rows,
        "embedder": card.embedder,
        "held_out": {
            "over_chance": _interval(card.over_chance),
            "over_length": _interval(card.over_length),
            "calibration_error": card.calibration_error,
            "confidence_error": card.confidence_error,
        },
        "shipped": not card.version,
    }


def _interval(estimate: router_pb2.Estimate) -> dict:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}
