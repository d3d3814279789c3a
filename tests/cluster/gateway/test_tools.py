"""Tool calls over HTTP and gRPC, with replicas that write what they are told to."""

import json

import grpc.aio
import pytest
from llguidance import LLMatcher
from tokenizers import AddedToken, Tokenizer

from actors.worker.grammar import tokenizer_of
from protos.gen import inference_pb2, inference_pb2_grpc
from protos.gen import inference_pb2 as pb

USER = {"role": "user", "content": "Weather in Paris?"}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
ASKED = {"model": "tiny", "messages": [USER], "tools": [TOOL, NOW]}
PARIS = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
BOTH = f'{PARIS}\n<tool_call>\n{{"name": "now", "arguments": {{}}}}\n</tool_call>'


async def replica(world, replica_id="tiny-0", **options):
    """A replica with room for tools, where every byte is a token."""
    scheduler = await world.replica(replica_id, **options)
    scheduler.model.context_length = 4096
    return scheduler


async def post(world, **body):
    reply = await world.client().post("/v1/chat/completions", json=ASKED | body)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def chunks(world, **body):
    """Every chunk's choice, in order."""
    found = []
    asked = ASKED | {"stream": True} | body
    async with world.client().stream("POST", "/v1/chat/completions", json=asked) as reply:
        assert reply.status_code == 200, await reply.aread()
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                found += json.loads(line[6:])["choices"]
    return found


def assembled(choices):
    """Text, calls and finish of one choice, as clients put chunks together."""
    text, calls, finish = "", [], None
    for choice in choices:
        text += choice["delta"].get("content") or ""
        for delta in choice["delta"].get("tool_calls", []):
            if "id" in delta:
                assert delta["index"] == len(calls)
                calls.append({"id": delta["id"], "type": delta["type"], "function": dict(delta["function"])})
            else:
                calls[delta["index"]]["function"]["arguments"] += delta["function"]["arguments"]
        finish = choice["finish_reason"] or finish
    return text, calls, finish


def called(calls):
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


async def test_calls_come_out_of_the_text(world):
    await replica(world, answer=f"I look.\n{BOTH}")
    await world.start()
    choice = (await post(world))["choices"][0]
    message = choice["message"]
    assert (choice["finish_reason"], message["content"]) == ("tool_calls", "I look.\n")
    assert called(message["tool_calls"]) == [("get_weather", '{"city": "Paris"}'), ("now", "{}")]
    assert len({call["id"] for call in message["tool_calls"]}) == 2


@pytest.mark.parametrize("per_event", [1, 7, 1000])
async def test_a_stream_reassembles_to_the_whole_answer(world, per_event):
    scheduler = await replica(world, answer=BOTH)
    scheduler.per_event = per_event
    await world.start()
    message = (await post(world))["choices"][0]["message"]
    streamed = await chunks(world)
    text, calls, finish = assembled(streamed)
    assert (text, finish) == ("", "tool_calls")
    assert message["content"] is None
    assert called(calls) == called(message["tool_calls"])
    first = next(choice["delta"]["tool_calls"][0] for choice in streamed if "tool_calls" in choice["delta"])
    assert first["function"] == {"name": "get_weather", "arguments": ""}


async def test_arguments_are_streamed_as_they_are_written(world):
    await replica(world, answer=PARIS)
    await world.start()
    parts = [
        delta["function"]["arguments"]
        for choice in await chunks(world)
        for delta in choice["delta"].get("tool_calls", [])
    ]
    assert parts == ["", *'{"city": "Paris"}']


