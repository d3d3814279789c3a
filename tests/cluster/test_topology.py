"""Placement: fits, explains, refuses with numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.base.errors import InvalidArgument
from cluster.topology import Demand, Node, fit, place

GB = 10**9
nodes_ = st.lists(st.integers(1, 64), min_size=1, max_size=6).map(
    lambda sizes: [Node(f"n{index}", 8, size * GB) for index, size in enumerate(sizes)]
)
demands_ = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 3)), min_size=1, max_size=4).map(
    lambda rows: [Demand(f"m{index}", count, size * GB, GB) for index, (size, count) in enumerate(rows)]
)


@given(nodes_, demands_)
def test_no_node_is_overfull_and_every_replica_has_a_place(nodes: list[Node], demands: list[Demand]) -> None:
    total = sum(demand.replicas * demand.bytes_each for demand in demands)
    try:
        topology = place(nodes, demands)
    except InvalidArgument:
        # Largest first onto the emptiest node leaves each node at most one replica short of full.
        assert total + len(nodes) * max(demand.bytes_each for demand in demands) > sum(n.memory_bytes for n in nodes)
        return
    sizes = {demand.model: demand.bytes_each for demand in demands}
    for node in nodes:
        mine = [placement for placement in topology.placements if placement.node == node.id]
        assert sum(sizes[placement.model] for placement in mine) <= node.memory_bytes
        assert sum(placement.threads for placement in mine) <= max(node.cores, len(mine))
    for demand in demands:
        assert len(topology.of(demand.model)) == demand.replicas


def test_spreads_over_equal_nodes_and_shares_cores() -> None:
    nodes = [Node("a", 8, 10 * GB), Node("b", 8, 10 * GB)]
    spread = place(nodes, [Demand("m", 2, 3 * GB, GB)])
    assert [placement.node for placement in spread.placements] == ["a", "b"]
    both = place(nodes[:1], [Demand("m", 2, 3 * GB, GB)])
    assert [placement.threads for placement in both.placements] == [4, 4]


def test_refusal_has_the_numbers() -> None:
    with pytest.raises(InvalidArgument, match=r"replica 1 of 1 of big needs 9\.00 GB.*a: 4\.00 GB free"):
        place([Node("a", 8, 4 * GB)], [Demand("big", 1, 8 * GB, GB)])
    with pytest.raises(InvalidArgument, match="there are no nodes"):
        place([], [Demand("m", 1, GB, GB)])


def test_replicas_of_a_model_are_spread_before_memory_is_filled() -> None:
    nodes = [Node("a", 8, 20 * GB, replicas=("m",)), Node("b", 8, 5 * GB)]
    [placed] = place(nodes, [Demand("m", 2, 3 * GB, GB, indices=(1,))]).placements
    assert (placed.replica_id, placed.node) == ("m-1", "b")
    # What is there has its share of the cores too.
    [beside] = place(nodes[:1], [Demand("m", 2, 3 * GB, GB, indices=(1,))]).placements
    assert (beside.threads, "1 of it there, 20.00 GB free" in beside.because) == (4, True)


def test_at_most_so_many_on_a_node_and_none_without_its_files() -> None:
    nodes = [Node("a", 8, 20 * GB, "mini-1"), Node("b", 8, 20 * GB, "mini-2", without=frozenset({"m"}))]
    placed, unplaced = fit(nodes, [Demand("m", 2, 3 * GB, GB, per_node=1)])
    assert [each.node for each in placed] == ["a"]
    said = unplaced[0].because
    assert "replica 2 of 2 of m" in said
    assert "mini-1: has 1 of it, and models.per_node is 1" in said
    assert "mini-2: does not have its files" in said


def test_a_node_must_be_labelled_as_the_model_wants_and_able_to_hold_anything() -> None:
    nodes = [
        Node("a", 8, 20 * GB),
        Node("b", 8, 20 * GB, labels={"chip": "M2"}),
        Node("c", 8, 20 * GB, labels={"chip": "M4"}, unfit="has no /home/cluster.key"),
        Node("d", 8, 5 * GB, labels={"chip": "M4"}),
    ]
    demand = Demand("m", 1, 3 * GB, GB, labels={"chip": "M4"})
    assert [each.node for each in place(nodes, [demand]).placements] == ["d"]
    with pytest.raises(
        InvalidArgument, match=r"a: has no label chip, b: has chip M2, not M4, c: has no /home"
    ) as refused:
        place(nodes[:3], [demand])
    assert "GB free" not in str(refused.value)


def test_what_is_left_is_shared_as_more_kv() -> None:
    node = Node("a", 8, 10 * GB)
    placed = place([node], [Demand("m", 2, 2 * GB, GB, kv_share=0.5), Demand("n", 1, GB, GB)]).placements
    assert [(each.replica_id, each.kv_bytes, each.bytes) for each in placed] == [
        ("m-0", 3 * GB // 2, 7 * GB // 2),
        ("m-1", 3 * GB // 2, 7 * GB // 2),
        ("n-0", GB, 2 * GB),
    ]
