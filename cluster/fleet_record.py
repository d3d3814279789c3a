"""What a cluster's controller knows: which models are served, by which replicas, on which nodes, in which state.

It is written to Ray's key-value store at each change, so that a controller that is started again goes on where the
one before it stopped. It lives as long as Ray's head.
"""

import re
import secrets
import time
from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, Field

from cluster.config import ModelConfig
from cluster.controller import STATES
from cluster.topology import Placement, replica_id

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
State = Literal["waiting", "loading", "ready", "draining", "failed"]


class ReplicaRecord(BaseModel):
    """One replica. `waiting` has no place yet, `reason` says why; `failed` has nothing but its reason.

    waiting ─ placed ─> loading ─> ready ─ told to end ─> draining ─> gone, with its memory
       ^                  │ │        │
       └── its node went ─┴─│────────┘
                            └─> failed
    """

    index: int
    state: State = "waiting"
    reason: str = ""
    node: str = ""
    """Ray's id of its node; empty while it waits."""
    node_name: str = ""
    because: str = ""
    """Why it was placed there."""
    model: ModelConfig | None = None
    """The model as it runs there, with its KV and threads."""
    bytes: int = 0
    """Set aside for it on its node."""
    application: str = ""
    """The Serve application it runs as: another one each time that it is placed."""
    served: bool = False
    """It has been ready where it is."""
    changed_s: float = Field(default_factory=time.time)
    """Unix seconds."""
    drain_s: float = 0.0
    """Seconds that running answers get, of one that drains; 0 where it took no requests yet."""

    def become(self, state: State, reason: str = "") -> None:
        """Change its state."""
        self.state, self.reason, self.changed_s = state, reason, time.time()
        self.served = self.served or state == "ready"

    def put(self, placement: Placement, model: ModelConfig, node_name: str) -> None:
        """It has a place."""
        self.node, self.node_name, self.because = placement.node, node_name, placement.because
        self.model, self.bytes, self.served = model, placement.bytes, False
        self.application = f"replica-{_UNSAFE.sub('_', placement.replica_id)[:64]}-{secrets.token_hex(3)}"
        self.become("loading")

    def unput(self, state: State, reason: str) -> None:
        """It has none any more, and nothing is set aside for it."""
        self.node, self.node_name, self.because, self.application = "", "", "", ""
        self.model, self.bytes, self.served = None, 0, False
        self.become(state, reason)


class ServedRecord(BaseModel):
    """A model as it was asked for (`model.replicas` is how many are wanted) and its replicas by number."""

    model: ModelConfig
    source: Literal["config", "api"]
    replicas: dict[int, ReplicaRecord] = {}
    unloading: bool = False

    @property
    def name(self) -> str:
        """The id that clients use."""
        return self.model.served_name

    @property
    def failed(self) -> bool:
        """Whether nothing of it runs or is to run."""
        return all(replica.state == "failed" for replica in self.replicas.values())

    @property
    def state(self) -> str:
        """The worst of its replicas'."""
        states = (shown(replica.state) for replica in self.replicas.values())
        return min(states, key=STATES.index, default="draining")

    def id_of(self, replica: ReplicaRecord) -> str:
        """The replica's name."""
        return replica_id(self.name, replica.index)


class FleetRecord(BaseModel):
    """All models by id, those of the configuration first."""

    models: dict[str, ServedRecord] = {}

    def replicas(self) -> Iterator[tuple[ServedRecord, ReplicaRecord]]:
        """Every replica with its model."""
        for served in list(self.models.values()):
            for replica in list(served.replicas.values()):
                yield served, replica


def shown(state: State) -> str:
    """The state as the API has it: one that waits for a place is on its way, and says what it waits for."""
    return "loading" if state == "waiting" else state
