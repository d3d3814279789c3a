"""The OpenAPI document of the HTTP API, made from the very models that read the bodies.

What pydantic says of a model is completed by what the gateway checks beyond it: the ranges of numbers (limits.RANGES),
the values with which a parameter that is not done is accepted, and the shapes of fields that a function reads by hand
(schemas.SHAPES). Rules that tie fields to each other (`top_logprobs` wants `logprobs`) are in docs/api.md alone.
"""

import re
from typing import Any, NamedTuple

from pydantic import BaseModel

from cluster.controller import DRAIN_TIMEOUT_S, LONGEST_DRAIN_S
from cluster.gateway import anthropic, responses
from cluster.gateway.aliases import AliasBody
from cluster.gateway.bodies import ANY
from cluster.gateway.cost_router import ScoreBody, TrainCostBody
from cluster.gateway.documents import bodies
from cluster.gateway.documents.http import FILES_DEFAULT, FILES_MOST, STORES_DEFAULT, STORES_MOST
from cluster.gateway.explain import ExplainBody
from cluster.gateway.limits import MAX_SESSIONS_LISTED, RANGES
from cluster.gateway.loading import LoadBody, ScaleBody
from cluster.gateway.named_routers import ClassifyBody, ExamplesBody, PruneBody
from cluster.gateway.openai import (
    UNSUPPORTED_CHAT,
    UNSUPPORTED_COMPLETIONS,
    ChatBody,
    CompletionBody,
    EmbeddingBody,
    FeedbackBody,
)
from cluster.gateway.responses_stored import MOST_ITEMS
from cluster.gateway.schemas import RANGE_OF, SHAPES

Schema = dict[str, Any]
STATUSES = (400, 401, 403, 404, 405, 409, 413, 429, 500, 503, 504)


class Reads(NamedTuple):
    """What an endpoint reads."""

    path: str
    model: type[BaseModel]
    unsupported: dict[str, tuple[Any, ...]]
    streams: bool
    summary: str
    method: str = "post"
    status: int = 200
    """Of an answer to what was accepted."""


BODIES = (
    Reads("/v1/chat/completions", ChatBody, UNSUPPORTED_CHAT, True, "Answer a conversation"),
    Reads("/v1/completions", CompletionBody, UNSUPPORTED_COMPLETIONS, True, "Continue a text"),
    Reads(
        "/v1/responses", responses.ResponsesBody, responses.UNSUPPORTED_RESPONSES, True,
        "Answer a conversation, in the shapes of OpenAI's Responses API",
    ),
    Reads(
        "/v1/messages", anthropic.MessagesBody, anthropic.UNSUPPORTED_MESSAGES, True,
        "Answer a conversation, in the shapes of Anthropic's Messages API",
    ),
    Reads("/v1/embeddings", EmbeddingBody, {}, False, "Sentence embeddings"),
    Reads("/v1/feedback", FeedbackBody, {}, False, "Rate an answer"),
    Reads("/v1/router/classify", ClassifyBody, {}, False, "Which of a named router's labels a text belongs to"),
    Reads("/v1/router/explain", ExplainBody, {}, False, "How a question would be routed now, and why"),
    Reads("/v1/router/score", ScoreBody, {}, False, "How likely a small model is enough for each prompt"),
    Reads("/v1/router/cost", TrainCostBody, {}, False, "Train the cost router, and serve it if it is better", "put"),
    Reads("/v1/routers/{router}", ExamplesBody, {}, False, "Train a named router", "put"),
    Reads("/v1/routers/{router}/examples", ExamplesBody, {}, False, "Add examples to it"),
    Reads("/v1/routers/{router}/prune", PruneBody, {}, False, "Remove examples of it"),
    Reads("/v1/models", LoadBody, {}, False, "Load a model beside those that are served", status=202),
    Reads("/v1/models/{model}", ScaleBody, {}, False, "Give it another number of replicas", "patch", 202),
    Reads("/v1/russet/aliases/{alias}", AliasBody, {}, False, "Have a name lead to models", "put"),
    Reads("/v1/vector_stores", bodies.StoreBody, bodies.UNSUPPORTED_STORE, False, "Make a vector store"),
    Reads(
        "/v1/vector_stores/{store}", bodies.StoreChangeBody, bodies.UNSUPPORTED_CHANGE, False,
        "Give it another name or other metadata",
    ),
    Reads(
        "/v1/vector_stores/{store}/files", bodies.AttachBody, bodies.UNSUPPORTED_ATTACH, False,
        "Let the text of a file be found in it",
    ),
    Reads(
        "/v1/vector_stores/{store}/search", bodies.SearchBody, bodies.UNSUPPORTED_SEARCH, False,
        "The chunks nearest to a text",
    ),
)  # fmt: skip


def _in_path(path: str) -> list[Schema]:
    """The parameters that a path has."""
    schema = {"type": "string", "minLength": 1}
    return [{"name": name, "in": "path", "required": True, "schema": schema} for name in re.findall(r"{(\w+)}", path)]


_LIMIT = {
    "name": "limit",
    "in": "query",
    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_SESSIONS_LISTED, "default": 100},
}


