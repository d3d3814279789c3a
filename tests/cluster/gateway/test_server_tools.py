"""The tools that the gateway itself runs, as clients see them: over HTTP, gRPC and in the terminal."""

import asyncio
import json
import sys
from pathlib import Path

import grpc
from typer.testing import CliRunner

from cluster import cli
from cluster.tool_runtime.config import ServerConfig, ToolsConfig
from protos.gen import inference_pb2
from protos.gen.inference_pb2_grpc import InferenceStub
from tests.cluster.gateway.world import World

SERVER = Path(__file__).parents[1] / "tool_runtime" / "mcp_server.py"


def tools_of(directory: Path) -> ToolsConfig:
    """One server that is there, and one that is not."""
    there = ServerConfig(
        name="tests", command=sys.executable, args=(str(SERVER), str(directory)), tools=("population", "much")
    )
    return ToolsConfig(enabled=True, servers=(there, ServerConfig(name="lost", command="/no/such/program")))


async def test_tools_and_their_servers_are_listed(world: World, tmp_path: Path) -> None:
    await world.start(tools=tools_of(tmp_path))
    page = (await world.client().get("/v1/russet/tools")).json()
    assert page["enabled"] is True
    assert {tool["name"]: (tool["server"], tool["reuse"]) for tool in page["data"]} == {
        "population": ("tests", "exact"),
        "much": ("tests", "no"),
    }
    assert page["data"][0]["description"] == "How many people live in a city."
    assert page["data"][0]["parameters"]["required"] == ["city"]
    assert [(server["name"], server["kind"], server["state"]) for server in page["servers"]] == [
        ("tests", "stdio", "ready"),
        ("lost", "stdio", "down"),
    ]
    assert "/no/such/program" in page["servers"][1]["problem"]


async def test_grpc_lists_the_same(world: World, tmp_path: Path) -> None:
    gateway = await world.start(tools=tools_of(tmp_path))
    async with grpc.aio.insecure_channel(gateway.addresses.grpc) as channel:
        reply = await InferenceStub(channel).ListTools(inference_pb2.ListToolsRequest())
    page = (await world.client().get("/v1/russet/tools")).json()
    assert [tool.name for tool in reply.tools] == [tool["name"] for tool in page["data"]]
    assert json.loads(reply.tools[0].parameters) == page["data"][0]["parameters"]
    assert [server.state for server in reply.servers] == ["ready", "down"]


async def test_off_by_default_nothing_is_started(world: World, tmp_path: Path) -> None:
    off = tools_of(tmp_path).model_copy(update={"enabled": False})
    await world.start(tools=off)
    page = (await world.client().get("/v1/russet/tools")).json()
    assert page == {"object": "list", "enabled": False, "data": [], "servers": []}


async def test_the_terminal_shows_them(world: World, tmp_path: Path) -> None:
    def shown(*arguments: str) -> str:
        result = CliRunner().invoke(cli.app, ["tools", "--url", world.url, *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    await world.start(tools=tools_of(tmp_path))
    table = await asyncio.to_thread(shown)
    assert all(word in table for word in ("population", "tests", "lost", "down", "ready"))
    page = json.loads(await asyncio.to_thread(shown, "--json"))
    assert [tool["name"] for tool in page["data"]] == ["population", "much"]
