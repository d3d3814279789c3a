"""Settings of the tool runtime."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from actors.base.errors import InvalidArgument

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class ServerConfig(BaseModel):
    """Where tools come from: an MCP server over stdio or HTTP, or a Python entry point."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,40}$", description="What metrics, logs and `russet tools` call it")
    command: str = Field(default="", description="Program of an MCP server over stdio; it is started and kept")
    args: tuple[str, ...] = Field(default=(), description="Its arguments")
    env: dict[str, str] = Field(
        default={}, description="Its environment beside HOME, PATH and the like; ${NAME} is the gateway's variable NAME"
    )
    directory: Path | None = Field(default=None, description="Where it is started; unset is the gateway's own")
    url: str = Field(default="", pattern=r"^(https?://.+)?$", description="Address of an MCP server over HTTP")
    headers: dict[str, str] = Field(
        default={}, description="Headers sent to it; ${NAME} is the gateway's variable NAME"
    )
    entry_point: str = Field(
        default="", description="Entry point of the group russet.tools: a function, or an MCP server object"
    )
    tools: tuple[str, ...] = Field(default=("*",), description="Its tools that may be called; * stands for any")
    prefix: str = Field(default="", pattern=r"^[A-Za-z0-9_-]{0,40}$", description="Put before the names of its tools")
    cached: tuple[str, ...] = Field(
        default=(),
        description="Its tools whose results are reused although they do not declare it; * stands for any",
    )
    cached_by_meaning: tuple[str, ...] = Field(
        default=(), description="Its tools that a result for arguments of like meaning answers too; * stands for any"
    )

    @model_validator(mode="after")
    def _comes_from_one_place(self) -> Self:
        places = {"command": self.command, "url": self.url, "entry_point": self.entry_point}
        given = [name for name, value in places.items() if value]
        if len(given) != 1:
            what = " and ".join(given) or "neither command, url nor entry_point"
            raise ValueError(f"tool server {self.name} has {what}; accepted is one of command, url and entry_point")
        if self.headers and not self.url:
            raise ValueError(f"tool server {self.name} has headers but no url")
        if (self.args or self.directory) and not self.command:
            raise ValueError(f"tool server {self.name} has args or directory but no command")
        if self.env and self.url:
            raise ValueError(f"tool server {self.name} has env but is at a url")
        return self


class ToolsConfig(BaseModel):
    """The tool runtime. Frozen; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(default=False, description="Whether requests may have the gateway run tools (russet.tools)")
    servers: tuple[ServerConfig, ...] = Field(default=(), description="Where tools come from")
    max_rounds: int = Field(
        default=4, ge=1, le=32, description="Most times that a request's calls are run and the model is asked again"
    )
    max_parallel: int = Field(default=8, ge=1, le=64, description="Calls of one request that run at a time")
    max_running: int = Field(default=32, ge=1, le=1024, description="Calls of the whole gateway that run at a time")
    call_timeout_s: float = Field(default=30, gt=0, le=600, description="Longest a call may take, seconds")
    request_timeout_s: float = Field(
        default=120, gt=0, le=3600, description="Longest a request may spend on its calls in all, seconds"
    )
    connect_timeout_s: float = Field(
        default=20, gt=0, le=300, description="Longest a tool server may take to start and list its tools, seconds"
    )
    relist_s: float = Field(default=60, ge=1, le=86400, description="Seconds between looks at a server's list of tools")
    max_argument_bytes: int = Field(
        default=64 << 10, ge=256, le=1 << 20, description="Longest arguments of a call, bytes of JSON"
    )
    max_message_bytes: int = Field(
        default=4 << 20, ge=64 << 10, le=64 << 20, description="Longest message of a server that is read, bytes"
    )
    max_output_chars: int = Field(
        default=16 << 10, ge=64, le=1 << 20, description="Longest result that the model reads; more is cut, and says so"
    )
    cache_entries: int = Field(default=1024, ge=0, le=1 << 16, description="Results kept for reuse; 0 keeps none")
    cache_ttl_s: float = Field(default=300, gt=0, le=86400, description="How long a result is reused, seconds")
    cache_cosine: float = Field(
        default=0.97, ge=0.8, le=1, description="Least likeness (cosine) of arguments that count as meaning the same"
    )

    @model_validator(mode="after")
    def _servers_have_names_of_their_own(self) -> Self:
        names = [server.name for server in self.servers]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"tools.servers: two are named {repeated[0]!r}")
        return self


def variables(values: Mapping[str, str]) -> list[str]:
    """The environment variables that `values` name as ${NAME}."""
    return [name for value in values.values() for name in _VARIABLE.findall(value)]


def expanded(values: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """`values` with ${NAME} replaced by the variable's value.

    Raises InvalidArgument naming a variable that is not set.
    """

    def value_of(match: re.Match[str]) -> str:
        if match[1] not in environ:
            raise InvalidArgument(f"it needs the environment variable {match[1]}, which is not set")
        return environ[match[1]]

    return {name: _VARIABLE.sub(value_of, value) for name, value in values.items()}
