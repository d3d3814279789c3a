"""Reflection as clients see it: answers checked, made again, and told how; everything else as ever."""

import asyncio
import json
from typing import Any

import pytest

from actors.base.channel import connect
from actors.base.errors import InvalidArgument, Unavailable
from cluster.gateway.seeds import derived_seed
from protos.gen import inference_pb2
from protos.gen.inference_pb2_grpc import InferenceStub

SEED = 5
SECOND, THIRD = derived_seed(SEED, 1), derived_seed(SEED, 2)
CONTAINS = {"reflect": {"assert": [{"contains": "42"}]}}


def body(russet: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "q"}], "seed": SEED, "russet": russet} | more


async def ask(world, russet: dict[str, Any], **more: Any) -> dict[str, Any]:
    reply = await world.client().post("/v1/chat/completions", json=body(russet, **more))
    assert reply.status_code == 200, reply.text
    return reply.json()


def text_of(answer: dict[str, Any]) -> str:
    return answer["choices"][0]["message"]["content"]


async def test_an_answer_that_passes_is_the_answer(world):
    scheduler = await world.replica(answer="it is 42")
    await world.start()
    plain, checked = await ask(world, {}), await ask(world, CONTAINS)
    assert text_of(plain) == text_of(checked) == "it is 42"
    assert "reflect" not in plain["russet"]
    assert checked["russet"]["reflect"] == {
        "passed": True,
        "confidence": 1.0,
        "chosen": 0,
        "attempts": [{"id": checked["id"], "strategy": "plain", "met": 1.0, "problems": []}],
        "stopped": None,
    }
    assert checked["usage"] == plain["usage"]
    first, second = scheduler.requests
    for request in (first, second):
        request.ClearField("request_id")
    assert first == second, "the first attempt is the request as it would have been"


async def test_one_that_fails_is_made_again_with_what_was_wrong(world):
    scheduler = await world.replica(answer="dunno")
    scheduler.answers[SECOND] = "it is 42"
    await world.start()
    answer = await ask(world, CONTAINS, temperature=0.8)
    assert text_of(answer) == "it is 42"
    told = answer["russet"]["reflect"]
    assert (told["passed"], told["chosen"], told["stopped"]) == (True, 1, None)
    assert told["confidence"] == pytest.approx(2 / 3, abs=1e-4)
    assert [attempt["strategy"] for attempt in told["attempts"]] == ["plain", "explain"]
    assert [attempt["id"] for attempt in told["attempts"]] == [answer["id"], f"{answer['id']}-2"]
    assert told["attempts"][0]["problems"] == ["it does not contain '42'"]
    first, second = scheduler.requests
    read = bytes(token for token in second.token_ids if token < 256).decode()
    assert "dunno" in read
    assert "it does not contain '42'" in read
    assert (second.sampling.seed, second.sampling.temperature) == (SECOND, pytest.approx(0.4))
    counts = answer["usage"]
    assert counts["completion_tokens"] == len("dunno") + len("it is 42"), "what all attempts took"
    assert counts["prompt_tokens"] == first.prompt_tokens + second.prompt_tokens


async def test_the_last_attempt_is_held_to_what_was_asserted(world):
    scheduler = await world.replica(answer="dunno")
    scheduler.answers[THIRD] = "42"
    await world.start()
    answer = await ask(world, {"reflect": {"assert": [{"regex": "[0-9]+"}, {"lacks": "dunno"}]}})
    assert text_of(answer) == "42"
    assert [each["strategy"] for each in answer["russet"]["reflect"]["attempts"]] == ["plain", "explain", "constrain"]
    assert [request.HasField("grammar") for request in scheduler.requests] == [False, False, True]
    assert (scheduler.requests[2].grammar.regex, scheduler.requests[2].grammar.close) == ("[0-9]+", True)


async def test_what_was_cut_is_closed(world):
    scheduler = await world.replica(answer='{"a"')
    scheduler.answers[SECOND] = '{"a": 1}'
    await world.start()
    answer = await ask(world, {"reflect": {"attempts": 2}}, response_format={"type": "json_object"})
    assert text_of(answer) == '{"a": 1}'
    assert [each["strategy"] for each in answer["russet"]["reflect"]["attempts"]] == ["plain", "close"]
    assert [request.grammar.close for request in scheduler.requests] == [False, True]


