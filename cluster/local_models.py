"""Models loaded and unloaded beside a LocalCluster's own: each of their replicas is a process.

    load ─ admitted ─> loading ─> ready ─ unload ─> draining ─> gone, with its memory
                          │         └─ its process dies ─> loading
                          └─> failed: nothing is left but the reason

What a model needs is set aside when it is admitted, so that two that are loaded at once cannot both have the same
memory. What was set aside and is not taken yet is not free, though the system says so.
"""

import asyncio
import logging
import os
import re
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from actors.base.channel import connect
from actors.base.errors import InvalidArgument, RussetError, Unavailable
from cluster.capacity import admitted, weight_bytes
from cluster.config import ModelConfig
from cluster.controller import STATES, LoadedFile, check_replicas, check_timeout, model_asked, taken, unknown
from cluster.home import Home
from cluster.replica_child import Child
from cluster.topology import replica_id
from protos.gen import inference_pb2, scheduler_pb2
from protos.gen.scheduler_pb2_grpc import SchedulerStub

if TYPE_CHECKING:
    from cluster.local import LocalCluster

log = logging.getLogger(__name__)
FIRST_PAUSE_S, LAST_PAUSE_S = 0.2, 10.0
KNOWN_S = 10.0
"""In which the router has heard of a replica that is ready."""


@dataclass
class _Replica:
    """`child`: its process; None for one of the cluster's own, which shares the process."""

    id: str
    state: str = "loading"
    reason: str = ""
    child: Child | None = None
    keeper: asyncio.Task[None] | None = None
    changed_s: float = field(default_factory=time.monotonic)

    def become(self, state: str, reason: str = "") -> None:
        self.state, self.reason, self.changed_s = state, reason, time.monotonic()


