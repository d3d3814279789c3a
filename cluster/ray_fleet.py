"""What a cluster's controller does things with: Ray, Serve, and the actors themselves."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import ray
import ray.exceptions
from ray import serve
from ray.experimental import internal_kv
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.base.channel import connect
from actors.base.errors import NotFound, RussetError
from actors.worker.models.catalogue import locate
from actors.worker.slab import available_memory
from cluster import compose
from cluster.config import Config, ModelConfig
from cluster.fleet_machines import Machine
from cluster.fleet_record import FleetRecord, ReplicaRecord
from cluster.identity import identify
from cluster.ray_app import Actor, RayDirectory
from cluster.ray_models import RayModels
from cluster.ray_replica import target
from cluster.reconcile import App, Seen
from cluster.scaling import Load
from protos.gen import router_pb2, scheduler_pb2
from protos.gen.router_pb2_grpc import RouterStub
from protos.gen.scheduler_pb2_grpc import SchedulerStub

LOOK_TIMEOUT_S = 5.0
ANSWER_S = 10.0
"""For a call that drains to come back after its time is up."""
_RECORD = b"russet-fleet"


class Controller(Actor):
    """The controller, once in a cluster."""

    async def __init__(self, config: str) -> None:
        settings = Config.model_validate_json(config)
        directory = RayDirectory(settings)
        router = connect(directory.find("router"))
        fleet = RayFleet(settings, directory, RouterStub(router))
        models = RayModels(settings, fleet, await asyncio.to_thread(read_record))
        self.serving = await compose.serve_controller(settings, models, directory, [router])


class NodeAgent:
    """Tells of one node what only a process there can see."""

    def look(self, processes: dict[str, list[int]], models: dict[str, str], key: str) -> dict[str, Any]:
        """Bytes available; the pid (the last one) and resident bytes of each replica; models without their files.

        key: the file of the cluster key, without which nothing can run there.
        """
        return {
            "unfit": "" if not key or Path(key).is_file() else f"has no {key}; copy it from the head",
            "available": available_memory(),
            "running": {name: (pids[-1], sum(map(_resident, pids))) for name, pids in processes.items() if pids},
            "without": [name for name, model in models.items() if not _located(model)],
        }


class RayFleet:
    """The Fleet (see ray_models) of the cluster that this process belongs to."""

    def __init__(self, config: Config, directory: RayDirectory, router: RouterStub) -> None:
        self._config = config
        self._directory = directory
        self._router = router
        self._here = ray.get_runtime_context().get_node_id()
        self._agents: dict[str, Any] = {}
        self._pids: dict[str, tuple[list[str], int]] = {}
        """Of services that have said theirs, with the addresses where they did: one that restarts listens elsewhere."""

    async def machines(self, placed: Mapping[str, str], models: Sequence[ModelConfig]) -> list[Machine]:
        """Every node that lives, and answers."""
        nodes = await asyncio.to_thread(_nodes)
        services = await self._directory.services()
        pids = dict(zip(placed, await asyncio.gather(*(self._pids_of(services, name) for name in placed)), strict=True))
        files = {model.served_name: model.model for model in models}

        async def one(node: dict[str, Any]) -> Machine | None:
            there = {name: pids[name] for name, where in placed.items() if where == node["NodeID"]}
            try:
                async with asyncio.timeout(LOOK_TIMEOUT_S):
                    seen = await self._look(node["NodeID"], there, files)
            except TimeoutError:
                return None  # Its agent may be being started: the next look asks the same one.
            except ray.exceptions.RayError:
                self._agents.pop(node["NodeID"], None)
                return None
            resources = node["Resources"]
            return Machine(
                node["NodeID"],
                node["NodeManagerAddress"],
                max(1, int(resources.get("CPU", 1))),
                int(resources.get("memory", 0)),
                seen["available"],
                {name: label for name, label in (node.get("Labels") or {}).items() if "/" not in name},
                seen["running"],
                frozenset(seen["without"]),
                seen["unfit"],
            )

        found = await asyncio.gather(*map(one, nodes))
        for gone in self._agents.keys() - {node["NodeID"] for node in nodes}:
            del self._agents[gone]
        return [machine for machine in found if machine is not None]

    async def _look(self, node: str, processes: dict[str, list[int]], models: dict[str, str]) -> dict[str, Any]:
        key = str(self._config.memory.key_file or "")
        if node == self._here:
            return await asyncio.to_thread(NodeAgent().look, processes, models, key)
        if node not in self._agents:
            strategy = NodeAffinitySchedulingStrategy(node, soft=False)
            self._agents[node] = ray.remote(NodeAgent).options(num_cpus=0, scheduling_strategy=strategy).remote()
        return await self._agents[node].look.remote(processes, models, key)

    async def _pids_of(self, services: Mapping[str, list[str]], name: str) -> list[int]:
        """Of a replica's scheduler and worker, as far as they answer."""
        pids = []
        for service in (f"scheduler-{name}", f"worker-{name}"):
            addresses = services.get(service, [])
            known, pid = self._pids.get(service, ([], 0))
            if known != addresses or not pid:
                try:
                    pid = (await identify(addresses)).pid
                except RussetError:
                    continue
                self._pids[service] = addresses, pid
            pids.append(pid)
        return pids

    async def seen(self) -> Seen:
        """Asks Serve, Ray and the router."""
        applications, nodes = await asyncio.gather(asyncio.to_thread(_applications), asyncio.to_thread(_nodes))
        try:
            reply = await self._router.ListReplicas(router_pb2.ListReplicasRequest(), timeout=2)
            router = {each.state.replica_id: each.available for each in reply.replicas}
            loads = {each.state.replica_id: _load(each.state.load) for each in reply.replicas if each.available}
        except RussetError:
            router, loads = None, {}
        return Seen(applications, frozenset(node["NodeID"] for node in nodes), router, loads)

    async def deploy(self, name: str, replica: ReplicaRecord) -> None:
        """One more application of Serve."""
        await asyncio.to_thread(run, [target(self._config, name, replica)])

    async def delete(self, application: str) -> None:
        """One application of Serve less."""
        await asyncio.to_thread(serve.delete, application, _blocking=False)

    async def forget(self, name: str) -> None:
        """Whoever looks for it finds no address."""
        for service in (f"scheduler-{name}", f"worker-{name}"):
            self._pids.pop(service, None)
            await self._directory.publish(service, [])

    async def drain(self, name: str, timeout_s: float, *, unload: bool) -> None:
        """Asks its scheduler."""
        channel = connect((await self._directory.services()).get(f"scheduler-{name}", []))
        request = scheduler_pb2.DrainRequest(timeout_s=timeout_s, unload=unload)
        try:
            await SchedulerStub(channel).Drain(request, timeout=timeout_s + ANSWER_S)
        finally:
            await channel.close()

    async def write(self, record: FleetRecord) -> None:
        """Into Ray's store."""
        await asyncio.to_thread(write_record, record)


