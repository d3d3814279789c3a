"""An MCP server for the tests: `python mcp_server.py DIRECTORY [PORT]`.

It leaves marks in the directory. With a port (0: any, printed once it listens) it speaks HTTP and wants TOKEN.
"""

import asyncio
import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

server = MCPServer("tests")
marks = Path(sys.argv[1])
TOKEN = "Bearer opensesame"
arrived: dict[str, asyncio.Event] = {}


@server.tool(annotations=ToolAnnotations(read_only_hint=True, idempotent_hint=True))
def population(city: str, year: int = 2024) -> str:
    """How many people live in a city."""
    with (marks / "asked").open("a") as asked:
        asked.write(f"{city}\n")
    people = {"paris": 2_100_000, "rome": 2_750_000}.get(city.lower())
    if people is None:
        raise ToolError(f"there is no city {city}")
    return f"{people} people lived in {city} in {year}"


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def process() -> str:
    """Which process this is."""
    return str(os.getpid())


@server.tool()
async def meet(me: str, other: str) -> str:
    """Ends only once the other one was called too."""
    arrived.setdefault(me, asyncio.Event()).set()
    await arrived.setdefault(other, asyncio.Event()).wait()
    return f"{me} met {other}"


@server.tool()
async def hang() -> str:
    """Never ends."""
    (marks / "hanging").touch()
    await asyncio.Event().wait()
    return ""


@server.tool()
def freeze() -> str:
    """The whole process stands still."""
    os.kill(os.getpid(), signal.SIGSTOP)
    return ""


@server.tool()
def die() -> str:
    """The process ends within the call."""
    os._exit(1)


@server.tool()
def much(characters: int) -> str:
    """So many characters."""
    return "x" * characters


@server.tool()
def secret(name: str) -> str:
    """A variable of the environment."""
    return os.environ.get(name, "not set")


@server.tool()
def chatter() -> str:
    """Writes lines between the protocol's."""
    for wire in (each for each in range(3, 20) if Path(f"/proc/self/fd/{each}").exists()):
        if stat.S_ISFIFO(os.fstat(wire).st_mode):
            with contextlib.suppress(OSError):
                os.write(wire, b"Hello!\n{}\n")
    return "said"


@server.tool()
def child() -> str:
    """A process that ends by itself only after an hour."""
    return str(subprocess.Popen(["sleep", "3600"]).pid)


def only_with_token(app: Any) -> Any:
    """The app for those who know the token; 401 for others."""

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and dict(scope["headers"]).get(b"authorization") != TOKEN.encode():
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b"who are you?"})
            return
        await app(scope, receive, send)

    return guarded


if __name__ == "__main__":
    if len(sys.argv) == 2:
        server.run("stdio")
    else:
        listening = socket.create_server(("127.0.0.1", int(sys.argv[2])))
        print(listening.getsockname()[1], flush=True)
        app = only_with_token(server.streamable_http_app())
        uvicorn.Server(uvicorn.Config(app, log_level="error")).run([listening])
