"""Chats whose calls are run by the gateway: a scripted model before real MCP servers."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from cluster.tool_runtime.config import ServerConfig, ToolsConfig
from protos.gen import inference_pb2
from protos.gen.inference_pb2_grpc import InferenceStub
from tests.cluster.gateway.fake_replica import FakeScheduler
from tests.cluster.gateway.world import World

SERVER = Path(__file__).parents[1] / "tool_runtime" / "mcp_server.py"
PARIS = '<tool_call>\n{"name": "population", "arguments": {"city": "Paris"}}\n</tool_call>'
NUMBER = '<tool_call>\n{"name": "population", "arguments": {"city": 5}}\n</tool_call>'
MEETING = "\n".join(
    f'<tool_call>\n{{"name": "meet", "arguments": {{"me": "{me}", "other": "{other}"}}}}\n</tool_call>'
    for me, other in ("ab", "ba")
)
OWN = '<tool_call>\n{"name": "own", "arguments": {"x": 1}}\n</tool_call>'
OWN_TOOL = {"type": "function", "function": {"name": "own", "parameters": {"type": "object"}}}
ASKED = [{"role": "user", "content": "How many people live in Paris?"}]


async def started(world: World, directory: Path, *script: str, **settings: Any) -> FakeScheduler:
    """A gateway with the tests' MCP server, and a model that says these things one after the other."""
    server = ServerConfig(name="tests", command=sys.executable, args=(str(SERVER), str(directory)))
    scheduler = await world.replica()
    scheduler.model.context_length = 1 << 16
    scheduler.script = list(script)
    await world.start(tools=ToolsConfig(enabled=True, servers=(server,), **settings))
    return scheduler


async def chat(world: World, run: Any = "all", **body: Any) -> httpx.Response:
    russet = {"tools": {"run": run, **body.pop("options", {})}} | body.pop("russet", {})
    return await world.client().post("/v1/chat/completions", json={"messages": ASKED, "russet": russet} | body)


def prompt(scheduler: FakeScheduler, request: int) -> str:
    """What the model read; its special tokens left out."""
    return bytes(token for token in scheduler.requests[request].token_ids if token < 256).decode()


def events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


async def test_calls_are_run_and_the_model_reads_their_results(world: World, tmp_path: Path) -> None:
    scheduler = await started(world, tmp_path, PARIS, "There are 2.1 million.")
    answer = (await chat(world)).json()
    assert answer["choices"][0]["message"] == {
        "role": "assistant", "content": "There are 2.1 million.", "refusal": None
    }  # fmt: skip
    assert answer["choices"][0]["finish_reason"] == "stop"
    (run,) = answer["russet"]["tool_runs"]
    assert (run["name"], run["ok"], run["cached"]) == ("population", True, None)
    assert run["ms"] > 0
    assert "How many people live in a city." in prompt(scheduler, 0), "the tool is offered"
    assert "2100000 people lived in Paris in 2024" in prompt(scheduler, 1)
    used = [len(request.token_ids) for request in scheduler.requests]
    assert answer["usage"]["prompt_tokens"] == sum(used)
    assert answer["usage"]["completion_tokens"] == len(PARIS) + len("There are 2.1 million.")


async def test_each_generation_is_recorded_and_the_answers_id_is_the_firsts(world: World, tmp_path: Path) -> None:
    await started(world, tmp_path, PARIS, "2.1 million")
    answer = (await chat(world)).json()
    await world.until(lambda: len(world.learner.trajectories) == 2)
    assert world.learner.trajectories[0].id == answer["id"] != world.learner.trajectories[1].id


async def test_text_streams_and_calls_do_not_show(world: World, tmp_path: Path) -> None:
    await started(world, tmp_path, f"Let me see. {PARIS}", "There are 2.1 million.")
    response = await chat(world, stream=True)
    chunks = events(response.text)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content") or "" for delta in deltas) == "Let me see. There are 2.1 million."
    assert not any("tool_calls" in delta for delta in deltas)
    assert len(deltas) > 20, "as it came"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert [run["name"] for run in chunks[-1]["russet"]["tool_runs"]] == ["population"]


