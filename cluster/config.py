"""One configuration: TOML file, then environment, then flags; validated once, immutable, logged as resolved.

A field `port` of section `gateway` is `port` under `[gateway]` in TOML, RUSSET_GATEWAY__PORT in the environment and
`--set gateway.port=...` (or a flag of its own) on the command line. The later source wins.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from actors.base.errors import InvalidArgument
from actors.learner.config import LearnerConfig
from actors.memory.config import MemoryConfig
from actors.router.config import RouterConfig
from actors.scheduler.config import SchedulerConfig
from actors.worker.config import WorkerConfig
from cluster.gateway.config import GatewayConfig
from cluster.scaling import ScalingConfig
from cluster.telemetry import TelemetryConfig
from cluster.tool_runtime.config import ToolsConfig

ENV_PREFIX = "RUSSET_"
ENV_NOT_CONFIG = frozenset({"RUSSET_DATA", "RUSSET_CONFIG"})
"""RUSSET_DATA points tests at data, RUSSET_CONFIG at the TOML file; every other RUSSET_* variable is a field."""


class ModelConfig(WorkerConfig):
    """A model to serve: how its workers run it, and how many replicas of it there are."""

    replicas: int = Field(default=1, ge=1, le=64, description="Replicas, each a scheduler and its worker")
    per_node: int = Field(default=0, ge=0, le=64, description="Most replicas of it on one node; 0 is any number")
    min_replicas: int = Field(
        default=0, ge=0, le=64, description="Fewest replicas where they follow the load; 0 is one (with max_replicas)"
    )
    max_replicas: int = Field(
        default=0, ge=0, le=64, description="Most replicas where they follow the load; 0: always `replicas` of them"
    )
    node_labels: dict[str, str] = Field(
        default={}, max_length=16, description='What a node must be labelled to hold it, e.g. {chip = "Apple-M4-Pro"}'
    )

    @model_validator(mode="after")
    def _every_thread_has_a_processor(self) -> Self:
        each, left = divmod(len(self.cpus), self.replicas)
        if left or (self.cpus and self.threads not in (0, each)):
            raise ValueError(
                f"cpus = {list(self.cpus)} for {self.replicas} replicas with threads = {self.threads}: "
                "there must be one processor for each thread of each replica (threads = 0 takes as many as there are)"
            )
        return self

    @model_validator(mode="after")
    def _starts_within_its_limits(self) -> Self:
        if self.min_replicas and not self.max_replicas:
            raise ValueError(f"min_replicas = {self.min_replicas} has nothing to do where max_replicas = 0")
        if self.max_replicas and not self.least <= self.replicas <= self.max_replicas:
            raise ValueError(
                f"replicas = {self.replicas}: accepted are min_replicas = {self.least} to max_replicas = "
                f"{self.max_replicas}"
            )
        return self

    @property
    def least(self) -> int:
        """Fewest replicas where they follow the load."""
        return max(1, self.min_replicas)

    def within(self, home: Path, key_file: Path, deterministic: bool) -> Self:
        """The same with what follows from the cluster's settings filled in, and paths absolute."""
        return self.model_copy(
            update={
                "deterministic": self.deterministic or deterministic,
                "kv_disk_directory": _absolute(self.kv_disk_directory) or home / "kv",
                "key_file": _absolute(self.key_file) or key_file,
            }
        )

    def of_replica(self, index: int) -> Self:
        """The same for replica number `index`: of `cpus`, in order, the ones that are its own."""
        each = len(self.cpus) // self.replicas
        return self.model_copy(update={"cpus": self.cpus[index * each : (index + 1) * each]})


Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")]
"""What Ray takes for a label's value."""


class RayConfig(BaseModel):
    """How Russet's own Ray cluster is started by `russet up`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bind: Literal["loopback", "node"] = Field(
        default="loopback",
        description="Where actors listen over TCP: this machine only, or the node's address, for a fleet",
    )
    address: str = Field(
        default="", description="Of this machine, where other nodes reach it; empty: the one on its way to them"
    )
    memory_bytes: int = Field(
        default=0, ge=0, description="Bytes of this machine for replicas; 0 is what is free when its node starts"
    )
    labels: dict[str, Label] = Field(
        default={}, max_length=16, description="What else is said of this node, beside its chip and links"
    )
    autoscaling_config: Path | None = Field(
        default=None, description="On the head, what `ray up` made of its cluster file; Ray then starts the others"
    )
    port: int = Field(default=6379, ge=0, le=65535, description="GCS port of the head node; 0 picks a free one")
    dashboard_port: int = Field(default=8265, ge=0, le=65535, description="Ray dashboard; 0 picks a free one")
    metrics_port: int = Field(default=8080, ge=0, le=65535, description="Ray's own metrics agent; 0 picks a free one")
    object_store_bytes: int = Field(
        default=100 << 20, ge=78643200, description="Object store; Russet moves nothing through it"
    )
    start_timeout_s: float = Field(default=180, gt=0, description="Longest wait for every actor to be ready")


class TlsConfig(BaseModel):
    """TLS between actors. That of the gateway towards clients is in its own section."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    actors: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Mutual TLS on actors' TCP listeners; auto is on where ray.bind is node. Unix sockets need none",
    )
    leaf_hours: float = Field(
        default=24, ge=0.05, le=8760, description="Life of a node's certificate, hours; renewed when a third is left"
    )


