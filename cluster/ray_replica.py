"""A replica on Ray: one failure domain.

Its scheduler (the one Serve replica of an application of its own) and its worker (a plain actor that the scheduler's
process owns) share a placement group on one node. Ray restarts a dead worker in place, Serve a dead scheduler with a
new worker.
"""

import asyncio
import logging
import os
from typing import Any

import ray
import ray.exceptions
from ray import serve
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster import compose
from cluster.config import Config, ModelConfig
from cluster.fleet_record import ReplicaRecord
from cluster.ray_app import Actor, RayDirectory
from cluster.ray_metrics import RayMetrics

NAMESPACE = "russet"
NODE_LABEL = "ray.io/node-id"
HEALTH_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 6.0
"""For a worker to finish what it writes to disk: within Serve's graceful_shutdown_timeout_s, after the scheduler."""


class Worker:
    """One worker process. A plain actor: Ray restarts it at once, and a new epoch begins."""

    async def __init__(self, config: str, model: str, name: str) -> None:
        settings, served = Config.model_validate_json(config), ModelConfig.model_validate_json(model)
        self.serving = await compose.serve_worker(settings, served, name, RayDirectory(settings))
        self._metrics = RayMetrics(self.serving.telemetry)
        self._watch = asyncio.create_task(self._end_with_the_engine())

    async def _end_with_the_engine(self) -> None:
        """A process whose engine died would look alive and answer nothing: end it, and Ray starts another."""
        failure = await self.serving.service.failed()
        logging.getLogger(__name__).critical("the engine failed; this worker ends, to be restarted", exc_info=failure)
        os._exit(1)

    async def ready(self) -> int:
        """Its process id, once it serves. Health checks ask every 2 s, by which Ray's metrics keep up."""
        self._metrics.show()
        return os.getpid()

    async def stop(self) -> None:
        """Finish what is to be kept on disk, before the process is ended."""
        await self.serving.stop()


class Replica(Actor):
    """One replica: this process is the scheduler, and it owns the worker beside it in the placement group."""

    async def __init__(self, config: str, model: str, name: str, memory: int) -> None:
        settings = Config.model_validate_json(config)
        # A placement group keeps the two on one node: they die together, and talk over a unix socket.
        group = ray.util.get_current_placement_group()
        assert group is not None, "target() gives every replica a placement group"
        self.worker: Any = (
            ray.remote(Worker)
            .options(
                name=f"worker-{name}",
                namespace=NAMESPACE,
                num_cpus=0,
                memory=memory,
                max_restarts=-1,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, 0),
            )
            .remote(config, model, name)
        )
        # A model that cannot be loaded ends this constructor, and with its reason the replica.
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


def target(config: Config, name: str, replica: ReplicaRecord) -> serve.RunTarget:
    """The application of a replica that was placed: on its node, with the memory that was set aside for it there.

    Memory is Ray's own resource of this name, which counts what is promised and limits nothing.
    """
    assert replica.model is not None, "it was placed"
    deployed = deployment(Replica, replica.application).options(
        placement_group_bundles=[{"memory": replica.bytes}],
        placement_group_bundle_label_selector=[{NODE_LABEL: replica.node}],
        placement_group_strategy="STRICT_PACK",
    )
    text, model = config.model_dump_json(context={"secrets": True}), replica.model.model_dump_json()
    bound = deployed.bind(text, model, name, replica.bytes)
    return serve.RunTarget(bound, name=replica.application, route_prefix=None)


def deployment(actor: type, name: str, resources: dict[str, float] | None = None) -> serve.Deployment:
    """How Serve keeps an actor. `resources`: of Ray's, what it takes."""
    return serve.deployment(
        name=name,
        ray_actor_options={"num_cpus": 0, "resources": resources or {}},
        max_constructor_retry_count=2,
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=10,
        graceful_shutdown_wait_loop_s=0.1,
    )(actor)