async def test_the_calls_of_an_answer_run_beside_each_other(world: World, tmp_path: Path) -> None:
    await started(world, tmp_path, MEETING, "They met.")
    answer = (await chat(world)).json()
    assert [run["ok"] for run in answer["russet"]["tool_runs"]] == [True, True]


async def test_or_one_after_the_other(world: World, tmp_path: Path) -> None:
    await started(world, tmp_path, MEETING, "They did not.", call_timeout_s=1)
    answer = (await chat(world, options={"parallel": False})).json()
    assert [run["ok"] for run in answer["russet"]["tool_runs"]] == [False, True]


async def test_an_error_is_read_and_the_call_made_again(world: World, tmp_path: Path) -> None:
    scheduler = await started(world, tmp_path, NUMBER, PARIS, "There are 2.1 million.")
    answer = (await chat(world)).json()
    assert answer["choices"][0]["message"]["content"] == "There are 2.1 million."
    assert [run["ok"] for run in answer["russet"]["tool_runs"]] == [False, True]
    assert "Error: the argument $.city: 5 is not of type 'string'" in prompt(scheduler, 1)


async def test_after_the_last_round_it_has_to_answer(world: World, tmp_path: Path) -> None:
    scheduler = await started(world, tmp_path, PARIS, PARIS, PARIS, PARIS)
    answer = (await chat(world, options={"max_rounds": 2})).json()
    assert [run["cached"] for run in answer["russet"]["tool_runs"]] == [None, "exact"]
    assert len(scheduler.requests) == 3
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["choices"][0]["message"]["content"] == PARIS, "where it may call nothing, it is text"


async def test_a_forced_call_is_forced_until_one_succeeds(world: World, tmp_path: Path) -> None:
    scheduler = await started(world, tmp_path, NUMBER, PARIS, "There are 2.1 million.")
    forced = {"type": "function", "function": {"name": "population"}}
    answer = (await chat(world, tool_choice=forced)).json()
    assert [run["ok"] for run in answer["russet"]["tool_runs"]] == [False, True]
    held = [request.HasField("grammar") and "population" in request.grammar.lark for request in scheduler.requests]
    assert held[:2] == [True, True]
    assert scheduler.requests[0].grammar == scheduler.requests[1].grammar != scheduler.requests[2].grammar


async def test_the_clients_own_tools_end_the_answer(world: World, tmp_path: Path) -> None:
    scheduler = await started(world, tmp_path, PARIS, f"{PARIS}\n{OWN}")
    answer = (await chat(world, tools=[OWN_TOOL])).json()
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert [call["function"] for call in choice["message"]["tool_calls"]] == [{"name": "own", "arguments": '{"x": 1}'}]
    assert len(answer["russet"]["tool_runs"]) == 1
    assert len(scheduler.requests) == 2


