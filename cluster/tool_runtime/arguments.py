"""A call's arguments, read and held against the tool's JSON Schema before anything is run."""

import json
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable


class ArgumentsRefused(Exception):
    """The arguments are not what the tool takes. The message tells the model what would be."""


def validator_of(schema: dict[str, Any]) -> Validator:
    """The schema's validator, of the draft that it names, else 2020-12. References lead nowhere outside of it.

    Raises jsonschema.SchemaError where it is no schema.
    """
    kind = validator_for(schema, default=Draft202012Validator)
    kind.check_schema(schema)
    return kind(schema, registry=Registry())


def checked(text: str, validator: Validator, max_bytes: int) -> dict[str, Any]:
    """The arguments that `text` writes as JSON. Raises ArgumentsRefused."""
    size = len(text.encode(errors="replace"))
    if size > max_bytes:
        raise ArgumentsRefused(f"the arguments have {size} bytes; accepted are up to {max_bytes}")
    try:
        arguments = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise ArgumentsRefused(f"the arguments are not JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise ArgumentsRefused(f"the arguments are {text[:80]}; accepted is a JSON object")
    try:
        wrong = best_match(validator.iter_errors(arguments))
    except Unresolvable as error:
        raise ArgumentsRefused(f"the tool's schema refers to {error.ref}, which is not in it") from error
    if isinstance(wrong, ValidationError):
        raise ArgumentsRefused(f"the argument {wrong.json_path}: {wrong.message[:300]}")
    return arguments


def canonical(arguments: dict[str, Any]) -> str:
    """One text for equal arguments."""
    return json.dumps(arguments, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
