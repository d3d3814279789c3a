"""What this machine has and what the configured models need: the numbers that `topology.place` decides on."""

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from actors.worker.models.catalogue import locate
from actors.worker.models.expert_bytes import expert_bytes
from actors.worker.slab import SHARE, available_memory
from cluster.config import Config, ModelConfig
from cluster.topology import Demand, Node, Placement, Topology, place

WEIGHTS_IN_MEMORY = 1.3
"""Bytes in memory per byte of a model's files: packed weights beside what loading them takes."""
LEAST_KV_BYTES = 32 << 20
"""What a replica whose KV slab sizes itself needs at least."""
log = logging.getLogger(__name__)


def planned(config: Config, node: str) -> tuple[Config, Topology]:
    """Place every replica on this one machine: the topology, and the configuration with each model's share of cores.

    Raises NotFound for a model that is not there and InvalidArgument where its replicas do not fit, with the numbers:
    both before anything is started.
    """
    topology = place([Node(node, cores(), available_memory())], [demand_of(model) for model in config.models])
    for placement in topology.placements:
        log.info("%s on %s with %d threads: %s", placement.replica_id, node, placement.threads, placement.because)
    models = tuple(
        model.model_copy(
            update={
                "threads": model.threads
                or len(model.cpus) // model.replicas
                or topology.of(model.served_name)[0].threads
            }
        )
        for model in config.models
    )
    log.info("configuration: %s", config.model_dump_json())
    return config.model_copy(update={"models": models}), topology


def spread(model: ModelConfig, indices: Sequence[int]) -> Demand:
    """What replicas of these numbers need wherever they go, of more KV what a worker would take by itself.

    The worker cannot see what else was promised: it is told (`settled`) what its place has for it. Raises NotFound.
    """
    share = 0.0 if model.kv_memory_bytes else SHARE
    return replace(demand_of(model), kv_share=share, indices=tuple(indices))


def settled(model: ModelConfig, placement: Placement) -> ModelConfig:
    """The model as one replica of it runs where it was placed: with its KV and its threads."""
    threads = model.threads or len(model.cpus) // model.replicas or placement.threads
    return model.model_copy(update={"kv_memory_bytes": placement.kv_bytes, "threads": threads})


def admitted(model: ModelConfig, node: str, promised: int, residents: int) -> tuple[ModelConfig, int]:
    """A model that is to be loaded beside others, with its KV and threads settled, and the bytes of a replica of it.

    promised: bytes that were set aside for what runs here and are not taken yet. residents: replicas that run here.
    Raises NotFound for a model that is not there and InvalidArgument, with the numbers, where it does not fit.
    """
    free = max(0, available_memory() - promised)
    demand = demand_of(model)
    if not model.kv_memory_bytes:
        # What the replica would take by itself, but of what is left: it cannot see what others were promised.
        left = max(0, free - demand.weight_bytes * model.replicas)
        kv_bytes = max(LEAST_KV_BYTES, int(left * SHARE) // model.replicas)
        model = model.model_copy(update={"kv_memory_bytes": kv_bytes})
        demand = demand_of(model)
    for placement in place([Node(node, cores(), free)], [demand]).placements:
        log.info("%s on %s: %s", placement.replica_id, node, placement.because)
    threads = model.threads or max(1, cores() // (residents + model.replicas))
    return model.model_copy(update={"threads": threads}), demand.bytes_each


def cores() -> int:
    """Processors that this process may use: those it is bound to, within its control group's share of time."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [int(quota) / int(period) for quota, period in _cpu_limits(Path("/sys/fs/cgroup")) if quota != "max"]
    return max(1, math.floor(min([bound, *limits])))


def _cpu_limits(root: Path) -> list[list[str]]:
    """Quota and period, microseconds or "max", of our control group (v2) and those above it."""
    try:
        own = Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2].lstrip("/")
    except FileNotFoundError:
        return []
    above = [folder for folder in (root / own, *(root / own).parents) if folder.is_relative_to(root)]
    return [(folder / "cpu.max").read_text().split() for folder in above if (folder / "cpu.max").is_file()]


def weight_bytes(model: ModelConfig) -> int:
    """Bytes that the weights of a replica take. Raises NotFound."""
    _, path = locate(model.model)
    on_disk = expert_bytes(model.model) if model.experts_memory_bytes else 0
    return int((_bytes(path) - on_disk) * WEIGHTS_IN_MEMORY) + min(on_disk, model.experts_memory_bytes)


def demand_of(model: ModelConfig) -> Demand:
    """What its replicas need at least. Raises NotFound."""
    kv_bytes = model.kv_memory_bytes or LEAST_KV_BYTES
    return Demand(
        model.served_name,
        model.replicas,
        weight_bytes(model),
        kv_bytes,
        per_node=model.per_node,
        labels=model.node_labels,
    )


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*.safetensors")
    return sum(file.stat().st_size for file in files)
