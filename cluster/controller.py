"""What loads, scales and unloads models while others are served, whatever runs the replicas.

Models of the configuration come back with it. Those that were loaded since are kept in a file of the home, which is
read before anything is started: a cluster that starts again loads them again.
"""

import json
import os
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError

from actors.base.errors import Conflict, InvalidArgument, NotFound
from cluster.config import Config, ModelConfig
from protos.gen import inference_pb2

MAX_REPLICAS = 64
MAX_NAME = 128
DRAIN_TIMEOUT_S = 60.0
LONGEST_DRAIN_S = 3600.0
STATES = ("failed", "draining", "loading", "ready")
"""Worst first: a model's state is its worst replica's."""
_MODELS = TypeAdapter(list[ModelConfig])


class Controller(Protocol):
    """Each call returns before what it began has ended; `listed` tells how far it is."""

    async def listed(self) -> list[inference_pb2.ServedModel]:
        """Every model, those of the configuration first, with its replicas."""
        ...

    async def load(self, request: inference_pb2.LoadModelRequest) -> inference_pb2.ServedModel:
        """Begin to load a model beside those that are served.

        Raises NotFound where its file is not there, Conflict where its id is taken, InvalidArgument with the numbers
        where it does not fit into memory.
        """
        ...

    async def scale(self, name: str, replicas: int) -> inference_pb2.ServedModel:
        """Begin to give a model another number of replicas, 1 to MAX_REPLICAS. Raises NotFound, InvalidArgument."""
        ...

    async def unload(self, name: str, timeout_s: float) -> inference_pb2.ServedModel:
        """Begin to unload it: running answers get `timeout_s` to end. Raises NotFound."""
        ...


def model_asked(request: inference_pb2.LoadModelRequest, config: Config) -> ModelConfig:
    """The model that a request asks to be loaded. Raises InvalidArgument naming the setting that is wrong."""
    try:
        settings: Any = json.loads(request.settings or "{}")
    except ValueError as error:
        raise InvalidArgument(f"settings are not JSON: {error}", param="settings") from None
    if not isinstance(settings, dict):
        raise InvalidArgument(f"settings are a JSON {type(settings).__name__}; accepted: an object", param="settings")
    if twice := sorted({"model", "model_id", "replicas"} & settings.keys()):
        raise InvalidArgument(f"settings has {twice[0]}; accepted are other settings of a model", param="settings")
    if not request.model:
        raise InvalidArgument("model is empty; accepted is an alias, a GGUF file or a directory", param="model")
    values = settings | {"model": request.model, "model_id": request.id, "replicas": request.replicas or 1}
    try:
        model = ModelConfig.model_validate(values)
    except ValidationError as invalid:
        error = invalid.errors()[0]
        name = ".".join(map(str, error["loc"])) or "settings"
        raise InvalidArgument(f"{name} = {str(error['input'])[:80]!r}: {error['msg']}", param=name) from None
    if len(model.served_name) > MAX_NAME or not model.served_name.isprintable():
        raise InvalidArgument(f"id has {len(model.served_name)} characters; accepted are up to {MAX_NAME}", param="id")
    return model.within(config.home, config.memory.key_file or config.home / "cluster.key", config.deterministic)


def check_replicas(replicas: int) -> None:
    """Raises InvalidArgument for a number of replicas that cannot be."""
    if not 1 <= replicas <= MAX_REPLICAS:
        raise InvalidArgument(f"replicas is {replicas}; accepted are 1 to {MAX_REPLICAS}", param="replicas")


def check_timeout(timeout_s: float) -> float:
    """Seconds that running answers get; DRAIN_TIMEOUT_S for 0. Raises InvalidArgument."""
    if not 0 <= timeout_s <= LONGEST_DRAIN_S:
        raise InvalidArgument(
            f"timeout_s is {timeout_s}; accepted are seconds, up to {LONGEST_DRAIN_S:g}", param="timeout_s"
        )
    return timeout_s or DRAIN_TIMEOUT_S


def unknown(name: str, known: list[str]) -> NotFound:
    """There is no such model to scale or unload."""
    return NotFound(f"no model {name[:80]!r} is loaded; there are: {', '.join(known) or 'none'}", param="model")


def taken(name: str) -> Conflict:
    """A model of this id is there already."""
    return Conflict(
        f"a model is served as {name!r} already; scale it, unload it first, or give this one another id", param="id"
    )


class LoadedFile:
    """The models that were loaded beyond the configuration's, in a file that only its owner may read."""

    def __init__(self, home: Path) -> None:
        self._path = home / "loaded.json"

    def read(self) -> list[ModelConfig]:
        """Those that were loaded. Raises InvalidArgument where the file is none that was written here."""
        try:
            return _MODELS.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return []
        except ValidationError as invalid:
            raise InvalidArgument(f"{self._path} does not tell the models that were loaded: {invalid}") from None

    def write(self, models: list[ModelConfig]) -> None:
        """Replace it, whole or not at all."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = self._path.with_suffix(".new")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_MODELS.dump_json(models, indent=1))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
