"""The actors on Ray: Serve deployments for lifecycle, health and restart; gRPC, never Ray, for traffic.

A replica is one failure domain: its scheduler (a Serve replica) and its worker (a plain actor the scheduler's process
owns) share a placement group. Ray restarts a dead worker in place, Serve a dead scheduler with a new worker.
"""

import asyncio
import json
import logging
import os
import re
from collections.abc import Sequence
from typing import Any

import ray
import ray.exceptions
from ray import serve
from ray.experimental import internal_kv
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.base.errors import Unavailable
from actors.base.security import Security, adopt
from cluster import compose
from cluster.certificates import certificate_of
from cluster.compose import Listen, Serving, Target
from cluster.config import Config
from cluster.home import Home
from cluster.identity import identify
from cluster.ray_certificates import HeadSigner, node_name
from cluster.topology import replica_id

NAMESPACE = "russet"
ACCELERATOR = "accelerator"
"""Custom resource: each node has 1, which the replicas on it share."""
HEALTH_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 6.0
"""For a worker to finish what it writes to disk: within Serve's graceful_shutdown_timeout_s, after the scheduler."""
_KEY = b"russet:"
_OUR_ERROR = re.compile(r"actors\.base\.errors\.\w+: (.+)")
"""The last line of a traceback that ends in a RussetError, as Ray and Serve pass it on in their messages."""


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


class _Actor:
    """A Serve replica around one service."""

    serving: Serving

    async def check_health(self) -> None:
        """Serve restarts the replica where its own server does not answer."""
        await identify(self.serving.addresses)

    async def __del__(self) -> None:
        """Serve's graceful stop."""
        await self.serving.stop()


class Memory(_Actor):
    """The memory actor."""

    async def __init__(self, config: str) -> None:
        settings = Config.model_validate_json(config)
        self.serving = await compose.serve_memory(settings, RayDirectory(settings))


class Router(_Actor):
    """The router actor."""

    async def __init__(self, config: str) -> None:
        settings = Config.model_validate_json(config)
        self.serving = await compose.serve_router(settings, RayDirectory(settings))


class Learner(_Actor):
    """The learner actor."""

    async def __init__(self, config: str) -> None:
        settings = Config.model_validate_json(config)
        self.serving = await compose.serve_learner(settings, RayDirectory(settings))


class Gateway(_Actor):
    """A gateway, listening by itself: requests never pass through Serve's proxy."""

    async def __init__(self, config: str) -> None:
        settings = Config.model_validate_json(config)
        rank = serve.get_replica_context().rank.rank
        self.serving = await compose.serve_gateway(settings, str(rank), RayDirectory(settings), None)


class Worker:
    """One worker process. A plain actor: Ray restarts it at once, and a new epoch begins."""

    async def __init__(self, config: str, model_index: int, name: str) -> None:
        settings = Config.model_validate_json(config)
        self.serving = await compose.serve_worker(settings, settings.models[model_index], name, RayDirectory(settings))
        self._watch = asyncio.create_task(self._end_with_the_engine())

    async def _end_with_the_engine(self) -> None:
        """A process whose engine died would look alive and answer nothing: end it, and Ray starts another."""
        failure = await self.serving.service.failed()
        logging.getLogger(__name__).critical("the engine failed; this worker ends, to be restarted", exc_info=failure)
        os._exit(1)

    async def ready(self) -> int:
        """Its process id, once it serves."""
        return os.getpid()

    async def stop(self) -> None:
        """Finish what is to be kept on disk, before the process is ended."""
        await self.serving.stop()


class Replica(_Actor):
    """One replica: this process is the scheduler, and it owns the worker beside it in the placement group."""

    async def __init__(self, config: str, model_index: int) -> None:
        settings = Config.model_validate_json(config)
        model = settings.models[model_index]
        name = replica_id(model.served_name, serve.get_replica_context().rank.rank)
        # A placement group keeps the two on one node: they die together, and talk over a unix socket.
        group = ray.util.get_current_placement_group()
        assert group is not None, "deploy() gives every replica a placement group"
        strategy = PlacementGroupSchedulingStrategy(group, 1)
        self.worker: Any = (
            ray.remote(Worker)
            .options(
                name=f"worker-{name}",
                namespace=NAMESPACE,
                num_cpus=0,
                resources={ACCELERATOR: _share(settings, 1)},
                max_restarts=-1,
                scheduling_strategy=strategy,
            )
            .remote(config, model_index, name)
        )
        # A model that cannot be loaded ends this constructor, and `russet up` with its reason.
        await self.worker.ready.remote()
        self.serving = await compose.serve_scheduler(settings, name, RayDirectory(settings))

    async def check_health(self) -> None:
        """Also unhealthy where Ray has given its worker up (one that could not start again stays dead for Ray)."""
        await super().check_health()
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                await self.worker.ready.remote()
        except (ray.exceptions.ActorUnavailableError, TimeoutError):
            return  # It is being started; its scheduler says NOT_SERVING meanwhile.

    async def __del__(self) -> None:
        """Stop serving first, so that rows in flight end before their worker does."""
        await super().__del__()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self.worker.stop.remote()
        except (ray.exceptions.RayError, TimeoutError) as failure:
            logging.getLogger(__name__).warning("the worker did not stop by itself (%r)", failure)
        ray.kill(self.worker)


def _share(config: Config, bundle: int) -> float:
    """The part of a node's accelerator for a replica's scheduler (bundle 0) or worker (bundle 1)."""
    return (0.01, round(0.9 / sum(model.replicas for model in config.models), 4))[bundle]


def deploy(config: Config) -> None:
    """Start every deployment on the cluster this process is connected to; returns before they are ready."""
    serve.start(proxy_location="Disabled")
    text = config.model_dump_json(context={"secrets": True})
    targets = [
        serve.RunTarget(_deployment(actor, name, config).bind(text), name=name, route_prefix=None)
        for name, actor in (("memory", Memory), ("router", Router), ("learner", Learner), ("gateway", Gateway))
    ]
    bundles = [{ACCELERATOR: _share(config, 0)}, {ACCELERATOR: _share(config, 1)}]
    for index, model in enumerate(config.models):
        name = f"replica-{model.served_name}"
        replica = _deployment(Replica, name, config).options(
            num_replicas=model.replicas,
            ray_actor_options={"num_cpus": 0, "resources": {ACCELERATOR: _share(config, 0)}},
            placement_group_bundles=bundles,
            placement_group_strategy="STRICT_PACK",
        )
        targets.append(serve.RunTarget(replica.bind(text, index), name=name, route_prefix=None))
    serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def _deployment(actor: type, name: str, config: Config) -> serve.Deployment:
    return serve.deployment(
        name=name,
        ray_actor_options={"num_cpus": 0},
        max_constructor_retry_count=2,
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=10,
        graceful_shutdown_wait_loop_s=0.1,
    )(actor)


def waiting_for() -> dict[str, str]:
    """Deployments that are not running yet, with what Serve says of each.

    Raises Unavailable with the reason where one failed to start for a cause of ours: trying again would not help.
    """
    waiting: dict[str, str] = {}
    for name, application in serve.status().applications.items():
        if application.status == "RUNNING":
            continue
        said = "\n".join([application.message, *(each.message for each in application.deployments.values())])
        if reason := _OUR_ERROR.search(said):
            raise Unavailable(f"{name} did not start: {reason[1]}")
        waiting[name] = said.strip() or application.status
    return waiting
