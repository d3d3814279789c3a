"""What a neighbourhood says for each candidate passage: the edges that lead to it, as numbers. Pure.

question ─nearest─> earlier question ─used─> passage                       one hop
question ─nearest─> earlier question ─similar─> another ─used─> passage    two hops
vector store ─used─> passage                                               how much it is used at all
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from actors.memory.reranking.attention import Evidence
from protos.gen import memory_pb2

FEATURES = 11
"""Closeness, its square, how much closer than the passage itself, and how near to the closest of all; whether it is one
hop, two, or the store's; weight; age; degree of the source; uses. Each -1 to 1."""
MOST_EDGES = 16
"""Of a passage, those that are closest and heaviest."""
HALF_AGED_MS = 30 * 86_400_000.0
DEGREES = 64.0
"""So many edges make a degree of 1, so many uses of an edge too."""


class Lead(NamedTuple):
    """An edge to a passage, and how close its source is to the question."""

    edge: memory_pb2.Edge
    closeness: float
    hops: int
    """1, 2, or 0 from the store."""
    degree: int
    """Edges of the source that were read."""


def leads_of(
    nearest: Mapping[str, float], edges: Sequence[memory_pb2.Edge], stores: Sequence[str], without: str = ""
) -> dict[str, list[Lead]]:
    """The leads to each passage. `nearest` has the cosines of the questions that were begun from, `stores` the nodes of
    the vector stores; nothing is taken from node `without`, nor by way of it."""
    degrees = Counter(edge.source for edge in edges)
    closest: dict[str, tuple[float, int]] = {name: (cosine, 1) for name, cosine in nearest.items() if name != without}
    for edge in edges:
        known = edge.source in nearest and edge.source != without
        if edge.kind == "similar" and known and edge.target not in nearest and edge.target != without:
            reached = nearest[edge.source] * edge.weight, 2
            closest[edge.target] = max(closest.get(edge.target, reached), reached)
    leads: dict[str, list[Lead]] = defaultdict(list)
    for edge in edges:
        if edge.kind != "used" or edge.weight <= 0 or not edge.target.startswith("passage:"):
            continue
        if edge.source in stores:
            leads[edge.target].append(Lead(edge, 0.0, 0, degrees[edge.source]))
        elif edge.source in closest:
            leads[edge.target].append(Lead(edge, *closest[edge.source], degrees[edge.source]))
    return leads


def evidence_of(passages: Sequence[str], cosines: Sequence[float], leads: Mapping[str, Sequence[Lead]]) -> Evidence:
    """Candidates by name with their cosine to the question, as the scorer reads them."""
    kept = [
        sorted(leads.get(name, ()), key=lambda lead: -(lead.closeness + 1e-3) * lead.edge.weight)[:MOST_EDGES]
        for name in passages
    ]
    closest = max((lead.closeness for some in kept for lead in some), default=0.0)
    most = max(map(len, kept), default=0)
    edges = np.zeros((len(passages), most, FEATURES))
    there = np.zeros((len(passages), most), bool)
    for place, some in enumerate(kept):
        for at, lead in enumerate(some):
            edges[place, at] = _features(lead, cosines[place], closest)
            there[place, at] = True
    return Evidence(np.asarray(cosines, float), edges, there)


def _features(lead: Lead, cosine: float, closest: float) -> list[float]:
    edge = lead.edge
    return [
        lead.closeness,
        lead.closeness**2,
        lead.closeness - cosine,
        lead.closeness / closest if closest > 0 else 0.0,
        float(lead.hops == 1),
        float(lead.hops == 2),
        float(lead.hops == 0),
        edge.weight,
        0.5 ** (edge.age_ms / HALF_AGED_MS),
        min(np.log1p(lead.degree) / np.log1p(DEGREES), 1.0),
        min(np.log1p(edge.uses) / np.log1p(DEGREES), 1.0),
    ]
