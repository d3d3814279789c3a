"""Server-side tools with the real model: it is made to call them, and answers from what they said."""

import json
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio

from cluster.local import LocalCluster
from cluster.tool_runtime.runtime import Allowance, Call
from tests.conftest import settings

pytestmark = pytest.mark.asyncio(loop_scope="module")
SERVER = Path(__file__).parent / "tool_runtime" / "mcp_server.py"
MODEL = "smollm2-135m-instruct"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cluster() -> AsyncIterator[LocalCluster]:
    """Every service in this process, with the tests' MCP server."""
    with tempfile.TemporaryDirectory(prefix="rt-", dir="/tmp") as path:
        server = {"name": "tests", "command": sys.executable, "args": [str(SERVER), path]}
        servers = [server, server | {"name": "again", "prefix": "again_", "cached_by_meaning": ["population"]}]
        async with LocalCluster(settings(Path(path), tools__enabled=True, tools__servers=servers)) as running:
            yield running


async def ask(cluster: LocalCluster, question: str, tool: str, **options: Any) -> Any:
    client = openai.AsyncOpenAI(base_url=f"{cluster.http}/v1", api_key="none", max_retries=0)
    russet = {"tools": {"run": [tool]}, **options.pop("russet", {})}
    forced = {"type": "function", "function": {"name": tool}}
    return await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": question}],
        extra_body={"russet": russet},
        **({"temperature": 0, "max_tokens": 128, "tool_choice": forced} | options),
    )


async def test_the_answer_is_made_from_the_tools_result(cluster: LocalCluster) -> None:
    answer = await ask(cluster, "How many people lived in Rome in 1999?", "population")
    (run,) = answer.russet["tool_runs"]
    assert (run["name"], run["ok"]) == ("population", True)
    assert answer.choices[0].finish_reason == "stop"
    assert not answer.choices[0].message.tool_calls
    assert "2750000" in answer.choices[0].message.content.replace(",", ""), "which no model knows by itself"


async def test_a_stream_tells_the_same(cluster: LocalCluster) -> None:
    whole = await ask(cluster, "How many people lived in Rome in 1999?", "population", seed=1)
    stream = await ask(cluster, "How many people lived in Rome in 1999?", "population", seed=1, stream=True)
    text, last = "", None
    async for chunk in stream:
        text += chunk.choices[0].delta.content or ""
        last = chunk
    assert text == whole.choices[0].message.content
    assert [run["cached"] for run in last.russet["tool_runs"]] == ["exact"]


async def test_what_fails_is_called_again(cluster: LocalCluster) -> None:
    answer = await ask(cluster, "How many people live in Atlantis?", "population", max_tokens=256)
    runs = answer.russet["tool_runs"]
    assert [run["ok"] for run in runs][:2] == [False, False] or runs[-1]["ok"], "forced until one succeeds"
    assert len(runs) > 1
    assert answer.choices[0].message.content


async def test_a_session_remembers_what_was_run(cluster: LocalCluster) -> None:
    session = {"session_id": "rome"}
    first = await ask(cluster, "How many people lived in Rome in 1999?", "population", russet=session)
    assert "session" in first.russet
    second = await ask(cluster, "Thank you.", "population", russet=session, tool_choice="auto", max_tokens=8)
    assert second.russet["session"]["turns"] == 4
    assert second.usage.prompt_tokens_details.cached_tokens > 200, "the calls and results are in its KV"


async def test_arguments_of_like_meaning_by_the_real_embedder(cluster: LocalCluster) -> None:
    runtime = cluster.service("gateway-0").service.tools
    tool = (await runtime.registry.catalogue()).tools["again_population"]
    cached = []
    for city, year in (("Paris", 1999), ("paris", 1999), ("paris", 2000), ("Rome", 2000)):
        call = Call("call", tool, json.dumps({"city": city, "year": year}))
        (run,) = await runtime.run([call], "tenant", Allowance(60), parallel=True)
        assert run.ok
        cached.append(run.cached)
    assert cached == ["", "meaning", "", ""]
