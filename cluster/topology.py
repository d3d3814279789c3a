"""Where replicas go: a pure function of nodes and models, that explains itself and refuses what cannot fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from actors.base.errors import InvalidArgument


@dataclass(frozen=True)
class Node:
    """A machine that can hold replicas. Memory in bytes, free for Russet; cores are physical or virtual CPUs.

    `replicas` names the model of each replica that is there already, `without` the models whose files are not; `unfit`
    says why it can hold none.
    """

    id: str
    cores: int
    memory_bytes: int
    name: str = ""
    replicas: tuple[str, ...] = ()
    without: frozenset[str] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    unfit: str = ""

    @property
    def shown(self) -> str:
        """What people call it."""
        return self.name or self.id


@dataclass(frozen=True)
class Demand:
    """What one replica of a model needs: its weights and its KV slab, bytes.

    `kv_share`: of the memory that is left on a node when every replica has what it needs, the part that those that
    ask for it share as more KV. `per_node`: most replicas on one node; 0 is any number. `indices`: the numbers of the
    replicas, by default the first ones. `labels`: what a node must be.
    """

    model: str
    replicas: int
    weight_bytes: int
    kv_bytes: int
    kv_share: float = 0.0
    per_node: int = 0
    indices: tuple[int, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def bytes_each(self) -> int:
        """Bytes that one replica takes of a node's memory, at least."""
        return self.weight_bytes + self.kv_bytes


@dataclass(frozen=True)
class Placement:
    """One replica on one node. `threads` are its share of the node's cores; bytes of KV, and in all."""

    replica_id: str
    model: str
    node: str
    threads: int
    because: str
    kv_bytes: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Unplaced:
    """A replica that fits nowhere, and why."""

    replica_id: str
    model: str
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
    """Every replica on a node, as `fit` chooses it. Raises InvalidArgument with the numbers where one fits on none."""
    placements, unplaced = fit(nodes, demands)
    if unplaced:
        raise InvalidArgument(unplaced[0].because, param="models")
    return Topology(placements)


@dataclass
class _Room:
    """What a node has while replicas are put there."""

    node: Node
    free: int
    models: list[str]


def fit(nodes: Sequence[Node], demands: Sequence[Demand]) -> tuple[tuple[Placement, ...], tuple[Unplaced, ...]]:
    """Put the largest replicas first, each where the fewest of its model are, and of those where most memory is left.

    Equal nodes are taken by id. What is on a node already stays there. Returns where each replica goes, by its name,
    and those that fit nowhere, in the order in which they were tried.
    """
    rooms = {node.id: _Room(node, node.memory_bytes, list(node.replicas)) for node in sorted(nodes, key=_id)}
    chosen: list[tuple[str, Demand, _Room, str]] = []
    unplaced: list[Unplaced] = []
    for demand in sorted(demands, key=lambda demand: (-demand.bytes_each, demand.model)):
        indices = demand.indices or range(demand.replicas)
        for number, index in enumerate(indices, 1 + demand.replicas - len(indices)):
            name = replica_id(demand.model, index)
            open_rooms = [room for room in rooms.values() if _obstacle(demand, room) is None]
            if not open_rooms:
                unplaced.append(Unplaced(name, demand.model, _refusal(demand, number, list(rooms.values()))))
                continue
            best = max(open_rooms, key=lambda room: (-room.models.count(demand.model), room.free))
            beside = best.models.count(demand.model)
            alone = f"{beside} of it there, " if beside else ""
            chosen.append((name, demand, best, f"{alone}{_gb(best.free)} free, the most"))
            best.free -= demand.bytes_each
            best.models.append(demand.model)
    return tuple(_settled(*choice, chosen) for choice in sorted(chosen, key=lambda choice: choice[0])), tuple(unplaced)


def _settled(
    name: str, demand: Demand, room: _Room, because: str, chosen: Sequence[tuple[str, Demand, _Room, str]]
) -> Placement:
    sharing = sum(other is room and each.kv_share > 0 for _, each, other, _ in chosen)
    kv_bytes = demand.kv_bytes + int(room.free * demand.kv_share) // max(1, sharing)
    count = demand.weight_bytes + kv_bytes
    threads = max(1, room.node.cores // len(room.models))
    return Placement(name, demand.model, room.node.id, threads, f"{because}; takes {_gb(count)}", kv_bytes, count)


def _obstacle(demand: Demand, room: _Room) -> str | None:
    """Why a replica cannot go there; None where it can."""
    if room.node.unfit:
        return room.node.unfit
    for name, value in demand.labels.items():
        if (has := room.node.labels.get(name)) != value:
            return f"has {name} {has}, not {value}" if has else f"has no label {name}"
    if demand.model in room.node.without:
        return "does not have its files"
    if demand.per_node and (there := room.models.count(demand.model)) >= demand.per_node:
        return f"has {there} of it, and models.per_node is {demand.per_node}"
    if room.free < demand.bytes_each:
        return f"{_gb(max(0, room.free))} free"
    return None


def _refusal(demand: Demand, number: int, rooms: Sequence[_Room]) -> str:
    room = ", ".join(f"{room.node.shown}: {_obstacle(demand, room)}" for room in rooms) or "there are no nodes"
    return (
        f"replica {number} of {demand.replicas} of {demand.model} needs {_gb(demand.bytes_each)} "
        f"({_gb(demand.weight_bytes)} weights + {_gb(demand.kv_bytes)} KV), but {room}; "
        "lower models.replicas or models.kv_memory_bytes, unload a model, or add a node"
    )


def _id(node: Node) -> str:
    return node.id


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
