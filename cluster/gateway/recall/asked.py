"""What a chat may ask to be retrieved for it: its body in HTTP, and the one statement of what is refused."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from actors.base.errors import InvalidArgument
from cluster.gateway.bodies import Body
from cluster.gateway.recall.context import KINDS
from protos.gen import inference_pb2

PARAM, CONTEXT = "russet.retrieve", "russet.context"
MOST_STORES, MOST_RESULTS, RESULTS = 16, 50, 5


class RetrieveBody(Body):
    """russet.retrieve."""

    vector_store_ids: list[str] = Field(min_length=1, max_length=MOST_STORES)
    max_num_results: int = Field(RESULTS, ge=1, le=MOST_RESULTS)
    score_threshold: float = Field(0.0, ge=0, le=1)


def retrieve_message(body: RetrieveBody) -> inference_pb2.Retrieve:
    """The same as a message."""
    return inference_pb2.Retrieve(
        store_ids=body.vector_store_ids, limit=body.max_num_results, score_threshold=body.score_threshold
    )


class ContextBody(Body):
    """russet.context."""

    budget_tokens: int | None = Field(None, ge=1, le=10_000_000)
    kinds: list[Literal["working", "semantic", "episodic", "procedural"]] | None = Field(None, min_length=1)


def context_message(body: ContextBody) -> inference_pb2.Context:
    """The same as a message."""
    return inference_pb2.Context(budget_tokens=body.budget_tokens or 0, kinds=body.kinds)


def kinds_of(request: inference_pb2.ChatRequest) -> Sequence[str]:
    """What the prompt is made of."""
    default = ("working", "semantic") if request.HasField("retrieve") else ("working",)
    return request.context.kinds or default


def check_recall(request: inference_pb2.ChatRequest) -> None:
    """Refuse what cannot be. Raises InvalidArgument naming the parameter."""
    if request.HasField("context"):
        kinds = kinds_of(request)
        if unknown := [kind for kind in kinds if kind not in KINDS]:
            raise InvalidArgument(
                f"{CONTEXT}.kinds has {unknown[0][:40]!r}; accepted are {', '.join(KINDS)}", param=f"{CONTEXT}.kinds"
            )
        if ("semantic" in kinds) != request.HasField("retrieve"):
            raise InvalidArgument(
                f"{CONTEXT}.kinds {'has' if 'semantic' in kinds else 'lacks'} 'semantic', which is what {PARAM} finds; "
                "accepted are both or neither",
                param=f"{CONTEXT}.kinds",
            )
    if not request.HasField("retrieve"):
        return
    asked = request.retrieve
    for name, value, least, most in (
        ("vector_store_ids", len(asked.store_ids), 1, MOST_STORES),
        ("max_num_results", asked.limit, 0, MOST_RESULTS),
    ):
        if not least <= value <= most:
            raise InvalidArgument(f"{PARAM}.{name}: {value}; accepted are up to {most}", param=f"{PARAM}.{name}")
    if not 0 <= asked.score_threshold <= 1:
        raise InvalidArgument(
            f"{PARAM}.score_threshold is {asked.score_threshold:g}; accepted is a number in [0, 1]",
            param=f"{PARAM}.score_threshold",
        )
