"""The tools that the gateway itself runs, as clients are told of them."""

import json
from typing import Any

import numpy as np

from cluster.tool_runtime.cache import Vector
from cluster.tool_runtime.runtime import Embed, ToolRuntime
from protos.gen import inference_pb2, memory_pb2
from protos.gen.memory_pb2_grpc import MemoryStub

EMBED_TIMEOUT_S = 5.0


def embedding_by(memory: MemoryStub) -> Embed:
    """Memory's embedder, for arguments of like meaning."""

    async def embed(text: str) -> Vector:
        reply = await memory.Embed(memory_pb2.EmbedRequest(texts=[text]), timeout=EMBED_TIMEOUT_S)
        return np.asarray(reply.values, np.float32)

    return embed


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
