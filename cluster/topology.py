"""Where replicas go: a pure function of nodes and models, that explains itself and refuses what cannot fit."""

from collections.abc import Sequence
from dataclasses import dataclass

from actors.base.errors import InvalidArgument


@dataclass(frozen=True)
class Node:
    """A machine that can hold replicas. Memory in bytes, free for Russet; cores are physical or virtual CPUs."""

    id: str
    cores: int
    memory_bytes: int


@dataclass(frozen=True)
class Demand:
    """What one replica of a model needs: its weights and its KV slab, bytes."""

    model: str
    replicas: int
    weight_bytes: int
    kv_bytes: int

    @property
    def bytes_each(self) -> int:
        """Bytes that one replica takes of a node's memory."""
        return self.weight_bytes + self.kv_bytes


@dataclass(frozen=True)
class Placement:
    """One replica on one node. `threads` are its share of the node's cores."""

    replica_id: str
    model: str
    node: str
    threads: int
    because: str


@dataclass(frozen=True)
class Topology:
    """Every replica's place."""

    placements: tuple[Placement, ...]

    def of(self, model: str) -> tuple[Placement, ...]:
        """The placements of one model's replicas."""
        return tuple(placement for placement in self.placements if placement.model == model)


def replica_id(model: str, index: int) -> str:
    """The name of a model's replica number `index`, from 0."""
    return f"{model}-{index}"


def replica_index(replica_id: str) -> int:
    """The number in a replica's name."""
    return int(replica_id.rpartition("-")[2])


def place(nodes: Sequence[Node], demands: Sequence[Demand]) -> Topology:
    """Put the largest replicas first, each on the node with the most memory left; equal nodes by id.

    Raises InvalidArgument with the numbers where a replica fits on no node.
    """
    free = {node.id: node.memory_bytes for node in nodes}
    chosen: list[tuple[str, str, str, str]] = []
    for demand in sorted(demands, key=lambda demand: (-demand.bytes_each, demand.model)):
        for index in range(demand.replicas):
            best = max(sorted(free), key=lambda node: free[node], default=None)
            if best is None or free[best] < demand.bytes_each:
                raise InvalidArgument(_refusal(demand, index, free), param="models")
            because = f"{_gb(free[best])} free, the most; takes {_gb(demand.bytes_each)}"
            free[best] -= demand.bytes_each
            chosen.append((replica_id(demand.model, index), demand.model, best, because))
    residents = {node.id: sum(place[2] == node.id for place in chosen) for node in nodes}
    cores = {node.id: node.cores for node in nodes}
    return Topology(
        tuple(
            Placement(replica, model, node, max(1, cores[node] // residents[node]), because)
            for replica, model, node, because in sorted(chosen)
        )
    )


def check_store(nodes: Sequence[Node], store: str) -> None:
    """Raises InvalidArgument for an embedded store with several nodes: memory started on another would find nothing."""
    if store == "embedded" and len(nodes) > 1:
        names = ", ".join(sorted(node.id for node in nodes))
        raise InvalidArgument(
            f"memory.store is 'embedded', which one node can use, and there are {len(nodes)} ({names}); set it to "
            "'server' with memory.server_url, and `russet memory migrate --to server` takes what there is along",
            param="memory.store",
        )


def _refusal(demand: Demand, index: int, free: dict[str, int]) -> str:
    room = ", ".join(f"{node}: {_gb(left)} free" for node, left in sorted(free.items())) or "there are no nodes"
    return (
        f"replica {index + 1} of {demand.replicas} of {demand.model} needs {_gb(demand.bytes_each)} "
        f"({_gb(demand.weight_bytes)} weights + {_gb(demand.kv_bytes)} KV), but {room}; "
        "lower models.replicas or models.kv_memory_bytes, unload a model, or add a node"
    )


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
