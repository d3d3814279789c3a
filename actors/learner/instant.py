"""The instant loop's decisions: what one trajectory, or one rating of it, changes. Pure."""

import json
from collections.abc import Iterable

from actors.learner.config import LearnerConfig
from protos.gen import learner_pb2, memory_pb2


def edges_of(trajectory: learner_pb2.Trajectory, config: LearnerConfig) -> list[memory_pb2.EdgeUpdate]:
    """Edges that a finished request touches: its session's order, the pattern used, those retrieved in vain."""
    query = f"query:{trajectory.id}"
    updates = []
    if trajectory.session_id:
        session = f"session:{trajectory.tenant}/{trajectory.session_id}"
        updates.append(_edge(session, query, "used", 0, 1.0))
    if trajectory.follows:
        updates.append(_edge(query, f"query:{trajectory.follows}", "follows", 0, config.edge_follows))
    for pattern in _retrieved(trajectory):
        add = config.edge_used if pattern == trajectory.pattern_used else -config.edge_unused
        updates.append(
            _edge(f"session:{trajectory.tenant}/{trajectory.session_id}", f"pattern:{pattern}", "used", 1, add)
        )
    return updates


def outcome_of(trajectory: learner_pb2.Trajectory) -> float | None:
    """How well a request went, 0..1: its rating where it has one, else whether it ended; None where the client left."""
    if trajectory.HasField("rating"):
        return (trajectory.rating + 1) / 2
    if trajectory.finish == "cancelled":
        return None
    return 0.0 if trajectory.finish == "error" else 1.0


def credit(policy: memory_pb2.Policy, outcome: float, rate: float) -> memory_pb2.Policy:
    """The pattern after one more outcome: success rate by exponential mean, one use more."""
    parameters = json.loads(policy.parameters or "{}")
    success = parameters.get("success_rate", 0.5)
    parameters |= {"success_rate": (1 - rate) * success + rate * outcome, "uses": parameters.get("uses", 0) + 1}
    updated = memory_pb2.Policy()
    updated.CopyFrom(policy)
    updated.parameters = json.dumps(parameters, sort_keys=True)
    updated.confidence = parameters["success_rate"]
    updated.source = "instant"
    return updated


def _retrieved(trajectory: learner_pb2.Trajectory) -> Iterable[str]:
    used = [trajectory.pattern_used] if trajectory.pattern_used else []
    return dict.fromkeys([*trajectory.patterns_retrieved, *used])


def _edge(source: str, target: str, kind: str, factor: float, add: float) -> memory_pb2.EdgeUpdate:
    return memory_pb2.EdgeUpdate(source=source, target=target, kind=kind, factor=factor, add=add)
