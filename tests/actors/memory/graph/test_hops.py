"""What a graph loses with time, what two hops read, and that nothing in it leads to another tenant's."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.base.errors import InvalidArgument
from actors.memory.config import MemoryConfig
from actors.memory.graph_edges import Edges
from protos.gen.memory_pb2 import (
    EdgeUpdate,
    NeighbourhoodRequest,
    NeighboursRequest,
    Node,
    StatusRequest,
    UpdateEdgesRequest,
)

WIDTH = 384


class Clock:
    """Unix seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


class Followed(NamedTuple):
    source: str
    target: str
    kind: str


def vector(seed: int, near: int | None = None, cosine: float = 0.0) -> list[float]:
    """A unit vector; with `near`, one at this cosine to that of another seed."""
    own = np.random.default_rng(seed).normal(size=WIDTH)
    own /= np.linalg.norm(own)
    if near is not None:
        other = np.array(vector(near))
        own -= (own @ other) * other
        own = cosine * other + np.sqrt(1 - cosine**2) * own / np.linalg.norm(own)
    return own.tolist()


def edge(source: str, target: str, kind: str = "used", add: float = 1.0) -> EdgeUpdate:
    return EdgeUpdate(source=source, target=target, kind=kind, factor=1, add=add)


async def test_edges_by_use_halve_and_are_forgotten_and_similar_ones_do_not_age(opening):
    async with opening() as memory:
        clock, config = Clock(), MemoryConfig(graph_half_life_s=100, graph_degree=3)
        edges = Edges(config, memory.service.hot, clock)

        async def weights(node: str) -> dict[str, float]:
            return {each.target: round(each.weight, 3) for each in await edges.neighbours("t", node, "", 10)}

        await edges.update("t", [edge("a", "b", add=0.8), edge("a", "c", "similar", 0.9)])
        clock.now += 100
        assert await weights("a") == {"c": 0.9, "b": 0.4}
        await edges.update("t", [edge("a", "b", add=0.05)])
        (found,) = await edges.neighbours("t", "a", "used", 10)
        assert (round(found.weight, 3), found.age_ms, found.uses) == (0.45, 0, 2)
        # The newest of equals stay: the others have aged.
        for target in ("x", "y", "z", "b"):
            clock.now += 10
            await edges.update("t", [edge("d", target, add=0.5)])
        assert set(await weights("d")) == {"y", "z", "b"}
        # 0.5 to the 6.64th is 0.01: after so many half-lives without a touch all of a node is forgotten.
        clock.now += 670
        await edges.update("t", [edge("d", "b")])
        assert await weights("a") == {}
        assert await weights("d") == {"b": 1.0, "y": 0.004, "z": 0.004}
        assert await edges.count() == 3


async def test_two_hops_are_read_at_once_heaviest_first_and_bounded(opening):
    async with opening() as memory:
        updates = [edge("q:1", "q:2", "similar", 0.9), edge("q:2", "p:1", add=0.5), edge("q:2", "p:2", add=0.7)]
        updates += [edge("q:1", "p:3", add=0.4), edge("p:2", "far", add=1), edge("q:2", "q:1", "similar", 0.9)]
        await memory.stub.UpdateEdges(UpdateEdgesRequest(tenant="t", updates=updates))

        async def followed(nodes: list[str], first: int = 0, second: int = 0) -> list[Followed]:
            request = NeighbourhoodRequest(tenant="t", nodes=nodes, first=first, second=second)
            return [
                Followed(each.source, each.target, each.kind)
                for each in (await memory.stub.Neighbourhood(request)).edges
            ]

        assert await followed(["q:1"]) == [
            ("q:1", "q:2", "similar"), ("q:1", "p:3", "used"),
            ("q:2", "q:1", "similar"), ("q:2", "p:2", "used"), ("q:2", "p:1", "used"),
        ]  # fmt: skip
        assert await followed(["q:1"], first=1, second=2) == [
            ("q:1", "q:2", "similar"), ("q:2", "q:1", "similar"), ("q:2", "p:2", "used"),
        ]  # fmt: skip
        # What was begun from is not begun from once more.
        both = await followed(["q:1", "q:2"], second=1)
        assert both.count(Followed("q:2", "p:2", "used")) == 1
        assert ("p:2", "far", "used") in both
        assert await followed(["nobody"]) == await followed([]) == []
        with pytest.raises(InvalidArgument, match="first is 65"):
            await followed(["q:1"], first=65)
        with pytest.raises(InvalidArgument, match="second is 65"):
            await followed(["q:1"], second=65)
        with pytest.raises(InvalidArgument, match="65 nodes"):
            await followed([str(number) for number in range(65)])


