"""Arguments are read and checked before anything runs."""

import pytest
from jsonschema.exceptions import SchemaError

from cluster.tool_runtime.arguments import ArgumentsRefused, checked, validator_of

OBJECT = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "additionalProperties": False}


def test_what_fits_is_read() -> None:
    assert checked('{"n": 3}', validator_of(OBJECT), 100) == {"n": 3}
    assert checked("", validator_of(OBJECT), 100) == {}, "a call without arguments"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"n": 0}', "$.n: 0 is less than the minimum of 1"),
        ('{"m": 1}', "'m' was unexpected"),
        ("null", "accepted is a JSON object"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_what_does_not_is_told(text: str, told: str) -> None:
    with pytest.raises(ArgumentsRefused) as refused:
        checked(text, validator_of(OBJECT), 1 << 20)
    assert told in str(refused.value)


def test_the_schema_says_which_draft_it_is_of() -> None:
    only_in_4 = {"properties": {"n": {"minimum": 0, "exclusiveMinimum": True}}}
    draft4 = {"$schema": "http://json-schema.org/draft-04/schema#", **only_in_4}
    validator_of(draft4)
    with pytest.raises(SchemaError):
        validator_of(only_in_4)


def test_references_lead_nowhere_outside() -> None:
    outside = {"type": "object", "properties": {"n": {"$ref": "http://127.0.0.1:9/schema.json"}}}
    with pytest.raises(ArgumentsRefused, match="which is not in it"):
        checked('{"n": 1}', validator_of(outside), 100)
    inside = {"$defs": {"n": {"type": "integer"}}, "properties": {"n": {"$ref": "#/$defs/n"}}}
    assert checked('{"n": 1}', validator_of(inside), 100) == {"n": 1}