async def test_the_clients_own_calls_stream_as_the_only_ones(world: World, tmp_path: Path) -> None:
    await started(world, tmp_path, f"{PARIS}\n{OWN}")
    chunks = events((await chat(world, tools=[OWN_TOOL], stream=True)).text)
    deltas = [delta for chunk in chunks for delta in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert {delta["index"] for delta in deltas} == {0}
    assert deltas[0]["function"]["name"] == "own"
    assert json.loads("".join(delta["function"]["arguments"] for delta in deltas)) == {"x": 1}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_calls_and_results_are_turns_of_the_session(world: World, tmp_path: Path) -> None:
    scheduler = await started(world, tmp_path, PARIS, "There are 2.1 million.", "I said so.")
    assert (await chat(world, russet={"session_id": "s"})).status_code == 200
    page = (await world.client().get("/v1/russet/sessions/s")).json()
    assert [message["role"] for message in page["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert page["messages"][2]["tool_call_id"] == page["messages"][1]["tool_calls"][0]["id"]
    again = await chat(world, russet={"session_id": "s"}, messages=[{"role": "user", "content": "Really?"}])
    assert again.json()["choices"][0]["message"]["content"] == "I said so."
    assert again.json()["russet"]["session"]["turns"] == 4
    assert "2100000 people" in prompt(scheduler, 2)


async def test_calls_that_get_no_result_are_not_turns(world: World, tmp_path: Path) -> None:
    await started(world, tmp_path, f"{PARIS}\n{OWN}", "Then it is 1.")
    answer = (await chat(world, tools=[OWN_TOOL], russet={"session_id": "s"})).json()
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    page = (await world.client().get("/v1/russet/sessions/s")).json()
    assert [each["id"] for each in page["messages"][-1]["tool_calls"]] == [call["id"]]
    result = [{"role": "tool", "tool_call_id": call["id"], "content": "1"}]
    after = await chat(world, tools=[OWN_TOOL], russet={"session_id": "s"}, messages=result)
    assert after.json()["choices"][0]["message"]["content"] == "Then it is 1."


async def test_no_other_request_comes_between_calls_and_results(world: World, tmp_path: Path) -> None:
    meeting = '<tool_call>\n{"name": "meet", "arguments": {"me": "a", "other": "b"}}\n</tool_call>'
    scheduler = await started(world, tmp_path, meeting, "They met.", "Second.")
    gateway = world.gateway
    assert gateway is not None
    session = {"session_id": "s"}
    first = asyncio.create_task(chat(world, russet=session))
    await world.until(lambda: len(scheduler.requests) == 1)
    second = asyncio.create_task(
        world.client().post("/v1/chat/completions", json={"messages": ASKED, "russet": session})
    )
    tools = (await gateway.tools.registry.catalogue()).tools
    await tools["meet"].connection.call("meet", {"me": "b", "other": "a"}, 20)
    assert (await first).json()["choices"][0]["message"]["content"] == "They met."
    assert (await second).json()["choices"][0]["message"]["content"] == "Second."
    page = (await world.client().get("/v1/russet/sessions/s")).json()
    assert [message["role"] for message in page["messages"]] == [
        "user", "assistant", "tool", "assistant", "user", "assistant"
    ]  # fmt: skip


async def test_max_tokens_are_for_all_generations(world: World, tmp_path: Path) -> None:
    scheduler = await started(world, tmp_path, PARIS, "x" * 100)
    answer = (await chat(world, max_tokens=len(PARIS) + 7)).json()
    assert answer["choices"][0]["message"]["content"] == "x" * 7
    assert answer["choices"][0]["finish_reason"] == "length"
    scheduler.script = [PARIS, "never asked"]
    cut = (await chat(world, max_tokens=len(PARIS))).json()
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["choices"][0]["message"]["content"] == ""
    assert scheduler.script == ["never asked"]


async def test_log_probabilities_are_of_all_generations(world: World, tmp_path: Path) -> None:
    await started(world, tmp_path, f"Well. {PARIS}", "There.")
    answer = (await chat(world, logprobs=True)).json()
    told = "".join(entry["token"] for entry in answer["choices"][0]["logprobs"]["content"])
    assert told.startswith("Well. ")
    assert told.endswith("There.")


async def test_several_choices_each_have_their_own_runs(world: World, tmp_path: Path) -> None:
    await started(world, tmp_path, PARIS, PARIS, "Two million.", "Two million.")
    answer = (await chat(world, n=2)).json()
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["Two million."] * 2


async def test_a_server_that_is_away_is_told_to_the_model(world: World, tmp_path: Path) -> None:
    die = '<tool_call>\n{"name": "die", "arguments": {}}\n</tool_call>'
    scheduler = await started(world, tmp_path, die, "It is broken.")
    answer = (await chat(world, run=["die"])).json()
    assert answer["choices"][0]["message"]["content"] == "It is broken."
    assert answer["russet"]["tool_runs"][0]["ok"] is False
    assert "its server ended before it answered" in prompt(scheduler, 1)


async def test_grpc_runs_the_same(world: World, tmp_path: Path) -> None:
    scheduler = await started(world, tmp_path, PARIS, "2.1 million.")
    assert world.gateway is not None
    request = inference_pb2.ChatRequest(
        messages=[inference_pb2.Message(role="user", content="Paris?")],
        server_tools=inference_pb2.ServerTools(names=["population"]),
    )
    async with grpc.aio.insecure_channel(world.gateway.addresses.grpc) as channel:
        stub = InferenceStub(channel)
        answer = await stub.Chat(request)
        scheduler.script = [PARIS, "2.1 million."]
        chunks = [chunk async for chunk in stub.ChatStream(request)]
    assert (answer.text, answer.finish_reason) == ("2.1 million.", inference_pb2.FINISH_STOP)
    assert [(run.name, run.ok, run.cached) for run in answer.tool_runs] == [("population", True, "")]
    assert "".join(chunk.delta for chunk in chunks) == "2.1 million."
    assert [(run.name, run.cached) for run in chunks[-1].tool_runs] == [("population", "exact")]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"max_tokens": 500, "messages": ASKED}),
        ("/v1/responses", {"input": "How many people live in Paris?"}),
    ],
)
async def test_the_other_apis_run_them_too(world: World, tmp_path: Path, path: str, body: dict[str, Any]) -> None:
    await started(world, tmp_path, PARIS, "2.1 million.", f"Well. {PARIS}", "2.1 million.")
    asked = body | {"russet": {"tools": {"run": "all"}}}
    answer = (await world.client().post(path, json=asked)).json()
    text = answer["content"][0]["text"] if "content" in answer else answer["output"][0]["content"][0]["text"]
    assert text == "2.1 million."
    assert [run["name"] for run in answer["russet"]["tool_runs"]] == ["population"]
    streamed = await world.client().post(path, json=asked | {"stream": True})
    assert '"tool_runs":[{"name":"population"' in streamed.text


