"""JSON Schemas of the fields that functions read by hand, beside what pydantic knows of the bodies' models."""

from typing import Any

from cluster.gateway.limits import (
    KV_FORMATS,
    MAX_EMBED_TEXTS,
    MAX_LOGIT_BIAS,
    MAX_SESSION_CHARS,
    MAX_STOP_CHARS,
    MAX_STOP_TOKEN_IDS,
    MAX_STOPS,
    ROLES,
)
from cluster.gateway.tools.check import MAX_CALLS, MAX_DESCRIPTION_CHARS, MAX_ID_CHARS, MAX_TOOLS, NAME

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
NOTHING: Schema = {"enum": [None, []]}
IDS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": (1 << 32) - 1}}
_STOP: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARS}
_STOPS: Schema = {"type": "array", "items": _STOP, "maxItems": MAX_STOPS}


def an_object(required: list[str], **properties: Schema) -> Schema:
    """An object of these properties and no others."""
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _parts(kinds: list[str], **more: Schema) -> Schema:
    return {
        "type": "array",
        "minItems": 1,
        "items": an_object(["type", "text"], type={"enum": kinds}, text=TEXT, **more),
    }


_CONTENT: Schema = {"anyOf": [TEXT, _parts(["text"], cache_control={})]}
_NAME: Schema = {"type": "string", "pattern": NAME}
_CALL: Schema = an_object(
    ["id", "type", "function"],
    id={"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARS},
    type={"const": "function"},
    function=an_object(
        ["name", "arguments"],
        name=_NAME,
        arguments={"type": "string", "description": "A JSON object."},
        parsed_arguments={},
    ),
    index={},
)
_CALLS: Schema = {"anyOf": [{"type": "null"}, {"type": "array", "items": _CALL, "maxItems": MAX_CALLS}]}
_MESSAGE: Schema = {
    "type": "object",
    "properties": {
        "role": {"enum": list(ROLES)},
        "content": {"anyOf": [{"type": "null"}, *_CONTENT["anyOf"]]},
        "name": {"type": ["string", "null"]},
        "tool_call_id": {"type": ["string", "null"]},
        "tool_calls": _CALLS,
        **dict.fromkeys(("refusal", "audio", "function_call"), NOTHING),
    },
    "required": ["role"],
    "additionalProperties": False,
    "if": {"properties": {"role": {"const": "assistant"}}},
    "else": {"properties": {"content": _CONTENT, "tool_calls": NOTHING}, "required": ["content"]},
    "allOf": [
        {
            "if": {"properties": {"role": {"const": "tool"}}},
            "then": {"properties": {"tool_call_id": {"type": "string", "minLength": 1}}, "required": ["tool_call_id"]},
            "else": {"properties": {"tool_call_id": {"enum": [None, ""]}}},
        }
    ],
}
_ID: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARS}
_ARGUMENTS: Schema = {"type": "string", "description": "A JSON object."}
_ITEM_CONTENT: Schema = {
    "anyOf": [TEXT, _parts(["input_text", "output_text", "text"], annotations={}, logprobs={})],
}
_CLIENTS_OWN = {key: {"type": "null"} for key in ("async", "caller", "created_by", "namespace", "phase")}
_ITEM: Schema = {
    "anyOf": [
        an_object(
            ["role", "content"],
            type={"const": "message"},
            role={"enum": [role for role in ROLES if role != "tool"]},
            content=_ITEM_CONTENT,
            id={},
            status={},
            **_CLIENTS_OWN,
        ),
        an_object(
            ["type", "call_id", "name", "arguments"],
            type={"const": "function_call"},
            call_id=_ID,
            name=_NAME,
            arguments=_ARGUMENTS,
            id={},
            status={},
            **_CLIENTS_OWN,
        ),
        an_object(
            ["type", "call_id", "output"],
            type={"const": "function_call_output"},
            call_id=_ID,
            output=_ITEM_CONTENT,
            id={},
            status={},
            **_CLIENTS_OWN,
        ),
        {"type": "object", "properties": {"type": {"const": "file_search_call"}}, "required": ["type"]},
    ]
}
_BLOCK: Schema = {
    "anyOf": [
        an_object(["type", "text"], type={"const": "text"}, text=TEXT, cache_control={}),
        an_object(
            ["type", "id", "name", "input"],
            type={"const": "tool_use"},
            id=_ID,
            name=_NAME,
            input={"type": "object"},
            cache_control={},
            **{key: {"type": "null"} for key in ("caller", "toolset_name")},
        ),
        an_object(
            ["type", "tool_use_id"],
            type={"const": "tool_result"},
            tool_use_id=_ID,
            content={"anyOf": [NOTHING, *_CONTENT["anyOf"]]},
            is_error={"type": ["boolean", "null"]},
            cache_control={},
            **{key: {"type": "null"} for key in ("caller", "toolset_name")},
        ),
    ],
    "description": "tool_use is the assistant's, tool_result the user's.",
}
_DESCRIPTION: Schema = {"anyOf": [{"type": "string", "maxLength": MAX_DESCRIPTION_CHARS}, {"type": "null"}]}
_PARAMETERS: Schema = {
    "type": "object",
    "properties": {"type": {"const": "object"}},
    "description": "A JSON Schema of an object.",
}
_SEED: Schema = {"anyOf": [{"type": "null"}, {"type": "integer", "minimum": -(1 << 63), "maximum": (1 << 64) - 1}]}
_BIAS: Schema = {
    "anyOf": [
        {"type": "null"},
        {
            "type": "object",
            "propertyNames": {"pattern": "^[0-9]{1,9}$"},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            "maxProperties": MAX_LOGIT_BIAS,
        },
    ]
}

