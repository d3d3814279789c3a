"""Structured answers of the real, weak model at temperature 1: whatever ends is of its language."""

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from actors.base.grammar import source
from cluster.local import LocalCluster
from protos.gen import inference_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")
MODEL = "smollm2-135m-instruct"
GBNF = Path(os.environ.get("RUSSET_DATA") or Path(__file__).parents[3] / "shared" / "data") / "gbnf"
SHORT: dict[str, Any] = {"type": "string", "maxLength": 12}
SCHEMAS: dict[str, Any] = {
    "person": {
        "type": "object",
        "properties": {"name": SHORT, "age": {"type": "integer", "minimum": 0, "maximum": 130}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "optional": {"type": "object", "properties": {"a": SHORT, "b": {"type": "boolean"}}, "additionalProperties": False},
    "array": {"type": "array", "items": {"type": "integer", "minimum": -9, "maximum": 99}, "maxItems": 4},
    "tuple": {"type": "array", "prefixItems": [SHORT, {"type": "null"}], "items": False, "minItems": 2},
    "enum": {"enum": ["red", 7, None, {"deep": [True]}, 'quo"te', "日本"]},
    "const": {"const": {"x": [1.5, "é\n"]}},
    "any_of": {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"k": SHORT}, "required": ["k"],
                                            "additionalProperties": False}]},
    "one_of": {"oneOf": [{"type": "integer", "minimum": 1, "maximum": 50}, {"type": "string", "maxLength": 5}]},
    "all_of": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 8}]},
    "number": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "multiple": {"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 700},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    "date": {"type": "string", "format": "date"},
    "uuid": {"type": "object", "properties": {"id": {"type": "string", "format": "uuid"}}, "required": ["id"],
             "additionalProperties": False},
    "address": {"type": "string", "format": "ipv4"},
    "tree": {"$ref": "#/$defs/node", "$defs": {"node": {
        "type": "object", "properties": {"v": {"type": "boolean"}, "n": {"type": "array", "maxItems": 1,
                                                                         "items": {"$ref": "#/$defs/node"}}},
        "required": ["v"], "additionalProperties": False}}},
    "map": {"type": "object", "patternProperties": {"^k[0-9]$": {"type": "boolean"}}, "additionalProperties": False,
            "maxProperties": 2},
    "draft 7": {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array",
                "items": [{"type": "boolean"}, {"enum": ["a", "b"]}], "additionalItems": False},
    "types": {"type": ["boolean", "null"]},
    "lengths": {"type": "string", "minLength": 3, "maxLength": 5},
}  # fmt: skip


async def ask(local: LocalCluster, seed: int = 1, **body: Any) -> tuple[str, str]:
    """The answer and why it ended."""
    asked = {"model": MODEL, "temperature": 1, "seed": seed, "max_tokens": 120}
    if "prompt" not in body:
        asked["messages"] = [{"role": "user", "content": "Invent something, and describe it."}]
    path = "completions" if "prompt" in body else "chat/completions"
    async with httpx.AsyncClient(base_url=local.http, timeout=120) as http:
        reply = await http.post(f"/v1/{path}", json=asked | body)
    assert reply.status_code == 200, reply.text
    choice = reply.json()["choices"][0]
    return choice.get("text") or choice.get("message", {}).get("content", ""), choice["finish_reason"]


def formatted(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, "strict": True}}


async def test_whatever_ends_satisfies_its_schema(local: LocalCluster) -> None:
    rows = [(name, seed) for name in SCHEMAS for seed in (1, 2)]
    answers = await asyncio.gather(*(ask(local, seed, response_format=formatted(SCHEMAS[name])) for name, seed in rows))
    ended = [(name, text) for (name, _), (text, finish) in zip(rows, answers, strict=True) if finish == "stop"]
    assert len(ended) > 0.8 * len(rows), answers
    for name, text in ended:
        schema = SCHEMAS[name]
        kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
        kind(schema, format_checker=kind.FORMAT_CHECKER).validate(json.loads(text))


