"""OpenAI's Responses API, by its own client."""

import json

import openai
import pytest

MINIMAL = {"model": "tiny", "input": "What is the capital of France?"}


def client_of(world):
    return openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0, timeout=20)


def read(request):
    """The prompt's text without its special tokens."""
    return bytes(token for token in request.token_ids if token < 256).decode()


async def test_its_client_gets_a_whole_response(world):
    scheduler = await world.replica(answer="Paris")
    scheduler.cached_tokens = 3
    await world.start()
    response = await client_of(world).responses.create(
        **MINIMAL, instructions="Be brief.", max_output_tokens=16, temperature=0.5, metadata={"a": "b"}
    )
    assert (response.output_text, response.status, response.model) == ("Paris", "completed", "tiny")
    assert (response.instructions, response.metadata, response.temperature) == ("Be brief.", {"a": "b"}, 0.5)
    request = scheduler.requests[0]
    assert (request.max_tokens, request.sampling.temperature) == (16, 0.5)
    assert read(request).startswith("system\nBe brief.\nuser\nWhat is")
    assert response.usage.input_tokens == request.prompt_tokens
    assert response.usage.input_tokens_details.cached_tokens == 3
    assert (response.usage.output_tokens, response.usage.total_tokens) == (5, request.prompt_tokens + 5)


async def test_its_client_streams(world):
    await world.replica(answer="Grüße, 東京")
    await world.start()
    kinds, text, numbers = [], "", []
    async with client_of(world).responses.stream(**MINIMAL) as stream:
        async for event in stream:
            kinds.append(event.type)
            numbers.append(event.sequence_number)
            if event.type == "response.output_text.delta":
                text += event.delta
        final = await stream.get_final_response()
    assert text == final.output_text == "Grüße, 東京"
    assert numbers == list(range(len(numbers)))
    assert kinds[:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert kinds[-4:] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip


async def test_the_form_of_the_text_is_passed_on(world):
    scheduler = await world.replica(answer="{}")
    await world.start()
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    form = {"type": "json_schema", "name": "city", "schema": schema, "strict": True}
    response = await client_of(world).responses.create(**MINIMAL, text={"format": form})
    grammar = scheduler.requests[0].grammar
    assert (grammar.name, json.loads(grammar.json_schema)) == ("city", schema)
    assert response.text.format.name == "city"
    more = {"grammar": {"choice": ["a", "b"]}, "stop_token_ids": [5]}
    await client_of(world).responses.create(**MINIMAL, extra_body={"russet": more})
    assert list(scheduler.requests[1].grammar.choice.texts) == ["a", "b"]


async def test_what_the_budget_cut_off_is_incomplete(world):
    await world.replica(answer="a long answer")
    await world.start()
    response = await client_of(world).responses.create(**MINIMAL, max_output_tokens=3)
    assert (response.output_text, response.status) == ("a l", "incomplete")
    assert response.incomplete_details.reason == "max_output_tokens"
    async with client_of(world).responses.stream(**MINIMAL, max_output_tokens=3) as stream:
        assert [event.type async for event in stream][-1] == "response.incomplete"


async def test_a_conversation_goes_on_from_its_newest_response(world):
    scheduler = await world.replica(answer="Paris")
    await world.start()
    client = client_of(world)
    first = await client.responses.create(**MINIMAL)
    second = await client.responses.create(model="tiny", input="Why?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    third = await client.responses.create(model="tiny", input="And so?", previous_response_id=second.id)
    said = "user\nWhat is the capital of France?\nassistant\nParis\nuser\nWhy?\nassistant\nParis\nuser\nAnd so?"
    assert said in read(scheduler.requests[-1])
    with pytest.raises(openai.ConflictError, match="is not the newest response"):
        await client.responses.create(model="tiny", input="But?", previous_response_id=second.id)
    with pytest.raises(openai.ConflictError):
        await client.responses.create(model="tiny", input="But?", previous_response_id=first.id, stream=True)
    fourth = await client.responses.create(model="tiny", input="Then?", previous_response_id=third.id)
    assert read(scheduler.requests[-1]).count("But?") == 0, "what was refused left no trace"
    assert fourth.id.split(".")[0] == first.id.split(".")[0]


async def test_what_was_not_stored_cannot_be_followed(world):
    await world.replica()
    await world.start()
    client = client_of(world)
    alone = await client.responses.create(**MINIMAL, store=False)
    with pytest.raises(openai.BadRequestError, match="accepted is the id of a stored response"):
        await client.responses.create(**MINIMAL, previous_response_id=alone.id)
    with pytest.raises(openai.NotFoundError, match="it was not stored, or it expired"):
        await client.responses.create(**MINIMAL, previous_response_id="resp_0123.3")


async def test_messages_and_parts_are_read(world):
    scheduler = await world.replica()
    await world.start()
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "Hi, "}, {"type": "input_text", "text": "you."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Yes?"}]},
        {"role": "user", "content": "Go on."},
    ]
    await client_of(world).responses.create(model="tiny", input=turns)
    assert "system\nBe brief.\nuser\nHi, you.\nassistant\nYes?\nuser\nGo on." in read(scheduler.requests[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"input": []}, "input is an empty list"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id is null"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input_image"),
        ({"max_output_tokens": 0}, "max_output_tokens is 0"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type = 'web_search'"),
        ({"tools": [{"type": "function"}]}, "tools.0.name is missing"),
        ({"tools": [{"type": "function", "name": "f", "defer_loading": True}]}, "tools.0.defer_loading"),
        ({"tool_choice": "required"}, "tool_choice is required without tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, '{"type": "function", "name": ...}'),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice is"),
        ({"tool_choice": {"type": "function", "name": "g"}}, "tool_choice names 'g'"),
        ({"input": [{"type": "reasoning", "summary": []}]}, 'input[0].type = "reasoning"'),
        ({"input": [{"type": "function_call", "call_id": "a", "name": "f"}]}, "input[0].arguments is null"),
        ({"input": [{"type": "function_call_output", "call_id": "a", "output": "x"}]}, "is of no call before it"),
        ({"truncation": "auto"}, "truncation ="),
        ({"background": True}, "background ="),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema is missing"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"verbosity": "high"}}, "text.verbosity"),
        ({"colour": "red"}, "unknown parameter: colour"),
        ({"previous_response_id": "chatcmpl-1"}, "accepted is the id of a stored response"),
        ({"previous_response_id": "resp_1.2", "store": False}, "store is false"),
        ({"russet": {"session_id": "s"}}, "accepted is previous_response_id"),
        (
            {"previous_response_id": "resp_1.2", "input": [{"role": "assistant", "content": "x"}]},
            "accepted are the new messages alone",
        ),
    ],
)
async def test_what_is_wrong_is_named(world, change, said):
    await world.replica()
    await world.start()
    reply = await world.client().post("/v1/responses", json=MINIMAL | change)
    assert reply.status_code == 400
    assert said in reply.json()["error"]["message"]


async def test_a_session_header_is_refused(world):
    await world.replica()
    await world.start()
    reply = await world.client().post("/v1/responses", json=MINIMAL, headers={"X-Russet-Session": "s"})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "X-Russet-Session"
