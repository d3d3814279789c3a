"""Grammars of tool calls: whatever they let through is a call that the format's parser reads, and of its schema."""

import json
import random

import jsonschema
import numpy as np
import pytest
from llguidance import LLMatcher
from tokenizers import AddedToken, Tokenizer

from actors.base.errors import InvalidArgument
from actors.base.vocabulary import Vocabulary
from actors.worker.grammar import tokenizer_of
from cluster.gateway.tools.grammar import Wanted, lark, literals, special_ids
from cluster.gateway.tools.reader import CallReader
from cluster.gateway.tools.registry import FORMATS
from protos.gen import inference_pb2

SCHEMAS = {
    "weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 3},
            "days": {"type": "integer", "minimum": 0, "maximum": 9},
        },
        "required": ["days"],
        "additionalProperties": False,
    },
    "set-it": {
        "type": "object",
        "properties": {"on": {"type": "boolean"}, "to": {"$ref": "#/$defs/to"}},
        "$defs": {"to": {"enum": ["a", None, 1.5]}},
        "additionalProperties": False,
    },
    "now": None,
}  # fmt: skip
TOOLS = [
    inference_pb2.Tool(name=name, parameters=json.dumps(schema) if schema else "") for name, schema in SCHEMAS.items()
]
NAMES = frozenset(SCHEMAS)


@pytest.fixture(params=[False, True], ids=["spelled", "special"])
def vocabulary(request, make_vocabulary):
    """The byte-level one; "special": with the formats' marks as special tokens."""
    message = make_vocabulary()
    if request.param:
        tokenizer = Tokenizer.from_buffer(message.tokenizer_json)
        marks = sorted({mark for format in FORMATS.values() for mark in format.syntax.specials})
        tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
        message.tokenizer_json = tokenizer.to_str().encode()
        message.vocab_size += len(marks)
    return Vocabulary.from_message(message)


def matcher(vocabulary, name, **wanted):
    syntax = FORMATS[name].syntax
    asked = {"tools": TOOLS, "text": False, "several": True} | wanted
    written = lark(FORMATS[name], Wanted(**asked), literals(vocabulary, syntax))
    made = LLMatcher(tokenizer_of(vocabulary.message), LLMatcher.grammar_from_lark(written), log_level=0)
    assert not made.is_error(), made.get_error()
    return made


def walk(state, vocabulary, draw, beginning=""):
    """A text that the grammar lets through, and whether it is complete."""
    ids = []
    for token in vocabulary.encode(beginning, add_bos=False):
        assert state.consume_token(token), beginning
        ids.append(token)
    for _ in range(400):
        mask = np.frombuffer(state.compute_bitmask(), np.uint8)
        allowed = np.flatnonzero(np.unpackbits(mask, bitorder="little")[: vocabulary.size])
        ends = [token for token in allowed if token in vocabulary.eos_ids]
        if ends and (len(ends) == len(allowed) or draw.random() < 0.5):
            return vocabulary.decode(ids, skip_special=False), True
        token = int(draw.choice([token for token in allowed if token not in ends]))
        assert state.consume_token(token)
        ids.append(token)
    return vocabulary.decode(ids, skip_special=False), False


def read(name, text, *, certain=True):
    reader = CallReader(FORMATS[name].parser(NAMES, certain=certain))
    told = [delta for delta in reader.push(text) + reader.finish() if isinstance(delta, str)]
    return "".join(told), reader.calls, reader.whole


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_forced_calls_are_valid(vocabulary, name, several):
    begun, draw, counts = matcher(vocabulary, name, several=several), random.Random(name), set()
    for _ in range(12):
        text, complete = walk(begun.deep_copy(), vocabulary, draw)
        assert complete
        said, calls, whole = read(name, text)
        assert calls
        assert (said, whole) == ("", len(calls))
        counts.add(len(calls))
        assert [(call.name, json.loads(call.arguments)) for call in calls] == [
            (call.name, json.loads(call.arguments)) for call in read(name, text, certain=False)[1]
        ]
        for call in calls:
            jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name] or {"maxProperties": 0})
    assert (max(counts) > 1) == (several and FORMATS[name].syntax.several)


@pytest.mark.parametrize("name", [name for name, format in FORMATS.items() if format.syntax.marker])
def test_text_is_free_until_a_call_begins(vocabulary, name):
    begun, draw = matcher(vocabulary, name, text=True), random.Random(name)
    assert begun.deep_copy().is_accepting()
    for beginning in ("a < b [TOOL_ </tool_ é\n", "{"):
        free = begun.deep_copy()
        assert all(free.consume_token(token) for token in vocabulary.encode(beginning, add_bos=False))
        assert free.is_accepting()
        text, complete = walk(begun.deep_copy(), vocabulary, draw, beginning + FORMATS[name].syntax.marker)
        said, calls, whole = read(name, text)
        assert complete
        assert (said, whole) == (beginning, len(calls))
        assert calls


@pytest.mark.parametrize(("name", "call"), [("llama", '{"name": "now", "parameters": '), ("pythonic", "[now(")])
def test_without_a_marker_what_begins_like_a_call_is_one(vocabulary, name, call):
    begun, draw = matcher(vocabulary, name, text=True), random.Random(name)
    text, complete = walk(begun.deep_copy(), vocabulary, draw, call)
    said, calls, _ = read(name, text)
    assert complete
    assert (said, calls[0].name) == ("", "now")
    for other in ('{"name": "never"}', '{"city": 1}', "[1, 2]", "[never()]", "words", ""):
        free = begun.deep_copy()
        assert all(free.consume_token(token) for token in vocabulary.encode(other, add_bos=False)), other
        assert free.is_accepting()


@pytest.mark.parametrize("name", [name for name, format in FORMATS.items() if format.syntax.marker])
def test_text_may_have_to_be_json(vocabulary, name):
    content = inference_pb2.Grammar(json_schema='{"type": "boolean"}')
    begun, draw = matcher(vocabulary, name, text=True, content=content), random.Random(name)
    texts = {walk(begun.deep_copy(), vocabulary, draw, beginning)[0] for beginning in ("t", "f")}
    assert texts == {"true", "false"}
    text, _ = walk(begun.deep_copy(), vocabulary, draw, FORMATS[name].syntax.marker)
    assert read(name, text)[2]


def test_special_tokens_are_found(make_vocabulary):
    vocabulary = Vocabulary.from_message(make_vocabulary())
    syntax = FORMATS["mistral"].syntax._replace(specials=("<|im_start|>", "[TOOL_CALLS]"))
    assert special_ids(vocabulary, syntax) == {"<|im_start|>": 257}
    assert literals(vocabulary, syntax)("a<|im_start|>b") == '"a" <[257]> "b"'


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"properties": {"a-b": {}}}, "a-b"),
        ({"properties": {"if": {}}}, "if"),
        ({"properties": {}, "required": ["a"]}, "a"),
        ({"anyOf": [{}]}, "anyOf"),
    ],
)
def test_named_arguments_can_only_be_what_python_can_name(schema, named):
    tool = inference_pb2.Tool(name="f", parameters=json.dumps(schema))
    with pytest.raises(InvalidArgument, match=named):
        FORMATS["pythonic"].arguments("x", tool, json.dumps)
