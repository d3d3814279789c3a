"""Runtimes with real MCP servers behind them."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.base.telemetry import Telemetry
from cluster.tool_runtime.cache import Vector
from cluster.tool_runtime.config import ServerConfig, ToolsConfig
from cluster.tool_runtime.registry import Registry
from cluster.tool_runtime.runtime import Allowance, Call, Run, ToolRuntime

SERVER = Path(__file__).with_name("mcp_server.py")


class Bench:
    """A runtime, and calls to it by name."""

    def __init__(self, config: ToolsConfig, environ: Mapping[str, str]) -> None:
        self.telemetry = Telemetry(service="gateway")
        self.registry = Registry(config, environ)
        self.runtime = ToolRuntime(config, self.registry, self.embed, self.telemetry)
        self.vectors: dict[str, Vector] = {}
        """What texts are embedded as."""
        self.embedded: list[str] = []
        self.tenant = ""

    async def embed(self, text: str) -> Vector:
        self.embedded.append(text)
        return self.vectors[text]

    def means(self, text: str, degrees: float) -> None:
        """Give a text a direction: two texts are alike by the cosine of the angle between them."""
        radians = np.deg2rad(degrees)
        self.vectors[text] = np.array([np.cos(radians), np.sin(radians)], np.float32)

    async def run(self, *calls: tuple[str, str], parallel: bool = True, allowance_s: float = 60) -> list[Run]:
        """Run calls of (tool, arguments) as one turn."""
        tools = (await self.registry.catalogue()).tools
        asked = [Call(f"call_{index}", tools[name], text) for index, (name, text) in enumerate(calls)]
        return await self.runtime.run(asked, self.tenant, Allowance(allowance_s), parallel=parallel)

    async def one(self, name: str, arguments: str = "{}") -> Run:
        """Run one call."""
        return (await self.run((name, arguments)))[0]

    def counted(self, metric: str, **labels: str) -> float:
        """A metric's value."""
        return self.telemetry.registry.get_sample_value(metric, labels) or 0.0

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for what a process beside this one does."""
        while not holds():
            await asyncio.sleep(0.02)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """`await bench(...)`: a runtime with these settings; `server` are more settings of the one stdio server."""
    benches: list[Bench] = []

    async def make(
        server: Mapping[str, Any] | None = None,
        servers: list[ServerConfig] | None = None,
        environ: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> Bench:
        stdio = {"name": "tests", "command": sys.executable, "args": (str(SERVER), str(tmp_path))}
        chosen = servers if servers is not None else [ServerConfig.model_validate(stdio | dict(server or {}))]
        made = Bench(ToolsConfig(enabled=True, servers=tuple(chosen), **settings), environ or {})
        benches.append(made)
        await made.registry.start()
        return made

    yield make
    for each in benches:
        await each.registry.stop()
