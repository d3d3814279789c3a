"""The machines of a cluster as its controller sees them, and what it can have done there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cluster.config import ModelConfig
from cluster.fleet_record import FleetRecord, ReplicaRecord
from cluster.reconcile import Seen


@dataclass(frozen=True)
class Machine:
    """A node as it is now. `memory_bytes` is what it offers to Russet, `available_bytes` what its system has free.

    `running`: pid and resident bytes of each replica there; `without`: models whose files it has not.
    """

    id: str
    name: str
    cores: int
    memory_bytes: int
    available_bytes: int
    labels: Mapping[str, str] = field(default_factory=dict)
    running: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    without: frozenset[str] = frozenset()
    unfit: str = ""
    """Why it can hold no replica."""


class Fleet(Protocol):
    """What the controller does things with."""

    async def machines(self, placed: Mapping[str, str], models: Sequence[ModelConfig]) -> list[Machine]:
        """Every node that lives. placed: the node of each replica. models: those whose files are looked for."""
        ...

    async def seen(self) -> Seen:
        """What can be seen of the cluster."""
        ...

    async def deploy(self, name: str, replica: ReplicaRecord) -> None:
        """Begin to start a replica where it was placed."""
        ...

    async def delete(self, application: str) -> None:
        """Begin to end a replica."""
        ...

    async def forget(self, name: str) -> None:
        """Nothing of this replica is reached any more."""
        ...

    async def drain(self, name: str, timeout_s: float, *, unload: bool) -> None:
        """Have a replica take nothing more; return once what runs there has ended, or the time is up."""
        ...

    async def write(self, record: FleetRecord) -> None:
        """Keep the record."""
        ...
