"""Build the services and connect them. Every mode uses this: one process, Ray actors on one node, or on many.

Each process imports only the actor it runs, hence the imports inside the functions: the router has no use for MLX.
A mode differs only in its `Directory`: where a service listens and how another finds it.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol

from actors.base.channel import Channel, connect
from actors.base.keys import Keyring
from actors.base.security import Security
from actors.base.server import Register, Server
from actors.base.telemetry import Telemetry
from cluster.config import Config, ModelConfig
from cluster.controller import Controller
from cluster.identity import TelemetryService, scrape
from cluster.machine import MachineMetrics
from cluster.remote_control import ControlService, RemoteController
from cluster.telemetry import telemetry as telemetry_of
from cluster.topology import replica_index
from protos.gen import telemetry_pb2, telemetry_pb2_grpc

Target = str | Sequence[str] | Callable[[], Awaitable[Sequence[str]]]


@dataclass(frozen=True)
class Listen:
    """Where a server binds: a unix socket path, host:port, both, or neither (in-process only)."""

    unix: str | None = None
    tcp: str | None = None


class Directory(Protocol):
    """Where services are. Names are role or role-replica: router, memory, scheduler-smollm2-0."""

    node: str

    def name(self, service: str) -> str:
        """The name a server registers in process; unique among clusters that share one."""
        ...

    def listen(self, service: str) -> Listen:
        """Where `service` shall bind."""
        ...

    def find(self, service: str) -> Target:
        """What `connect` takes to reach `service`."""
        ...

    async def secure(self) -> Security | None:
        """Have what TCP listeners of this node show and demand; None is plain text. Raises RussetError."""
        ...

    async def upkeep(self) -> None:
        """What is to be done for as long as a service runs; it may end."""
        ...

    async def publish(self, service: str, addresses: list[str]) -> None:
        """Make `service` known at `addresses`; none withdraws it."""
        ...

    async def services(self) -> dict[str, list[str]]:
        """Every published service and its addresses."""
        ...


class Service(Protocol):
    """What every actor's servicer offers besides its methods."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@dataclass
class Serving:
    """One running service: its servicer, its server, and the channels it was given."""

    name: str
    service: Any
    server: Server
    addresses: list[str]
    directory: Directory
    channels: list[Channel]
    telemetry: Telemetry
    upkeep: asyncio.Task[None]
    """The directory's."""
    health: asyncio.Task[None] | None = None
    """Tells gRPC health what the service says of itself."""

    async def stop(self) -> None:
        """Withdraw, let calls in flight end, stop the service, close its channels."""
        for task in filter(None, (self.upkeep, self.health)):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self.directory.publish(self.name, [])
        await self.server.stop(grace_s=1)
        await self.service.stop()
        for channel in self.channels:
            await channel.close()
        await asyncio.to_thread(self.telemetry.shutdown)


async def serve_memory(config: Config, directory: Directory) -> Serving:
    """The memory actor."""
    from actors.memory.service import MemoryService
    from protos.gen.documents_pb2_grpc import add_DocumentsServicer_to_server
    from protos.gen.memory_pb2_grpc import add_MemoryServicer_to_server
    from protos.gen.quotas_pb2_grpc import add_QuotasServicer_to_server

    def add(service: MemoryService, server: Any) -> None:
        add_MemoryServicer_to_server(service, server)
        add_DocumentsServicer_to_server(service.documents, server)
        add_QuotasServicer_to_server(service.quotas, server)

    telemetry = telemetry_of(config.telemetry, "memory", "0")
    return await _serve("memory", "memory", MemoryService(config.memory, telemetry), add, directory, telemetry)


async def serve_router(config: Config, directory: Directory) -> Serving:
    """The router actor."""
    from actors.router.service import RouterService
    from protos.gen.memory_pb2_grpc import MemoryStub
    from protos.gen.router_pb2_grpc import (
        add_CostServicer_to_server,
        add_RouterServicer_to_server,
        add_SemanticServicer_to_server,
    )

    telemetry = telemetry_of(config.telemetry, "router", "0")
    memory = connect(directory.find("memory"))

    def add(service: RouterService, server: Any) -> None:
        add_RouterServicer_to_server(service, server)
        add_SemanticServicer_to_server(service.semantic, server)
        add_CostServicer_to_server(service.cost, server)

    service = RouterService(config.router, telemetry, memory=MemoryStub(memory))
    return await _serve("router", "router", service, add, directory, telemetry, [memory])


async def serve_learner(config: Config, directory: Directory) -> Serving:
    """The learner actor."""
    from actors.learner.service import LearnerService
    from protos.gen.learner_pb2_grpc import add_LearnerServicer_to_server
    from protos.gen.memory_pb2_grpc import MemoryStub
    from protos.gen.router_pb2_grpc import SemanticStub

    telemetry = telemetry_of(config.telemetry, "learner", "0")
    memory, router = connect(directory.find("memory")), connect(directory.find("router"))
    service = LearnerService(config.learner, MemoryStub(memory), SemanticStub(router), telemetry)
    channels = [memory, router]
    return await _serve("learner", "learner", service, add_LearnerServicer_to_server, directory, telemetry, channels)