@pytest.mark.parametrize(
    "answer", ["Hello", "<tool_call>no", '<tool_call>{"name": "other", "arguments": {}}</tool_call>']
)
async def test_what_is_no_call_is_the_text(world, answer):
    await replica(world, answer=answer)
    await world.start()
    choice = (await post(world))["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (answer, "stop")
    assert "tool_calls" not in choice["message"]
    assert assembled(await chunks(world))[::2] == (answer, "stop")


async def test_a_cut_call_says_length(world):
    await replica(world, answer=PARIS)
    await world.start()
    choice = (await post(world, max_tokens=len(PARIS) - 18))["choices"][0]
    assert choice["finish_reason"] == "length"
    assert called(choice["message"]["tool_calls"]) == [("get_weather", '{"city": "Par')]


async def test_none_and_no_tools_leave_the_answer_alone(world):
    scheduler = await replica(world, answer=PARIS)
    await world.start()
    for body in ({"tool_choice": "none"}, {"tools": []}, {"tools": None, "tool_choice": "auto"}):
        choice = (await post(world, **body))["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (PARIS, "stop")
    assert not any(request.HasField("grammar") for request in scheduler.requests)
    assert len({tuple(request.token_ids) for request in scheduler.requests}) == 1


def lets(request, vocabulary, text):
    """Whether the grammar that a replica was sent lets a text through, as a whole answer."""
    state = LLMatcher(tokenizer_of(vocabulary), LLMatcher.grammar_from_lark(request.grammar.lark), log_level=0)
    return all(state.consume_token(token) for token in text.encode()) and state.is_accepting()


@pytest.mark.parametrize(
    ("body", "allowed", "refused"),
    [
        ({}, ["Hello", PARIS, BOTH, f"I look. {PARIS}"], ["<tool_call>no", f"{PARIS} Hello"]),
        ({"parallel_tool_calls": False}, ["Hello", PARIS], [BOTH]),
        ({"tool_choice": "required"}, [PARIS, BOTH], ["Hello", f"I look. {PARIS}", PARIS.replace("city", "town")]),
        ({"tool_choice": "required", "parallel_tool_calls": False}, [PARIS], ["Hello", BOTH]),
        ({"tool_choice": NAMED}, [PARIS, f"{PARIS}\n{PARIS}"], ["Hello", BOTH]),
        ({"response_format": {"type": "json_object"}}, ['{"a": 1}', PARIS], ["Hello"]),
        ({"response_format": {"type": "json_object"}, "tool_choice": "required"}, [PARIS], ['{"a": 1}']),
    ],
)  # fmt: skip
async def test_what_an_answer_is_held_to(world, body, allowed, refused):
    scheduler = await replica(world, answer=PARIS)
    await world.start()
    await post(world, **body)
    request = scheduler.requests[0]
    assert {text: lets(request, scheduler.vocabulary, text) for text in [*allowed, *refused]} == (
        dict.fromkeys(allowed, True) | dict.fromkeys(refused, False)
    )


async def test_the_choice_does_not_change_the_prompt(world):
    scheduler = await replica(world, answer=PARIS)
    await world.start()
    for choice in ("auto", "required", NAMED):
        await post(world, tool_choice=choice)
    assert len({tuple(request.token_ids) for request in scheduler.requests}) == 1
    assert b"The weather" in bytes(token for token in scheduler.requests[0].token_ids if token < 256)


async def test_a_schema_that_cannot_be_enforced_binds_only_who_asks_for_it(world):
    scheduler = await replica(world, answer="Hello")
    await world.start()
    parameters = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    loose = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    strict = {"type": "function", "function": {"name": "f", "parameters": parameters, "strict": True}}
    await post(world, tools=[TOOL, loose])
    call = '<tool_call>\n{"name": "f", "arguments": {"a": [1, 1]}}\n</tool_call>'
    assert lets(scheduler.requests[0], scheduler.vocabulary, call)
    for body in ({"tools": [TOOL, strict]}, {"tools": [TOOL, loose], "tool_choice": "required"}):
        reply = await world.client().post("/v1/chat/completions", json=ASKED | body)
        error = reply.json()["error"]
        assert (reply.status_code, error["param"]) == (400, "tools[1].parameters")
        assert "uniqueItems" in error["message"]
        assert "#/properties/a/uniqueItems" in error["message"]


@pytest.mark.parametrize("own", [3, None, {"whitespace_flexible": True}, {"lenient": True}])
async def test_options_within_a_schema_are_bounded(world, own):
    scheduler = await replica(world, answer=PARIS)
    await world.start()
    parameters = TOOL["function"]["parameters"] | {"x-guidance": own}
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}
    await post(world, tools=[tool], tool_choice="required")
    request, spaced = scheduler.requests[0], PARIS.replace('"Paris"', '  "Paris"')
    assert lets(request, scheduler.vocabulary, PARIS)
    assert lets(request, scheduler.vocabulary, spaced) == (own == {"whitespace_flexible": True})


async def test_min_tokens_leaves_the_model_free_where_nothing_is_asked_of_calls(world):
    scheduler = await replica(world, answer=f"I look.{PARIS}")
    await world.start()
    choice = (await post(world, min_tokens=3))["choices"][0]
    assert called(choice["message"]["tool_calls"]) == [("get_weather", '{"city": "Paris"}')]
    assert not scheduler.requests[0].HasField("grammar")


async def test_marks_that_are_special_tokens_are_read(world, make_vocabulary):
    scheduler = await replica(world)
    vocabulary = make_vocabulary("{{ messages[0].content }}{{ tools }}[TOOL_CALLS]")
    tokenizer = Tokenizer.from_buffer(vocabulary.tokenizer_json)
    tokenizer.add_special_tokens([AddedToken("[TOOL_CALLS]", special=True)])
    vocabulary.tokenizer_json, vocabulary.vocab_size = tokenizer.to_str().encode(), 260
    scheduler.vocabulary = vocabulary
    scheduler.answer_ids = [257, 259, *b'[{"name": "now", "arguments": {}}]']
    await world.start()
    message = (await post(world))["choices"][0]["message"]
    assert (message["content"], called(message["tool_calls"])) == (None, [("now", "{}")])
    assert "<[259]>" in scheduler.requests[0].grammar.lark
    assert (await post(world, tool_choice="none"))["choices"][0]["message"][
        "content"
    ] == '[{"name": "now", "arguments": {}}]'


async def test_each_of_several_choices_has_its_calls(world):
    scheduler = await replica(world, answer=PARIS)
    await world.start()
    reply = await post(world, n=3)
    assert [called(choice["message"]["tool_calls"]) for choice in reply["choices"]] == [
        [("get_weather", '{"city": "Paris"}')]
    ] * 3
    streamed = await chunks(world, n=3)
    for index in range(3):
        text, calls, finish = assembled([choice for choice in streamed if choice["index"] == index])
        assert (text, called(calls), finish) == ("", [("get_weather", '{"city": "Paris"}')], "tool_calls")
    assert len(scheduler.requests) == 6


async def test_logprobs_are_of_every_token_of_a_call(world):
    await replica(world, answer=PARIS)
    await world.start()
    whole = (await post(world, logprobs=True))["choices"][0]["logprobs"]["content"]
    assert "".join(entry["token"] for entry in whole) == PARIS
    streamed = await chunks(world, logprobs=True)
    assert [entry for choice in streamed if choice["logprobs"] for entry in choice["logprobs"]["content"]] == whole


@pytest.mark.parametrize("after", [5, 30, len(PARIS) - 3])
async def test_a_stream_that_moves_goes_on_with_its_call(world, after):
    first = await replica(world, "tiny-0", answer=BOTH)
    await replica(world, "tiny-1", answer=BOTH)
    first.break_after = after
    await world.start()
    text, calls, finish = assembled(await chunks(world))
    assert (text, finish) == ("", "tool_calls")
    assert called(calls) == [("get_weather", '{"city": "Paris"}'), ("now", "{}")]


async def test_a_session_keeps_calls_and_takes_their_results(world):
    scheduler = await replica(world, answer=PARIS)
    await world.start()
    session = {"russet": {"session_id": "s"}}
    call = (await post(world, **session))["choices"][0]["message"]["tool_calls"][0]
    scheduler.answer_ids = list(b"It is sunny.")
    result = {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}
    wrong = {**ASKED, **session, "messages": [result | {"tool_call_id": "call_other"}]}
    reply = await world.client().post("/v1/chat/completions", json=wrong)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "messages[0].tool_call_id")
    assert call["id"] in reply.json()["error"]["message"]
    assert (await post(world, messages=[result], **session))["choices"][0]["message"]["content"] == "It is sunny."
    prompt = bytes(token for token in scheduler.requests[-1].token_ids if token < 256).decode()
    assert PARIS in prompt
    assert prompt.index("sunny") > prompt.index(PARIS)
    kept = (await world.client().get("/v1/russet/sessions/s")).json()["messages"]
    assert [message["role"] for message in kept] == ["user", "assistant", "tool", "assistant"]
    assert kept[1]["tool_calls"] == [call]
    assert kept[1]["content"] is None
    assert kept[2]["tool_call_id"] == call["id"]


