"""Grammars as llguidance takes them: what texts they let through, and what is none."""

import json
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from actors.base.errors import InvalidArgument
from actors.base.grammar import MAX_CHOICES, reason, source
from actors.base.schema import places
from protos.gen.inference_pb2 import Choice, Grammar


class Bytes:
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")
    eos_token_id, bos_token_id, special_token_ids = 256, None, (256,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


TOKENIZER = LLTokenizer(TokenizerWrapper(Bytes()), n_vocab=257, eos_token=256)


def takes(grammar: Grammar, text: str) -> bool:
    matcher = LLMatcher(TOKENIZER, source(grammar), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    tokens = list(text.encode())
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def of_schema(schema: Any) -> Grammar:
    return Grammar(json_schema=json.dumps(schema))


LEAP = ("2024-02-29", "2000-02-29", "0004-02-29")
NO_DATES = ("2023-02-29", "1900-02-29", "0000-01-01", "2023-02-30", "2023-13-01")


@pytest.mark.parametrize("also", [{"type": "string"}, {"allOf": [{"pattern": "9$"}]}])
def test_dates_are_of_the_calendar(also: dict[str, Any]) -> None:
    schema = {"format": "date", **also}
    assert all(takes(of_schema(schema), f'"{date}"') for date in (*LEAP, "1999-12-29"))
    assert not any(takes(of_schema(schema), f'"{date}"') for date in NO_DATES)
    timed = {"type": "object", "properties": {"at": {"format": "date-time", "type": "string"}}, "required": ["at"]}
    assert takes(of_schema(timed), '{"at": "2024-02-29T10:00:00Z"}')
    assert not any(takes(of_schema(timed), f'{{"at": "{date}T10:00:00Z"}}') for date in NO_DATES)


def test_a_property_named_format_is_no_format() -> None:
    schema = {"type": "object", "properties": {"format": {"const": "date"}}, "required": ["format"]}
    assert takes(of_schema(schema), '{"format": "date"}')


def test_white_space_is_bounded_unless_the_schema_says_otherwise() -> None:
    schema = {"type": "array", "items": {"type": "null"}}
    for text in ("[null,null]", "[ null, null ]", "[\n  null,\n  null\n]"):
        assert takes(of_schema(schema), text)
    assert not takes(of_schema(schema), "[  null]")
    assert not takes(of_schema(schema), "[" + "\n" * 2 + "null]")
    rigid = schema | {"x-guidance": {"whitespace_flexible": False, "whitespace_pattern": None}}
    assert takes(of_schema(rigid), "[null,null]")


def test_choices_are_taken_letter_by_letter() -> None:
    texts = ['say "yes"', "a\\b", "ü\n", "/x/", ""]
    grammar = Grammar(choice=Choice(texts=texts))
    assert all(takes(grammar, text) for text in texts)
    assert not takes(grammar, "say yes")


@pytest.mark.parametrize("schema", [True, {}])
def test_true_is_any_json(schema: Any) -> None:
    assert all(takes(of_schema(schema), text) for text in ("1", '"x"', "[{}]"))


@pytest.mark.parametrize(
    ("grammar", "said"),
    [
        (Grammar(), "accepted are json_schema, regex"),
        (Grammar(json_schema="false"), "nothing satisfies"),
        (Grammar(json_schema="[1]"), "a JSON object"),
        (Grammar(json_schema="{"), "not valid JSON"),
        (Grammar(json_schema='{"allOf":[' * 2000 + "{}" + "]}" * 2000), "schema"),
        (Grammar(choice=Choice(texts=["x"] * (MAX_CHOICES + 1))), f"1 to {MAX_CHOICES}"),
        (Grammar(gbnf="root ::= nowhere"), "GBNF"),
        (Grammar(regex="x" * (1 << 20)), "bytes"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_grammar_is_refused(grammar: Grammar, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        LLMatcher(TOKENIZER, source(grammar), log_level=0)


def test_places_are_pointers_and_property_names_no_keywords() -> None:
    schema = {
        "properties": {"not": {"items": [{}, {"not": {}}]}, "a": True},
        "$defs": {"x": {"anyOf": [{}]}},
        "enum": [{}],
    }
    assert [place.pointer for place in places(schema)] == [
        "#",
        "#/properties/not",
        "#/properties/not/items/0",
        "#/properties/not/items/1",
        "#/properties/not/items/1/not",
        "#/$defs/x",
        "#/$defs/x/anyOf/0",
    ]


def test_reasons_are_without_the_librarys_state() -> None:
    assert reason("bad thing\n<state>\nTokens\n</state>") == "bad thing"
    assert reason("NoExtensionBias\n<state>") == "nothing satisfies it"