async def serve_worker(config: Config, model: ModelConfig, replica_id: str, directory: Directory) -> Serving:
    """One worker; loads its model before it listens."""
    from actors.worker.service import WorkerService
    from protos.gen.worker_pb2_grpc import add_WorkerServicer_to_server

    telemetry = telemetry_of(config.telemetry, "worker", replica_id)
    service = WorkerService(model.of_replica(replica_index(replica_id)), telemetry)
    serving = await _serve(
        "worker", f"worker-{replica_id}", service, add_WorkerServicer_to_server, directory, telemetry
    )
    serving.health = asyncio.create_task(_tell(serving.server, service.serving()))
    return serving


async def serve_scheduler(config: Config, replica_id: str, directory: Directory) -> Serving:
    """One replica's scheduler; it announces itself to the router once its worker said hello."""
    from actors.scheduler.service import SchedulerService
    from protos.gen.router_pb2_grpc import RouterStub
    from protos.gen.scheduler_pb2_grpc import add_SchedulerServicer_to_server
    from protos.gen.worker_pb2_grpc import WorkerStub

    telemetry = telemetry_of(config.telemetry, "scheduler", replica_id)
    worker, router = connect(directory.find(f"worker-{replica_id}")), connect(directory.find("router"))
    service = SchedulerService(
        config.scheduler, replica_id, directory.node, WorkerStub(worker), RouterStub(router), telemetry
    )
    name = f"scheduler-{replica_id}"
    serving = await _serve(
        "scheduler", name, service, add_SchedulerServicer_to_server, directory, telemetry, [worker, router]
    )
    serving.health = asyncio.create_task(_tell(serving.server, service.serving()))
    service.announce(serving.addresses, lambda: worker.addresses)
    return serving


async def serve_gateway(config: Config, replica: str, directory: Directory, controller: Controller | None) -> Serving:
    """One gateway: HTTP and the public gRPC service, and beside them its own metrics.

    `controller` loads models; None: the one that the directory has does.
    """
    from cluster.gateway.service import Gateway
    from protos.gen.control_pb2_grpc import ControlStub
    from protos.gen.documents_pb2_grpc import DocumentsStub
    from protos.gen.learner_pb2_grpc import LearnerStub
    from protos.gen.memory_pb2_grpc import MemoryStub
    from protos.gen.quotas_pb2_grpc import QuotasStub
    from protos.gen.router_pb2_grpc import CostStub, RouterStub, SemanticStub

    telemetry = telemetry_of(config.telemetry, "gateway", replica)
    channels = [connect(directory.find(service)) for service in ("router", "memory", "learner")]
    router, memory, learner = channels

    async def metrics() -> bytes:
        return await scrape(await directory.services())

    actors = RouterStub(router), MemoryStub(memory), LearnerStub(learner)
    stubs = *actors, SemanticStub(router), CostStub(router), DocumentsStub(memory), QuotasStub(memory)
    keyring = Keyring.load_or_create(config.memory.key_file) if config.memory.key_file else None
    if controller is None:
        channels.append(connect(directory.find("controller")))
        controller = RemoteController(ControlStub(channels[-1]))
    more = {"tools": config.tools, "keyring": keyring, "controller": controller, "published": directory.services}
    gateway = Gateway(config.gateway, *stubs, telemetry, metrics=metrics, **more)
    return await _serve("gateway", f"gateway-{replica}", gateway, None, directory, telemetry, channels)


async def serve_controller(
    config: Config, controller: Any, directory: Directory, channels: Sequence[Channel]
) -> Serving:
    """The controller of a cluster, and of `channels` the end: a Controller that is a Service too."""
    from protos.gen.control_pb2_grpc import add_ControlServicer_to_server

    def add(service: Any, server: Any) -> None:
        add_ControlServicer_to_server(ControlService(service), server)

    telemetry = telemetry_of(config.telemetry, "controller", "0")
    return await _serve("controller", "controller", controller, add, directory, telemetry, channels)


async def _tell(server: Server, states: AsyncIterator[bool]) -> None:
    async for serving in states:
        await server.set_serving(serving)


async def _serve(
    role: str,
    name: str,
    service: Any,
    add: Callable[[Any, Any], None] | None,
    directory: Directory,
    telemetry: Telemetry,
    channels: Sequence[Channel] = (),
) -> Serving:
    """Start `service`, then the server in front of it, then make it known."""
    security = await directory.secure()
    await service.start()
    telemetry.registry.register(MachineMetrics(directory.node))
    identity = telemetry_pb2.Identity(
        role=role,
        replica=telemetry.replica,
        node=directory.node,
        pid=os.getpid(),
        started_s=time.time(),
        version=version("russet"),
    )
    servicers: list[tuple[Register, Any]] = [
        (telemetry_pb2_grpc.add_TelemetryServicer_to_server, TelemetryService(telemetry, identity))
    ]
    if add is not None:
        servicers.insert(0, (add, service))
    listen = directory.listen(name)
    # The others' spans are their own: they say more than a call's name.
    spans = telemetry if role in ("memory", "learner") else None
    server = Server(directory.name(name), servicers, tcp=listen.tcp, unix=listen.unix, spans=spans, security=security)
    addresses = await server.start()
    await directory.publish(name, addresses)
    upkeep = asyncio.create_task(directory.upkeep(), name="upkeep")
    return Serving(name, service, server, addresses, directory, list(channels), telemetry, upkeep)
