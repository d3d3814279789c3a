"""Tools in Anthropic's Messages and OpenAI's Responses, by their own clients; replicas say what they are told to."""

import json
from typing import Any

import anthropic
import openai
import pytest

PARIS = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
BOTH = f'{PARIS}\n<tool_call>\n{{"name": "now", "arguments": {{}}}}\n</tool_call>'
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
QUESTION = {"role": "user", "content": "Weather in Paris?"}
USE: dict[str, Any] = {
    "model": "tiny",
    "max_tokens": 400,
    "messages": [QUESTION],
    "tools": [
        {"name": "get_weather", "description": "The weather", "input_schema": SCHEMA},
        {"name": "now", "input_schema": {"type": "object"}, "type": "custom", "cache_control": {"type": "ephemeral"}},
    ],
}
CALL: dict[str, Any] = {
    "model": "tiny",
    "input": "Weather in Paris?",
    "tools": [
        {"type": "function", "name": "get_weather", "description": "The weather", "parameters": SCHEMA, "strict": True},
        {"type": "function", "name": "now", "parameters": None, "strict": False},
    ],
}


@pytest.fixture
async def model(world: Any) -> Any:
    """A model that calls both tools, with room for them."""
    scheduler = await world.replica(answer=BOTH)
    scheduler.model.context_length = 4096
    await world.start()
    return scheduler


def anthropics(world: Any) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=world.url, api_key="none", max_retries=0, timeout=20)


def openais(world: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0, timeout=20)


def read(request: Any) -> str:
    """The prompt's text without its special tokens."""
    return bytes(token for token in request.token_ids if token < 256).decode()


class TestMessages:
    async def test_uses_are_blocks(self, world: Any, model: Any) -> None:
        message = await anthropics(world).messages.create(**USE)
        assert [(block.type, block.name, block.input) for block in message.content] == [
            ("tool_use", "get_weather", {"city": "Paris"}), ("tool_use", "now", {}),
        ]  # fmt: skip
        assert (message.stop_reason, message.stop_sequence) == ("tool_use", None)
        assert len({block.id for block in message.content}) == 2
        assert "get_weather" in read(model.requests[0])

    async def test_a_stream_has_its_events_in_order(self, world: Any, model: Any) -> None:
        model.answer_ids = list(f"Let me see.\n{BOTH}".encode())
        events = []
        async with anthropics(world).messages.stream(**USE) as stream:
            async for event in stream:
                events.append(event)
            message = await stream.get_final_message()
        assert [(block.type, getattr(block, "input", None)) for block in message.content] == [
            ("text", None), ("tool_use", {"city": "Paris"}), ("tool_use", {}),
        ]  # fmt: skip
        assert message.content[0].text.startswith("Let me see.")
        assert message.stop_reason == "tool_use"
        wire = [event for event in events if event.type not in ("text", "input_json")]
        kinds = [event.type for event in wire]
        assert kinds[0] == "message_start"
        assert kinds[-2:] == ["message_delta", "message_stop"]
        blocks = [kind for kind in kinds[1:-2] if kind != "content_block_delta"]
        assert blocks == ["content_block_start", "content_block_stop"] * 3
        starts = [event for event in wire if event.type == "content_block_start"]
        assert [(event.index, event.content_block.type) for event in starts] == [
            (0, "text"), (1, "tool_use"), (2, "tool_use"),
        ]  # fmt: skip
        parts = [event.delta for event in wire if event.type == "content_block_delta" and event.index == 1]
        assert {part.type for part in parts} == {"input_json_delta"}
        assert json.loads("".join(part.partial_json for part in parts)) == {"city": "Paris"}

    async def test_results_are_read_and_text_comes_after(self, world: Any, model: Any) -> None:
        client = anthropics(world)
        first = await client.messages.create(**USE)
        model.answer_ids = list(b"Rain.")
        paris, now = (block.id for block in first.content)
        results: list[Any] = [
            {"type": "tool_result", "tool_use_id": now, "content": "no clock", "is_error": True},
            {"type": "tool_result", "tool_use_id": paris, "content": [{"type": "text", "text": "rain"}]},
            {"type": "text", "text": "In short?"},
        ]
        turns: list[Any] = [
            QUESTION, {"role": "assistant", "content": first.content}, {"role": "user", "content": results},
        ]  # fmt: skip
        second = await client.messages.create(**USE | {"messages": turns})
        assert (second.content[0].text, second.stop_reason) == ("Rain.", "end_turn")
        prompt = read(model.requests[1])
        assert prompt.index("Error: no clock") < prompt.index("rain") < prompt.index("In short?")
        assert prompt.index('"city": "Paris"') < prompt.index("Error: no clock")

    @pytest.mark.parametrize(
        ("choice", "held"),
        [
            ({"type": "auto"}, True), ({"type": "any"}, True), ({"type": "tool", "name": "now"}, True),
            ({"type": "any", "disable_parallel_tool_use": True}, True), ({"type": "none"}, False),
        ],
    )  # fmt: skip
    async def test_what_is_chosen_is_what_the_replica_is_held_to(
        self, world: Any, model: Any, choice: dict[str, Any], held: bool
    ) -> None:
        model.answer_ids = list(b"No.")
        message = await anthropics(world).messages.create(**USE, tool_choice=choice)
        grammar = model.requests[0].grammar.lark
        assert bool(grammar) == held
        assert ("get_weather" in grammar) == (held and choice["type"] != "tool")
        assert message.content[0].text == "No."

    async def test_a_use_that_was_cut_short_is_left_out(self, world: Any, model: Any) -> None:
        message = await anthropics(world).messages.create(**USE | {"max_tokens": len(PARIS) - 20})
        assert message.stop_reason == "max_tokens"
        assert [block.type for block in message.content] == ["text"]
        async with anthropics(world).messages.stream(**USE | {"max_tokens": len(PARIS) - 20}) as stream:
            kinds = [event.type async for event in stream]
        assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


