"""Which tools there are: what the configured servers offer, under the names by which models call them."""

import asyncio
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator

from cluster.tool_runtime.arguments import validator_of
from cluster.tool_runtime.config import ServerConfig, ToolsConfig
from cluster.tool_runtime.connection import Connection
from cluster.tool_runtime.offers import Offer

log = logging.getLogger(__name__)
MAX_NAME_CHARS = 64
MAX_DESCRIPTION_CHARS = 4096
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
Reuse = Literal["no", "exact", "meaning"]


@dataclass(frozen=True)
class ServerTool:
    """A tool that can be run here."""

    name: str
    """As models call it."""
    own_name: str
    """As its server calls it."""
    description: str
    parameters: dict[str, Any]
    """JSON Schema of the arguments."""
    validator: Validator
    reuse: Reuse
    """Whether a result answers later calls too."""
    connection: Connection


class LeftOut(NamedTuple):
    """A tool that a server offers and nobody can call."""

    server: str
    tool: str
    reason: str


class Catalogue(NamedTuple):
    """The tools by name, and those left out."""

    tools: Mapping[str, ServerTool]
    left_out: Sequence[LeftOut]


class Registry:
    """The configured servers, kept connected, and their tools; none of them where the runtime is off."""

    def __init__(self, config: ToolsConfig, environ: Mapping[str, str] = os.environ) -> None:
        servers = config.servers if config.enabled else ()
        self.connections = [Connection(server, config, environ) for server in servers]
        self._read: list[Sequence[Offer]] = []
        self._catalogue = Catalogue({}, ())

    async def start(self) -> None:
        """Begin to connect; nothing waits for it but the first request with tools."""
        for connection in self.connections:
            await connection.start()

    async def stop(self) -> None:
        """End every session and program."""
        await asyncio.gather(*(connection.stop() for connection in self.connections))

    async def catalogue(self) -> Catalogue:
        """The tools there are, once every server was tried. Those of a server that went away stay listed."""
        await asyncio.gather(*(connection.tried() for connection in self.connections))
        read = [connection.offers for connection in self.connections]
        if len(read) != len(self._read) or any(new is not old for new, old in zip(read, self._read, strict=True)):
            self._catalogue, self._read = catalogue_of(self.connections), read
            for left in self._catalogue.left_out:
                log.warning("tool %s of server %s is left out: %s", left.tool, left.server, left.reason)
        return self._catalogue


def catalogue_of(connections: Sequence[Connection]) -> Catalogue:
    """All tools of all servers; of two with one name the first server's is taken."""
    tools: dict[str, ServerTool] = {}
    left_out: list[LeftOut] = []
    for connection in connections:
        server = connection.server
        for tool in connection.offers:
            if not matches(tool.name, server.tools):
                continue
            name = _NOT_IN_NAMES.sub("_", server.prefix + tool.name)
            reason = ""
            if len(name) > MAX_NAME_CHARS:
                reason = f"its name has {len(name)} characters; accepted are up to {MAX_NAME_CHARS}"
            elif name in tools:
                reason = f"{tools[name].connection.server.name} has a tool {name} too; give one server a prefix"
            else:
                try:
                    validator = validator_of(tool.parameters)
                except SchemaError as error:
                    reason = f"its parameters are no JSON Schema: {error.message[:200]}"
                else:
                    tools[name] = ServerTool(
                        name=name,
                        own_name=tool.name,
                        description=tool.description[:MAX_DESCRIPTION_CHARS],
                        parameters=tool.parameters,
                        validator=validator,
                        reuse=reuse_of(tool, server),
                        connection=connection,
                    )
            if reason:
                left_out.append(LeftOut(server.name, tool.name, reason))
    return Catalogue(tools, left_out)


def reuse_of(tool: Offer, server: ServerConfig) -> Reuse:
    """Whether a result may answer later calls: where settings say so, or the tool is both read-only and idempotent.

    Read-only alone does not do: a clock is read-only too.
    """
    if matches(tool.name, server.cached_by_meaning):
        return "meaning"
    return "exact" if tool.repeatable or matches(tool.name, server.cached) else "no"


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a tool's own name is among these; * stands for any characters."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