_MODEL: Schema = {"type": "string", "maxLength": 256}


def _tools(*models: str) -> Schema:
    each = [{"$ref": f"#/components/schemas/{model}"} for model in models]
    tools = {"type": "array", "items": {"anyOf": each} if len(each) > 1 else each[0], "maxItems": MAX_TOOLS}
    return {"anyOf": [tools, {"type": "null"}]}


SHAPES: dict[str, Schema] = {
    **{f"{body}.model": _MODEL for body in ("ChatBody", "CompletionBody", "MessagesBody", "ResponsesBody")},
    "ChatBody.messages": {"type": "array", "items": _MESSAGE, "minItems": 1},
    "ChatBody.tools": _tools("FunctionTool"),
    "ResponsesBody.tools": _tools("ResponsesTool", "FileSearchTool"),
    "MessagesBody.tools": _tools("AnthropicTool"),
    "ChatBody.tool_choice": {
        "anyOf": [
            {"enum": [None, "auto", "none", "required"]},
            an_object(["type", "function"], type={"const": "function"}, function=an_object(["name"], name=_NAME)),
        ]
    },
    "ResponsesBody.tool_choice": {
        "anyOf": [
            {"enum": [None, "auto", "none", "required"]},
            an_object(["type", "name"], type={"const": "function"}, name=_NAME),
            an_object(["type"], type={"const": "file_search"}),
        ]
    },
    **{f"{tool}.description": _DESCRIPTION for tool in ("Function", "ResponsesTool", "AnthropicTool")},
    "Function.parameters": {"anyOf": [_PARAMETERS, {"type": "null"}]},
    "ResponsesTool.parameters": {"anyOf": [_PARAMETERS, {"type": "null"}]},
    "AnthropicTool.input_schema": _PARAMETERS,
    "ChatBody.stop": {"anyOf": [{"type": "null"}, _STOP, _STOPS]},
    "CompletionBody.stop": {"anyOf": [{"type": "null"}, _STOP, _STOPS]},
    "CompletionBody.prompt": {
        "anyOf": [
            TEXT,
            IDS | {"minItems": 1},
            {"type": "array", "minItems": 1, "maxItems": 1, "items": {"anyOf": [TEXT, IDS | {"minItems": 1}]}},
        ]
    },
    "CompletionBody.max_tokens": {
        "anyOf": [{"type": "integer", "minimum": 0, "maximum": 10_000_000}, {"type": "null"}],
        "description": "0 is accepted with echo.",
    },
    "EmbeddingBody.input": {
        "anyOf": [TEXT, {"type": "array", "items": TEXT, "minItems": 1, "maxItems": MAX_EMBED_TEXTS}]
    },
    "MessagesBody.messages": {
        "type": "array",
        "items": an_object(
            ["role", "content"],
            role={"enum": ["user", "assistant"]},
            content={"anyOf": [TEXT, {"type": "array", "minItems": 1, "items": _BLOCK}]},
        ),
        "minItems": 1,
        "description": "The last one is the user's.",
    },
    "MessagesBody.system": {"anyOf": [{"type": "null"}, *_CONTENT["anyOf"]]},
    "MessagesBody.stop_sequences": {"anyOf": [{"type": "null"}, _STOPS]},
    "ResponsesBody.input": {"anyOf": [TEXT, {"type": "array", "items": _ITEM, "minItems": 1}]},
    "Extension.session_id": {"type": "string", "maxLength": MAX_SESSION_CHARS},
    "Extension.kv_format": {"enum": ["", *KV_FORMATS]},
    "Extension.stop_token_ids": {"anyOf": [{"type": "null"}, IDS | {"maxItems": MAX_STOP_TOKEN_IDS}]},
    "ChatBody.seed": _SEED,
    "CompletionBody.seed": _SEED,
    "ChatBody.logit_bias": _BIAS,
    "CompletionBody.logit_bias": _BIAS,
}  # fmt: skip
"""By model and field: what stands in the place of what pydantic says."""

RANGE_OF = {
    "ChatBody.max_completion_tokens": "max_tokens",
    "ChatBody.top_logprobs": "logprobs",
    "ResponsesBody.max_output_tokens": "max_tokens",
}
"""By model and field: the name of its range in limits.RANGES, where that is another."""
