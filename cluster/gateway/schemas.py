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
_INPUT_CONTENT: Schema = {
    "anyOf": [TEXT, _parts(["input_text", "output_text", "text"], annotations={}, logprobs={})],
}
_INPUT: Schema = an_object(
    ["role", "content"],
    type={"const": "message"},
    role={"enum": [role for role in ROLES if role != "tool"]},
    content=_INPUT_CONTENT,
    id={},
    status={},
)

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

SHAPES: dict[str, Schema] = {
    **{f"{body}.model": _MODEL for body in ("ChatBody", "CompletionBody", "MessagesBody", "ResponsesBody")},
    "ChatBody.messages": {"type": "array", "items": _MESSAGE, "minItems": 1},
    "ChatBody.tools": {
        "anyOf": [
            {"type": "array", "items": {"$ref": "#/components/schemas/FunctionTool"}, "maxItems": MAX_TOOLS},
            {"type": "null"},
        ]
    },
    "ChatBody.tool_choice": {
        "anyOf": [
            {"enum": [None, "auto", "none", "required"]},
            an_object(["type", "function"], type={"const": "function"}, function=an_object(["name"], name=_NAME)),
        ]
    },
    "Function.description": {"anyOf": [{"type": "string", "maxLength": MAX_DESCRIPTION_CHARS}, {"type": "null"}]},
    "Function.parameters": {
        "anyOf": [{"type": "object", "properties": {"type": {"const": "object"}}}, {"type": "null"}],
        "description": "A JSON Schema of an object.",
    },
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
        "items": an_object(["role", "content"], role={"enum": ["user", "assistant"]}, content=_CONTENT),
        "minItems": 1,
        "description": "The last one is the user's.",
    },
    "MessagesBody.system": {"anyOf": [{"type": "null"}, *_CONTENT["anyOf"]]},
    "MessagesBody.stop_sequences": {"anyOf": [{"type": "null"}, _STOPS]},
    "ResponsesBody.input": {"anyOf": [TEXT, {"type": "array", "items": _INPUT, "minItems": 1}]},
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