def _asked(name: str, **schema: Any) -> Schema:
    return {"name": name, "in": "query", "schema": schema or {"type": "string"}}


_WITNESS = [
    _asked("from", type="string", description="1h, 7d, Unix seconds or an ISO date"),
    _asked("to", type="string", description="as from"),
    _asked("tenant"),
    _asked("all_tenants", type="boolean", default=False),
]


def _page(default: int, most: int) -> list[Schema]:
    return [
        {
            "name": "limit",
            "in": "query",
            "schema": {"type": "integer", "minimum": 1, "maximum": most, "default": default},
        },
        {"name": "order", "in": "query", "schema": {"enum": ["asc", "desc"], "default": "desc"}},
        {"name": "after", "in": "query", "schema": {"type": "string"}},
    ]


_PAGE = _page(20, MOST_ITEMS)
_STORES_PAGE = _page(STORES_DEFAULT, STORES_MOST)
_FILES_PAGE = [*_page(FILES_DEFAULT, FILES_MOST), {"name": "purpose", "in": "query", "schema": {"type": "string"}}]
_FILTER = {"name": "filter", "in": "query", "schema": {"enum": ["in_progress", "completed", "failed", "cancelled"]}}
_DRAIN = {
    "name": "timeout_s",
    "in": "query",
    "schema": {"type": "number", "minimum": 0, "maximum": LONGEST_DRAIN_S, "default": DRAIN_TIMEOUT_S},
}
OTHERS: tuple[tuple[str, str, str, list[Schema]], ...] = (
    ("get", "/v1/responses/{response}", "A stored response", []),
    ("delete", "/v1/responses/{response}", "Forget it and its conversation", []),
    ("get", "/v1/responses/{response}/input_items", "What the model read before it", _PAGE),
    ("get", "/v1/russet/sessions", "The caller's sessions, most recent first", [_LIMIT]),
    ("get", "/v1/russet/sessions/{session}", "One of them with its messages", []),
    ("delete", "/v1/russet/sessions/{session}", "Forget it", []),
    ("get", "/v1/russet/procedures", "The caller's answers that were rated well or corrected, newest first", [_LIMIT]),
    ("delete", "/v1/russet/procedures/{procedure}", "Forget one", []),
    ("get", "/v1/russet/tools", "The tools that the gateway itself runs", []),
    ("get", "/v1/router/cost", "The cost router that serves the caller", []),
    ("get", "/v1/routers", "The caller's named routers, and those that ship", []),
    ("delete", "/v1/routers/{router}", "Forget one", []),
    ("get", "/v1/russet/aliases", "Names that lead to models, and how these do", []),
    ("get", "/v1/russet/aliases/{alias}", "One of them", []),
    ("delete", "/v1/russet/aliases/{alias}", "Forget one that was put", []),
    ("get", "/v1/files", "The caller's files, newest first", _FILES_PAGE),
    ("get", "/v1/files/{file}", "One of them", []),
    ("delete", "/v1/files/{file}", "Forget it, also in vector stores", []),
    ("get", "/v1/vector_stores", "The caller's vector stores, newest first", _STORES_PAGE),
    ("get", "/v1/vector_stores/{store}", "One of them", []),
    ("delete", "/v1/vector_stores/{store}", "Forget it; its files stay", []),
    ("get", "/v1/vector_stores/{store}/files", "Its files, newest first", [*_STORES_PAGE, _FILTER]),
    ("get", "/v1/vector_stores/{store}/files/{file}", "What became of one", []),
    ("delete", "/v1/vector_stores/{store}/files/{file}", "Take it out; the file stays", []),
    (
        "get", "/v1/witness", "Entries of the witness log, newest first",
        [
            *_WITNESS, _LIMIT, _asked("model"), _asked("session"), _asked("errors", type="boolean", default=False),
            _asked("quality_below", type="number", minimum=0, maximum=1),
            _asked("slower_than_ms", type="number", minimum=0),
        ],
    ),
    (
        "get", "/v1/witness/similar", "Failed requests like a text or an entry",
        [*_WITNESS, _LIMIT, _asked("text"), _asked("id")],
    ),
    (
        "get", "/v1/witness/slow", "Latency spikes",
        [*_WITNESS, _LIMIT, _asked("factor", type="number", minimum=1, default=3)],
    ),
    (
        "get", "/v1/witness/stats", "Counts, tokens, quality and percentiles",
        [*_WITNESS, _asked("by", type="string", description="of model, replica, tenant, finish, with commas")],
    ),
    ("get", "/v1/witness/verify", "Whether the chain of all entries holds", []),
    ("get", "/v1/witness/{entry}", "One entry", _WITNESS),
    ("get", "/v1/models", "Models that answer now", []),
    ("get", "/v1/models/{model}", "One of them", []),
    ("delete", "/v1/models/{model}", "Unload it", [_DRAIN]),
    ("get", "/v1/russet/models", "Every model with its replicas, ready or not", []),
    ("get", "/status.json", "What runs, on every node", []),
    ("get", "/health", "Whether a token comes out", []),
    ("get", "/ready", "Whether a replica takes requests", []),
    ("get", "/version", "Name and version", []),
    ("get", "/openapi.json", "This document", []),
)  # fmt: skip
"""What reads no JSON: method, path, summary, parameters beside the path's. What tells none is added to them: /metrics,
the status page, a file's text, and the upload of one."""