async def test_a_conversation_that_the_client_carries(world):
    scheduler = await replica(world, answer="Sunny.")
    await world.start()
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    turns = [USER, {"role": "assistant", "content": None, "tool_calls": [call]},
             {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "sunny"}]}]  # fmt: skip
    assert (await post(world, messages=turns))["choices"][0]["message"]["content"] == "Sunny."
    assert PARIS.encode() in bytes(token for token in scheduler.requests[0].token_ids if token < 256)


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SAID = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c", "content": "1"}
BAD = [
    ({"tools": [TOOL, TOOL]}, "tools[1].name"),
    ({"tools": [NOW | {"type": "web_search"}]}, "tools.0.type"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
    ({"tools": [{"type": "function", "function": {"name": "a" * 65}}]}, "tools.0.function.name"),
    ({"tools": [{"type": "function", "function": {"name": "f", "x": 1}}]}, "tools.0.function.x"),
    (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
        "tools[0].parameters",
    ),
    (
        {
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "strng"}}}},
                }
            ]
        },
        "tools[0].parameters",
    ),
    ({"tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(129)]}, "tools"),
    ({"tools": [{"type": "function", "function": {"name": "f", "description": "x" * 20_000}}]}, "tools[0].description"),
    ({"tool_choice": "any"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "now", "x": 1}}}, "tool_choice"),
    ({"tool_choice": "required", "tools": []}, "tool_choice"),
    ({"tool_choice": "required", "min_tokens": 3}, "min_tokens"),
    ({"parallel_tool_calls": False, "ignore_eos": True}, "ignore_eos"),
    ({"russet": {"grammar": {"regex": "a"}}}, "russet.grammar"),
    ({"messages": [USER, RESULT]}, "messages[1].tool_call_id"),
    ({"messages": [USER, SAID, RESULT, RESULT]}, "messages[3].tool_call_id"),
    ({"messages": [USER, SAID, {"role": "tool", "content": "1"}]}, "messages[2].tool_call_id"),
    ({"messages": [USER | {"tool_calls": [CALL]}]}, "messages[0].tool_calls"),
    ({"messages": [USER | {"tool_call_id": "c"}]}, "messages[0].tool_call_id"),
    ({"messages": [USER, SAID | {"tool_calls": [CALL, CALL]}]}, "messages[1].tool_calls[1].id"),
    ({"messages": [USER, SAID | {"tool_calls": [CALL | {"id": ""}]}]}, "messages[1].tool_calls[0].id"),
    ({"messages": [USER, SAID | {"tool_calls": [CALL | {"type": "custom"}]}]}, "messages[1].tool_calls[0].type"),
    (
        {"messages": [USER, SAID | {"tool_calls": [{"id": "c", "type": "function"}]}]},
        "messages[1].tool_calls[0].function",
    ),
    ({"messages": [USER, SAID | {"tool_calls": {"a": 1}}]}, "messages[1].tool_calls"),
    (
        {"messages": [USER, SAID | {"tool_calls": [CALL | {"function": {"name": "f", "arguments": "[1]"}}]}]},
        "messages[1].tool_calls[0].arguments",
    ),
    (
        {"messages": [USER, SAID | {"tool_calls": [CALL | {"function": {"name": "f", "arguments": {}}}]}]},
        "messages[1].tool_calls[0].function.arguments",
    ),
]


