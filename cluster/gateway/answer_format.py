"""What a body asks of the form of its answer: OpenAI's response_format, or Russet's own grammar."""

import json
from typing import Any, Literal

from pydantic import Field

from actors.base.errors import InvalidArgument
from actors.base.grammar import ANY_JSON_OBJECT
from cluster.gateway.bodies import Body
from protos.gen import inference_pb2


class GrammarBody(Body):
    """What the answer must be: one of these."""

    regex: str | None = None
    choice: list[str] | None = None
    lark: str | None = None
    gbnf: str | None = None


class JsonSchema(Body):
    """OpenAI's json_schema. Whether strict or not, the answer is of it."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """OpenAI's response_format."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


def grammar_of(asked: ResponseFormat | None) -> inference_pb2.Grammar | None:
    """The grammar that a response_format asks for, if any."""
    if asked is None:
        return None
    if asked.json_schema is not None and asked.type != "json_schema":
        raise InvalidArgument(
            f"response_format.json_schema is given with the type {asked.type!r}; accepted is 'json_schema'",
            param="response_format.type",
        )
    if asked.type == "text":
        return None
    if asked.type == "json_object":
        return inference_pb2.Grammar(json_schema=ANY_JSON_OBJECT)
    if asked.json_schema is None:
        raise InvalidArgument("response_format.json_schema is missing", param="response_format.json_schema")
    schema = asked.json_schema.schema_
    text = ANY_JSON_OBJECT if schema is None else json.dumps(schema, ensure_ascii=False)
    return inference_pb2.Grammar(json_schema=text, name=asked.json_schema.name)


def add_grammar(own: GrammarBody | None, close: bool, decoding: inference_pb2.Decoding, *, calls: bool = False) -> None:
    """Hold an answer to Russet's own grammar, unless it is held to another already, and have it closed in time.

    `calls`: whether it may call tools.
    """
    if own is not None:
        if decoding.HasField("grammar"):
            raise InvalidArgument("response_format and russet.grammar are both given; give one", param="russet.grammar")
        given = own.model_dump(exclude_none=True)
        if len(given) != 1:
            names = ", ".join(given) or "nothing"
            raise InvalidArgument(
                f"russet.grammar has {names}; accepted is one of regex, choice, lark and gbnf", param="russet.grammar"
            )
        if own.choice is not None:
            decoding.grammar.choice.texts.extend(own.choice)
        else:
            decoding.grammar.MergeFrom(inference_pb2.Grammar(**given))
    if close:
        if not decoding.HasField("grammar") and not calls:
            raise InvalidArgument(
                "russet.close is set without response_format, russet.grammar or tools; there is nothing to close",
                param="russet.close",
            )
        decoding.grammar.close = True
