"""LangChain's chat model over the real one: tools bound, structured output by a call, an agent's turn."""

from typing import Any, Literal

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

from cluster.local import LocalCluster

pytestmark = pytest.mark.asyncio(loop_scope="module")
QUESTION = HumanMessage("What is the weather in Paris tomorrow, in celsius?")


@tool
def get_weather(city: str, unit: Literal["celsius", "fahrenheit"]) -> str:
    """The weather in a city."""
    return f"{city}: 21 {unit}"


class Place(BaseModel):
    """A place on a map."""

    city: str = Field(max_length=20)
    country: str | None = Field(max_length=20)
    east: bool


def model(local: LocalCluster, **more: Any) -> ChatOpenAI:
    close = {"russet": {"close": True}}
    asked = {"temperature": 1, "seed": 3, "max_completion_tokens": 120, "max_retries": 0, "extra_body": close} | more
    return ChatOpenAI(model="smollm2-135m-instruct", base_url=f"{local.http}/v1", api_key="none", timeout=120, **asked)  # type: ignore[arg-type]


async def test_bound_tools_are_called_and_their_results_read(local: LocalCluster) -> None:
    bound = model(local).bind_tools([get_weather], tool_choice="get_weather", parallel_tool_calls=False)
    said = await bound.ainvoke([QUESTION])
    assert isinstance(said, AIMessage)
    (call,) = said.tool_calls
    assert not said.invalid_tool_calls
    assert set(call["args"]) == {"city", "unit"}
    result = await get_weather.ainvoke(call)
    assert isinstance(result, ToolMessage)
    after = await model(local).bind_tools([get_weather]).ainvoke([QUESTION, said, result])
    assert after.content or after.tool_calls


async def test_a_streamed_call_is_the_whole_one(local: LocalCluster) -> None:
    bound = model(local).bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False)
    whole = await bound.ainvoke([QUESTION])
    gathered: Any = None
    async for chunk in bound.astream([QUESTION]):
        gathered = chunk if gathered is None else gathered + chunk
    (streamed,), (called,) = gathered.tool_calls, whole.tool_calls
    assert (streamed["name"], streamed["args"]) == (called["name"], called["args"])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("strict", [True, None])
async def test_structured_output_by_a_call_is_always_of_its_class(
    local: LocalCluster, seed: int, strict: bool | None
) -> None:
    shaped = model(local, seed=seed).with_structured_output(Place, method="function_calling", strict=strict)
    assert isinstance(await shaped.ainvoke("Where is the Eiffel tower?"), Place)
