"""What requests about vector stores say, and the same as messages."""

from typing import Any, Literal

from pydantic import Field

from actors.base.errors import InvalidArgument
from cluster.gateway.bodies import Body
from protos.gen import documents_pb2

MOST_RESULTS = 50
MOST_FILES = 100
NAME_CHARS = 256
UNSUPPORTED_STORE: dict[str, tuple[Any, ...]] = {"expires_after": (None,), "description": (None, "")}
UNSUPPORTED_CHANGE: dict[str, tuple[Any, ...]] = {"expires_after": (None,)}
UNSUPPORTED_ATTACH: dict[str, tuple[Any, ...]] = {"attributes": (None, {})}
UNSUPPORTED_SEARCH: dict[str, tuple[Any, ...]] = {"filters": (None,), "rewrite_query": (None, False)}


class StaticBody(Body):
    """Sizes of chunks, in tokens of the embedder."""

    max_chunk_size_tokens: int = Field(ge=16, le=4096)
    chunk_overlap_tokens: int = Field(ge=0, le=2048)


class ChunkingBody(Body):
    """How files are cut: as Russet does it, or by sizes."""

    type: Literal["auto", "static"]
    static: StaticBody | None = None


class StoreBody(Body):
    """POST /v1/vector_stores."""

    name: str | None = Field(None, max_length=NAME_CHARS)
    metadata: dict[str, str] | None = None
    file_ids: list[str] | None = Field(None, max_length=MOST_FILES)
    chunking_strategy: ChunkingBody | None = None


class StoreChangeBody(Body):
    """POST /v1/vector_stores/{store}."""

    name: str | None = Field(None, max_length=NAME_CHARS)
    metadata: dict[str, str] | None = None


class AttachBody(Body):
    """POST /v1/vector_stores/{store}/files."""

    file_id: str
    chunking_strategy: ChunkingBody | None = None


class RankingBody(Body):
    """Which results count."""

    ranker: Literal["none", "auto"] = "auto"
    score_threshold: float | None = Field(None, ge=0, le=1)


class SearchBody(Body):
    """POST /v1/vector_stores/{store}/search."""

    query: str = Field(min_length=1)
    max_num_results: int = Field(10, ge=1, le=MOST_RESULTS)
    ranking_options: RankingBody | None = None


def chunking_of(body: ChunkingBody | None) -> documents_pb2.Chunking | None:
    """The same as a message; None: as Russet does it."""
    if body is None or (body.type == "auto" and body.static is None):
        return None
    if body.type == "auto" or body.static is None:
        given = "with" if body.static else "without"
        raise InvalidArgument(
            f"chunking_strategy.type is {body.type!r} {given} static; accepted is static with its sizes, or auto alone",
            param="chunking_strategy.static",
        )
    sizes = body.static
    if sizes.chunk_overlap_tokens * 2 > sizes.max_chunk_size_tokens:
        raise InvalidArgument(
            f"chunk_overlap_tokens is {sizes.chunk_overlap_tokens}; accepted is up to half of max_chunk_size_tokens, "
            f"{sizes.max_chunk_size_tokens // 2}",
            param="chunking_strategy.static.chunk_overlap_tokens",
        )
    return documents_pb2.Chunking(max_tokens=sizes.max_chunk_size_tokens, overlap_tokens=sizes.chunk_overlap_tokens)


def store_request(body: StoreBody) -> documents_pb2.PutStoreRequest:
    """A new vector store; its files are attached after it is made."""
    chunking_of(body.chunking_strategy)
    return documents_pb2.PutStoreRequest(name=body.name or "", metadata=body.metadata)


def change_request(
    body: StoreChangeBody, before: documents_pb2.VectorStore | None = None
) -> documents_pb2.PutStoreRequest:
    """One that is there, with what the body gives and otherwise as it was."""
    before = before or documents_pb2.VectorStore()
    return documents_pb2.PutStoreRequest(
        id=before.id,
        name=before.name if body.name is None else body.name,
        metadata=before.metadata if body.metadata is None else body.metadata,
    )


def attach_request(body: AttachBody) -> documents_pb2.AttachRequest:
    """A file that is to be found."""
    return documents_pb2.AttachRequest(file_id=body.file_id, chunking=chunking_of(body.chunking_strategy))


def search_request(body: SearchBody) -> documents_pb2.SearchRequest:
    """A question."""
    least = body.ranking_options.score_threshold if body.ranking_options else None
    return documents_pb2.SearchRequest(query=body.query, limit=body.max_num_results, score_threshold=least or 0)
