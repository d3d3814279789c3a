"""The actors on Ray: Serve deployments for lifecycle, health and restart; gRPC, never Ray, for traffic.

Replicas of models are in ray_replica.py, what deploys all of them in ray_deploy.py.
"""

import asyncio
import json
from collections.abc import Sequence
from functools import cached_property

from ray import serve
from ray.experimental import internal_kv

from actors.base.security import Security, adopt
from cluster import compose
from cluster.certificates import certificate_of
from cluster.compose import Listen, Serving, Target
from cluster.config import Config
from cluster.home import Home
from cluster.identity import identify
from cluster.ray_certificates import HeadSigner, node_name
from cluster.ray_metrics import RayMetrics

_KEY = b"russet:"


class RayDirectory:
    """Services bind a unix socket and a TCP port of their node; addresses live in Ray's own store (the GCS)."""

    def __init__(self, config: Config) -> None:
        self._home = Home(config.home)
        self.node = node_name(config)
        self._certificate = certificate_of(config, self.node)
        self._sign = HeadSigner(config.home)
        adopt(self._certificate.security if self._certificate else None)

    def name(self, service: str) -> str:
        """A process runs one cluster, so plain names are unique."""
        return service

    def listen(self, service: str) -> Listen:
        """Its unix socket within the node and a free TCP port for the others."""
        return Listen(unix=str(self._home.socket(service)), tcp=f"{self.node}:0")

    def find(self, service: str) -> Target:
        """Asked again whenever the last answer stopped working, since a restarted service listens elsewhere."""

        async def addresses() -> Sequence[str]:
            return (await asyncio.to_thread(_read)).get(service, [])

        return addresses

    async def secure(self) -> Security | None:
        """Have the node's certificate, signed by the head."""
        if self._certificate is None:
            return None
        await asyncio.to_thread(self._certificate.ensure, self._sign)
        return self._certificate.security

    async def upkeep(self) -> None:
        """Renew it."""
        if self._certificate is not None:
            await self._certificate.keep(self._sign)

    async def publish(self, service: str, addresses: list[str]) -> None:
        """Write or delete its entry."""
        await asyncio.to_thread(_write, service, addresses)

    async def services(self) -> dict[str, list[str]]:
        """All entries."""
        return await asyncio.to_thread(_read)


def _write(service: str, addresses: list[str]) -> None:
    key = _KEY + service.encode()
    if addresses:
        internal_kv._internal_kv_put(key, json.dumps(addresses).encode(), overwrite=True)
    else:
        internal_kv._internal_kv_del(key)


def _read() -> dict[str, list[str]]:
    keys = internal_kv._internal_kv_list(_KEY)
    values = [(key, internal_kv._internal_kv_get(key)) for key in keys]
    return {key.removeprefix(_KEY).decode(): json.loads(value) for key, value in values if value}


class Actor:
    """A Serve replica around one service."""

    serving: Serving

    @cached_property
    def _metrics(self) -> RayMetrics:
        return RayMetrics(self.serving.telemetry)

    async def check_health(self) -> None:
        """Serve restarts the replica where its own server does not answer. Every 2 s: Ray's metrics keep up by it."""
        await identify(self.serving.addresses)
        self._metrics.show()

    async def __del__(self) -> None:
        """Serve's graceful stop."""
        await self.serving.stop()


class Memory(Actor):
    """The memory actor."""

    async def __init__(self, config: str) -> None:
        settings = Config.model_validate_json(config)
        self.serving = await compose.serve_memory(settings, RayDirectory(settings))


class Router(Actor):
    """The router actor."""

    async def __init__(self, config: str) -> None:
        settings = Config.model_validate_json(config)
        self.serving = await compose.serve_router(settings, RayDirectory(settings))


class Learner(Actor):
    """The learner actor."""

    async def __init__(self, config: str) -> None:
        settings = Config.model_validate_json(config)
        self.serving = await compose.serve_learner(settings, RayDirectory(settings))


class Gateway(Actor):
    """A gateway, listening by itself: requests never pass through Serve's proxy."""

    async def __init__(self, config: str) -> None:
        settings = Config.model_validate_json(config)
        rank = serve.get_replica_context().rank.rank
        self.serving = await compose.serve_gateway(settings, str(rank), RayDirectory(settings), None)
