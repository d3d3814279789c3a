"""Requests that nobody would write: answered, or refused by what is wrong with them, never with a defect of ours."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import grpc
import httpx
import pytest
import schemathesis
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from actors.base.errors import NotFound
from cluster.gateway.openapi import BODIES, document
from protos.gen import inference_pb2
from protos.gen.inference_pb2_grpc import InferenceStub
from tests.cluster.gateway.test_openapi import CALL, LEAST

EXAMPLES = 40
BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[*HealthCheck],  # type: ignore
)
SCHEMA = schemathesis.openapi.from_dict(document("1"))
OPERATIONS = [result.ok() for result in SCHEMA.get_all_operations()]  # type: ignore


@pytest.fixture
async def served(world: Any) -> Any:
    """A gateway whose model says something short."""
    await world.replica(answer="Hi")
    gone = NotFound("no such model")
    world.router.refuse = lambda request: None if request.model in ("", "tiny") else gone
    await world.start(failover_wait_s=0.5)
    return world


async def fuzzed(test: Callable[[], None]) -> None:
    """Run a test of hypothesis in a thread: the gateway has this one."""
    await asyncio.to_thread(test)


def sound(reply: Any, what: Any) -> None:
    """The answer is none of a defect, and an error says what it is."""
    assert reply.status_code < 500, (what, reply.text)
    if reply.status_code >= 400 and reply.headers["content-type"] == "application/json":
        assert reply.json()["error"]["message"], what


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["as told", "otherwise"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
async def test_by_the_openapi_document(served: Any, operation: Any, mode: GenerationMode) -> None:
    """Schemathesis's own checks: a status and a shape that the document names, no server error.

    That it accepts what is of the document's form is not among them: fields are tied to each other.
    """
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query):
        return

    @BOUNDED
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        reply = case.call(base_url=served.url, timeout=20)
        sound(reply, case.body)
        if mode is GenerationMode.POSITIVE:
            case.validate_response(reply, excluded_checks=[positive_data_acceptance])

    await fuzzed(ask)


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything within a JSON value, itself included."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with something else at a place."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


FULL: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "a"}]},
            {"role": "user", "content": "b", "name": "n"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "c", "tool_call_id": "c"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "strict": True, "parameters": {
            "type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": False,
        "stop": ["x"], "logit_bias": {"1": 1}, "stream": True, "stream_options": {"include_usage": True}, "n": 2,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
        "russet": {"priority": "low", "stop_token_ids": [1], "kv_format": "f16", "close": True},
    },
    "/v1/completions": {
        "prompt": [1, 2], "stop": "x", "logprobs": 1, "echo": True, "best_of": 2, "n": 1, "max_tokens": 3,
        "russet": {"grammar": {"choice": ["a", "b"]}},
    },
    "/v1/responses": {
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]}],
        "text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}}}, "metadata": {"a": "b"},
    },
    "/v1/messages": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {}}]}],
        "max_tokens": 3, "system": [{"type": "text", "text": "a"}], "stop_sequences": ["x"],
    },
    "/v1/embeddings": {"input": ["a", "b"], "encoding_format": "base64", "dimensions": 2, "user": "u"},
    "/v1/router/score": {"prompts": ["a", "b"]},
    "/v1/router/cost": {
        "rows": [
            {"prompt": "a", "weak_correct": True, "strong_correct": True, "tokens": 9, "temperature": 0.5, "top_p": 0.9}
        ],
        "margin": -0.1,
    },
    "/v1/router/classify": {"router": "shop", "text": "a"},
    "/v1/router/explain": {"text": "a", "model": "auto", "session_id": "s"},
    "/v1/routers/{router}": {"examples": [{"text": "a", "label": "b"}, {"text": "c", "label": None}]},
    "/v1/routers/{router}/examples": {"examples": [{"text": "a", "label": "b"}]},
    "/v1/routers/{router}/prune": {"texts": ["a"], "labels": ["b"], "merge_above": 0.5},
    "/v1/models": {"model": "/nowhere.gguf", "id": "a", "replicas": 2, "settings": {"threads": 1}},
    "/v1/models/{model}": {"replicas": 2},
    "/v1/russet/aliases/{alias}": {"models": {"tiny": 0.5, "other": 1}, "max_failures": 0.5},
    "/v1/feedback": {"response_id": "x", "rating": 0.5, "comment": "c"},
    "/v1/vector_stores": {
        "name": "a", "metadata": {"a": "b"}, "file_ids": ["f"],
        "chunking_strategy": {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 9}},
    },
    "/v1/vector_stores/{store}": {"name": "a", "metadata": {"a": "b"}},
    "/v1/vector_stores/{store}/files": {"file_id": "f", "chunking_strategy": {"type": "auto"}},
    "/v1/vector_stores/{store}/search": {
        "query": "a", "max_num_results": 3, "ranking_options": {"ranker": "none", "score_threshold": 0.5},
    },
}  # fmt: skip
"""Bodies of which something is replaced by anything."""


@pytest.mark.parametrize("path", [reads.path for reads in BODIES])
async def test_something_else_anywhere_in_a_body(served: Any, path: str) -> None:
    body = FULL[path]
    with httpx.Client(base_url=served.url, timeout=20, trust_env=False) as http:

        @settings(BOUNDED, max_examples=3 * EXAMPLES)
        @given(where=st.sampled_from(sorted(places(body), key=str)), new=JSON, key=st.text(max_size=5) | st.none())
        def ask(where: tuple[Any, ...], new: Any, key: str | None) -> None:
            wrong = changed(body, where, new if key is None else {key: new})
            data = json.dumps(wrong).encode("utf-8", "replace")
            sound(http.post(path, content=data), wrong)

        await fuzzed(ask)


@pytest.mark.parametrize("path", [reads.path for reads in BODIES])
async def test_bodies_that_are_no_json(served: Any, path: str) -> None:
    whole = json.dumps(LEAST[path]).encode()
    with httpx.Client(base_url=served.url, timeout=20, trust_env=False) as http:

        @BOUNDED
        @given(at=st.integers(0, len(whole)), bytes_=st.binary(max_size=6), cut=st.integers(0, 4))
        def ask(at: int, bytes_: bytes, cut: int) -> None:
            data = whole[:at] + bytes_ + whole[at + cut :]
            sound(http.post(path, content=data), data)

        await fuzzed(ask)


async def test_sessions_and_models_of_any_name(served: Any) -> None:
    with httpx.Client(base_url=served.url, timeout=20, trust_env=False) as http:

        @BOUNDED
        @given(name=st.text(min_size=1, max_size=20), limit=st.text(max_size=5), header=st.binary(max_size=12))
        def ask(name: str, limit: str, header: bytes) -> None:
            session = f"/v1/russet/sessions/{quote(name, safe='', errors='replace')}"
            sound(http.get(session), name)
            sound(http.delete(session), name)
            sound(http.get("/v1/russet/sessions", params={"limit": limit.encode("utf-8", "replace")}), limit)
            headers = {
                "x-russet-session": header.hex(),
                "x-russet-priority": header.hex(),
                "x-russet-tenant": header.hex(),
            }
            sound(http.post("/v1/chat/completions", json=LEAST["/v1/chat/completions"], headers=headers), header)

        await fuzzed(ask)


INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}
WORDS = [
    "",
    "x",
    "user",
    "assistant",
    "tool",
    "system",
    "tiny",
    "auto",
    "f16",
    "q8",
    '{"type":"object"}',
    "[a-z]+",
    "start: x",
]


def of_field(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Values of one field, not repeated."""
    kind = field.cpp_type
    if kind in INTEGERS:
        low, high = INTEGERS[kind]
        return st.integers(0, 40) | st.integers(low, high)
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return st.floats(0, 2, width=32) | st.floats(width=32)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return st.integers(0, 5)
    if kind == FieldDescriptor.CPPTYPE_MESSAGE:
        return of_message(field.message_type)  # type: ignore
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=8)
    return st.sampled_from(WORDS) | st.text(max_size=8)


