"""Every service in one process, without Ray: `russet serve`, tests and benchmarks."""

import uuid
from types import TracebackType

from cluster import compose
from cluster.capacity import planned
from cluster.compose import Listen, Serving, Target
from cluster.config import Config
from cluster.topology import replica_id


class LocalDirectory:
    """Services of one process find each other by in-process name; nothing listens but the gateway."""

    node = "local"

    def __init__(self) -> None:
        self._cluster = uuid.uuid4().hex[:8]
        self._services: dict[str, list[str]] = {}

    def name(self, service: str) -> str:
        """Unique in the process."""
        return f"{self._cluster}/{service}"

    def listen(self, service: str) -> Listen:
        """Nowhere: in-process only."""
        return Listen()

    def find(self, service: str) -> Target:
        """Its in-process address."""
        return f"inproc:{self.name(service)}"

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
    """`async with LocalCluster(config) as cluster:`, and `cluster.http` answers from the services a fleet runs."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.directory = LocalDirectory()
        self.running: list[Serving] = []

    async def start(self) -> "LocalCluster":
        """Start every service, the gateway last. What started is stopped again where a later one fails."""
        config, _ = planned(self.config, self.directory.node)
        directory = self.directory
        try:
            self.running.append(await compose.serve_memory(config, directory))
            self.running.append(await compose.serve_router(config, directory))
            self.running.append(await compose.serve_learner(config, directory))
            for model in config.models:
                for index in range(model.replicas):
                    replica = replica_id(model.served_name, index)
                    self.running.append(await compose.serve_worker(model, replica, directory))
                    self.running.append(await compose.serve_scheduler(config, replica, directory))
            self.running.append(await compose.serve_gateway(config, "0", directory))
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

    async def stop(self) -> None:
        """Stop everything, the gateway first."""
        while self.running:
            await self.running.pop().stop()

    async def __aenter__(self) -> "LocalCluster":
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
