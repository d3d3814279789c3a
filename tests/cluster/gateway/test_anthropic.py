"""Anthropic's Messages API, by its own client."""

import anthropic
import pytest

from actors.base.errors import Internal, QueueFull
from cluster.gateway import api_keys

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
TOOL = {"name": "f", "input_schema": {"type": "object"}}
USED = {"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "x"}]}
MINIMAL = {"model": "tiny", "max_tokens": 16, "messages": QUESTION}


def client_of(world, key="none"):
    return anthropic.AsyncAnthropic(base_url=world.url, api_key=key, max_retries=0, timeout=20)


async def test_its_client_gets_a_whole_answer(world):
    scheduler = await world.replica(answer="Paris")
    scheduler.cached_tokens = 3
    await world.start()
    message = await client_of(world).messages.create(
        **MINIMAL,
        system=[
            {"type": "text", "text": "Be "},
            {"type": "text", "text": "brief.", "cache_control": {"type": "ephemeral"}},
        ],
        metadata={"user_id": "u"},
        extra_body={"temperature": 0.5, "top_p": 0.9, "top_k": 7},
    )
    assert [(block.type, block.text) for block in message.content] == [("text", "Paris")]
    assert (message.role, message.model, message.stop_reason, message.stop_sequence) == (
        "assistant", "tiny", "end_turn", None,
    )  # fmt: skip
    request = scheduler.requests[0]
    assert (request.sampling.temperature, request.sampling.top_k) == (0.5, 7)
    assert request.max_tokens == 16
    assert bytes(token for token in request.token_ids if token < 256).startswith(b"system\nBe brief.")
    assert message.usage.cache_read_input_tokens == 3
    assert message.usage.input_tokens + 3 == request.prompt_tokens
    assert message.usage.output_tokens == 5


async def test_its_client_streams(world):
    await world.replica(answer="Grüße, 東京")
    await world.start()
    kinds, text = [], ""
    async with client_of(world).messages.stream(**MINIMAL) as stream:
        async for event in stream:
            kinds.append(event.type)
            if event.type == "text":
                text += event.text
        message = await stream.get_final_message()
    assert text == message.content[0].text == "Grüße, 東京"
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens == len(text.encode())
    wire = [kind for kind in kinds if kind != "text"]
    assert wire[:2] == ["message_start", "content_block_start"]
    assert wire[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(wire[2:-3]) == {"content_block_delta"}


async def test_the_stop_sequence_that_ended_it_is_named(world):
    await world.replica(answer="one two three")
    await world.start()
    message = await client_of(world).messages.create(**MINIMAL, stop_sequences=["zzz", " tw"])
    assert (message.content[0].text, message.stop_reason, message.stop_sequence) == ("one", "stop_sequence", " tw")


async def test_earlier_turns_are_read(world):
    scheduler = await world.replica()
    await world.start()
    turns = [*QUESTION, {"role": "assistant", "content": [{"type": "text", "text": "Paris."}]}, *QUESTION]
    await client_of(world).messages.create(**MINIMAL | {"messages": turns})
    assert b"assistant\nParis." in bytes(token for token in scheduler.requests[0].token_ids if token < 256)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"messages": []}, "messages is empty"),
        ({"messages": [{"role": "system", "content": "x"}]}, "accepted are user and assistant"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            "accepted are 'text', 'tool_use'",
        ),
        ({"messages": [*QUESTION, {"role": "assistant", "content": "The"}]}, "accepted is a user message at the end"),
        ({"stop_sequences": [""]}, "a stop string has 0 characters"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type = 'web_search_20250305'"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema is missing"),
        ({"tools": [TOOL | {"defer_loading": True}]}, "unknown parameter: tools.0.defer_loading"),
        ({"tools": [TOOL, TOOL]}, "accepted are different names"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "accepted is a name with the type 'tool'"),
        ({"tools": [TOOL], "tool_choice": {"type": "any", "name": "f"}}, "accepted is a name with the type 'tool'"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice names 'g'"),
        ({"tool_choice": {"type": "any"}}, "tool_choice is required without tools"),
        ({"messages": [USED]}, "is not supported here"),
        ({"messages": [RESULT]}, "is of no call before it"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "tool_use_id is null"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking ="),
        ({"system": [{"type": "text", "text": "a", "colour": 1}]}, "unknown parameter: system[0].colour"),
        ({"temperature": 3}, "temperature is 3"),
        ({"colour": "red"}, "unknown parameter: colour"),
        ({"russet": {"kv_format": "q5"}}, "accepted are f16, q8, q4, auto"),
    ],
)
async def test_what_is_wrong_is_named(world, change, said):
    await world.replica()
    await world.start()
    reply = await world.client().post("/v1/messages", json=MINIMAL | change)
    assert reply.status_code == 400
    assert reply.json()["type"] == "error"
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert said in reply.json()["error"]["message"]


async def test_errors_have_its_types(world, tmp_path):
    scheduler = await world.replica()
    await world.start()
    client = client_of(world)
    scheduler.refuse = QueueFull("256 wait", retry_after_s=2.5)
    with pytest.raises(anthropic.RateLimitError) as caught:
        await client.messages.create(**MINIMAL)
    assert caught.value.response.headers["retry-after"] == "3"
    assert caught.value.body["error"]["type"] == "rate_limit_error"
    scheduler.refuse = Internal("a secret")
    with pytest.raises(anthropic.InternalServerError) as failed:
        await client.messages.create(**MINIMAL)
    assert failed.value.body["error"]["type"] == "api_error"


async def test_what_the_budget_cut_off_says_so(world):
    await world.replica(answer="a long answer")
    await world.start()
    message = await client_of(world).messages.create(**MINIMAL | {"max_tokens": 3})
    assert (message.content[0].text, message.stop_reason) == ("a l", "max_tokens")


async def test_its_key_header_is_taken(world, tmp_path):
    scheduler = await world.replica()
    key = api_keys.create(tmp_path / "keys", "alice")
    await world.start(api_keys_file=tmp_path / "keys")
    with pytest.raises(anthropic.AuthenticationError):
        await client_of(world, "rk-wrong").messages.create(**MINIMAL)
    await client_of(world, key).messages.create(**MINIMAL)
    assert scheduler.requests[0].tenant == "alice"
