"""The gateway: HTTP and gRPC in front, router, schedulers, memory and learner behind."""

import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

from actors.base.errors import Conflict
from actors.base.keys import Keyring
from actors.base.server import Server
from actors.base.telemetry import Telemetry
from cluster.controller import Controller
from cluster.gateway.aliases import Aliases
from cluster.gateway.audit import Audit
from cluster.gateway.auth import Gate
from cluster.gateway.catalog import Catalog
from cluster.gateway.config import GatewayConfig
from cluster.gateway.cost_router import CostRouting
from cluster.gateway.documents.grpc import DocumentsService
from cluster.gateway.documents.http import Documents
from cluster.gateway.explain import Explain
from cluster.gateway.failover import Dispatcher
from cluster.gateway.feedback import Feedback
from cluster.gateway.grpc import InferenceService, admitted
from cluster.gateway.health import Health
from cluster.gateway.http import Api, HttpServer
from cluster.gateway.loading import Loading
from cluster.gateway.models import Models
from cluster.gateway.named_routers import NamedRouters
from cluster.gateway.outcomes import Outcomes
from cluster.gateway.procedures import Procedures
from cluster.gateway.quotas import Quotas
from cluster.gateway.recall.grounding import Recall
from cluster.gateway.records import Records
from cluster.gateway.requests import Requests
from cluster.gateway.routes import Routes
from cluster.gateway.server_tools import embedding_by
from cluster.gateway.sessions import Sessions
from cluster.gateway.spool import Spool
from cluster.gateway.status import Status
from cluster.gateway.witness import Witness
from cluster.tool_runtime.config import ToolsConfig
from cluster.tool_runtime.registry import Registry
from cluster.tool_runtime.runtime import ToolRuntime
from cluster.view.look import Published
from protos.gen.documents_pb2_grpc import DocumentsStub, add_DocumentsServicer_to_server
from protos.gen.inference_pb2_grpc import add_InferenceServicer_to_server
from protos.gen.learner_pb2_grpc import LearnerStub
from protos.gen.memory_pb2_grpc import MemoryStub
from protos.gen.quotas_pb2_grpc import QuotasStub
from protos.gen.router_pb2_grpc import CostStub, RouterStub, SemanticStub

NO_TOOLS = ToolsConfig()


class GatewayAddresses(NamedTuple):
    """Where clients connect: http://HOST:PORT (https:// with TLS) and HOST:PORT."""

    http: str
    grpc: str


class Gateway:
    """Serves clients. It connects to schedulers by what the router says of them."""

    def __init__(
        self,
        config: GatewayConfig,
        router: RouterStub,
        memory: MemoryStub,
        learner: LearnerStub,
        semantic: SemanticStub,
        cost: CostStub,
        documents: DocumentsStub,
        quotas: QuotasStub,
        telemetry: Telemetry,
        metrics: Callable[[], Awaitable[bytes]] | None = None,
        tools: ToolsConfig = NO_TOOLS,
        keyring: Keyring | None = None,
        controller: Controller | None = None,
        published: Published | None = None,
    ) -> None:
        """`metrics` renders what /metrics shows; by default this process's own. `keyring` seals what waits on disk.

        Without it, or without gateway.spool_directory, what waits is lost with this process. `controller` loads models.
        `published` tells which services there are, for /status.
        """
        self._config = config
        self._telemetry = telemetry
        self._routes = Routes(config, router, telemetry)
        self._catalog = Catalog(config)
        sessions = self._sessions = Sessions(config, memory)
        self._outcomes = Outcomes(config, router, telemetry)
        spool = None
        if keyring is not None and config.spool_directory is not None:
            directory = config.spool_directory / f"gateway-{telemetry.replica or 0}"
            spool = Spool(directory, keyring, memory, config.spool_bytes, telemetry)
        self._records = Records(config, router, memory, learner, sessions, self._outcomes, telemetry, spool)
        dispatcher = Dispatcher(config, self._routes, self._catalog, telemetry)
        self.tools = ToolRuntime(tools, Registry(tools), embedding_by(memory), telemetry)
        """What runs server-side tools."""
        recall = Recall(config, documents, memory)
        requests = Requests(
            config,
            self._routes,
            self._catalog,
            dispatcher,
            self._records,
            sessions,
            self.tools,
            self._outcomes,
            recall,
            telemetry,
        )
        self._grammars = requests.grammars
        audit = self._audit = Audit(memory, spool)
        models, gate = Models(self._routes, memory), Gate(config, audit.keys_changed)
        aliases = Aliases(router, audit)
        self._quotas = Quotas(quotas, telemetry)
        feedback = Feedback(self._records, learner, semantic)
        render = metrics or self._own_metrics
        loading = Loading(controller, audit)
        routing = NamedRouters(semantic), CostRouting(cost), Explain(requests)
        self._status = Status(config, self._routes, published)
        kept = Documents(documents), Witness(memory), Procedures(memory)
        areas = (*kept, *routing, aliases, loading, self._status)
        others = [area.routes for area in areas]
        api = Api(requests, models, Health(requests), gate, self._quotas, render, feedback, others)
        self._http = HttpServer(api.app(), config)
        admit = partial(admitted, gate=gate, quotas=self._quotas, limit=config.max_body_bytes)
        service = InferenceService(requests, models, gate, self._quotas, feedback, aliases, loading)
        inference = [
            (add_InferenceServicer_to_server, service),
            (add_DocumentsServicer_to_server, DocumentsService(documents, admit)),
        ]
        name, address = f"inference-{uuid.uuid4().hex}", f"{config.host}:{config.grpc_port}"
        self._grpc = Server(name, inference, tcp=address, security=config.tls)
        self.addresses = GatewayAddresses("", "")
        """Set by start()."""

    async def start(self) -> GatewayAddresses:
        """Listen. Raises Conflict naming the port that is taken and the flag that changes it."""
        http = await self._http.start()
        try:
            addresses = await self._grpc.start()
        except Conflict as error:
            await self._http.stop()
            raise Conflict(
                f"gRPC port {self._config.grpc_port} on {self._config.host} is taken by another program; "
                "choose another with --grpc-port or gateway.grpc_port"
            ) from error
        await self._routes.start()
        self._status.watch.start()
        await self._records.start()
        self._outcomes.start()
        await self.tools.registry.start()
        self.addresses = GatewayAddresses(http, addresses[-1].removeprefix("tcp:"))
        return self.addresses

    async def stop(self) -> None:
        """Let open streams end within the grace, then send what is still to be recorded."""
        await self._http.stop()
        await self._grpc.stop(self._config.shutdown_grace_s)
        await self._quotas.stop()
        await self._audit.stop()
        await self.tools.registry.stop()
        await self._records.stop()
        await self._outcomes.stop()
        await self._status.watch.stop()
        await self._routes.stop()
        await self._catalog.close()
        self._grammars.close()

    async def _own_metrics(self) -> bytes:
        return self._telemetry.render()