async def test_where_none_passes_the_one_that_met_most_is_the_answer(world):
    scheduler = await world.replica(answer="no")
    scheduler.answers |= {SECOND: "it is 4", THIRD: "nothing"}
    await world.start()
    answer = await ask(world, {"reflect": {"assert": [{"contains": "42"}, {"contains": "4"}]}})
    assert text_of(answer) == "it is 4"
    told = answer["russet"]["reflect"]
    assert (told["passed"], told["chosen"], told["stopped"]) == (False, 1, "3 attempts were made")
    assert [attempt["met"] for attempt in told["attempts"]] == [0, 0.5, 0]
    assert told["confidence"] == 0.125
    assert [attempt["strategy"] for attempt in told["attempts"]] == ["plain", "explain", "constrain"]


async def test_a_stream_begins_when_its_answer_was_chosen(world):
    scheduler = await world.replica(answer="dunno")
    scheduler.answers[SECOND] = "it is 42"
    await world.start()
    sent = body(CONTAINS, stream=True, stream_options={"include_usage": True}, logprobs=True)
    lines = (await world.client().post("/v1/chat/completions", json=sent)).text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    deltas = [event["choices"][0]["delta"].get("content") for event in events if event["choices"]]
    assert "".join(filter(None, deltas)) == "it is 42"
    assert events[0]["russet"]["reflect"]["chosen"] == 1
    told = [event["choices"][0]["logprobs"] for event in events if event["choices"] and event["choices"][0]["logprobs"]]
    tokens = [each["token"] for logprobs in told for each in logprobs["content"]]
    assert "".join(tokens) == "it is 42"
    assert events[-1]["usage"]["completion_tokens"] == len("dunno") + len("it is 42")


async def test_over_grpc_it_is_the_same(world):
    scheduler = await world.replica(answer="dunno")
    scheduler.answers[SECOND] = "it is 42"
    gateway = await world.start()
    stub = InferenceStub(connect(f"tcp:{gateway.addresses.grpc}"))
    request = inference_pb2.ChatRequest(
        messages=[inference_pb2.Message(role="user", content="q")],
        decoding=inference_pb2.Decoding(sampling=inference_pb2.Sampling(seed=SEED)),
        reflect=inference_pb2.Reflect(assertions=[inference_pb2.Assertion(contains="42")]),
    )
    answer = await stub.Chat(request)
    chunks = [chunk async for chunk in stub.ChatStream(request)]
    assert answer.text == "".join(chunk.delta for chunk in chunks) == "it is 42"
    for told in (answer.reflection, chunks[-1].reflection):
        assert (told.passed, told.chosen, len(told.attempts)) == (True, 1, 2)
    assert not chunks[0].HasField("reflection")
    request.ClearField("reflect")
    assert not (await stub.Chat(request)).HasField("reflection")


@pytest.mark.parametrize("stream", [False, True])
async def test_the_other_chat_apis_have_it_too(world, stream):
    scheduler = await world.replica(answer="dunno")
    await world.start()
    client, russet = world.client(), CONTAINS | {"close": False}
    message = {"messages": [{"role": "user", "content": "q"}], "max_tokens": 9, "russet": russet, "stream": stream}
    response = {"input": "q", "store": False, "russet": russet, "stream": stream}
    for path, sent in (("messages", message), ("responses", response)):
        before = len(scheduler.requests)
        reply = await client.post(f"/v1/{path}", json=sent)
        assert reply.status_code == 200, reply.text
        assert "dunno" in reply.text
        assert '"reflect"' in reply.text
        assert "3 attempts were made" in reply.text
        assert len(scheduler.requests) == before + 3


async def test_every_attempt_has_a_witness_entry_and_a_rating_is_of_the_answer(world):
    scheduler = await world.replica(answer="dunno")
    scheduler.answers[SECOND] = "it is 42"
    await world.start(quality_share=1)
    answer = await ask(world, {"reflect": {"assert": [{"regex": ".*42"}]}})
    await world.until(lambda: len(world.memory.entries) == len(world.learner.trajectories) == 2)
    assert [entry.id for entry in world.memory.entries] == [answer["id"], f"{answer['id']}-2"]
    assert [entry.response_text for entry in world.memory.entries] == ["dunno", "it is 42"]
    assert {each.id for each in world.memory.answered} == {answer["id"]}, "one answer is no double of itself"
    assert [each.demands[0].grammar.regex for each in world.memory.answered] == [".*42"] * 2
    reply = await world.client().post("/v1/feedback", json={"response_id": answer["id"], "rating": 1})
    assert reply.json() == {"found": True}
    assert [(each.response_id, each.rating) for each in world.learner.ratings] == [(f"{answer['id']}-2", 1)]