def document(version: str) -> Schema:
    """The whole document, OpenAPI 3.1."""
    paths: dict[str, Schema] = {}
    for reads in BODIES:
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{reads.model.__name__}"}}}
        operation = _operation(reads.method, reads.path, reads.summary, streams=reads.streams, status=reads.status)
        operation |= {"requestBody": {"required": True, "content": content}}
        operation["parameters"] = _in_path(reads.path)
        paths.setdefault(reads.path, {})[reads.method] = operation
    for method, path, summary, parameters in OTHERS:
        operation = _operation(method, path, summary) | {"parameters": [*_in_path(path), *parameters]}
        paths.setdefault(path, {})[method] = operation
    page = ("text/javascript", "text/css", "image/svg+xml")
    for path, summary, kinds in (
        ("/metrics", "Every actor's metrics, in Prometheus's text format", ("text/plain",)),
        ("/status", "A page that shows what runs", ("text/html",)),
        ("/status/{file}", "What the page is made of", page),
        ("/v1/files/{file}/content", "A file's text", ("text/plain",)),
    ):
        plain = _operation("get", path, summary)
        plain["parameters"] = _in_path(path)
        plain["responses"]["200"]["content"] = {kind: {"schema": {"type": "string"}} for kind in kinds}
        paths[path] = {"get": plain}
    upload = _operation("post", "/v1/files", "Keep a text")
    upload["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": UPLOAD}}}
    paths["/v1/files"]["post"] = upload
    schemas: dict[str, Schema] = {"Error": ERROR, "AnthropicsError": ANTHROPICS_ERROR}
    for reads in BODIES:
        schemas |= body_schemas(reads)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Russet",
            "version": version,
            "description": "What a parameter means, and which ones go together, is told in docs/api.md.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{}, {"bearer": []}, {"key": []}],
    }


def body_schemas(reads: Reads) -> dict[str, Schema]:
    """The schema of a body and of the models in it, by the models' names."""
    whole = reads.model.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas: dict[str, Schema] = whole.pop("$defs", {}) | {reads.model.__name__: whole}
    for name, schema in schemas.items():
        for field, given in schema.get("properties", {}).items():
            given.pop("title", None)
            _complete(f"{name}.{field}", field, given)
    whole["properties"] |= {name: _harmless(values) for name, values in reads.unsupported.items()}
    return schemas


def _complete(place: str, field: str, schema: Schema) -> None:
    """Add to a property what is checked beyond its type."""
    if place in SHAPES:
        kept = {key: schema[key] for key in ("default",) if key in schema}
        schema.clear()
        schema.update(SHAPES[place] | kept)
        return
    known = RANGES.get(RANGE_OF.get(place, field))
    if known is None:
        return
    for part in schema.get("anyOf", [schema]):
        if part.get("type") in ("integer", "number"):
            part["exclusiveMinimum" if known.open_low else "minimum"] = known.low
            part["exclusiveMaximum" if known.open_high else "maximum"] = known.high


def _harmless(values: tuple[Any, ...]) -> Schema:
    """A parameter that is not done: the values that ask for nothing."""
    if ANY in values:
        return {"description": "Accepted, without effect."}
    return {"enum": list(values), "description": "Not supported: accepted with what asks for nothing."}


def _operation(method: str, path: str, summary: str, *, streams: bool = False, status: int = 200) -> Schema:
    ok: Schema = {"application/json": {"schema": {"type": "object"}}}
    if streams:
        ok["text/event-stream"] = {}  # A schema would be read as that of each event by some, of the whole by others.
    problem = {
        "application/json": {
            "schema": {"$ref": f"#/components/schemas/{'AnthropicsError' if path == '/v1/messages' else 'Error'}"}
        }
    }
    replies: Schema = {str(status): {"description": "As asked.", "content": ok}}
    replies |= {str(status): {"description": "See docs/api.md.", "content": problem} for status in STATUSES}
    name = "_".join(part.strip("{}") for part in path.replace(".", "/").split("/") if part)
    return {"operationId": f"{method}_{name}", "summary": summary, "responses": replies}


_TEXT = {"type": "string"}
UPLOAD: Schema = {
    "type": "object",
    "properties": {"file": {"type": "string", "format": "binary"}, "purpose": {"enum": ["assistants", "user_data"]}},
    "required": ["file"],
    "additionalProperties": False,
}
ERROR: Schema = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {"message": _TEXT, "type": _TEXT, "param": {"type": ["string", "null"]}, "code": _TEXT},
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}
ANTHROPICS_ERROR: Schema = {
    "type": "object",
    "properties": {
        "type": {"const": "error"},
        "error": {"type": "object", "properties": {"type": _TEXT, "message": _TEXT}, "required": ["type", "message"]},
    },
    "required": ["type", "error"],
}
