"""What a request may ask of reflection: its body in HTTP, and the one statement of what is refused."""

import json
from typing import Any

from pydantic import Field

from actors.base.conformance import judge
from actors.base.errors import InvalidArgument, TooLarge
from actors.base.grammar import MAX_BYTES
from cluster.gateway.answer_format import GrammarBody
from cluster.gateway.bodies import Body
from cluster.gateway.reflect.assertions import demanded
from protos.gen import inference_pb2

PARAM = "russet.reflect"
ATTEMPTS = 3
DEADLINE_MS, LONGEST_MS = 60_000, 600_000
ASSERTIONS = 16
TEXT_CHARS = 1024


class AssertionBody(GrammarBody):
    """What the answer must be: one of these."""

    json_schema: dict[str, Any] | bool | None = None
    contains: str | None = None
    lacks: str | None = None
    max_chars: int | None = None
    quality: float | None = None


class ReflectBody(Body):
    """russet.reflect."""

    attempts: int = ATTEMPTS
    deadline_ms: int = DEADLINE_MS
    assertions: list[AssertionBody] = Field(default=[], alias="assert")


def reflect_message(body: ReflectBody) -> inference_pb2.Reflect:
    """The same as a message. Raises InvalidArgument naming what is wrong."""
    for name, value, most in (("attempts", body.attempts, ATTEMPTS), ("deadline_ms", body.deadline_ms, LONGEST_MS)):
        if not 1 <= value <= most:
            raise InvalidArgument(f"{PARAM}.{name} is {value}; accepted are 1 to {most}", param=f"{PARAM}.{name}")
    assertions = [_assertion(each, f"{PARAM}.assert.{at}") for at, each in enumerate(body.assertions)]
    return inference_pb2.Reflect(attempts=body.attempts, deadline_ms=body.deadline_ms, assertions=assertions)


def _assertion(body: AssertionBody, where: str) -> inference_pb2.Assertion:
    given = body.model_dump(exclude_none=True)
    if len(given) != 1:
        raise InvalidArgument(
            f"{where} has {', '.join(given) or 'nothing'}; accepted is one of {', '.join(AssertionBody.model_fields)}",
            param=where,
        )
    ((name, value),) = given.items()
    if name == "json_schema":
        return inference_pb2.Assertion(grammar=inference_pb2.Grammar(json_schema=json.dumps(value)))
    if name == "choice":
        return inference_pb2.Assertion(grammar=inference_pb2.Grammar(choice=inference_pb2.Choice(texts=value)))
    if name in GrammarBody.model_fields:
        return inference_pb2.Assertion(grammar=inference_pb2.Grammar(**given))
    if name == "max_chars" and not 1 <= value < 1 << 32:
        raise InvalidArgument(f"{where}.max_chars is {value}; accepted is at least 1", param=f"{where}.max_chars")
    return inference_pb2.Assertion(**given)


def check_reflect(request: inference_pb2.ChatRequest) -> None:
    """Refuse what cannot be. Raises InvalidArgument naming the parameter."""
    reflect = request.reflect
    for name, value, most in (
        ("attempts", reflect.attempts, ATTEMPTS),
        ("deadline_ms", reflect.deadline_ms, LONGEST_MS),
        ("assert", len(reflect.assertions), ASSERTIONS),
    ):
        if value > most:
            raise InvalidArgument(f"{PARAM}.{name}: {value}; accepted are up to {most}", param=f"{PARAM}.{name}")
    if not reflect.assertions and not request.decoding.HasField("grammar"):
        raise InvalidArgument(
            f"{PARAM} asserts nothing, and no response_format or russet.grammar says what the answer must be; "
            "give an assertion, or leave it out",
            param=f"{PARAM}.assert",
        )
    for at, asserted in enumerate(reflect.assertions):
        _check_assertion(asserted, f"{PARAM}.assert.{at}")
    for param, there, why in (
        (
            "russet.session_id",
            bool(request.session_id),
            "an attempt is no turn, and a stored response is one",
        ),
        ("tools", bool(request.tools), "a call is no answer to check"),
        ("russet.tools", request.HasField("server_tools"), "what was run cannot be made undone"),
    ):
        if there:
            raise InvalidArgument(f"{param} is given with {PARAM}: {why}; leave one of them out", param=param)


def _check_assertion(asserted: inference_pb2.Assertion, where: str) -> None:
    match asserted.WhichOneof("assertion"):
        case "contains" | "lacks" as name:
            text = getattr(asserted, name)
            if not 1 <= len(text) <= TEXT_CHARS:
                raise InvalidArgument(
                    f"{where}.{name} has {len(text)} characters; accepted are 1 to {TEXT_CHARS}",
                    param=f"{where}.{name}",
                )
        case "max_chars":
            if not asserted.max_chars:
                raise InvalidArgument(f"{where}.max_chars is 0; accepted is at least 1", param=f"{where}.max_chars")
        case "quality":
            if not 0 <= asserted.quality <= 1:
                raise InvalidArgument(
                    f"{where}.quality is {asserted.quality:g}; accepted is a number in [0, 1]", param=f"{where}.quality"
                )
        case "grammar":
            if (size := asserted.grammar.ByteSize()) > MAX_BYTES:
                raise TooLarge(f"{where} has {size} bytes; accepted are up to {MAX_BYTES}", param=where)
        case _:
            raise InvalidArgument(f"{where} is empty; accepted is an assertion", param=where)


def check_readable(request: inference_pb2.ChatRequest) -> None:
    """Refuse a grammar that no answer can be checked by; compiles them all. Raises InvalidArgument."""
    for grammar in demanded(request):
        try:
            judge("", grammar)
            judge("{}", grammar)
        except InvalidArgument as error:
            raise InvalidArgument(f"{PARAM} asserts what cannot be checked: {error.message}", param=PARAM) from error