class Config(BaseModel):
    """The whole of Russet's configuration, one section per actor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path = Field(default=Path("~/.russet"), description="State: keys, memory, logs; created with mode 0700")
    deterministic: bool = Field(
        default=False, description="The same tokens however a request is batched, chunked or resumed"
    )
    models: tuple[ModelConfig, ...] = Field(
        default=(ModelConfig(),), min_length=1, description="Models served; first: default"
    )
    gateway: GatewayConfig = GatewayConfig()
    router: RouterConfig = RouterConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    learner: LearnerConfig = LearnerConfig()
    memory: MemoryConfig = MemoryConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    tools: ToolsConfig = ToolsConfig()
    ray: RayConfig = RayConfig()
    scaling: ScalingConfig = ScalingConfig()
    tls: TlsConfig = TlsConfig()

    def resolved(self) -> "Config":
        """The same with paths absolute and settings that follow from others filled in."""
        home = self.home.expanduser().resolve()
        key_file = _absolute(self.memory.key_file) or home / "cluster.key"
        memory = self.memory.model_copy(
            update={
                "directory": _absolute(self.memory.directory) or home / "memory",
                "key_file": key_file,
                "embedder": _absolute(self.memory.embedder),
                "server_key_file": _absolute(self.memory.server_key_file),
                "server_ca_file": _absolute(self.memory.server_ca_file),
            }
        )
        spool = _absolute(self.gateway.spool_directory) or home / "spool"
        named = ("api_keys_file", "tls_certificate", "tls_key", "tls_client_ca")
        paths = {name: _absolute(getattr(self.gateway, name)) for name in named}
        gateway = self.gateway.model_copy(update=paths | {"spool_directory": spool})
        models = tuple(model.within(home, key_file, self.deterministic) for model in self.models)
        names = [model.served_name for model in models]
        if len(set(names)) < len(names):
            raise InvalidArgument(
                f"models: two are served as {_repeated(names)!r}; give one another model_id", param="models"
            )
        router = self.router.model_copy(update={"default_model": self.router.default_model or names[0]})
        ray = self.ray.model_copy(update={"autoscaling_config": _absolute(self.ray.autoscaling_config)})
        updates = {"ray": ray, "home": home, "gateway": gateway, "memory": memory, "models": models, "router": router}
        return self.model_copy(update=updates)


def load(
    file: Path | None = None, overrides: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ
) -> Config:
    """Merge `file` (or $RUSSET_CONFIG, or ~/.russet/russet.toml where it exists), `environ` and `overrides`.

    `overrides` maps dotted names ("gateway.port") to values. Raises InvalidArgument naming the field, its value, and
    the source it came from.
    """
    sources: list[tuple[str, dict[str, Any]]] = []
    path = file or (Path(environ["RUSSET_CONFIG"]) if environ.get("RUSSET_CONFIG") else None)
    default = Path("~/.russet/russet.toml").expanduser()
    if path is None and default.is_file():
        path = default
    if path is not None:
        sources.append((str(path), _read_toml(path)))
    sources.append(("environment", _from_environment(environ)))
    flags: dict[str, Any] = {}
    for name, value in (overrides or {}).items():
        _put(flags, name.split("."), value)
    sources.append(("command line", flags))

    merged: dict[str, Any] = {}
    for _, source in sources:
        _merge(merged, source, whole=True)
    try:
        return Config.model_validate(merged).resolved()
    except ValidationError as invalid:
        raise InvalidArgument("; ".join(_explain(error, sources) for error in invalid.errors())) from None


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().resolve()


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.expanduser().read_text())
    except FileNotFoundError:
        raise InvalidArgument(f"config file {path} does not exist; write it or leave --config away") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as broken:
        raise InvalidArgument(f"config file {path} is not TOML: {broken}") from None


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, text in environ.items():
        if name.startswith(ENV_PREFIX) and name not in ENV_NOT_CONFIG:
            _put(values, name.removeprefix(ENV_PREFIX).lower().split("__"), text)
    return values


def _put(into: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        into = into.setdefault(part, {})
    into[path[-1]] = value


def _merge(into: dict[str, Any], source: Mapping[str, Any], *, whole: bool = False) -> None:
    """Deep-merge `source` over `into`. `whole`: `models.0.backend` reaches into the list of models by its index."""
    for key, value in source.items():
        current = into.get(key)
        if whole and key == "models" and isinstance(value, Mapping):
            rows = into.setdefault(key, [{}])
            for index, fields in value.items():
                if not index.isdigit() or int(index) >= len(rows):
                    raise InvalidArgument(f"models.{index}: expected the index of a model, 0 to {len(rows) - 1}")
                _merge(rows[int(index)], fields)
        elif isinstance(current, dict) and isinstance(value, Mapping):
            _merge(current, value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _explain(error: Any, sources: list[tuple[str, dict[str, Any]]]) -> str:
    path = [str(part) for part in error["loc"]]
    origin = next((name for name, source in reversed(sources) if _has(source, path)), "defaults")
    dotted = ".".join(path)
    if error["type"] == "extra_forbidden":
        return f"{dotted} ({origin}): there is no such setting; `russet config` lists them all"
    # Of a section as a whole the message names what is wrong; its values may hold a key.
    value = "" if isinstance(error["input"], Mapping) else f" = {error['input']!r}"
    return f"{dotted}{value} ({origin}): {error['msg']}"


def _has(source: Any, path: list[str]) -> bool:
    for part in path:
        if isinstance(source, Mapping) and part in source:
            source = source[part]
        elif isinstance(source, list) and part.isdigit() and int(part) < len(source):
            source = source[int(part)]
        else:
            return False
    return True


def _repeated(names: list[str]) -> str:
    return next(name for index, name in enumerate(names) if name in names[:index])
