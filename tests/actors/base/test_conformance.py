"""How far a text is of a grammar, judged by others than those that enforce it."""

import json
import time
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.base.conformance import judge
from actors.base.errors import InvalidArgument
from protos.gen.inference_pb2 import Choice, Grammar

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "age": {"type": "integer", "minimum": 0},
        "born": {"type": "string", "format": "date"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def of_person(value: Any) -> float:
    return judge(json.dumps(value), Grammar(json_schema=json.dumps(PERSON))).share


@pytest.mark.parametrize(
    ("value", "share"),
    [
        ({"name": "Ada", "age": 36}, 1),
        ({"name": "Ada", "age": "36"}, 1 / 2),
        ({"name": "Ada"}, 1 / 2),
        ({}, 1 / 3),
        ({"name": "", "age": -1}, 0),
        ({"name": "Ada", "age": 36, "born": "1815-02-30"}, 2 / 3),
        ({"name": "Ada", "age": 36, "tags": ["a", 1, "c"]}, 4 / 5),
        ({"name": "Ada", "age": 36, "more": 1}, 2 / 3),
        (["Ada", 36], 0),
        ("Ada", 0),
    ],
)
def test_the_share_of_json_is_that_of_its_sound_leaves(value: Any, share: float) -> None:
    assert of_person(value) == pytest.approx(share)


@pytest.mark.parametrize(
    "text", ["", "{", '{"name": "Ada", "age": 3', "```json\n{}\n```", '{"age": NaN}', "[" * 100_000]
)
def test_what_is_no_json_has_no_share(text: str) -> None:
    verdict = judge(text, Grammar(json_schema="{}"))
    assert verdict.share == 0
    assert verdict.problems


@pytest.mark.parametrize("text", ['"\\ud800"', "1e999", "123456789" * 50])
def test_what_json_can_write_and_nobody_hold_is_judged_all_the_same(text: str) -> None:
    assert judge(text, Grammar(json_schema='{"type": "array"}')).share == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("name", "age", "tags")), inner),
    max_leaves=6,
)


@given(JSON)
def test_the_share_is_whole_exactly_where_jsonschema_finds_nothing(value: Any) -> None:
    valid = jsonschema.Draft202012Validator(PERSON).is_valid(value)
    share = of_person(value)
    assert 0 <= share <= 1
    assert (share == 1) == valid


def test_a_pattern_cannot_take_for_ever() -> None:
    schema = json.dumps({"type": "string", "pattern": "^(a+)+$"})
    began = time.thread_time()
    assert judge(json.dumps("a" * 2000 + "!"), Grammar(json_schema=schema)).share == 0
    assert time.thread_time() - began < 1, "a backtracking matcher takes longer than there has been time"


@pytest.mark.parametrize("schema", ['{"$ref": "http://127.0.0.1:9/x"}', '{"type": 3}', "nonsense", '{"pattern": "("}'])
def test_a_schema_that_cannot_be_read_is_refused_and_nothing_fetched(schema: str) -> None:
    with pytest.raises(InvalidArgument, match="schema"):
        judge("{}", Grammar(json_schema=schema))


@pytest.mark.parametrize(
    ("grammar", "text", "share"),
    [
        (Grammar(regex="[a-z]+ [0-9]{2}"), "abc 12", 1),
        (Grammar(regex="[a-z]+ [0-9]{2}"), "abc 1", 5 / 6),
        (Grammar(regex="[a-z]+ [0-9]{2}"), "abc 1x", 5 / 6),
        (Grammar(regex="[a-z]+"), "ABC", 0),
        (Grammar(choice=Choice(texts=["yes", "no"])), "no", 1),
        (Grammar(choice=Choice(texts=["yes", "no"])), "nope", 2 / 4),
        (Grammar(lark='start: "a" "é"'), "aé", 1),
        (Grammar(gbnf='root ::= "a" "b"'), "ab", 1),
        (Grammar(gbnf='root ::= "a" "b"'), "", 0),
    ],
)
def test_the_share_of_other_languages_is_up_to_the_first_byte_that_cannot_follow(
    grammar: Grammar, text: str, share: float
) -> None:
    verdict = judge(text, grammar)
    assert verdict.share == pytest.approx(share)
    assert bool(verdict.problems) == (share < 1)


def test_problems_say_where() -> None:
    grammar = Grammar(json_schema=json.dumps(PERSON))
    assert judge('{"name": "Ada", "age": -1, "tags": ["x", 2]}', grammar).problems == (
        "/age: -1 is less than the minimum of 0",
        '/tags/1: 2 is not of type "string"',
    )
