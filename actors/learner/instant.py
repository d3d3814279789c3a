"""The instant loop's decisions: what one trajectory, or one rating of it, changes in memory. Pure."""

import json
from typing import NamedTuple

from actors.base.errors import InvalidArgument
from actors.learner.config import LearnerConfig
from protos.gen import learner_pb2, memory_pb2

UNTRIED = 0.5
"""Success rate of a pattern that no outcome was seen of."""


class Edges(NamedTuple):
    """Edges of the graph to strengthen or weaken."""

    updates: tuple[memory_pb2.EdgeUpdate, ...]


class Credit(NamedTuple):
    """An outcome, 0..1, that a pattern answers for."""

    pattern: str
    outcome: float


Change = Edges | Credit


def changes_of(trajectory: learner_pb2.Trajectory, config: LearnerConfig) -> list[Change]:
    """What a finished request changes: the edges it touches, and the credit of the pattern that routed it."""
    changes: list[Change] = []
    if updates := _edges_of(trajectory, config):
        changes.append(Edges(tuple(updates)))
    if trajectory.HasField("rating"):
        return changes + changes_of_rating(trajectory)
    # A client that left says nothing about the route.
    if trajectory.pattern_used and trajectory.finish != "cancelled":
        changes.append(Credit(trajectory.pattern_used, 0.0 if trajectory.finish == "error" else 1.0))
    return changes


def changes_of_rating(trajectory: learner_pb2.Trajectory) -> list[Change]:
    """What a rating (-1..1) changes: the credit of the pattern that routed the request."""
    return [Credit(trajectory.pattern_used, (trajectory.rating + 1) / 2)] if trajectory.pattern_used else []


def credit(policy: memory_pb2.Policy, outcome: float, rate: float) -> memory_pb2.Policy:
    """The pattern after one more outcome: s <- (1 - rate) s + rate * outcome, one use more.

    Raises InvalidArgument where its parameters are not what a pattern has.
    """
    try:
        parameters = json.loads(policy.parameters or "{}")
        success, uses = float(parameters.get("success_rate", UNTRIED)), int(parameters.get("uses", 0))
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidArgument(f"pattern {policy.id} has no readable parameters: {error}", param="parameters") from None
    success = min(max((1 - rate) * success + rate * outcome, 0.0), 1.0)
    updated = memory_pb2.Policy()
    updated.CopyFrom(policy)
    updated.parameters = json.dumps(parameters | {"success_rate": success, "uses": uses + 1}, sort_keys=True)
    updated.confidence = success
    updated.source = "instant"
    return updated


def _edges_of(trajectory: learner_pb2.Trajectory, config: LearnerConfig) -> list[memory_pb2.EdgeUpdate]:
    query = f"query:{trajectory.id}"
    # Requests without a session share their tenant's node, as far as patterns are concerned.
    session = f"session:{trajectory.tenant}/{trajectory.session_id}"
    updates = []
    if trajectory.session_id:
        updates.append(_edge(session, query, "used", 0, 1.0))
    if trajectory.follows:
        updates.append(_edge(query, f"query:{trajectory.follows}", "follows", 0, config.edge_follows))
    for pattern in _patterns(trajectory):
        add = config.edge_used if pattern == trajectory.pattern_used else -config.edge_unused
        updates.append(_edge(session, f"pattern:{pattern}", "used", 1, add))
    return updates


def _patterns(trajectory: learner_pb2.Trajectory) -> list[str]:
    used = [trajectory.pattern_used] if trajectory.pattern_used else []
    return list(dict.fromkeys([*trajectory.patterns_retrieved, *used]))


def _edge(source: str, target: str, kind: str, factor: float, add: float) -> memory_pb2.EdgeUpdate:
    return memory_pb2.EdgeUpdate(source=source, target=target, kind=kind, factor=factor, add=add)