@pytest.mark.parametrize(("body", "param"), BAD, ids=lambda value: str(value)[:60])
async def test_what_cannot_be_is_named(world, body, param):
    scheduler = await replica(world)
    await world.start()
    for stream in (False, True):
        reply = await world.client().post("/v1/chat/completions", json=ASKED | {"stream": stream} | body)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), reply.text
    assert not scheduler.requests


async def test_json_answers_and_calls_without_a_mark_cannot_be_told_apart(world):
    scheduler = await replica(world, answer='{"name": "now", "parameters": {}}')
    await world.start(tool_formats={"tiny": "llama"})
    body = {"response_format": {"type": "json_object"}}
    reply = await world.client().post("/v1/chat/completions", json=ASKED | body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "response_format")
    assert called((await post(world, tool_choice="required", **body))["choices"][0]["message"]["tool_calls"]) == [
        ("now", "{}")
    ]
    assert len(scheduler.requests) == 1


async def test_what_a_template_refuses_is_said_in_its_words(world, make_vocabulary):
    scheduler = await replica(world, answer="Sunny.")
    scheduler.vocabulary = make_vocabulary(
        "{{ tools }}{% for m in messages %}{% if m.tool_calls is defined and m.tool_calls | length > 1 %}"
        "{{ raise_exception('one call at a time') }}{% endif %}{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"
    )
    await world.start()
    calls = [{"id": name, "type": "function", "function": {"name": "now", "arguments": "{}"}} for name in "ab"]
    for count, status in ((1, 200), (2, 400)):
        turns = [USER, {"role": "assistant", "content": None, "tool_calls": calls[:count]}]
        reply = await world.client().post("/v1/chat/completions", json=ASKED | {"messages": turns})
        assert reply.status_code == status, reply.text
    assert "one call at a time" in reply.json()["error"]["message"]
    assert reply.json()["error"]["param"] == "messages"


