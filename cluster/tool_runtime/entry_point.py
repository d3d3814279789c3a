"""The process of one Python entry point: an MCP server over stdio, so that what hangs in it can be killed.

`python -m cluster.tool_runtime.entry_point NAME`
"""

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any

import anyio
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.stdio import stdio_server

GROUP = "russet.tools"


def server_of(name: str, target: Any) -> MCPServer | Server[Any]:
    """What serves `target`: itself where it is a server object of the SDK, else a server whose one tool it is.

    A function's tool has its entry point's name, its docstring, and the JSON Schema of its parameters' annotations.
    Raises TypeError for anything else.
    """
    if isinstance(target, MCPServer | Server):
        return target
    if not callable(target):
        raise TypeError(f"entry point {name} is a {type(target).__name__}; accepted are functions and MCP servers")
    server = MCPServer(name)
    server.add_tool(_told(target), name=name, description=inspect.getdoc(target) or "", structured_output=False)
    return server


def _told(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its exceptions as errors that the model reads; the SDK would keep their text to itself."""

    @functools.wraps(function)
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        with _telling():
            return await function(*args, **kwargs)

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        with _telling():
            return function(*args, **kwargs)

    return awaited if inspect.iscoroutinefunction(function) else called


@contextmanager
def _telling() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ToolError(f"{type(error).__name__}: {error}") from error


def load(name: str) -> MCPServer | Server[Any]:
    """The server of the entry point `name`. Raises LookupError where none or several have the name."""
    found = entry_points(group=GROUP, name=name)
    if len(found) != 1:
        known = ", ".join(sorted(entry_points(group=GROUP).names)) or "none"
        raise LookupError(f"{len(found)} entry points of {GROUP} are named {name!r}; there are: {known}")
    return server_of(name, next(iter(found)).load())


async def serve(server: MCPServer | Server[Any]) -> None:
    """Serve over standard input and output until the input ends."""
    if isinstance(server, MCPServer):
        await server.run_stdio_async()
        return
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


if __name__ == "__main__":
    anyio.run(serve, load(sys.argv[1]))
