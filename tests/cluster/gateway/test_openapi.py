"""The OpenAPI document: it says of every parameter exactly what the gateway does with it."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from jsonschema.validators import Draft202012Validator

from actors.base.errors import InvalidArgument
from cluster.gateway import aliases, anthropic, cost_router, explain, loading, named_routers, openai, responses
from cluster.gateway.bodies import parse
from cluster.gateway.checks import check_request
from cluster.gateway.documents import bodies
from cluster.gateway.openapi import BODIES, Reads, document
from protos.gen import inference_pb2

DOCUMENT = document("1")
LEAST: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}], "logprobs": True},
    "/v1/completions": {"prompt": "x", "echo": True},
    "/v1/responses": {"input": "x"},
    "/v1/messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5},
    "/v1/embeddings": {"input": "x"},
    "/v1/feedback": {"response_id": "x", "rating": 1},
    "/v1/router/score": {"prompts": ["Hi"]},
    "/v1/router/cost": {"rows": [{"prompt": "Hi", "weak_correct": True, "strong_correct": True}]},
    "/v1/router/classify": {"router": "x", "text": "x"},
    "/v1/router/explain": {"text": "x"},
    "/v1/routers/{router}": {"examples": [{"text": "x", "label": "y"}]},
    "/v1/routers/{router}/examples": {"examples": [{"text": "x", "label": None}]},
    "/v1/routers/{router}/prune": {"labels": ["x"]},
    "/v1/vector_stores": {"name": "x"},
    "/v1/vector_stores/{store}": {"name": "x"},
    "/v1/vector_stores/{store}/files": {"file_id": "x"},
    "/v1/vector_stores/{store}/search": {"query": "x"},
    "/v1/russet/aliases/{alias}": {"models": {"x": 1}},
    "/v1/models": {"model": "x"},
    "/v1/models/{model}": {"replicas": 2},
}
"""A body to put a field into: with what other fields need to be accepted."""
READ: dict[str, Callable[[Any], Any]] = {
    "/v1/chat/completions": openai.chat_request,
    "/v1/completions": openai.complete_request,
    "/v1/responses": lambda body: responses.responses_request(body)[0],
    "/v1/messages": anthropic.messages_request,
    "/v1/embeddings": openai.embedding_texts,
    "/v1/feedback": openai.feedback_request,
    "/v1/router/score": cost_router.score_request,
    "/v1/router/cost": cost_router.train_request,
    "/v1/router/classify": named_routers.classify_request,
    "/v1/router/explain": explain.explain_request,
    "/v1/routers/{router}": named_routers.examples_of,
    "/v1/routers/{router}/examples": named_routers.examples_of,
    "/v1/routers/{router}/prune": named_routers.prune_request,
    "/v1/vector_stores": bodies.store_request,
    "/v1/vector_stores/{store}": bodies.change_request,
    "/v1/vector_stores/{store}/files": bodies.attach_request,
    "/v1/vector_stores/{store}/search": bodies.search_request,
    "/v1/models": loading.load_message,
    "/v1/models/{model}": lambda body: body.replicas,
    "/v1/russet/aliases/{alias}": lambda body: aliases.alias_message("x", body),
}
"""What a handler does with a body before it asks any actor."""

NUMBERS = [-(1 << 63) - 1, -101, -100, -2.5, -2, -1, -0.5, 0, 0.5, 1, 1.5, 2, 2.5, 20, 21, 32, 33, 100, 101, 1_000_001]
NUMBERS += [10_000_000, 10_000_001, (1 << 32) - 1, 1 << 32, (1 << 64) - 1, 1 << 64]
TEXTS = ["", "a", "auto", "none", "low", "low ", "text", "f16", "float", "base64", "medium", "default", "s" * 257]
LISTS: list[Any] = [[], ["a"], [""], ["a"] * 4, ["a"] * 5, [1], [-1], [1.5], [1 << 32], [True], [None], [[1, 2]], [[]]]
CALL: Any = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOLS: list[Any] = [
    [{"type": "function", "function": {"name": "f"} | more}]
    for more in (
        {}, {"name": "f g"}, {"strict": True}, {"strict": 1}, {"parameters": {}}, {"parameters": {"type": "object"}},
        {"parameters": {"type": "array"}}, {"description": "d" * 16_385}, {"parameters": None}, {"more": 1},
    )
]  # fmt: skip
TOOLS += [[{"type": "web_search"}], [{"type": "function"}], TOOLS[0] * 129]
MESSAGES: list[Any] = [
    [{"role": "user", "content": "x"} | more]
    for more in (
        {"role": "robot"}, {"role": "tool"}, {"role": "developer"}, {"role": "system"}, {"content": None},
        {"content": []}, {"content": 3}, {"content": [{"type": "text", "text": "x"}]}, {"content": [{"type": "text"}]},
        {"content": [{"type": "input_text", "text": "x"}]}, {"content": [{"type": "image"}]}, {"content": ["x"]},
        {"content": [{"type": "text", "text": "x", "more": 1}]}, {"name": "n"}, {"name": 3}, {"more": 1},
        {"content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]}, {"type": "message"},
        {"role": "tool", "tool_call_id": "c"}, {"tool_call_id": "c"}, {"role": "tool", "tool_call_id": 1},
        {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"tool_calls": [CALL]}, {"tool_calls": []},
        {"role": "assistant", "tool_calls": [CALL | {"type": "custom"}]}, {"role": "assistant", "tool_calls": [1]},
        {"role": "assistant", "tool_calls": [CALL | {"id": ""}]}, {"role": "assistant", "tool_calls": [CALL] * 129},
        {"role": "assistant", "tool_calls": [CALL | {"function": {"name": "f g", "arguments": ""}}]},
        {"refusal": "no"}, {"refusal": None}, {"audio": {}}, {"type": "reasoning"}, {"id": "i", "status": "completed"},
    )
]  # fmt: skip
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
FUNCTION = {"name": "f", "parameters": SCHEMA}
TOOLS += [[{"type": "function", **FUNCTION, **more}] for more in ({}, {"name": "a b"}, {"strict": 1}, {"more": 1})]
TOOLS += [
    [{"name": "f", "input_schema": SCHEMA, **more}]
    for more in ({}, {"name": ""}, {"type": "custom"}, {"type": "bash_20250124"}, {"cache_control": {}}, {"more": 1})
]
ANSWER: dict[str, Any] = {"role": "assistant"}
CALLS: list[Any] = [
    [*before, {"role": "user", "content": "x"}]
    for before in (
        [ANSWER | {"tool_calls": [CALL]}], [ANSWER | {"tool_calls": [CALL | {"id": ""}]}], [{"role": "tool"}],
        [ANSWER | {"tool_calls": [CALL | {"type": "custom"}]}], [ANSWER | {"tool_calls": [{"id": "a"}]}],
        [{"role": "user", "content": "x", "tool_calls": [CALL]}], [{"role": "tool", "content": "x"}],
        [ANSWER | {"tool_calls": [CALL]}, {"role": "tool", "content": "x", "tool_call_id": "c"}],
        [{"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}", "status": "completed"}],
        [{"type": "function_call", "call_id": "a", "name": "f"}],
        [{"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}", "namespace": None}],
        [{"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}", "namespace": "n"}],
        [{"type": "function_call_output", "call_id": "a", "output": "x"}],
        [{"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "x"}]}],
        [{"type": "function_call_output", "call_id": "a", "output": {}}],
        [ANSWER | {"content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]}],
        [ANSWER | {"content": [{"type": "tool_use", "id": "a", "name": "f", "input": "{}"}]}],
        [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}]}],
        [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "is_error": 1}]}],
        [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "x", "is_error": True}]}],
    )
]  # fmt: skip
OBJECTS: list[Any] = [
    {}, {"a": 1}, {"a": "b"}, {"5": 3}, {"5": 101}, {"05": -100}, {"type": "text"}, {"type": "json_object"},
    {"type": "json_schema", "json_schema": {"name": "a"}}, {"type": "json_schema", "json_schema": {"name": "a b"}},
    {"type": "disabled"}, {"include_usage": True}, {"include_usage": 1}, {"format": {"type": "text"}},
    {"format": {"type": "xml"}}, {"verbosity": "medium"}, {"priority": "high"}, {"priority": "urgent"},
    {"kv_format": "q8"}, {"kv_format": "q2"}, {"session_id": "s" * 256}, {"session_id": "s" * 257},
    {"stop_token_ids": [1, 2]}, {"stop_token_ids": [-1]}, {"stop_token_ids": [1] * 33}, {"grammar": {"regex": "a"}},
    {"grammar": {"regexp": "a"}}, {"grammar": {"choice": ["a"]}}, {"type": "function", "function": {"name": "f"}},
    {"type": "function", "name": "f"}, {"type": "any"}, {"type": "tool", "name": "f"}, {"type": "auto", "name": 1},
]  # fmt: skip
POOL = [None, True, False, *NUMBERS, *TEXTS, *LISTS, *TOOLS, *MESSAGES, *CALLS, *OBJECTS]

TIED: dict[str, Callable[[Any], bool]] = {
    "tool_choice": lambda value: value not in ("auto", "none"),
    "min_tokens": lambda value: value > 5,
    "previous_response_id": lambda value: value != "",
    "russet": lambda value: "session_id" in value,
}
"""Values of the right form that are refused for other fields' sake, or for what they name."""


