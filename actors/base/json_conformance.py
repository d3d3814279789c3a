"""How far a text is JSON of a schema, by jsonschema-rs: its expressions run in linear time, and it fetches nothing."""

import json
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import Any

import jsonschema_rs

from actors.base.conformance import Verdict
from actors.base.errors import InvalidArgument
from actors.base.grammar import parsed_schema

SCHEMAS_KEPT = 64
MAX_PROBLEMS = 100
"""Of one text; what is wrong beyond these is not looked for."""
_Path = tuple[str | int, ...]


def judge_json(text: str, schema: str) -> Verdict:
    """Judge a text by a schema. Raises InvalidArgument for a schema that cannot be read."""
    validator = _validator(schema)
    try:
        value = json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError) as error:
        return Verdict(0.0, (f"it is not JSON: {error}",))
    try:
        errors = list(islice(validator.iter_errors(value), MAX_PROBLEMS))
    except (ValueError, RecursionError) as error:  # a number or a text that JSON can write and nobody can hold
        return Verdict(0.0, (f"it cannot be read: {error}",))
    if not errors:
        return Verdict(1.0)
    leaves = set(_leaves(value))
    wrong: set[_Path] = set()
    missing: set[_Path] = set()
    for error in errors:
        at = tuple(error.instance_path)
        named = error.kind
        if isinstance(named, jsonschema_rs.ValidationErrorKind.Required):
            missing.add((*at, named.property))
        elif isinstance(named, jsonschema_rs.ValidationErrorKind.AdditionalProperties):
            wrong |= {leaf for leaf in leaves for name in named.unexpected if leaf[: len(at) + 1] == (*at, name)}
        else:
            wrong |= {leaf for leaf in leaves if leaf[: len(at)] == at}
    share = (len(leaves) - len(wrong)) / (len(leaves) + len(missing))
    return Verdict(share, tuple(f"{_pointer(tuple(error.instance_path))}: {error.message}" for error in errors))


@lru_cache(SCHEMAS_KEPT)
def _validator(schema: str) -> Any:
    try:
        return jsonschema_rs.validator_for(
            parsed_schema(schema),
            validate_formats=True,
            offline=True,
            pattern_options=jsonschema_rs.RegexOptions(),
        )
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        raise InvalidArgument(f"the schema cannot be read: {error}") from error


def _no_json(constant: str) -> Any:
    raise ValueError(f"{constant} is none of its numbers")


def _leaves(value: Any, at: _Path = ()) -> Iterator[_Path]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = False
    for key, part in inner:
        found = True
        yield from _leaves(part, (*at, key))
    if not found:
        yield at


def _pointer(path: _Path) -> str:
    return "/" + "/".join(map(str, path)) if path else "the whole"
