"""Every service in one process, without Ray: `russet serve`, tests and benchmarks."""

import asyncio
import ctypes
import gc
import logging
import shutil
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from actors.base.errors import InvalidArgument
from cluster import compose
from cluster.capacity import planned
from cluster.compose import Listen, Serving, Target
from cluster.config import Config, ModelConfig
from cluster.local_models import LocalModels, refuse_scaling
from cluster.replica_process import socket_of
from cluster.topology import replica_id

log = logging.getLogger(__name__)
FIRST_PAUSE_S, LAST_PAUSE_S = 0.1, 10.0


class LocalDirectory:
    """Services of one process find each other by in-process name; nothing listens on a port but the gateway."""

    node = "local"

    def __init__(self) -> None:
        self._cluster = uuid.uuid4().hex[:8]
        self.run = Path(tempfile.mkdtemp(prefix="russet-"))
        """Sockets, by which replicas in processes of their own and this one find each other."""
        self._services: dict[str, list[str]] = {}

    def name(self, service: str) -> str:
        """Unique in the process."""
        return f"{self._cluster}/{service}"

    def listen(self, service: str) -> Listen:
        """In-process only; the router also where replicas in processes of their own reach it."""
        return Listen(unix=str(socket_of(self.run, service)) if service == "router" else None)

    def find(self, service: str) -> Target:
        """Its in-process address."""
        return f"inproc:{self.name(service)}"

    async def secure(self) -> None:
        """Nothing to secure: no actor listens on TCP."""

    async def upkeep(self) -> None:
        """Nothing to keep up."""

    async def publish(self, service: str, addresses: list[str]) -> None:
        """Remember or forget it."""
        if addresses:
            self._services[service] = addresses
        else:
            self._services.pop(service, None)

    async def services(self) -> dict[str, list[str]]:
        """All that run."""
        return dict(self._services)


class LocalCluster:
    """`async with LocalCluster(config) as cluster:`, and `cluster.http` answers from the services a fleet runs.

    InvalidArgument where models ask for different instruction sets: a process uses one.
    """

    def __init__(self, config: Config) -> None:
        if len(isas := {model.isa for model in config.models}) > 1:
            raise InvalidArgument(
                f"models ask for the instruction sets {', '.join(sorted(isas))}; one process uses one: the same `isa` "
                "for every model is accepted, or a process for each (`russet up`)",
                param="models.isa",
            )
        for model in config.models:
            refuse_scaling(model)
        self.config = config
        self.directory = LocalDirectory()
        self.running: list[Serving] = []
        self.models: Sequence[ModelConfig] = ()
        """Those of the configuration, as planned."""
        self.loaded = LocalModels(self)
        """Loads and unloads models meanwhile."""
        self._keepers: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> "LocalCluster":
        """Start every service, the gateway last. What started is stopped again where a later one fails."""
        config, _ = planned(self.config, self.directory.node)
        directory = self.directory
        try:
            self.running.append(await compose.serve_memory(config, directory))
            self.running.append(await compose.serve_router(config, directory))
            self.running.append(await compose.serve_learner(config, directory))
            self.models = config.models
            self.loaded.before_models()
            for model in config.models:
                for index in range(model.replicas):
                    replica = replica_id(model.served_name, index)
                    self.running.append(await compose.serve_worker(config, model, replica, directory))
                    self._keepers[replica] = asyncio.create_task(self._keep_worker(model, replica))
                    self.running.append(await compose.serve_scheduler(config, replica, directory))
            self.running.append(await compose.serve_gateway(config, "0", directory, self.loaded))
            self.loaded.after_models()
        except BaseException:
            await self.stop()
            raise
        return self

    def service(self, name: str) -> Serving:
        """A running service by its name, e.g. scheduler-smollm2-135m-instruct-0."""
        return next(serving for serving in self.running if serving.name == name)

    @property
    def http(self) -> str:
        """Base URL of the gateway."""
        return self.service("gateway-0").service.addresses.http

    @property
    def grpc(self) -> str:
        """host:port of the public gRPC service."""
        return self.service("gateway-0").service.addresses.grpc

    async def end_replica(self, replica: str) -> None:
        """Stop a replica of this process for good, and give its memory back."""
        keeper = self._keepers.pop(replica)
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        for name in (f"scheduler-{replica}", f"worker-{replica}"):
            serving = self.service(name)
            self.running.remove(serving)
            await serving.stop()
            del serving
        give_back()

    async def _keep_worker(self, model: ModelConfig, replica: str) -> None:
        """What Ray does for a worker's process: replace a worker whose engine failed by a new one of the same name.

        Its scheduler says hello to the new one, and the streams go on.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            worker = self.service(f"worker-{replica}")
            # Logged, but not kept: while there was a failure there were frames that hold the weights.
            log.critical("the engine of %s failed (%r); starting another", worker.name, await worker.service.failed())
            await worker.stop()
            while True:
                try:
                    again = await compose.serve_worker(self.config, model, replica, self.directory)
                    break
                except Exception:
                    log.exception("%s did not start; trying again in %g s", worker.name, pause_s)
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, LAST_PAUSE_S)
            self.running[self.running.index(worker)] = again
            pause_s = FIRST_PAUSE_S

    async def stop(self) -> None:
        """Stop everything, the gateway first."""
        for keeper in self._keepers.values():
            keeper.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)
        self._keepers.clear()
        if self.running and self.running[-1].name.startswith("gateway"):
            await self.running.pop().stop()
        await self.loaded.stop()
        while self.running:
            await self.running.pop().stop()
        shutil.rmtree(self.directory.run, ignore_errors=True)

    async def __aenter__(self) -> "LocalCluster":
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def give_back() -> None:
    """Have what was freed leave the process; on glibc its allocator would keep some for later."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
