"""Tool calls of the real, weak model, asked for as people ask: by OpenAI's client and its helpers."""

import asyncio
import json
from typing import Any, Literal

import httpx
import jsonschema
import openai
import pytest
from pydantic import BaseModel

from cluster.local import LocalCluster

pytestmark = pytest.mark.asyncio(loop_scope="module")
MODEL = "smollm2-135m-instruct"
QUESTION: Any = [{"role": "user", "content": "What is the weather in Paris tomorrow, in celsius?"}]


class GetWeather(BaseModel):
    """The weather in a city."""

    city: str
    unit: Literal["celsius", "fahrenheit"]


class Turn(BaseModel):
    """Turn a light on or off."""

    on: bool


TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "maxLength": 12},
                    "days": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 2},
                    "unit": {"enum": ["celsius", "fahrenheit"]},
                },
                "required": ["city", "unit"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "now", "description": "The time"}},
]
SCHEMAS = {tool["function"]["name"]: tool["function"].get("parameters", {"maxProperties": 0}) for tool in TOOLS}


def client(local: LocalCluster) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{local.http}/v1", api_key="none", max_retries=0, timeout=120)


@pytest.mark.parametrize("seed", range(8))
async def test_forced_calls_are_always_valid(local: LocalCluster, seed: int) -> None:
    asked: Any = {"model": MODEL, "messages": QUESTION, "tools": TOOLS, "temperature": 1, "seed": seed}
    async with client(local) as http:
        answer = await http.chat.completions.create(
            **asked, tool_choice="required", parallel_tool_calls=False, max_tokens=120
        )
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])


async def test_a_stream_reassembles_to_the_same_seeded_call(local: LocalCluster) -> None:
    named: Any = {"type": "function", "function": {"name": "get_weather"}}
    asked: Any = {
        "model": MODEL,
        "messages": QUESTION,
        "tools": TOOLS,
        "seed": 5,
        "max_tokens": 80,
        "tool_choice": named,
    }
    async with client(local) as http:
        whole = await http.chat.completions.create(**asked)
        async with http.chat.completions.stream(**asked) as stream:
            parts = [
                event.arguments_delta async for event in stream if event.type == "tool_calls.function.arguments.delta"
            ]
            final = await stream.get_final_completion()
    calls = [(call.function.name, call.function.arguments) for call in whole.choices[0].message.tool_calls or []]
    streamed = [(call.function.name, call.function.arguments) for call in final.choices[0].message.tool_calls or []]
    assert streamed == calls
    assert "".join(parts) == "".join(arguments for _, arguments in calls)
    assert len(parts) > len(calls)


async def test_pydantic_tools_come_back_parsed(local: LocalCluster) -> None:
    tools = [openai.pydantic_function_tool(GetWeather), openai.pydantic_function_tool(Turn)]
    async with client(local) as http:
        for choice in ("required", {"type": "function", "function": {"name": "Turn"}}):
            answer = await http.chat.completions.parse(
                model=MODEL, messages=QUESTION, tools=tools, tool_choice=choice, seed=1, max_tokens=200,  # type: ignore[arg-type]
                parallel_tool_calls=False, extra_body={"russet": {"close": True}},
            )  # fmt: skip
            (call,) = answer.choices[0].message.tool_calls or []
            assert isinstance(call.function.parsed_arguments, GetWeather | Turn)
            if choice != "required":
                assert isinstance(call.function.parsed_arguments, Turn)


async def test_results_are_read_in_the_next_turn(local: LocalCluster) -> None:
    async with client(local) as http:
        first = await http.chat.completions.create(
            model=MODEL,
            messages=QUESTION,
            tools=TOOLS,
            tool_choice="required",
            temperature=0,
            parallel_tool_calls=False,
        )
        message = first.choices[0].message
        (call,) = message.tool_calls or []
        turns = [*QUESTION, message.model_dump(exclude_none=True),
                 {"role": "tool", "tool_call_id": call.id, "content": '{"sky": "clear", "celsius": 21}'}]  # fmt: skip
        second = await http.chat.completions.create(
            model=MODEL, messages=turns, tools=TOOLS, tool_choice="none", temperature=0, max_tokens=40
        )
    assert second.choices[0].message.content
    assert second.choices[0].finish_reason in ("stop", "length")


async def test_text_of_a_model_with_tools_is_the_text_of_the_same_prompt(local: LocalCluster) -> None:
    """The grammar that holds calls leaves text alone: seeded answers are those to the rendered prompt by itself."""
    async with httpx.AsyncClient(base_url=local.http, timeout=120) as http:
        for seed in range(4):
            asked = {"model": MODEL, "messages": QUESTION, "tools": TOOLS, "seed": seed, "max_tokens": 40}
            held = (await http.post("/v1/chat/completions", json=asked)).json()["choices"][0]
            free = (await http.post("/v1/chat/completions", json=asked | {"min_tokens": 1})).json()["choices"][0]
            assert held["message"]["content"]
            assert held["message"]["content"] == free["message"]["content"]


async def test_a_session_goes_on_after_a_call(local: LocalCluster) -> None:
    async with httpx.AsyncClient(base_url=local.http, timeout=120) as http:
        asked = {"model": MODEL, "tools": TOOLS, "temperature": 0, "max_tokens": 60, "russet": {"session_id": "tools"}}
        first = await http.post("/v1/chat/completions", json=asked | {"messages": QUESTION, "tool_choice": "required"})
        calls = first.json()["choices"][0]["message"]["tool_calls"]
        results = [{"role": "tool", "tool_call_id": call["id"], "content": "21"} for call in calls]
        second = await http.post("/v1/chat/completions", json=asked | {"messages": results})
    assert second.status_code == 200, second.text
    usage = second.json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= first.json()["usage"]["prompt_tokens"] - 32


async def test_rows_with_tools_are_in_a_mixed_batch_what_they_are_alone(local: LocalCluster) -> None:
    """And rows without tools are beside them what they are alone."""
    plain = {"model": MODEL, "messages": QUESTION, "max_tokens": 24}
    kinds = [
        plain,
        plain | {"tools": TOOLS},
        plain | {"tools": TOOLS, "tool_choice": "required"},
        plain | {"response_format": {"type": "json_object"}, "tools": TOOLS},
    ]
    rows = [kind | {"seed": seed} for seed in range(2) for kind in kinds]

    async with httpx.AsyncClient(base_url=local.http, timeout=120) as http:

        async def said(row: dict[str, Any]) -> tuple[str | None, list[tuple[str, str]], str]:
            choice = (await http.post("/v1/chat/completions", json=row)).json()["choices"][0]
            calls = [call["function"] for call in choice["message"].get("tool_calls", [])]
            written = [(call["name"], call["arguments"]) for call in calls]
            return choice["message"]["content"], written, choice["finish_reason"]

        alone = [await said(row) for row in rows]
        assert list(await asyncio.gather(*map(said, rows))) == alone
