"""Which edges lead to a passage, and that a question is never led by itself."""

import pytest

from actors.memory.reranking.evidence import FEATURES, MOST_EDGES, evidence_of, leads_of
from protos.gen.memory_pb2 import Edge


def edge(source: str, target: str, kind: str = "used", weight: float = 0.5) -> Edge:
    return Edge(source=source, target=target, kind=kind, weight=weight, uses=1)


EDGES = [
    edge("query:1", "passage:a"),
    edge("query:1", "query:2", "similar", 0.9),
    edge("query:2", "passage:b", weight=0.75),
    edge("query:3", "passage:c"),
    edge("store:s", "passage:a", weight=0.25),
    edge("query:1", "query:0", "follows"),
    edge("query:1", "pattern:p"),
    edge("query:1", "passage:z", weight=0),
]


def test_leads_are_of_one_hop_two_and_the_store():
    leads = leads_of({"query:1": 0.8}, EDGES, ["store:s"])
    found = {
        name: [(each.edge.source, round(each.closeness, 3), each.hops) for each in some] for name, some in leads.items()
    }
    assert found == {
        "passage:a": [("query:1", 0.8, 1), ("store:s", 0.0, 0)],
        "passage:b": [("query:2", 0.72, 2)],
    }
    assert leads["passage:a"][0].degree == 5


def test_nothing_comes_from_the_question_itself_nor_by_way_of_it():
    nearest = {"query:2": 1.0, "query:1": 0.8}
    assert set(leads_of(nearest, EDGES, [])) == {"passage:a", "passage:b"}
    assert set(leads_of(nearest, EDGES, [], without="query:2")) == {"passage:a"}
    assert set(leads_of({"query:1": 1.0}, EDGES, ["store:s"], without="query:1")) == {"passage:a"}
    assert leads_of({"query:1": 1.0}, EDGES, [], without="query:1") == {}


def test_evidence_has_a_row_for_each_passage_and_the_heaviest_edges():
    edges = [edge(f"query:{at}", "passage:a", weight=(at + 1) / 40) for at in range(MOST_EDGES + 4)]
    leads = leads_of({each.source: 0.5 for each in edges}, edges, [])
    evidence = evidence_of(["passage:x", "passage:a"], [0.25, 0.5], leads)
    assert evidence.edges.shape == (2, MOST_EDGES, FEATURES)
    assert evidence.there.sum(1).tolist() == [0, MOST_EDGES]
    assert evidence.cosines.tolist() == [0.25, 0.5]
    assert min(evidence.edges[1, :, 7]) == pytest.approx(5 / 40)
