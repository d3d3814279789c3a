"""The servicer of the cost router. See router.proto for each method."""

import asyncio
import math
from typing import Any

from actors.base.errors import InvalidArgument, TooLarge
from actors.base.telemetry import Telemetry
from actors.router.fastgrnn.fitting import LEAST, UNKNOWN, Row
from actors.router.fastgrnn.metric import Interval
from actors.router.fastgrnn.registry import Registry, Serving
from protos.gen import router_pb2, router_pb2_grpc
from protos.gen.memory_pb2_grpc import MemoryStub

MAX_TENANT, MAX_TEXT = 256, 32 << 10
MAX_PROMPTS, MAX_ROWS = 2048, 20_000
AT_ONCE = 8
"""Prompts scored in one go on the event loop's time; more go to a thread."""


class CostService(router_pb2_grpc.CostServicer):
    """Scores prompts, and trains routers that do so."""

    def __init__(self, memory: MemoryStub, telemetry: Telemetry) -> None:
        self.registry = Registry(memory)
        self._scored = telemetry.counter("russet_cost_scored_total", "Prompts scored by the cost router")
        self._trained = telemetry.counter("russet_cost_trained_total", "Candidates by the gate's verdict", ("verdict",))

    async def start(self) -> None:
        """Begin to take over the routers that memory has."""
        await self.registry.start()

    async def stop(self) -> None:
        """End."""
        await self.registry.stop()

    async def Score(self, request: router_pb2.ScoreRequest, context: Any) -> router_pb2.ScoreReply:
        """How likely the small model is enough for each prompt."""
        _check_tenant(request.tenant)
        prompts = list(request.prompts)
        if not 1 <= len(prompts) <= MAX_PROMPTS:
            raise InvalidArgument(
                f"{len(prompts)} prompts; accepted are 1 to {MAX_PROMPTS} in a request", param="prompts"
            )
        for place, prompt in enumerate(prompts):
            _check_text(prompt, f"prompts[{place}]")
        serving = self.registry.serving(request.tenant)
        vectors = await self.registry.vectors(serving.router, prompts)
        if len(prompts) <= AT_ONCE:
            p = serving.router.score(prompts, vectors)
        else:
            p = await asyncio.to_thread(serving.router.score, prompts, vectors)
        self._scored.inc(len(prompts))
        return router_pb2.ScoreReply(p=p.tolist(), version=serving.version, embedded=vectors is not None)

    async def TrainCost(self, request: router_pb2.TrainCostRequest, context: Any) -> router_pb2.TrainCostReply:
        """Train, gate, and serve what passes."""
        _check_tenant(request.tenant)
        if not LEAST <= len(request.rows) <= MAX_ROWS:
            raise InvalidArgument(f"{len(request.rows)} rows; accepted are {LEAST} to {MAX_ROWS}", param="rows")
        if not -1 <= request.margin <= 1:
            raise InvalidArgument(f"margin is {request.margin}; accepted is -1 to 1", param="margin")
        rows = [_row(place, row) for place, row in enumerate(request.rows)]
        verdict = await self.registry.train(request.tenant, rows, request.margin)
        self._trained.labels(verdict="served" if verdict.passed else "refused").inc()
        return router_pb2.TrainCostReply(
            served=verdict.passed,
            reasons=verdict.reasons,
            over_current=_estimate(verdict.over_current),
            serving=_card(self.registry.serving(request.tenant)),
        )

    async def GetCost(self, request: router_pb2.GetCostRequest, context: Any) -> router_pb2.CostCard:
        """What serves a tenant."""
        _check_tenant(request.tenant)
        return _card(self.registry.serving(request.tenant))


def _row(place: int, row: router_pb2.CostRow) -> Row:
    _check_text(row.prompt, f"rows[{place}].prompt")
    for name, most in (("temperature", 2.0), ("top_p", 1.0)):
        value = getattr(row, name)
        if row.HasField(name) and not 0 <= value <= most:
            param = f"rows[{place}].{name}"
            raise InvalidArgument(f"{param} is {value}; accepted is 0 to {most:g}", param=param)
    return Row(
        row.prompt,
        float(row.weak_correct),
        float(row.strong_correct),
        float(row.tokens) if row.HasField("tokens") else UNKNOWN,
        row.temperature if row.HasField("temperature") else UNKNOWN,
        row.top_p if row.HasField("top_p") else UNKNOWN,
    )


def _card(serving: Serving) -> router_pb2.CostCard:
    quality = serving.router.quality
    return router_pb2.CostCard(
        version=serving.version,
        rows=quality.rows,
        embedder=serving.router.projection.embedder,
        over_chance=_estimate(quality.over_chance),
        over_length=_estimate(quality.over_length),
        calibration_error=quality.calibration_error,
        confidence_error=quality.confidence_error,
    )


def _estimate(interval: Interval) -> router_pb2.Estimate:
    return router_pb2.Estimate(**{name: value for name, value in interval._asdict().items() if math.isfinite(value)})


def _check_tenant(tenant: str) -> None:
    if len(tenant) > MAX_TENANT:
        raise InvalidArgument(f"tenant {tenant[:40]!r}; accepted are up to {MAX_TENANT} characters", param="tenant")


def _check_text(text: str, what: str) -> None:
    if not text.strip():
        raise InvalidArgument(f"{what} is empty; accepted is a text with content", param=what)
    if len(text) > MAX_TEXT:
        raise TooLarge(f"{what} has {len(text)} characters; accepted are up to {MAX_TEXT}", param=what)
