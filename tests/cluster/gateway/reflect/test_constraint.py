"""What an answer is held to in the last attempt."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.base.conformance import judge
from cluster.gateway.grammars import refusal
from cluster.gateway.reflect.assertions import judged
from cluster.gateway.reflect.constraint import candidates, weakened
from protos.gen.inference_pb2 import Assertion, ChatRequest, Grammar, Reflect

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


@given(TEXTS, TEXTS, TEXTS, st.integers(1, 20))
def test_texts_and_length_together_are_one_grammar(contained: str, lacked: str, text: str, most: int) -> None:
    assertions = [Assertion(contains=contained), Assertion(lacks=lacked), Assertion(max_chars=most)]
    (grammar,) = candidates(assertions)
    if refusal(grammar) is not None:
        assert lacked in contained or len(contained) > most
        return
    request = ChatRequest(reflect=Reflect(assertions=assertions))
    for answer in (text, text + contained, contained, contained + lacked, text + contained + text):
        assert (judge(answer, grammar).share == 1) == judged(answer, request, 1.0).passed, (answer, grammar.lark)


def test_what_must_be_contained_comes_within_the_tokens_there_are() -> None:
    (grammar,) = candidates([Assertion(contains="salt")], 10)
    assert judge("a b c salt, and more of it", grammar).share == 1
    assert judge("abcdef", grammar).share < 1
    assert judge("abcdefg salt", grammar).share < 1, "seven characters before it, where there is room for six"


def test_a_grammar_comes_before_texts_and_a_quality_is_nothing_to_hold_to() -> None:
    digits = Grammar(regex="[0-9]+")
    found = list(candidates([Assertion(contains="4"), Assertion(grammar=digits), Assertion(quality=1)]))
    assert found[0] == digits
    assert len(found) == 2
    assert list(candidates([Assertion(quality=1)])) == []


SCHEMA = {
    "type": "object",
    "properties": {"a/b": {"type": "array", "uniqueItems": True}, "uniqueItems": {"not": {"const": 1}}},
    "required": ["a/b"],
    "dependentRequired": {"a/b": ["uniqueItems"]},
}


def test_what_cannot_be_enforced_is_given_up_and_nothing_else() -> None:
    grammar = Grammar(json_schema=json.dumps(SCHEMA))
    for _ in range(3):
        why = refusal(grammar)
        assert why is not None
        weaker = weakened(grammar, why)
        assert weaker is not None
        grammar = weaker
    assert refusal(grammar) is None
    assert json.loads(grammar.json_schema) == {
        "type": "object",
        "properties": {"a/b": {"type": "array"}, "uniqueItems": {}},
        "required": ["a/b"],
    }


@pytest.mark.parametrize(
    "grammar", [Grammar(regex="("), Grammar(json_schema="false"), Grammar(json_schema='{"type": "x"}')]
)
def test_what_is_no_schema_or_is_wrong_stays(grammar: Grammar) -> None:
    why = refusal(grammar)
    assert why is not None
    weaker = weakened(grammar, why)
    assert weaker is None or refusal(weaker) is None
