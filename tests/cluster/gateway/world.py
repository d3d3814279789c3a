"""A gateway on real ports, and fakes of everything behind it, in process."""

import itertools
from typing import Any

import httpx

from actors.base.channel import connect
from actors.base.server import Server
from actors.base.telemetry import Telemetry
from cluster.config import Config
from cluster.controller import check_replicas, check_timeout, model_asked, taken, unknown
from cluster.gateway.config import GatewayConfig
from cluster.gateway.service import Gateway
from cluster.tool_runtime.config import ToolsConfig
from protos.gen import (
    documents_pb2_grpc,
    inference_pb2,
    learner_pb2_grpc,
    memory_pb2_grpc,
    quotas_pb2_grpc,
    router_pb2_grpc,
    scheduler_pb2_grpc,
)
from tests.cluster.gateway.fake_memory import FakeDocuments, FakeLearner, FakeMemory, FakeQuotas
from tests.cluster.gateway.fake_replica import Bell, FakeScheduler
from tests.cluster.gateway.fake_router import FakeCost, FakeRouter, FakeSemantic

_names = itertools.count()


class FakeController:
    """Says that it loads what can be asked for, and knows what was."""

    def __init__(self) -> None:
        self.models: dict[str, inference_pb2.ServedModel] = {}

    async def listed(self) -> list[inference_pb2.ServedModel]:
        return list(self.models.values())

    async def load(self, request: inference_pb2.LoadModelRequest) -> inference_pb2.ServedModel:
        model = model_asked(request, Config())
        if model.served_name in self.models:
            raise taken(model.served_name)
        check_replicas(model.replicas)
        replicas = [inference_pb2.ServedReplica(id=f"{model.served_name}-0", state="loading", bytes=model.threads)]
        row = inference_pb2.ServedModel(
            id=model.served_name, model=model.model, source="api", state="loading", replicas=replicas * model.replicas
        )
        self.models[row.id] = row
        return row

    async def scale(self, name: str, replicas: int) -> inference_pb2.ServedModel:
        check_replicas(replicas)
        if name not in self.models:
            raise unknown(name, list(self.models))
        row = self.models[name]
        del row.replicas[replicas:]
        return row

    async def unload(self, name: str, timeout_s: float) -> inference_pb2.ServedModel:
        check_timeout(timeout_s)
        if name not in self.models:
            raise unknown(name, list(self.models))
        return self.models.pop(name)


class World:
    """A gateway and the fakes behind it."""

    def __init__(self) -> None:
        self.bell = Bell()
        self.until = self.bell.until
        self.router, self.memory, self.learner = FakeRouter(self.bell), FakeMemory(self.bell), FakeLearner(self.bell)
        self.semantic, self.cost, self.documents = FakeSemantic(), FakeCost(), FakeDocuments()
        self.quotas = FakeQuotas(self.bell)
        self.telemetry = Telemetry(service="gateway")
        self.controller = FakeController()
        self.servers: dict[str, Server] = {}
        self.channels: list[Any] = []
        self.clients: list[httpx.AsyncClient] = []
        self.gateway: Gateway | None = None
        self.stubs: list[Any] = []

    async def serve(self, name: str, add: Any, servicer: Any) -> str:
        """Serve a fake; returns its address."""
        server = Server(f"{name}-{next(_names)}", [(add, servicer)])
        self.servers[name] = server
        return (await server.start())[0]

    async def replica(self, replica_id: str = "tiny-0", model: str = "tiny", **options: Any) -> FakeScheduler:
        """Start a scheduler that the router knows."""
        scheduler = FakeScheduler(replica_id, model, **options)
        address = await self.serve(replica_id, scheduler_pb2_grpc.add_SchedulerServicer_to_server, scheduler)
        self.router.replicas[replica_id] = (model, [address])
        return scheduler

    async def start(self, tools: ToolsConfig | None = None, **settings: Any) -> Gateway:
        """Start the gateway on ports the system chooses; again for a restart of it alone."""
        if not self.stubs:
            await self._serve_actors()
        defaults = {"port": 0, "grpc_port": 0, "record_delay_s": 0.01, "failover_wait_s": 5, "table_refresh_s": 0.05}
        config = GatewayConfig(**(defaults | settings))
        self.gateway = Gateway(
            config, *self.stubs, self.telemetry, tools=tools or ToolsConfig(), controller=self.controller
        )
        await self.gateway.start()
        return self.gateway

    async def _serve_actors(self) -> None:
        for name, add, stub, servicer in (
            ("router", router_pb2_grpc.add_RouterServicer_to_server, router_pb2_grpc.RouterStub, self.router),
            ("memory", memory_pb2_grpc.add_MemoryServicer_to_server, memory_pb2_grpc.MemoryStub, self.memory),
            ("learner", learner_pb2_grpc.add_LearnerServicer_to_server, learner_pb2_grpc.LearnerStub, self.learner),
            ("semantic", router_pb2_grpc.add_SemanticServicer_to_server, router_pb2_grpc.SemanticStub, self.semantic),
            ("cost", router_pb2_grpc.add_CostServicer_to_server, router_pb2_grpc.CostStub, self.cost),
            (
                "documents",
                documents_pb2_grpc.add_DocumentsServicer_to_server,
                documents_pb2_grpc.DocumentsStub,
                self.documents,
            ),
            ("quotas", quotas_pb2_grpc.add_QuotasServicer_to_server, quotas_pb2_grpc.QuotasStub, self.quotas),
        ):
            channel = connect(await self.serve(name, add, servicer))
            self.channels.append(channel)
            self.stubs.append(stub(channel))

    @property
    def url(self) -> str:
        assert self.gateway
        return self.gateway.addresses.http

    def client(self, **options: Any) -> httpx.AsyncClient:
        """An HTTP client of the gateway."""
        client = httpx.AsyncClient(base_url=self.url, timeout=20, trust_env=False, **options)
        self.clients.append(client)
        return client

    async def stop(self) -> None:
        for client in self.clients:
            await client.aclose()
        if self.gateway:
            await self.gateway.stop()
        for channel in self.channels:
            await channel.close()
        for server in self.servers.values():
            await server.stop(0)
