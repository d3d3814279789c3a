"""The tool `file_search` of OpenAI's Responses API: russet.retrieve by the vendor's names, and an item of the output.

The question is always the last user message: the passages are in the prompt before the model writes its first token, so
one prompt is read instead of two, and a model too small to call a tool finds them too.
"""

import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from actors.base.errors import InvalidArgument
from cluster.gateway.bodies import Body
from cluster.gateway.recall.asked import MOST_RESULTS, MOST_STORES
from cluster.gateway.records import question_of
from protos.gen import documents_pb2, inference_pb2

RESULTS = "file_search_call.results"
_MARK = re.compile(r"\[(\d{1,2})\]")


class Ranking(Body):
    """Which of the passages found are good enough."""

    ranker: Literal["auto"] | None = None
    score_threshold: float = Field(0.0, ge=0, le=1)


class FileSearchTool(Body):
    """A search of vector stores."""

    type: Literal["file_search"]
    vector_store_ids: list[str] = Field(min_length=1, max_length=MOST_STORES)
    max_num_results: int | None = Field(None, ge=1, le=MOST_RESULTS)
    ranking_options: Ranking | None = None
    filters: None = None


def ask_search(request: inference_pb2.ChatRequest, tools: Sequence[FileSearchTool]) -> None:
    """Have the request's passages retrieved as these tools say. Raises InvalidArgument naming what is wrong."""
    if not tools:
        return
    if len(tools) > 1:
        raise InvalidArgument(
            f"tools has {len(tools)} of type file_search; accepted is one, with all its vector_store_ids", param="tools"
        )
    if request.HasField("retrieve"):
        raise InvalidArgument(
            "russet.retrieve stands beside a tool of type file_search, which is the same; accepted is one of the two",
            param="russet.retrieve",
        )
    if not question_of(request).strip():
        raise InvalidArgument(
            "tools has file_search, which looks for what the last user message asks, and there is none with a text",
            param="tools",
        )
    tool = tools[0]
    request.retrieve.store_ids.extend(tool.vector_store_ids)
    request.retrieve.limit = tool.max_num_results or 0
    request.retrieve.score_threshold = tool.ranking_options.score_threshold if tool.ranking_options else 0.0


@dataclass
class SearchCall:
    """The search of one response, as an item of its output. Empty before the answer has begun."""

    question: str
    tells_results: bool
    passages: Sequence[documents_pb2.Chunk] = ()
    """As they stand in the prompt: the first is its [1]."""

    def __post_init__(self) -> None:
        self.id = f"fs_{secrets.token_hex(12)}"

    def body(self, status: str) -> dict[str, Any]:
        """As it stands."""
        results = [_result(chunk) for chunk in sorted(self.passages, key=lambda chunk: -chunk.score)]
        told = results if self.tells_results and status == "completed" else None
        return {
            "type": "file_search_call",
            "id": self.id,
            "status": status,
            "queries": [self.question],
            "results": told,
        }

    def annotations(self, text: str) -> list[dict[str, Any]]:
        """The files cited: where the model wrote a passage's number, else all that it read, at the text's end."""
        marks = [(found.start(), int(found[1])) for found in _MARK.finditer(text)]
        cited = [(at, self.passages[number - 1]) for at, number in marks if 1 <= number <= len(self.passages)]
        if not cited:
            files = {chunk.file_id: chunk for chunk in self.passages}
            cited = [(len(text), chunk) for chunk in files.values()]
        return [
            {"type": "file_citation", "index": at, "file_id": chunk.file_id, "filename": chunk.file_name}
            for at, chunk in cited
        ]


def search_events() -> Iterator[str]:
    """What the vendor's stream tells of a search between its item's beginning and end."""
    for stage in ("in_progress", "searching", "completed"):
        yield f"response.file_search_call.{stage}"


def _result(chunk: documents_pb2.Chunk) -> dict[str, Any]:
    return {
        "file_id": chunk.file_id,
        "filename": chunk.file_name,
        "score": round(chunk.score, 6),
        "text": chunk.text,
        "attributes": {},
    }
