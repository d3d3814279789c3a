"""What an answer must be: read from the body, refused by keyword and place, and passed on as it was meant."""

import json
import threading

import pytest

from actors.base.channel import connect
from cluster.gateway import grammars
from cluster.gateway.grammars import refusal
from protos.gen import inference_pb2
from protos.gen.inference_pb2_grpc import InferenceStub

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}
PERSON = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


def formatted(schema: object, **more: object) -> dict:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": schema} | more}}


def own(**grammar: object) -> dict:
    return {"russet": {"grammar": grammar}}


async def asked(world, body: dict, path: str = "/v1/chat/completions") -> tuple[int, dict]:
    reply = await world.client().post(path, json=body)
    return reply.status_code, reply.json()


async def test_each_form_reaches_the_scheduler_as_it_was_meant(world):
    scheduler = await world.replica()
    await world.start()
    bodies = [
        formatted(PERSON, strict=True, description="one of us"),
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "text"}},
        own(regex="[a-z]+"),
        own(choice=["yes", "no"]),
        own(lark='start: "x"+'),
        own(gbnf='root ::= "x"+'),
    ]
    for body in bodies:
        assert (await asked(world, CHAT | body))[0] == 200
    sent = [request.grammar for request in scheduler.requests]
    assert sent[0].name == "person"
    assert json.loads(sent[0].json_schema) == PERSON
    assert list(json.loads(sent[0].json_schema)) == list(PERSON), "the order of the keys is the answer's"
    assert json.loads(sent[1].json_schema) == {"type": "object"}
    assert not scheduler.requests[2].HasField("grammar")
    assert (sent[3].regex, list(sent[4].choice.texts)) == ("[a-z]+", ["yes", "no"])
    assert (sent[5].lark, sent[6].gbnf) == ('start: "x"+', 'root ::= "x"+')


async def test_completions_and_grpc_take_them_too(world):
    scheduler = await world.replica()
    gateway = await world.start()
    body = {"model": "tiny", "prompt": "Hello"} | {"response_format": {"type": "json_object"}}
    assert (await asked(world, body, "/v1/completions"))[0] == 200
    channel = connect(f"tcp:{gateway.addresses.grpc}")
    world.channels.append(channel)
    decoding = inference_pb2.Decoding(grammar=inference_pb2.Grammar(regex="[0-9]"))
    await InferenceStub(channel).Complete(inference_pb2.CompleteRequest(model="tiny", text="Hi", decoding=decoding))
    assert [request.grammar.WhichOneof("language") for request in scheduler.requests] == ["json_schema", "regex"]


async def test_a_stream_that_goes_on_elsewhere_takes_its_grammar_along(world):
    first, second = await world.replica("tiny-0"), await world.replica("tiny-1")
    first.break_after = second.break_after = 3
    await world.start()
    assert (await asked(world, CHAT | own(regex="[a-zA-Z, ]+")))[0] == 200
    requests = first.requests + second.requests
    assert len(requests) > 1
    assert {request.grammar.regex for request in requests} == {"[a-zA-Z, ]+"}