class TestResponses:
    async def test_calls_are_items(self, world: Any, model: Any) -> None:
        response = await openais(world).responses.create(**CALL, parallel_tool_calls=True)
        assert [(item.type, item.name, json.loads(item.arguments), item.status) for item in response.output] == [
            ("function_call", "get_weather", {"city": "Paris"}, "completed"), ("function_call", "now", {}, "completed"),
        ]  # fmt: skip
        assert (response.status, response.parallel_tool_calls, response.tool_choice) == ("completed", True, "auto")
        assert [tool.name for tool in response.tools] == ["get_weather", "now"]
        assert len({item.call_id for item in response.output} | {item.id for item in response.output}) == 4

    async def test_a_stream_has_its_events_in_order(self, world: Any, model: Any) -> None:
        model.answer_ids = list(f"Let me see.\n{BOTH}".encode())
        events = []
        async with openais(world).responses.stream(**CALL) as stream:
            async for event in stream:
                events.append(event)
            final = await stream.get_final_response()
        assert [item.type for item in final.output] == ["message", "function_call", "function_call"]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        kinds = [event.type.removeprefix("response.") for event in events if not event.type.endswith(".delta")]
        message = ["output_item.added", "content_part.added"]
        message += ["output_text.done", "content_part.done", "output_item.done"]
        call = ["output_item.added", "function_call_arguments.done", "output_item.done"]
        assert kinds == ["created", "in_progress", *message, *call, *call, "completed"]
        parts = [event for event in events if event.type == "response.function_call_arguments.delta"]
        for place in (1, 2):
            item = final.output[place]
            assert "".join(event.delta for event in parts if event.output_index == place) == item.arguments
            assert {event.item_id for event in parts if event.output_index == place} == {item.id}
        ended = [event for event in events if event.type == "response.output_item.done"]
        assert [event.item.id for event in ended] == [item.id for item in final.output]

    @pytest.mark.parametrize("stored", [True, False])
    async def test_results_are_read_from_items(self, world: Any, model: Any, stored: bool) -> None:
        client = openais(world)
        first = await client.responses.create(**CALL, store=stored)
        model.answer_ids = list(b"Rain.")
        outputs = [
            {"type": "function_call_output", "call_id": item.call_id, "output": f"result of {item.name}"}
            for item in first.output
        ]
        said: dict[str, Any] = {"input": outputs, "previous_response_id": first.id}
        if not stored:
            said = {"input": [{"role": "user", "content": CALL["input"]}, *first.output, *outputs], "store": False}
        second = await client.responses.create(**CALL | said)
        assert (second.output_text, second.status) == ("Rain.", "completed")
        prompt = read(model.requests[1])
        assert prompt.index(CALL["input"]) < prompt.index('"city": "Paris"') < prompt.index("result of get_weather")
        assert prompt.index("result of get_weather") < prompt.index("result of now")

    @pytest.mark.parametrize(
        "choice", ["auto", "required", "none", {"type": "function", "name": "now"}], ids=lambda choice: str(choice)[:9]
    )
    async def test_what_is_chosen_is_what_the_replica_is_held_to(self, world: Any, model: Any, choice: Any) -> None:
        model.answer_ids = list(b"No.")
        response = await openais(world).responses.create(**CALL, tool_choice=choice)
        grammar = model.requests[0].grammar.lark
        assert bool(grammar) == (choice != "none")
        assert ("get_weather" in grammar) == (choice in ("auto", "required"))
        assert response.output_text == "No."
        assert response.tool_choice == choice or response.tool_choice.name == "now"

    async def test_a_call_that_was_cut_short_is_incomplete(self, world: Any, model: Any) -> None:
        response = await openais(world).responses.create(**CALL, max_output_tokens=len(PARIS) - 20)
        assert response.status == "incomplete"
        assert (response.output[-1].type, response.output[-1].status) == ("function_call", "incomplete")