async def test_nodes_alike_get_similar_edges_both_ways_and_the_nearest_are_found(opening):
    async with opening(similar_edges=2) as memory:
        cosines = {"query:near": 0.95, "query:nearer": 0.97, "query:nearest": 0.99, "query:far": 0.8}
        nodes = [Node(name="query:one", embedding=vector(1))]
        nodes += [
            Node(name=name, embedding=vector(at, near=1, cosine=cosine))
            for at, (name, cosine) in enumerate(cosines.items(), 2)
        ]
        nodes.append(Node(name="pattern:same", embedding=vector(1)))
        for some in (nodes[:3], nodes[3:]):
            await memory.stub.UpdateEdges(UpdateEdgesRequest(tenant="t", nodes=some))
        await memory.stub.UpdateEdges(
            UpdateEdgesRequest(tenant="other", nodes=[Node(name="query:x", embedding=vector(1))])
        )

        async def similar(node: str, tenant: str = "t") -> dict[str, float]:
            request = NeighboursRequest(tenant=tenant, node=node, kind="similar")
            return {each.target: round(each.weight, 2) for each in (await memory.stub.Neighbours(request)).edges}

        assert await similar("query:one") == {"query:nearest": 0.99, "query:nearer": 0.97}
        assert (await similar("query:near"))["query:one"] == 0.95
        assert await similar("query:far") == await similar("pattern:same") == await similar("query:x", "other") == {}
        asked = NeighbourhoodRequest(tenant="t", embedding=vector(1), nearest=2)
        reply = await memory.stub.Neighbourhood(asked)
        assert [each.name for each in reply.nearest] == ["query:one", "query:nearest"]
        assert ("query:one", "query:nearest") in [(each.source, each.target) for each in reply.edges]
        assert (await memory.stub.Status(StatusRequest())).graph_nodes == 7
        with pytest.raises(InvalidArgument, match="embedding of width 3"):
            await memory.stub.UpdateEdges(
                UpdateEdgesRequest(updates=[edge("a", "b")], nodes=[Node(name="q", embedding=[1, 2, 3])])
            )
        with pytest.raises(InvalidArgument, match="'query:n' has no embedding"):
            await memory.stub.UpdateEdges(UpdateEdgesRequest(nodes=[Node(name="query:n")]))
        assert not (await memory.stub.Neighbours(NeighboursRequest(node="a"))).edges


async def test_nodes_past_the_most_are_forgotten_the_oldest_first_and_outlive_a_restart(opening):
    async with opening(graph_nodes=3) as memory:
        memory.service.graph.nodes._clock = clock = Clock()
        for number in range(5):
            clock.now += 1
            node = Node(name=f"query:{number}", embedding=vector(number))
            await memory.stub.UpdateEdges(UpdateEdgesRequest(nodes=[node]))
            await memory.stub.UpdateEdges(UpdateEdgesRequest(nodes=[node]))
    async with opening(graph_nodes=3) as memory:
        reply = await memory.stub.Neighbourhood(NeighbourhoodRequest(embedding=vector(0), nearest=9))
        assert {each.name for each in reply.nearest} == {"query:2", "query:3", "query:4"}
        assert (await memory.stub.Status(StatusRequest())).graph_nodes == 3


TENANTS = ("", "a", "a:b", "1:a", "a/b", "*", "a\0b")
NAMES = ("query:a", "b:query:a", "query:*", "pattern:\0", "session:1:a/b")
TEXT = st.text("ab:/1*\0", min_size=1, max_size=4)


async def test_no_edge_or_node_leads_to_another_tenants(opening):
    """Every tenant's graph is full of the same names; a target's name says whose it is."""
    drawn: set[tuple[str, str]] = {(tenant, name) for tenant in TENANTS for name in NAMES}

    @given(st.tuples(st.sampled_from(TENANTS) | TEXT, st.sampled_from(NAMES) | TEXT))
    @settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
    def draw(pair: tuple[str, str]) -> None:
        drawn.add(pair)

    draw()
    tenants = sorted({tenant for tenant, _ in drawn})
    async with opening() as memory:
        for at, tenant in enumerate(tenants):
            names = [name for owner, name in drawn if owner == tenant]
            updates = [edge(name, f"of {at}", kind) for name in names for kind in ("used", "follows")]
            nodes = [Node(name=f"query:of {at}", embedding=vector(at, near=999, cosine=0.99))]
            await memory.stub.UpdateEdges(UpdateEdgesRequest(tenant=tenant, updates=updates, nodes=nodes))
        everything = sorted({name for _, name in drawn})
        for at, tenant in enumerate(tenants):
            own = {name for owner, name in drawn if owner == tenant}
            for name in everything:
                found = (await memory.stub.Neighbours(NeighboursRequest(tenant=tenant, node=name))).edges
                assert {each.target for each in found} == ({f"of {at}"} if name in own else set())
            asked = NeighbourhoodRequest(tenant=tenant, nodes=everything[:64], embedding=vector(999), nearest=64)
            reply = await memory.stub.Neighbourhood(asked)
            assert [each.name for each in reply.nearest] == [f"query:of {at}"]
            assert {each.target for each in reply.edges} <= {f"of {at}"}
