"""JSON bodies of requests, whatever API they follow: read strictly, every name known or refused by itself."""

from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from actors.base.errors import InvalidArgument
from cluster.gateway.errors import UnknownParameter, UnsupportedParameter

ANY = object()
"""Among what a parameter not yet done is accepted with: any value, since it asks nothing of the answer."""


class Body(BaseModel):
    """An object in a request's body: no other names, no other types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Parsed = TypeVar("Parsed", bound=BaseModel)


def parse(body: bytes, model: type[Parsed], unsupported: dict[str, tuple[Any, ...]] | None = None) -> Parsed:
    """Read a JSON body. Raises InvalidArgument naming the first parameter that is wrong."""
    try:
        values = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidArgument(f"the body is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise InvalidArgument(f"the body is {kind_of(values)}; accepted is a JSON object")
    for name, harmless in (unsupported or {}).items():
        if name in values:
            _refuse_unsupported(name, values.pop(name), harmless)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _refusal(error, values) from error


def _refuse_unsupported(name: str, value: Any, harmless: tuple[Any, ...]) -> None:
    if any(known is ANY or (type(known) is type(value) and known == value) for known in harmless):
        return
    accepted = " or ".join(repr(known) for known in harmless if known is not None) or "leaving it out"
    raise UnsupportedParameter(f"{name} = {shown(value)} is not supported; accepted is {accepted}", param=name)


def _refusal(error: ValidationError, values: Any) -> InvalidArgument:
    first = error.errors(include_url=False)[0]
    param = ".".join(_place(first["loc"], values))
    if first["type"] == "union_tag_invalid":
        named, context = f"{param}.type", first.get("ctx", {})
        accepted = f"accepted are {context['expected_tags']}"
        return InvalidArgument(f"{named} = {shown(context['tag'])} is not supported; {accepted}", param=named)
    if first["type"] == "union_tag_not_found":
        return InvalidArgument(f"{param}.type is missing", param=f"{param}.type")
    if first["type"] == "extra_forbidden":
        return UnknownParameter(f"unknown parameter: {param}", param=param)
    if first["type"] == "missing":
        return InvalidArgument(f"{param} is missing", param=param)
    wanted = first["msg"][:1].lower() + first["msg"][1:]
    return InvalidArgument(f"{param} = {shown(first['input'])}: {wanted}", param=param)


def _place(location: tuple[int | str, ...], values: Any) -> list[str]:
    """Where in the body an error is: the location without what pydantic calls the members of a union."""
    path = []
    for part in location[:-1]:
        if isinstance(values, dict) and part not in values:
            continue
        path.append(str(part))
        values = values[cast(Any, part)] if isinstance(values, dict | list) else None
    return [*path, str(location[-1])]


def content_text(content: Any, where: str) -> str:
    """A message's text: a string, or the texts of its parts one after the other."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise InvalidArgument(
            f"{where} is {kind_of(content)}; accepted is a text or a non-empty list of text parts", param=where
        )
    return "".join(part_text(part, f"{where}[{index}]") for index, part in enumerate(content))


_PART_FIELDS = {"type", "text", "cache_control"}
"""cache_control asks for what is done anyway: prompts that begin alike are found."""


def part_text(part: Any, where: str) -> str:
    """The text of a text part. Raises InvalidArgument where it is another."""
    if not isinstance(part, dict):
        raise InvalidArgument(f"{where} is {kind_of(part)}; accepted is an object with type and text", param=where)
    if part.get("type") != "text":
        kind = shown(part.get("type"))
        raise UnsupportedParameter(f"{where}.type = {kind} is not supported; accepted is 'text'", param=f"{where}.type")
    for key in part.keys() - _PART_FIELDS:
        raise UnknownParameter(f"unknown parameter: {where}.{key[:80]}", param=f"{where}.{key[:80]}")
    if not isinstance(part.get("text"), str):
        raise InvalidArgument(f"{where}.text is {kind_of(part.get('text'))}; accepted is a text", param=f"{where}.text")
    return part["text"]


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    if value in (None, "", []) and not isinstance(value, bool | int | float):
        return {"None": "null", "''": "empty", "[]": "an empty list"}[repr(value)]
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return names[type(value)]


def shown(value: Any) -> str:
    """A value as a message may quote it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