async def test_any_json_object(local: LocalCluster) -> None:
    answers = await asyncio.gather(
        *(ask(local, seed, response_format={"type": "json_object"}, max_tokens=300) for seed in range(4))
    )
    assert any(finish == "stop" for _, finish in answers), answers
    for text, finish in answers:
        assert text.startswith("{")
        assert finish == "length" or isinstance(json.loads(text), dict)


async def test_a_structure_is_closed_within_its_tokens(local: LocalCluster) -> None:
    asked = {"response_format": {"type": "json_object"}, "max_tokens": 80}
    answers = await asyncio.gather(*(ask(local, seed, russet={"close": True}, **asked) for seed in range(6)))
    for text, finish in answers:
        assert finish == "stop", text
        assert isinstance(json.loads(text), dict)
    free = await asyncio.gather(*(ask(local, seed, **asked) for seed in range(6)))
    assert any(finish == "length" for _, finish in free)
    for (text, _), (as_ever, _) in zip(answers, free, strict=True):
        assert text[:20] == as_ever[:20], "drawn as ever until it is time"


@pytest.mark.skipif(not GBNF.is_dir(), reason=f"no grammars at {GBNF}: set RUSSET_DATA")
async def test_every_example_grammar_of_llama_cpp(local: LocalCluster) -> None:
    files = sorted(GBNF.glob("*.gbnf"))
    answers = await asyncio.gather(
        *(ask(local, russet={"grammar": {"gbnf": file.read_text()}}, max_tokens=48) for file in files)
    )
    assert len(files) >= 8
    for file, (text, finish) in zip(files, answers, strict=True):
        matcher = LLMatcher(BYTES, source(inference_pb2.Grammar(gbnf=file.read_text())))
        text = text.removesuffix("\ufffd")  # cut short within a character
        assert text
        assert matcher.consume_tokens(list(text.encode())), (file.name, text)
        assert finish == "length" or matcher.is_accepting(), (file.name, text)


async def test_a_row_says_among_others_what_it_says_alone(local: LocalCluster) -> None:
    rows: list[dict[str, Any]] = [
        {"response_format": formatted(SCHEMAS["person"])},
        {"response_format": {"type": "json_object"}, "max_tokens": 40},
        {"russet": {"grammar": {"regex": "[A-Z][a-z]{2,9}( [a-z]{1,9}){3,6}\\."}}},
        {"russet": {"grammar": {"choice": ["yes", "no", "perhaps"]}}, "prompt": "Is it? "},
        {"russet": {"grammar": {"lark": 'start: NAME ("," NAME)*\nNAME: /[a-z]{2,8}/'}}, "frequency_penalty": 1.0},
        {"max_tokens": 40},
        {"max_tokens": 24, "prompt": "Once upon a time", "top_p": 0.9},
        {"max_tokens": 30, "temperature": 0},
    ]
    together = await asyncio.gather(*(ask(local, seed, **row) for seed, row in enumerate(rows)))
    alone = [await ask(local, seed, **row) for seed, row in enumerate(rows)]
    assert together == alone


async def test_stop_texts_and_lengths_cut_an_answer_short(local: LocalCluster) -> None:
    grammar = {"grammar": {"regex": "[a-z ]{200}"}}
    whole, finish = await ask(local, russet=grammar, max_tokens=20)
    assert finish == "length"
    assert re.fullmatch("[a-z ]{1,199}", whole)
    cut = whole[8:10]
    text, finish = await ask(local, russet=grammar, max_tokens=20, stop=[cut])
    assert (text, finish) == (whole[: whole.index(cut)], "stop")


class _Bytes:
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")
    eos_token_id, bos_token_id, special_token_ids = 256, None, (256,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


BYTES = LLTokenizer(TokenizerWrapper(_Bytes()), n_vocab=257, eos_token=256)
