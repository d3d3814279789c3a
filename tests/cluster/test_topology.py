"""Placement: fits, explains, refuses with numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.base.errors import InvalidArgument
from cluster.topology import Demand, Node, check_store, place

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


def test_an_embedded_store_is_for_one_node() -> None:
    nodes = [Node("a", 8, GB), Node("b", 8, GB)]
    with pytest.raises(InvalidArgument, match=r"memory\.store is 'embedded'.* 2 \(a, b\).*'server'.*migrate"):
        check_store(nodes, "embedded")
    check_store(nodes, "server")
    check_store(nodes[:1], "embedded")
