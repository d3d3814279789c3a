"""The tools that the gateway itself runs, as clients ask for them and are told of them."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from actors.base.errors import InvalidArgument, Unavailable
from cluster.tool_runtime.cache import Vector
from cluster.tool_runtime.config import ToolsConfig
from cluster.tool_runtime.connection import State
from cluster.tool_runtime.registry import Catalogue, ServerTool
from cluster.tool_runtime.runtime import Embed, Run, ToolRuntime
from protos.gen import inference_pb2, memory_pb2
from protos.gen.memory_pb2_grpc import MemoryStub

EMBED_TIMEOUT_S = 5.0


def embedding_by(memory: MemoryStub) -> Embed:
    """Memory's embedder, for arguments of like meaning."""

    async def embed(text: str) -> Vector:
        reply = await memory.Embed(memory_pb2.EmbedRequest(texts=[text]), timeout=EMBED_TIMEOUT_S)
        return np.asarray(reply.values, np.float32)

    return embed


def check_asked(request: inference_pb2.ChatRequest, config: ToolsConfig) -> None:
    """Refuse what no tool runtime, or not this one, can do. Raises InvalidArgument naming the parameter."""
    asked = request.server_tools
    if not config.enabled:
        raise InvalidArgument(
            "russet.tools asks for server-side tools, but the tool runtime is off; the operator turns it on with "
            "tools.enabled, accepted is leaving it out",
            param="russet.tools",
        )
    if bool(asked.names) == asked.all:
        raise InvalidArgument(
            "russet.tools.run is neither or both of names and all; accepted is a list of names or 'all'",
            param="russet.tools.run",
        )
    if asked.max_rounds > config.max_rounds:
        raise InvalidArgument(
            f"russet.tools.max_rounds is {asked.max_rounds}; accepted are 1 to {config.max_rounds}",
            param="russet.tools.max_rounds",
        )
    for name in ("ignore_eos", "min_tokens"):
        if getattr(request.decoding, name):
            raise InvalidArgument(
                f"{name} is set, but an answer over several generations (russet.tools) ends where the model ends it; "
                "accepted is one of the two",
                param=name,
            )


def chosen(request: inference_pb2.ChatRequest, catalogue: Catalogue) -> dict[str, ServerTool]:
    """The tools that a request asks for, by name; with `all` those whose server is there.

    Raises InvalidArgument for a name that is not there or is one of the request's own tools', Unavailable where `all`
    are none.
    """
    there = catalogue.tools
    names = list(request.server_tools.names)
    if request.server_tools.all:
        names = [name for name, tool in there.items() if tool.connection.state is not State.DOWN]
        if not names:
            raise Unavailable("there are no server-side tools now; `russet tools` tells of their servers")
    for name in names:
        if name not in there:
            accepted = ", ".join(there) or "none: no tool server is there"
            raise InvalidArgument(
                f"russet.tools.run names {name[:80]!r}; accepted are {accepted}", param="russet.tools.run"
            )
    for index, tool in enumerate(request.tools):
        if tool.name in names:
            raise InvalidArgument(
                f"tools[{index}].name is {tool.name!r}, as a server-side tool's is; accepted are different names",
                param=f"tools[{index}].name",
            )
    return {name: there[name] for name in names}


def first_request(asked: inference_pb2.ChatRequest, tools: Mapping[str, ServerTool]) -> inference_pb2.ChatRequest:
    """What the model is asked first: with the server's tools beside the request's own."""
    request = inference_pb2.ChatRequest()
    request.CopyFrom(asked)
    request.ClearField("server_tools")
    for tool in tools.values():
        request.tools.add(name=tool.name, description=tool.description, parameters=json.dumps(tool.parameters))
    return request


def run_of(run: Run) -> inference_pb2.ToolRun:
    """A run as clients are told of it."""
    return inference_pb2.ToolRun(name=run.call.tool.name, ms=run.ms, ok=run.ok, cached=run.cached)


async def listed(runtime: ToolRuntime) -> inference_pb2.ListToolsReply:
    """All tools and servers; where the runtime is off there are none."""
    registry = runtime.registry
    catalogue = await registry.catalogue()
    reply = inference_pb2.ListToolsReply(enabled=runtime.config.enabled)
    for tool in catalogue.tools.values():
        reply.tools.add(
            name=tool.name,
            description=tool.description,
            parameters=json.dumps(tool.parameters),
            server=tool.connection.server.name,
            reuse=tool.reuse,
        )
    for connection in registry.connections:
        name = connection.server.name
        left_out = [f"{left.tool}: {left.reason}" for left in catalogue.left_out if left.server == name]
        reply.servers.add(
            name=name, kind=connection.kind, state=connection.state, problem=connection.problem, left_out=left_out
        )
    return reply


def page(reply: inference_pb2.ListToolsReply) -> dict[str, Any]:
    """The answer of /v1/russet/tools."""
    servers = [
        {
            "name": server.name,
            "kind": server.kind,
            "state": server.state,
            "problem": server.problem or None,
            "left_out": list(server.left_out),
        }
        for server in reply.servers
    ]
    tools = [
        {
            "name": tool.name,
            "object": "tool",
            "description": tool.description,
            "parameters": json.loads(tool.parameters),
            "server": tool.server,
            "reuse": tool.reuse,
        }
        for tool in reply.tools
    ]
    return {"object": "list", "enabled": reply.enabled, "data": tools, "servers": servers}