@dataclass
class _Served:
    """A model. `bytes_each`: what is set aside for a replica of it."""

    model: ModelConfig
    source: str
    bytes_each: int
    replicas: dict[int, _Replica] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether nothing of it runs or is to run."""
        return all(replica.state == "failed" for replica in self.replicas.values())


class LocalModels:
    """The Controller of a LocalCluster."""

    def __init__(self, cluster: "LocalCluster") -> None:
        self._cluster = cluster
        self._file = LoadedFile(cluster.config.home)
        self._models: dict[str, _Served] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._base_bytes = 0

    def before_models(self) -> None:
        """The cluster's own models are about to be loaded into this process: what it takes by now is not theirs."""
        self._base_bytes = psutil.Process().memory_info().rss

    def after_models(self) -> None:
        """They are served. What was loaded by hand before is loaded again, in the background."""
        for model in self._cluster.models:
            served = _Served(model, "config", weight_bytes(model) + self._kv_bytes(model.served_name))
            served.replicas = {
                index: _Replica(replica_id(model.served_name, index), "ready") for index in range(model.replicas)
            }
            self._models[model.served_name] = served
        for model in self._file.read():
            if model.served_name in self._models:
                log.warning("%s was loaded by hand, and is the configuration's now", model.served_name)
                continue
            self._load_again(model)

    async def stop(self) -> None:
        """End every process. What is loaded stays in the file."""
        for task in list(self._work):
            task.cancel()
        replicas = [replica for served in self._models.values() for replica in served.replicas.values()]
        keepers = [replica.keeper for replica in replicas if replica.keeper is not None]
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*self._work, *keepers, return_exceptions=True)
        await asyncio.gather(*(replica.child.stop() for replica in replicas if replica.child is not None))
        self._models.clear()

    async def listed(self) -> list[inference_pb2.ServedModel]:
        """Every model with its replicas."""
        return [self._row(served) for served in self._models.values()]

    async def load(self, request: inference_pb2.LoadModelRequest) -> inference_pb2.ServedModel:
        """Admit a model and begin to load it."""
        return self._load(model_asked(request, self._cluster.config))

    def _load(self, model: ModelConfig) -> inference_pb2.ServedModel:
        name = model.served_name
        check_replicas(model.replicas)
        refuse_scaling(model)
        if name in self._models and not self._models[name].failed:
            raise taken(name)
        self._models.pop(name, None)
        model, bytes_each = admitted(model, "local", self._promised(), self._residents())
        served = self._models[name] = _Served(model, "api", bytes_each)
        for index in range(model.replicas):
            self._add(served, index)
        self._write()
        return self._row(served)

    async def scale(self, name: str, replicas: int) -> inference_pb2.ServedModel:
        """Add replicas in processes of their own, or drain those of the highest numbers."""
        check_replicas(replicas)
        served = self._known(name)
        for index in [index for index, replica in served.replicas.items() if replica.state == "failed"]:
            del served.replicas[index]
        have = sorted(index for index, replica in served.replicas.items() if replica.state != "draining")
        if replicas > len(have):
            more = served.model.model_copy(update={"replicas": replicas - len(have), "cpus": ()})
            admitted(more, "local", self._promised(), self._residents())
            free = (index for index in range(replicas + len(served.replicas)) if index not in served.replicas)
            for _ in range(replicas - len(have)):
                self._add(served, next(free))
        for index in have[replicas:]:
            self._end(served, index, check_timeout(0), unload=False)
        served.model = served.model.model_copy(update={"replicas": replicas, "cpus": ()})
        self._write()
        return self._row(served)

    async def unload(self, name: str, timeout_s: float) -> inference_pb2.ServedModel:
        """Drain every replica, then end it."""
        served, timeout_s = self._known(name), check_timeout(timeout_s)
        for index, replica in served.replicas.items():
            if replica.state != "draining":
                self._end(served, index, timeout_s, unload=True)
        self._write(but=name)
        return self._row(served)

    def _add(self, served: _Served, index: int) -> None:
        replica = served.replicas[index] = _Replica(replica_id(served.model.served_name, index))
        replica.keeper = asyncio.create_task(self._keep(served, replica), name=f"keeper of {replica.id}")

    def _load_again(self, model: ModelConfig) -> None:
        try:
            self._load(model)
        except RussetError as error:
            log.error("%s, loaded by hand before, is not loaded again: %s", model.served_name, error)
            served = self._models[model.served_name] = _Served(model, "api", 0)
            served.replicas[0] = _Replica(replica_id(model.served_name, 0), "failed", error.message)

    async def _keep(self, served: _Served, replica: _Replica) -> None:
        """Start a replica's process, and another where one that was ready dies."""
        pause_s, was_ready = FIRST_PAUSE_S, False
        while True:
            child = replica.child = Child(self._cluster.directory.run, self._log_of(replica.id))
            try:
                services = await child.start(self._cluster.config, served.model, replica.id)
                for service, addresses in services.items():
                    await self._cluster.directory.publish(service, addresses)
                await self._known_to_router(replica.id)
                replica.become("ready")
                pause_s, was_ready = FIRST_PAUSE_S, True
                await child.ended()
                log.critical("the process of %s ended; starting another", replica.id)
            except RussetError as error:
                log.error("%s did not start: %s", replica.id, error.message)
                if not was_ready:
                    await self._remove(child, replica.id)
                    replica.child = None
                    replica.become("failed", error.message)
                    self._write()
                    return
            await self._remove(child, replica.id)
            replica.become("loading", "its process ended")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)

    def _end(self, served: _Served, index: int, timeout_s: float, *, unload: bool) -> None:
        replica = served.replicas[index]
        drains = replica.state == "ready"
        replica.become("draining")
        self._begin(self._drain(served, index, timeout_s if drains else None, unload=unload))

    async def _drain(self, served: _Served, index: int, timeout_s: float | None, *, unload: bool) -> None:
        """Take no more requests, let those that run end, then end the replica and forget it.

        timeout_s: None where it takes no requests yet.
        """
        replica = served.replicas[index]
        if timeout_s is not None:
            service = f"scheduler-{replica.id}"
            channel = connect((await self._cluster.directory.services())[service])
            request = scheduler_pb2.DrainRequest(timeout_s=timeout_s, unload=unload)
            try:
                reply = await SchedulerStub(channel).Drain(request, timeout=timeout_s + KNOWN_S)
                if reply.remaining:
                    log.warning("%s ends with %d answers that did not within %g s", service, reply.remaining, timeout_s)
            except RussetError as error:
                log.warning("%s did not drain: %s", service, error)
            finally:
                await channel.close()
        if replica.keeper is not None:
            replica.keeper.cancel()
            await asyncio.gather(replica.keeper, return_exceptions=True)
        if replica.child is not None:
            await self._remove(replica.child, replica.id)
        elif served.source == "config":
            await self._cluster.end_replica(replica.id)
        served.replicas.pop(index, None)
        if not served.replicas and self._models.get(served.model.served_name) is served:
            del self._models[served.model.served_name]

    async def _remove(self, child: Child, name: str) -> None:
        for service in (f"scheduler-{name}", f"worker-{name}"):
            await self._cluster.directory.publish(service, [])
        await child.stop()

    async def _known_to_router(self, name: str) -> None:
        """Return once requests can go there. Raises Unavailable where it was not heard of within KNOWN_S."""
        fleet = self._cluster.service("router").service.fleet
        deadline = time.monotonic() + KNOWN_S
        while not any(each.replica_id == name and fleet.available(each) for each in fleet.replicas()):
            if time.monotonic() > deadline:
                raise Unavailable(f"the router has not heard of {name} within {KNOWN_S:g} s")
            await asyncio.sleep(0.02)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    def _known(self, name: str) -> _Served:
        if name not in self._models:
            raise unknown(name, list(self._models))
        return self._models[name]

    def _residents(self) -> int:
        return sum(replica.state != "failed" for each in self._models.values() for replica in each.replicas.values())

    def _promised(self) -> int:
        """Bytes that were set aside for replicas and that these have not taken yet."""
        own, promised = 0, 0
        for served in self._models.values():
            for replica in served.replicas.values():
                if replica.state == "failed":
                    continue
                if replica.child is None and replica.keeper is None:
                    own += served.bytes_each
                else:
                    promised += max(0, served.bytes_each - _resident(replica))
        taken_here = psutil.Process().memory_info().rss - self._base_bytes
        return promised + max(0, own - max(0, taken_here))

    def _kv_bytes(self, name: str) -> int:
        """What the replicas of a model of the cluster's own have set aside for KV, each."""
        fleet = self._cluster.service("router").service.fleet
        of_model = [each.state.load.kv_bytes for each in fleet.replicas() if each.state.model == name]
        configured = next(each.kv_memory_bytes for each in self._cluster.models if each.served_name == name)
        return max([configured, *of_model])

    def _row(self, served: _Served) -> inference_pb2.ServedModel:
        replicas = [
            inference_pb2.ServedReplica(
                id=replica.id,
                state=replica.state,
                reason=replica.reason,
                pid=replica.child.pid if replica.child is not None else 0 if replica.keeper else os.getpid(),
                bytes=0 if replica.state == "failed" else served.bytes_each,
                resident_bytes=_resident(replica),
                since_s=time.monotonic() - replica.changed_s,
            )
            for _, replica in sorted(served.replicas.items())
        ]
        state = min((replica.state for replica in replicas), key=STATES.index, default="draining")
        name = served.model.served_name
        return inference_pb2.ServedModel(
            id=name, model=served.model.model, source=served.source, state=state, replicas=replicas
        )

    def _write(self, but: str = "") -> None:
        """Keep what was loaded and did not fail."""
        loaded = [
            served.model
            for name, served in self._models.items()
            if served.source == "api" and name != but and not served.failed
        ]
        self._file.write(loaded)

    def _log_of(self, name: str) -> Path:
        home = Home(self._cluster.config.home)
        home.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        return home.logs / f"replica-{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.log"


def refuse_scaling(model: ModelConfig) -> None:
    """Raises InvalidArgument for a model that is to follow its load: replicas of one machine share its cores."""
    if model.max_replicas:
        raise InvalidArgument(
            f"max_replicas = {model.max_replicas} of {model.served_name}: replicas follow the load under `russet up`; "
            "here `replicas` is accepted",
            param="models.max_replicas",
        )


def _resident(replica: _Replica) -> int:
    if replica.child is None or not replica.child.pid:
        return 0
    try:
        return psutil.Process(replica.child.pid).memory_info().rss
    except psutil.NoSuchProcess:
        return 0
