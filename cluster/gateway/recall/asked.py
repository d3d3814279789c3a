"""What a chat may ask to be retrieved for it: its body in HTTP, and the one statement of what is refused."""

from pydantic import Field

from actors.base.errors import InvalidArgument
from cluster.gateway.bodies import Body
from protos.gen import inference_pb2

PARAM = "russet.retrieve"
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


def check_recall(request: inference_pb2.ChatRequest) -> None:
    """Refuse what cannot be. Raises InvalidArgument naming the parameter."""
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