class TestStored:
    """What is kept of a response can be asked for."""

    @pytest.mark.parametrize("answer", ["Paris", f"See:\n{BOTH}", ""])
    async def test_it_is_shown_as_it_was(self, world: Any, model: Any, answer: str) -> None:
        model.answer_ids = list(answer.encode())
        client = openais(world)
        asked = CALL | {"instructions": "Be brief.", "metadata": {"a": "b"}, "temperature": 0.5}
        response = await client.responses.create(**asked)
        assert (await client.responses.retrieve(response.id)).model_dump() == response.model_dump()
        async with client.responses.stream(**asked) as stream:
            final = await stream.get_final_response()
        shown = (await client.responses.retrieve(final.id)).model_dump()
        assert [item["type"] for item in shown["output"]] == [item.type for item in final.output]
        assert shown["usage"] == final.usage.model_dump()

    async def test_after_a_restart_of_the_gateway_too(self, world: Any, model: Any) -> None:
        response = await openais(world).responses.create(**CALL)
        await world.until(lambda: world.memory.sessions)
        await world.gateway.stop()
        await world.start()
        assert (await openais(world).responses.retrieve(response.id)).model_dump() == response.model_dump()

    async def test_its_input_is_listed(self, world: Any, model: Any) -> None:
        client = openais(world)
        first = await client.responses.create(**CALL, instructions="Be brief.")
        outputs: list[Any] = [
            {"type": "function_call_output", "call_id": item.call_id, "output": "r"} for item in first.output
        ]
        model.answer_ids = list(b"Rain.")
        second = await client.responses.create(
            **CALL | {"input": outputs, "instructions": "Be brief."}, previous_response_id=first.id
        )
        page = await client.responses.input_items.list(second.id, order="asc")
        assert [item.type for item in page.data] == [
            "message", "function_call", "function_call", "function_call_output", "function_call_output",
        ]  # fmt: skip
        assert page.data[0].content[0].text == CALL["input"]
        newest_first = [item async for item in client.responses.input_items.list(second.id, limit=2)]
        assert newest_first == page.data[::-1], "read page by page"

    async def test_deleted_or_older_ones_are_not_there(self, world: Any, model: Any) -> None:
        client = openais(world)
        model.answer_ids = list(b"Yes")
        first = await client.responses.create(model="tiny", input="a")
        second = await client.responses.create(model="tiny", input="b", previous_response_id=first.id)
        with pytest.raises(openai.NotFoundError, match=second.id):
            await client.responses.retrieve(first.id)
        with pytest.raises(openai.NotFoundError, match="only the newest"):
            await client.responses.delete(first.id)
        await client.responses.delete(second.id)
        for ask in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
            with pytest.raises(openai.NotFoundError, match="was deleted"):
                await ask(second.id)
        with pytest.raises(openai.NotFoundError, match="a stored one"):
            await client.responses.retrieve("chatcmpl-1")

    @pytest.mark.parametrize(
        ("path", "query", "param"),
        [
            ("", {"stream": "true"}, "stream"), ("", {"include[]": "x"}, "include[]"),
            ("/input_items", {"limit": "0"}, "limit"), ("/input_items", {"limit": "101"}, "limit"),
            ("/input_items", {"order": "up"}, "order"), ("/input_items", {"after": "x"}, "after"),
            ("/input_items", {"before": "x"}, "before"),
        ],
    )  # fmt: skip
    async def test_what_is_wrong_is_named(
        self, world: Any, model: Any, path: str, query: dict[str, str], param: str
    ) -> None:
        response = await openais(world).responses.create(**CALL)
        reply = await world.client().get(f"/v1/responses/{response.id}{path}", params=query)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)

    async def test_another_tenants_is_not_there(self, world: Any, model: Any) -> None:
        response = await openais(world).responses.create(**CALL, extra_headers={"X-Russet-Tenant": "a"})
        with pytest.raises(openai.NotFoundError):
            await openais(world).responses.retrieve(response.id, extra_headers={"X-Russet-Tenant": "b"})
        await openais(world).responses.retrieve(response.id, extra_headers={"X-Russet-Tenant": "a"})
