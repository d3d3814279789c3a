"""What a worker's keeper is asked for and what it answers: jobs, and the news of them on their way to the scheduler."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from actors.worker.results import KeptRecord
from actors.worker.sealed import KEY_BYTES
from protos.gen import worker_pb2


class Save(NamedTuple):
    """Keep `unit` (its first page id) under `key`."""

    epoch: int
    unit: int
    key: bytes


class Load(NamedTuple):
    """Fill `unit` from `key`; `sources` are addresses of a worker that may have it where we do not."""

    epoch: int
    unit: int
    key: bytes
    sources: tuple[str, ...]


class Fetched(NamedTuple):
    """What came for a load from another worker: sealed bytes, or None. `done` is set once they are not needed."""

    load: Load
    sealed: bytes | None
    seconds: float
    done: Future[None]

    def release(self) -> None:
        """Let whoever waits send the next."""
        if self.done.set_running_or_notify_cancel():
            self.done.set_result(None)


Ask = Callable[[tuple[str, ...], list[Load], int, Callable[[Fetched], None]], None]
"""Ask the worker at these addresses for units of so many sealed bytes at most; each load is answered once."""


class News:
    """What became of an epoch's jobs since it was last told."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.kept: dict[bytes, bool] = {}
        """Whether a key is on disk now."""
        self.loaded: list[int] = []
        self.unloaded: list[int] = []
        self.load_bytes = 0
        self.load_seconds = 0.0

    def __bool__(self) -> bool:
        return bool(self.kept or self.loaded or self.unloaded)

    def record(self) -> KeptRecord:
        """The same, to be told."""
        return KeptRecord(self.epoch, self.kept, self.loaded, self.unloaded, self.load_bytes, self.load_seconds)


def saves_of(plan: worker_pb2.Plan) -> list[Save]:
    """What a checked plan asks to be kept."""
    return [Save(plan.epoch, *job) for job in zip(plan.save, keys_in(plan.save_keys), strict=True)]


def loads_of(plan: worker_pb2.Plan) -> list[Load]:
    """What a checked plan asks to be filled."""
    sources = tuple(plan.load_from)
    return [Load(plan.epoch, *job, sources) for job in zip(plan.load, keys_in(plan.load_keys), strict=True)]


def keys_in(keys: bytes) -> list[bytes]:
    """Keys that are laid end to end, apart."""
    return [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)]