REFUSALS: list[tuple[dict[str, Any], str, str]] = [
    ({"run": ["nothing"]}, "russet.tools.run", "accepted are population, process"),
    ({"run": []}, "russet.tools.run", "a list of names or 'all'"),
    ({"options": {"max_rounds": 9}}, "russet.tools.max_rounds", "accepted are 1 to 4"),
    ({"options": {"max_rounds": 0}}, "russet.tools.max_rounds", "greater than or equal to 1"),
    ({"options": {"rounds": 1}}, "russet.tools.rounds", "unknown parameter"),
    ({"ignore_eos": True, "max_tokens": 9}, "ignore_eos", "accepted is one of the two"),
    ({"min_tokens": 2}, "min_tokens", "accepted is one of the two"),
    (
        {"tools": [{"type": "function", "function": {"name": "population"}}]},
        "tools[0].name",
        "as a server-side tool's is",
    ),
]
"""What is asked, and what is refused of it."""


async def test_what_cannot_be_is_refused_by_name(world: World, tmp_path: Path) -> None:
    await started(world, tmp_path)
    for body, param, told in REFUSALS:
        for stream in (False, True):
            refused = await chat(world, **({"stream": stream} | body))
            assert refused.status_code == 400, refused.text
            assert refused.json()["error"]["param"] == param
            assert told in refused.json()["error"]["message"]


async def test_off_by_default_it_is_refused_by_name(world: World) -> None:
    await world.replica()
    await world.start()
    refused = await chat(world)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "russet.tools"
    assert "tools.enabled" in refused.json()["error"]["message"]


async def test_completions_have_none(world: World, tmp_path: Path) -> None:
    await started(world, tmp_path)
    body = {"prompt": "x", "russet": {"tools": {"run": "all"}}}
    refused = await world.client().post("/v1/completions", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "russet.tools")


async def test_all_of_none_is_unavailable(world: World) -> None:
    await world.replica()
    lost = ServerConfig(name="lost", command="/no/such/program")
    await world.start(tools=ToolsConfig(enabled=True, servers=(lost,)))
    assert (await chat(world)).status_code == 503


async def test_a_client_that_leaves_ends_the_calls(world: World, tmp_path: Path) -> None:
    hang = '<tool_call>\n{"name": "hang", "arguments": {}}\n</tool_call>'
    scheduler = await started(world, tmp_path, hang, max_running=1)
    task = asyncio.create_task(chat(world, stream=True))
    while not (tmp_path / "hanging").exists():
        await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    for client in world.clients:
        await client.aclose()
    scheduler.script = [PARIS, "Free again."]
    assert (await chat(world)).json()["choices"][0]["message"]["content"] == "Free again."
