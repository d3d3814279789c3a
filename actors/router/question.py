"""What a request asks of the choice of its model, and what is served: from messages to what routers read. Pure."""

from collections.abc import Iterable

from actors.router.choosing import Question
from actors.router.fastgrnn.features import Constraints, Served
from actors.router.fleet import Replica
from protos.gen import inference_pb2, router_pb2

TEXT_CHARS = 8192
"""Of a question, at most this much is read."""
URGENT = (inference_pb2.PRIORITY_HIGH, inference_pb2.PRIORITY_CRITICAL)


def question_of(request: router_pb2.RouteRequest, available: Iterable[Replica]) -> Question:
    """A request as its model is chosen by it. One that only asks has no id: nothing of it is kept."""
    loads = [replica.state.load for replica in available]
    pages, rows = sum(load.pages_total for load in loads), sum(load.running_limit for load in loads)
    constraints = Constraints(
        latency_budget_ms=request.latency_budget_ms,
        memory_used=sum(load.pages_used for load in loads) / pages if pages else 0.0,
        load=min(1.0, sum(load.running for load in loads) / rows) if rows else 0.0,
        waiting=sum(load.waiting for load in loads),
        prompt_tokens=request.prompt_tokens,
        max_tokens=request.max_tokens,
        turns=request.turns,
        urgent=request.priority in URGENT,
    )
    return Question(
        "" if request.dry else request.request_id,
        request.model,
        request.tenant,
        request.session_id,
        request.text[:TEXT_CHARS],
        constraints,
    )


def served_of(available: Iterable[Replica]) -> list[Served]:
    """The models that can answer now, each with the means of its replicas. A model costs what its weights weigh."""
    models: dict[str, list[Replica]] = {}
    for replica in available:
        models.setdefault(replica.state.model, []).append(replica)
    return [_served(model, replicas) for model, replicas in sorted(models.items())]


def _served(model: str, replicas: list[Replica]) -> Served:
    histories = [replica.history for replica in replicas]
    return Served(
        model,
        float(max(1, *(replica.state.weight_bytes for replica in replicas))),
        success=sum(history.success for history in histories) / len(histories),
        ttft_ms=_mean([history.ttft_ms for history in histories]),
        tpot_ms=_mean([history.tpot_ms for history in histories]),
        context_length=min(replica.state.context_length for replica in replicas),
    )


def _mean(measured: list[float]) -> float:
    """Of those that are known; 0 where none is."""
    known = [value for value in measured if value > 0]
    return sum(known) / len(known) if known else 0.0