def of_message(descriptor: Descriptor) -> st.SearchStrategy[Any]:
    """Messages with any of their fields set to anything."""
    kind = GetMessageClass(descriptor)

    def made(given_: dict[str, Any]) -> Any:
        message = kind()
        for name, value in given_.items():
            field = descriptor.fields_by_name[name]
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                for key, each in value.items():
                    getattr(message, name)[key] = each
            elif field.is_repeated:
                getattr(message, name).extend(value)
            elif field.message_type is not None:
                getattr(message, name).CopyFrom(value)
            else:
                setattr(message, name, value)
        return message

    def strategy(field: FieldDescriptor) -> st.SearchStrategy[Any]:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
            return st.dictionaries(of_field(key), of_field(value), max_size=3)
        return st.lists(of_field(field), max_size=3) if field.is_repeated else of_field(field)

    optional = {field.name: strategy(field) for field in descriptor.fields}
    return st.fixed_dictionaries({}, optional=optional).map(made)


DEFECTS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED)
METHODS = list(inference_pb2.DESCRIPTOR.services_by_name["Inference"].methods)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_any_message_over_grpc(served: Any, method: Any) -> None:
    seen = set()
    with grpc.insecure_channel(served.gateway.addresses.grpc) as channel:
        call = getattr(InferenceStub(channel), method.name)

        @settings(BOUNDED, max_examples=3 * EXAMPLES)
        @given(request=of_message(method.input_type))
        def ask(request: Any) -> None:
            if isinstance(request, inference_pb2.ChatRequest) and not request.messages:
                request.messages.add(role="user", content="x")
            try:
                reply = call(request, timeout=20)
                if method.server_streaming:
                    list(reply)
                seen.add(grpc.StatusCode.OK)
            except grpc.RpcError as error:
                code = error.code()  # type: ignore
                seen.add(code)
                if code in DEFECTS:
                    raise

        await fuzzed(ask)
    assert grpc.StatusCode.OK in seen or method.name in ("GetSession", "ScaleModel", "UnloadModel"), "some are answered"