def whole(reads: Reads) -> Draft202012Validator:
    return Draft202012Validator(
        {"$ref": f"#/components/schemas/{reads.model.__name__}", "components": DOCUMENT["components"]}
    )


def refusal(reads: Reads, body: dict[str, Any]) -> str:
    """Why the gateway refuses a body; empty where it does not."""
    try:
        read = READ[reads.path](parse(json.dumps(body).encode(), reads.model, reads.unsupported))
        if isinstance(read, inference_pb2.ChatRequest | inference_pb2.CompleteRequest):
            check_request(read)
    except InvalidArgument as error:
        return error.message or "refused"
    return ""


def test_it_is_a_document() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    names = [operation["operationId"] for path in DOCUMENT["paths"].values() for operation in path.values()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("reads", BODIES, ids=lambda reads: reads.path)
def test_it_accepts_what_the_gateway_accepts_and_nothing_else(reads: Reads) -> None:
    validator, least = whole(reads), LEAST[reads.path]
    assert not refusal(reads, least)
    fields = DOCUMENT["components"]["schemas"][reads.model.__name__]["properties"]
    wrong = []
    for field in [*fields, "nobody_knows_it"]:
        for value in POOL:
            body = least | {field: value}
            refused, valid = refusal(reads, body), validator.is_valid(body)
            tied = valid and field in TIED and value is not None and TIED[field](value)
            if bool(refused) == valid and not tied:
                wrong.append((field, value, refused or "accepted"))
    assert not wrong


@pytest.mark.parametrize("reads", BODIES, ids=lambda reads: reads.path)
def test_what_has_to_be_there_is_said(reads: Reads) -> None:
    required = DOCUMENT["components"]["schemas"][reads.model.__name__].get("required", [])
    for field in LEAST[reads.path]:
        without = {name: value for name, value in LEAST[reads.path].items() if name != field}
        assert bool(refusal(reads, without)) == (field in required), field


async def test_it_is_served_and_names_every_path(world: Any) -> None:
    gateway = await world.start()
    served = (await world.client().get("/openapi.json")).json()
    app: Any = gateway._http._server.config.app
    routes = {(route.path.replace(":path", ""), method) for route in app.routes for method in route.methods - {"HEAD"}}
    assert routes == {(path, method.upper()) for path, methods in served["paths"].items() for method in methods}
