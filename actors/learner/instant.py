"""The instant loop's decisions: what one trajectory, or one rating of it, changes in memory. Pure."""

from typing import NamedTuple

from actors.base.feedback import Feedback, outcome_of
from actors.learner.config import LearnerConfig
from protos.gen import learner_pb2, memory_pb2


class Edges(NamedTuple):
    """Edges of a tenant's graph to strengthen or weaken, and nodes to find by what they mean."""

    tenant: str
    updates: tuple[memory_pb2.EdgeUpdate, ...]
    nodes: tuple[memory_pb2.Node, ...] = ()


class Credit(NamedTuple):
    """What became of a request that a named router routed.

    `outcome` is 0 (bad) to 1 (good) where it is known; `label` what the request should have had, where that is told.
    """

    tenant: str
    request: str
    outcome: float | None
    label: str


Change = Edges | Credit


def changes_of(trajectory: learner_pb2.Trajectory, config: LearnerConfig) -> list[Change]:
    """What a finished request changes: the edges it touches, and the credit of the route that it took."""
    changes: list[Change] = []
    updates, nodes = _edges_of(trajectory, config), _nodes_of(trajectory)
    if updates or nodes:
        changes.append(Edges(trajectory.tenant, tuple(updates), tuple(nodes)))
    if told := changes_of_feedback(trajectory, trajectory):
        return changes + told
    # A client that left says nothing about the route.
    if not _patterns(trajectory) or trajectory.finish == "cancelled":
        return changes
    failed = trajectory.finish == "error"
    return [*changes, Credit(trajectory.tenant, trajectory.id, 0.0 if failed else 1.0, "")]


def changes_of_feedback(trajectory: learner_pb2.Trajectory, told: Feedback) -> list[Change]:
    """What feedback on a request changes: the credit of the route that it took."""
    if not _patterns(trajectory):
        return []
    outcome = outcome_of(told)
    if outcome is None and not told.label:
        return []
    return [Credit(trajectory.tenant, trajectory.id, outcome, told.label)]


def _edges_of(trajectory: learner_pb2.Trajectory, config: LearnerConfig) -> list[memory_pb2.EdgeUpdate]:
    query = f"query:{trajectory.id}"
    # Requests without a session share one node, as far as patterns are concerned.
    session = f"session:{trajectory.session_id}"
    updates = []
    if trajectory.session_id:
        updates.append(_edge(session, query, "used", 0, 1.0))
    if trajectory.follows:
        updates.append(_edge(query, f"query:{trajectory.follows}", "follows", 0, config.edge_follows))
    for pattern in _patterns(trajectory):
        add = config.edge_used if pattern == trajectory.pattern_used else -config.edge_unused
        updates.append(_edge(session, f"pattern:{pattern}", "used", 1, add))
    return updates


def _nodes_of(trajectory: learner_pb2.Trajectory) -> list[memory_pb2.Node]:
    """The question, where it was embedded and answered: those asked alike are found by it."""
    if not trajectory.query_embedding or trajectory.finish in ("cancelled", "error"):
        return []
    return [memory_pb2.Node(name=f"query:{trajectory.id}", embedding=trajectory.query_embedding)]


def _patterns(trajectory: learner_pb2.Trajectory) -> list[str]:
    used = [trajectory.pattern_used] if trajectory.pattern_used else []
    return list(dict.fromkeys([*trajectory.patterns_retrieved, *used]))


def _edge(source: str, target: str, kind: str, factor: float, add: float) -> memory_pb2.EdgeUpdate:
    return memory_pb2.EdgeUpdate(source=source, target=target, kind=kind, factor=factor, add=add)