async def test_a_quality_is_asserted(world):
    scheduler = await world.replica(answer="short")
    scheduler.answers[SECOND] = "a longer answer"
    await world.start()
    answer = await ask(world, {"reflect": {"assert": [{"quality": 10 / 1024}]}})
    assert text_of(answer) == "a longer answer"
    told = answer["russet"]["reflect"]
    assert told["attempts"][0]["met"] == pytest.approx(0.5, abs=1e-3)
    assert told["confidence"] == pytest.approx(2 / 3 * 15 / 1024, abs=1e-3)
    assert list(world.memory.answered[0].query_embedding) == [1, 1]
    world.memory.refuse_scores = Unavailable("memory is busy")
    answer = await ask(world, {"reflect": {"attempts": 1, "assert": [{"quality": 0.001}]}})
    assert answer["russet"]["reflect"]["attempts"][0]["problems"] == ["its quality is not known: memory is busy"]


async def test_the_deadline_ends_attempts_and_keeps_the_best(world):
    scheduler = await world.replica(answer="no")
    scheduler.answers[SECOND] = "it is 42"
    await world.start()
    scheduler.hold_after = 3  # the second answer is longer
    answer = await ask(world, {"reflect": {"deadline_ms": 700, "assert": [{"contains": "42"}]}})
    assert text_of(answer) == "no"
    assert answer["russet"]["reflect"]["stopped"] == "the deadline came"
    assert scheduler.cancellations == 1
    scheduler.hold_after = 1
    sent = body({"reflect": {"deadline_ms": 300, "assert": [{"contains": "42"}]}})
    reply = await world.client().post("/v1/chat/completions", json=sent)
    assert (reply.status_code, reply.json()["error"]["param"]) == (504, "russet.reflect.deadline_ms")


async def test_an_attempt_that_cannot_be_made_leaves_the_best_so_far(world):
    await world.replica(answer="n" * 180)
    await world.start()
    answer = await ask(world, CONTAINS, max_tokens=300)
    told = answer["russet"]["reflect"]
    assert (len(told["attempts"]), told["passed"]) == (1, False)
    assert told["stopped"].startswith("ContextTooLong")


async def test_a_client_that_leaves_ends_the_attempt(world):
    scheduler = await world.replica(answer="dunno")
    scheduler.hold_after = 2
    await world.start()
    asking = asyncio.create_task(world.client().post("/v1/chat/completions", json=body(CONTAINS)))
    await asyncio.wait_for(scheduler.holding.wait(), 5)
    asking.cancel()
    await asyncio.wait_for(scheduler.cancelled.wait(), 5)


def reflecting(**reflect: Any) -> dict[str, Any]:
    return {"russet": {"reflect": reflect}}


def asserting(**assertion: Any) -> dict[str, Any]:
    return reflecting(**{"assert": [assertion]})


CHAT = "chat/completions"
FIRST = "russet.reflect.assert.0"


@pytest.mark.parametrize(
    ("path", "more", "param"),
    [
        (CHAT, reflecting(), "russet.reflect.assert"),
        (CHAT, {"n": 2}, "n"),
        (CHAT, {"russet": CONTAINS | {"session_id": "s"}}, "russet.session_id"),
        (CHAT, reflecting(attempts=0), "russet.reflect.attempts"),
        (CHAT, reflecting(deadline_ms=-1), "russet.reflect.deadline_ms"),
        (CHAT, asserting(), FIRST),
        (CHAT, asserting(regex="a", contains="b"), FIRST),
        (CHAT, asserting(max_chars=-1), f"{FIRST}.max_chars"),
        (CHAT, asserting(begins="b"), f"{FIRST}.begins"),
        (CHAT, asserting(regex="("), "russet.reflect"),
        (CHAT, asserting(quality=1e39), f"{FIRST}.quality"),
        ("completions", {"prompt": "p"}, "russet.reflect"),
        (CHAT, {"russet": CONTAINS | {"tools": {"run": "all"}}}, "russet.tools"),
        ("responses", {"input": "q"}, "russet.session_id"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(world, path, more, param):
    await world.replica()
    await world.start()
    sent = body(CONTAINS) | more
    if path != "chat/completions":
        sent.pop("seed")
    if "prompt" in more or "input" in more:
        sent.pop("messages")
    reply = await world.client().post(f"/v1/{path}", json=sent)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"].get("param", param) == param
    assert param in reply.text


async def test_a_first_attempt_that_fails_fails_as_ever(world):
    scheduler = await world.replica()
    scheduler.refuse = InvalidArgument("not this", param="top_k")
    await world.start()
    reply = await world.client().post("/v1/chat/completions", json=body(CONTAINS))
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "top_k")
