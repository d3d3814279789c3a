"""JSON Schema documents: the schemas within a schema, and what a format means that llguidance takes too widely."""

from collections.abc import Iterator
from typing import Any, NamedTuple


class Place(NamedTuple):
    """A schema within a schema, by JSON pointer."""

    pointer: str
    schema: dict[str, Any]


_SCHEMA_MAPS = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
_SCHEMA_LISTS = ("prefixItems", "items", "allOf", "anyOf", "oneOf")
_SCHEMAS = (
    "items",
    "additionalItems",
    "additionalProperties",
    "contains",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
    "unevaluatedItems",
    "unevaluatedProperties",
)


def places(schema: Any, pointer: str = "#") -> Iterator[Place]:
    """Every schema of a document, outermost first; names of properties are not taken for keywords."""
    if not isinstance(schema, dict):
        return
    yield Place(pointer, schema)
    for keyword, value in schema.items():
        within = f"{pointer}/{escaped(keyword)}"
        if keyword in _SCHEMA_MAPS and isinstance(value, dict):
            for name, part in value.items():
                yield from places(part, f"{within}/{escaped(name)}")
        elif keyword in _SCHEMA_LISTS and isinstance(value, list):
            for index, part in enumerate(value):
                yield from places(part, f"{within}/{index}")
        elif keyword in _SCHEMAS:
            yield from places(value, within)


def escaped(name: str) -> str:
    """A name as a JSON pointer has it (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


_YEAR = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})"
_FOURTH = "(?:0[48]|[2468][048]|[13579][26])"
DATE = (
    rf"^(?:{_YEAR}-(?:0[13-9]|1[0-2])-[0-9]{{2}}|{_YEAR}-02-(?:[01][0-9]|2[0-8])"
    rf"|(?:[0-9]{{2}}{_FOURTH}|{_FOURTH}00)-02-29)"
)
"""A year from 1 on, and 29 February in leap years alone: what `date` and `date-time` mean beyond their digits."""


def narrow_dates(schema: dict[str, Any]) -> bool:
    """Let dates be of the calendar, in place; returns whether there were any.

    llguidance lets every year have a 29 February, and there be a year 0.
    """
    dates = [place.schema for place in places(schema) if place.schema.get("format") in ("date", "date-time")]
    for each in dates:
        also = each.get("allOf", [])
        each["allOf"] = [*also, {"pattern": DATE}] if isinstance(also, list) else also
    return bool(dates)
