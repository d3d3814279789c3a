"""The scorer's gradient is the true one, and without usage its order is similarity's."""

from pathlib import Path

import numpy as np
import pytest

from actors.memory.reranking.attention import Evidence, Weights, drawn, dump, load, loss_and_gradient, scores
from actors.memory.reranking.evidence import FEATURES, Lead, evidence_of
from protos.gen.memory_pb2 import Edge

STEP = 1e-5


def some(candidates: int = 6, edges: int = 4, seed: int = 1) -> Evidence:
    draw = np.random.default_rng(seed)
    there = draw.random((candidates, edges)) < 0.6
    return Evidence(draw.random(candidates), draw.normal(size=(candidates, edges, FEATURES)) * there[..., None], there)


@pytest.mark.parametrize("name", Weights._fields)
def test_the_gradient_is_what_finite_differences_say(name: str):
    weights, evidence = drawn(FEATURES, 5, seed=2), some()
    _, gradient = loss_and_gradient(weights, evidence, 3)
    value, exact = getattr(weights, name), getattr(gradient, name)
    assert np.abs(exact).max() > 1e-4
    for at in np.ndindex(value.shape):
        before = value[at]
        value[at] = before + STEP
        above = loss_and_gradient(weights, evidence, 3)[0]
        value[at] = before - STEP
        below = loss_and_gradient(weights, evidence, 3)[0]
        value[at] = before
        assert exact[at] == pytest.approx((above - below) / (2 * STEP), abs=1e-7)


def test_without_edges_the_order_is_similaritys():
    evidence = Evidence(np.array([0.2, 0.9, 0.5]), np.zeros((3, 0, FEATURES)), np.zeros((3, 0), bool))
    assert np.argsort(-scores(load(), evidence)).tolist() == [1, 2, 0]


def test_room_for_more_edges_changes_nothing():
    weights, evidence = drawn(FEATURES, 5, seed=2), some()
    wider = Evidence(
        evidence.cosines,
        np.pad(evidence.edges, ((0, 0), (0, 3), (0, 0))),
        np.pad(evidence.there, ((0, 0), (0, 3))),
    )
    np.testing.assert_allclose(scores(weights, evidence), scores(weights, wider))


def test_weights_come_back_as_they_were_written(tmp_path: Path):
    weights, evidence = drawn(FEATURES, 5, seed=2), some()
    (tmp_path / "w.json").write_text(dump(weights))
    np.testing.assert_allclose(scores(load(tmp_path / "w.json"), evidence), scores(weights, evidence), atol=1e-4)


def lead(closeness: float, weight: float = 0.5) -> Lead:
    edge = Edge(source="query:q", target="passage:b", kind="used", weight=weight, uses=1)
    return Lead(edge, closeness, 1, 1)


def raised(given: Lead) -> float:
    """How much the edge adds to the second passage's score, with what ships."""
    names, cosines = ["passage:a", "passage:b"], [0.5, 0.4]
    plain = scores(load(), evidence_of(names, cosines, {}))
    return float((scores(load(), evidence_of(names, cosines, {"passage:b": [given]})) - plain)[1])


def test_what_ships_trusts_close_questions_and_those_not_condemned():
    assert raised(lead(0.95)) > raised(lead(0.3))
    assert raised(lead(0.95)) > raised(lead(0.95, weight=0.02))
    assert raised(lead(0.95)) > 0
