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


class Worked(NamedTuple):
    """A question with an answer that was rated well, or corrected."""

    procedure: memory_pb2.Procedure
    embedding: tuple[float, ...]


class Failed(NamedTuple):
    """An answer that is none to repeat."""

    tenant: str
    request: str


class Recalled(NamedTuple):
    """Procedures that stood in a prompt; `outcome` is what became of the answer, None before that is told."""

    tenant: str
    ids: tuple[str, ...]
    outcome: float | None


Change = Edges | Credit | Worked | Failed | Recalled
WELL = 0.75
"""An outcome from here on says that an answer worked."""


def changes_of(trajectory: learner_pb2.Trajectory, config: LearnerConfig) -> list[Change]:
    """What a finished request changes: the edges it touches, and the credit of the route that it took."""
    changes: list[Change] = []
    updates, nodes = _edges_of(trajectory, config), _nodes_of(trajectory)
    if updates or nodes:
        changes.append(Edges(trajectory.tenant, tuple(updates), tuple(nodes)))
    if trajectory.procedures:
        changes.append(Recalled(trajectory.tenant, tuple(trajectory.procedures), None))
    if told := changes_of_feedback(trajectory, trajectory):
        return changes + told
    # A client that left says nothing about the route.
    if not _patterns(trajectory) or trajectory.finish == "cancelled":
        return changes
    failed = trajectory.finish == "error"
    return [*changes, Credit(trajectory.tenant, trajectory.id, 0.0 if failed else 1.0, "")]


def changes_of_feedback(trajectory: learner_pb2.Trajectory, told: Feedback) -> list[Change]:
    """What feedback on a request changes: the credit of the route that it took, and what is known to work."""
    outcome = outcome_of(told)
    changes: list[Change] = [*_procedure_of(trajectory, told, outcome)]
    if trajectory.procedures and outcome is not None:
        changes.append(Recalled(trajectory.tenant, tuple(trajectory.procedures), outcome))
    if outcome is not None and trajectory.passages_used:
        used = [_edge(f"query:{trajectory.id}", each, "used", 0, outcome) for each in trajectory.passages_used]
        changes.append(Edges(trajectory.tenant, tuple(used)))
    if _patterns(trajectory) and (outcome is not None or told.label):
        changes.append(Credit(trajectory.tenant, trajectory.id, outcome, told.label))
    return changes


def _procedure_of(trajectory: learner_pb2.Trajectory, told: Feedback, outcome: float | None) -> list[Worked | Failed]:
    """A correction is what works, whatever the rating; else an answer that was rated well. Rated less, it is forgotten.

    Where question or answer is empty (there was none, or it was too long), there is nothing to repeat.
    """
    if not trajectory.question:
        return []
    answer, rating, source = (
        (told.correction, 1.0, "corrected") if told.correction else (trajectory.answer, outcome, "rated")
    )
    if rating is None:
        return []
    if rating < WELL:
        return [Failed(trajectory.tenant, trajectory.id)]
    if not answer:
        return []
    procedure = memory_pb2.Procedure(
        id=trajectory.id,
        tenant=trajectory.tenant,
        question=trajectory.question,
        answer=answer,
        source=source,
        rating=rating,
    )
    return [Worked(procedure, tuple(trajectory.query_embedding))]


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
    if trajectory.finish not in ("cancelled", "error"):
        updates += _passages_of(trajectory, config)
    return updates


def _passages_of(trajectory: learner_pb2.Trajectory, config: LearnerConfig) -> list[memory_pb2.EdgeUpdate]:
    """Which passages the question used; and of its vector stores, which are used and which are retrieved in vain."""
    used = set(trajectory.passages_used)
    updates = [_edge(f"query:{trajectory.id}", passage, "used", 0, config.edge_answered) for passage in sorted(used)]
    for store in trajectory.stores:
        for passage in trajectory.passages:
            add = config.edge_used if passage in used else -config.edge_unused
            updates.append(_edge(store, passage, "used", 1, add))
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