async def test_the_same_over_grpc(world):
    scheduler = await replica(world, answer=f"I look.{BOTH}")
    gateway = await world.start()
    tool = pb.Tool(name="get_weather", parameters=json.dumps(TOOL["function"]["parameters"]))
    request = pb.ChatRequest(
        messages=[pb.Message(role="user", content="?")], tools=[tool, pb.Tool(name="now")], parallel_tool_calls=True
    )
    async with grpc.aio.insecure_channel(gateway.addresses.grpc) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        answer = await stub.Chat(request)
        assert (answer.text, answer.finish_reason) == ("I look.", inference_pb2.FINISH_TOOL_CALLS)
        streamed = {}
        text = ""
        async for chunk in stub.ChatStream(request):
            text += chunk.delta
            for delta in chunk.tool_calls:
                call = streamed.setdefault(delta.index, pb.ToolCall(id=delta.id, name=delta.name))
                call.arguments += delta.arguments
        assert (text, chunk.finish_reason) == ("I look.", inference_pb2.FINISH_TOOL_CALLS)
        assert [(c.name, c.arguments) for c in streamed.values()] == [(c.name, c.arguments) for c in answer.tool_calls]
        follow = pb.ChatRequest(
            messages=[*request.messages, pb.Message(role="assistant", tool_calls=answer.tool_calls)]
        )
        follow.messages.add(role="tool", content="1", tool_call_id=answer.tool_calls[0].id)
        await stub.Chat(follow)
        follow.messages.add(role="tool", content="1", tool_call_id="other")
        with pytest.raises(grpc.aio.AioRpcError, match="other") as caught:
            await stub.Chat(follow)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        request.tools.add(name="now")
        with pytest.raises(grpc.aio.AioRpcError, match=r"tools\[2\].name"):
            await stub.Chat(request)
    assert len(scheduler.requests) == 3