def run(targets: Sequence[serve.RunTarget]) -> None:
    """Begin to start applications of Serve."""
    serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def read_record() -> FleetRecord:
    """What the controller of this cluster has written down; empty before anything was."""
    text = internal_kv._internal_kv_get(_RECORD)
    return FleetRecord.model_validate_json(text) if text else FleetRecord()


def write_record(record: FleetRecord) -> None:
    """Keep what the controller knows, as long as Ray's head lives."""
    internal_kv._internal_kv_put(_RECORD, record.model_dump_json().encode(), overwrite=True)


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _applications() -> dict[str, App]:
    found = {}
    for name, application in serve.status().applications.items():
        said = [application.message, *(each.message for each in application.deployments.values())]
        found[name] = App(str(application.status.value), "\n".join(said).strip())
    return found


def _load(told: scheduler_pb2.ReplicaLoad) -> Load:
    kv_used = told.pages_used / told.pages_total if told.pages_total else 0.0
    return Load(told.running, told.waiting, told.running_limit, kv_used, told.queue_delay_s)


def _resident(pid: int) -> int:
    try:
        return psutil.Process(pid).memory_info().rss if pid != os.getpid() else 0
    except psutil.NoSuchProcess:
        return 0


def _located(model: str) -> bool:
    try:
        locate(model)
    except NotFound:
        return False
    return True
