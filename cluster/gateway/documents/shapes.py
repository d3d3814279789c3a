"""Files and vector stores in OpenAI's shapes."""

from collections.abc import Mapping, Sequence
from typing import Any

from actors.base.errors import InvalidArgument
from cluster.gateway.bodies import shown
from cluster.gateway.errors import UnknownParameter
from protos.gen import documents_pb2, inference_pb2

STATUSES = {
    documents_pb2.STATUS_IN_PROGRESS: "in_progress",
    documents_pb2.STATUS_COMPLETED: "completed",
    documents_pb2.STATUS_FAILED: "failed",
}


def file_row(file: documents_pb2.File) -> dict[str, Any]:
    """A File object."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_ms // 1000,
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
    }


def store_row(store: documents_pb2.VectorStore) -> dict[str, Any]:
    """A VectorStore object."""
    total = store.in_progress + store.completed + store.failed
    counts = {"in_progress": store.in_progress, "completed": store.completed, "failed": store.failed, "cancelled": 0}
    return {
        "id": store.id,
        "object": "vector_store",
        "created_at": store.created_ms // 1000,
        "name": store.name,
        "status": "in_progress" if store.in_progress else "completed",
        "file_counts": counts | {"total": total},
        "usage_bytes": store.usage_bytes,
        "metadata": dict(store.metadata),
        "last_active_at": None,
        "expires_after": None,
        "expires_at": None,
    }


def attached_row(card: documents_pb2.Attached) -> dict[str, Any]:
    """A VectorStoreFile object."""
    sizes = {
        "max_chunk_size_tokens": card.chunking.max_tokens,
        "chunk_overlap_tokens": card.chunking.overlap_tokens,
    }
    return {
        "id": card.file_id,
        "object": "vector_store.file",
        "created_at": card.created_ms // 1000,
        "vector_store_id": card.store_id,
        "status": STATUSES[card.status],
        "last_error": {"code": "server_error", "message": card.error} if card.error else None,
        "usage_bytes": card.usage_bytes,
        "attributes": {},
        "chunking_strategy": {"type": "static", "static": sizes},
        "russet": {"chunks": card.chunks},
    }


def found_page(query: str, reply: documents_pb2.SearchReply) -> dict[str, Any]:
    """What a search found, best first."""
    return {
        "object": "vector_store.search_results.page",
        "search_query": [query],
        "data": [found_row(chunk) for chunk in reply.chunks],
        "has_more": False,
        "next_page": None,
        "russet": {
            "embedding_ms": round(reply.embedding_ms, 3),
            "retrieval_ms": round(reply.retrieval_ms, 3),
            "by_usage": reply.by_usage,
        },
    }


def found_row(chunk: documents_pb2.Chunk) -> dict[str, Any]:
    """A search result; `russet` says where in the file it stands."""
    return {
        "file_id": chunk.file_id,
        "filename": chunk.file_name,
        "score": round(chunk.score, 6),
        "attributes": {},
        "content": [{"type": "text", "text": chunk.text}],
        "russet": {"chunk_index": chunk.index, "start": chunk.start, "end": chunk.end},
    }


def retrieval_body(told: inference_pb2.Retrieval) -> dict[str, Any]:
    """What an answer says of the passages that were put in its prompt."""
    citations = [
        {
            "number": number,
            "vector_store_id": chunk.store_id,
            "file_id": chunk.file_id,
            "filename": chunk.file_name,
            "chunk_index": chunk.index,
            "start": chunk.start,
            "end": chunk.end,
            "score": round(chunk.score, 6),
        }
        for number, chunk in enumerate(told.citations, 1)
    ]
    times = {"embedding_ms": round(told.embedding_ms, 3), "retrieval_ms": round(told.retrieval_ms, 3)}
    body: dict[str, Any] = {"citations": citations, **times}
    if told.HasField("packing"):
        body["context"] = {
            "budget_tokens": told.packing.budget_tokens,
            "prompt_tokens": told.packing.prompt_tokens,
            "items": [
                {
                    "kind": item.kind,
                    "id": item.id,
                    "tokens": item.tokens,
                    "priority": round(item.priority, 4),
                    "taken": item.taken,
                }
                for item in told.packing.items
            ],
        }
    return body


def page(
    rows: Sequence[dict[str, Any]], query: Mapping[str, str], default: int, most: int, filters: Mapping[str, str]
) -> dict[str, Any]:
    """Some of `rows`, which come newest first: `limit` of them past `after`, in `order`.

    `filters`: of a query's names, the field that has to be equal. Raises InvalidArgument naming the parameter.
    """
    for name in query.keys() - {"limit", "order", "after"} - filters.keys():
        raise UnknownParameter(f"unknown parameter: {name[:80]}", param=name[:80])
    limit, order, after = query.get("limit", str(default)), query.get("order", "desc"), query.get("after")
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= most):
        raise InvalidArgument(f"limit is {limit[:40]!r}; accepted is 1 to {most}", param="limit")
    if order not in ("asc", "desc"):
        raise InvalidArgument(f"order is {order[:40]!r}; accepted are 'asc' and 'desc'", param="order")
    wanted = {field: query[name] for name, field in filters.items() if name in query}
    some = [row for row in rows if all(row[field] == value for field, value in wanted.items())]
    if order == "asc":
        some.reverse()
    if after is not None:
        ids = [row["id"] for row in some]
        if after not in ids:
            raise InvalidArgument(f"after is {shown(after)}; accepted is the id of a row", param="after")
        some = some[ids.index(after) + 1 :]
    data = some[: int(limit)]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": len(some) > len(data)}
