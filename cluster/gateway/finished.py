"""A request as it went, and the entry that the witness log gets of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from protos.gen import inference_pb2, memory_pb2, router_pb2, scheduler_pb2


class Attempt(NamedTuple):
    """What a request is, that is one of several attempts at an answer."""

    answer_id: str = ""
    """The answer's; empty where it is an answer by itself."""
    asserted: Sequence[inference_pb2.Grammar] = ()
    """Languages that its text has to be of, without being held to them."""


@dataclass
class Finished:
    """One request as it went. Times in milliseconds. `question` is the last user turn; `session` the conversation that
    it became a turn of, if it did."""

    id: str
    tenant: str
    session_id: str
    time_ms: int
    route: inference_pb2.Route
    revision: str
    question: str
    session: memory_pb2.Session | None
    text: str
    prompt_ids: list[int]
    answer_ids: list[int]
    prefix_hashes: list[int]
    usage: inference_pb2.Usage
    timings: scheduler_pb2.Timings
    finish: str
    error: str
    routing_ms: float
    ttft_ms: float
    tpot_ms: float
    total_ms: float
    follows: str = ""
    answer_id: str = ""
    """The answer that it was an attempt at; empty is itself."""
    demands: list[memory_pb2.Demand] = field(default_factory=list)
    """What of it was asked to be of a form."""
    embedding: list[float] = field(default_factory=list)
    embedding_ms: float = 0.0
    """Before the answer where something was retrieved by it; else its share of its batch's time, after the answer."""
    retrieval_ms: float = 0.0
    quality: memory_pb2.Quality | None = None
    options: Sequence[memory_pb2.RouteOption] = ()
    """What the router chose among, the chosen one first."""
    models: Sequence[memory_pb2.RouteOption] = ()
    """Where the router chose the model: what it chose among, the likeliest first."""
    kv_format: str = ""
    adapter: str = ""
    adapter_version: int = 0
    documents: Sequence[memory_pb2.WitnessDocument] = ()
    """Retrieved for the prompt, best first."""
    passages: Sequence[str] = ()
    """Nodes of those that stood in the prompt."""
    passages_used: Sequence[str] = ()
    """Of these, the ones that the answer is made of."""
    procedures: Sequence[str] = ()
    """Ids of those that stood in the prompt."""


def witness_entry(finished: Finished) -> memory_pb2.WitnessEntry:
    """The entry of the audit log; memory embeds the texts and keeps only their hashes."""
    timings = finished.timings
    return memory_pb2.WitnessEntry(
        id=finished.id,
        tenant=finished.tenant,
        session_id=finished.session_id,
        time_ms=finished.time_ms,
        model=finished.route.model,
        model_revision=finished.revision,
        replica_id=finished.route.replica,
        route=finished.route,
        usage=finished.usage,
        latency=memory_pb2.Latency(
            embedding_ms=finished.embedding_ms,
            retrieval_ms=finished.retrieval_ms,
            routing_ms=finished.routing_ms,
            queue_ms=timings.queue_us / 1e3,
            prefill_ms=timings.prefill_us / 1e3,
            decode_ms=timings.decode_us / 1e3,
            total_ms=finished.total_ms,
            ttft_ms=finished.ttft_ms,
            tpot_ms=finished.tpot_ms,
        ),
        options=finished.options,
        models=finished.models,
        adapter=finished.adapter,
        adapter_version=finished.adapter_version,
        kv_format=finished.kv_format,
        documents=finished.documents,
        finish=finished.finish,
        error=finished.error,
        query_embedding=finished.embedding,
        query_text=finished.question,
        response_text=finished.text,
        quality=finished.quality.total if finished.quality else None,
        scores=finished.quality,
    )


def options_of(decision: router_pb2.RouteReply, chosen: str) -> list[memory_pb2.RouteOption]:
    """A routing decision's candidates with their probabilities, which sum to 1; the replica `chosen` comes first.

    The router's best has the decision's confidence. The others share the rest by exp(score / stake), where the stake is
    the largest score, as in actors.router.policy.confidence; alone, a candidate has all.
    """
    candidates = decision.candidates
    if not candidates:
        return []
    stake = max(1.0, *(abs(each.score) for each in candidates))
    weights = [math.exp(each.score / stake) for each in candidates[1:]]
    first = decision.confidence if weights else 1.0
    shares = [first, *((1.0 - first) * weight / sum(weights) for weight in weights)]
    options = [
        memory_pb2.RouteOption(model=decision.model, replica=each.replica_id, score=each.score, probability=share)
        for each, share in zip(candidates, shares, strict=True)
    ]
    return sorted(options, key=lambda option: option.replica != chosen)


def models_of(decision: router_pb2.RouteReply) -> list[memory_pb2.RouteOption]:
    """The models, or a named router's labels, that a decision's model was chosen among."""
    shares = decision.choice.shares
    return [memory_pb2.RouteOption(model=each.label, probability=each.confidence) for each in shares]