BAD = [
    (formatted({"properties": {"a": {"items": {"not": {}}}}}), "response_format", "(at #/properties/a/items/not)"),
    (formatted({"properties": {"not": {"uniqueItems": True}}}), "response_format", "(at #/properties/not/uniqueItems)"),
    (formatted({"anyOf": [{}, {"type": "strin"}]}), "response_format", "strin (at #/anyOf/1/type)"),
    (formatted({"items": {"format": "color"}}), "response_format", "color (at #/items/format)"),
    (formatted({"$defs": {"/": {"pattern": "(?=x)"}}, "$ref": "#/$defs/~1"}), "response_format", "#/$defs/~1/pattern)"),
    (formatted({"oneOf": [{"minimum": 1}, {"maximum": 3}]}), "response_format", "(at #/oneOf)"),
    (formatted({"allOf": [{"$ref": "#/nowhere"}]}), "response_format", "(at #/allOf/0/$ref)"),
    (formatted({"$ref": "http://example.com/x"}), "response_format", "(at #/$ref)"),
    (formatted({"type": "object", "required": ["a"], "properties": {"a": False}}), "response_format", "#/required)"),
    (formatted({"type": "integer", "minimum": 3, "maximum": 2}), "response_format", "nsatisfiable"),
    (formatted({"x-guidance": {"lenient": True}, "not": {}}), "response_format", "(at #/not)"),
    (formatted([]), "response_format.json_schema.schema", "dictionary"),
    (formatted({}, name="no spaces"), "response_format.json_schema.name", "pattern"),
    (formatted({}, nme="x"), "response_format.json_schema.nme", "unknown parameter"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "'json_object'"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing"),
    ({"response_format": {"type": "json_object", "json_schema": {"name": "x"}}}, "response_format.type", "json_schema"),
    ({"response_format": {"type": "json_object"}} | own(regex="a"), "russet.grammar", "both"),
    ({"russet": {"close": True}}, "russet.close", "nothing to close"),
    (own(), "russet.grammar", "nothing"),
    (own(regex="a", lark="b"), "russet.grammar", "regex, lark"),
    (own(regex="(a"), "russet.grammar", "unclosed group"),
    (own(regex=r"[^\s\S]"), "russet.grammar", "nothing satisfies it"),
    (own(choice=[]), "russet.grammar", "1 to 4096"),
    (own(choice=[3]), "russet.grammar.choice.0", "string"),
    (own(lark="start: nowhere"), "russet.grammar", "nowhere"),
    (own(gbnf="root ::= nowhere"), "russet.grammar", "nowhere"),
    (own(gbnf='rot ::= "x"'), "russet.grammar", "root"),
    (own(regex="x" * (600 << 10)), "russet.grammar", "up to 524288"),
    (own(regex="a") | {"min_tokens": 2}, "min_tokens", "grammar"),
    (own(regex="a") | {"ignore_eos": True}, "ignore_eos", "grammar"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "param", "said"), BAD, ids=lambda value: str(value)[:60])
async def test_what_cannot_be_enforced_is_refused_by_name(world, body, param, said):
    scheduler = await world.replica()
    await world.start()
    status, answer = await asked(world, CHAT | body)
    assert (status, answer["error"]["param"]) == (400, param), answer
    assert said in answer["error"]["message"]
    assert "<state>" not in answer["error"]["message"]
    assert not scheduler.requests
    status, streamed = await asked(world, CHAT | body | {"stream": True})
    assert (status, streamed) == (400, answer), "before anything is generated"


async def test_a_model_without_an_end_of_text_is_named(world):
    scheduler = await world.replica()
    del scheduler.vocabulary.eos_ids[:]
    await world.start()
    status, answer = await asked(world, CHAT | own(regex="a"))
    assert status == 400
    assert "end" in answer["error"]["message"]
    assert (await asked(world, CHAT))[0] == 200


async def test_one_that_does_not_compile_in_time_is_refused_and_others_are_not_kept_waiting(world, monkeypatch):
    held = threading.Event()

    def slowly(grammar):
        if grammar.regex == "slow":
            held.wait(20)
        return refusal(grammar)

    monkeypatch.setattr(grammars, "refusal", slowly)
    await world.replica()
    await world.start(grammar_timeout_s=0.05)
    status, answer = await asked(world, CHAT | own(regex="slow"))
    assert (status, answer["error"]["param"]) == (400, "russet.grammar")
    assert "0.05 s" in answer["error"]["message"]
    assert (await asked(world, CHAT | own(regex="fast")))[0] == 200
    held.set()


async def test_a_grammar_is_compiled_once(world, monkeypatch):
    compiled = []
    monkeypatch.setattr(grammars, "refusal", lambda grammar: compiled.append(grammar.regex))
    await world.replica()
    await world.start()
    for regex in ("a", "b", "a", "a"):
        assert (await asked(world, CHAT | own(regex=regex)))[0] == 200
    assert compiled == ["a", "b"]
