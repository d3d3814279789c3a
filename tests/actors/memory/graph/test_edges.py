"""Edges stay within their bounds, and a dead hot tier comes back."""

import asyncio

import pytest

from actors.base.errors import InvalidArgument, Unavailable
from protos.gen.memory_pb2 import EdgeUpdate, NeighboursRequest, UpdateEdgesRequest


async def update(memory, *changes: EdgeUpdate) -> None:
    await memory.stub.UpdateEdges(UpdateEdgesRequest(updates=changes))


async def neighbours(memory, node: str, kind: str = "") -> list[tuple[str, float]]:
    reply = await memory.stub.Neighbours(NeighboursRequest(node=node, kind=kind))
    return [(edge.target, round(edge.weight, 4)) for edge in reply.edges]


async def test_weights_grow_decay_and_stay_within_bounds(opening):
    async with opening() as memory:
        edge = {"source": "session:s", "target": "pattern:p", "kind": "used"}
        await update(memory, EdgeUpdate(**edge, factor=1, add=0.7), EdgeUpdate(**edge, factor=1, add=0.7))
        assert await neighbours(memory, "session:s") == [("pattern:p", 1.0)]
        await update(memory, EdgeUpdate(**edge, factor=0.5, add=0))
        assert await neighbours(memory, "session:s") == [("pattern:p", 0.5)]
        await update(memory, EdgeUpdate(**edge, factor=1, add=-2))
        assert await neighbours(memory, "session:s") == [("pattern:p", 0.0)]
        with pytest.raises(InvalidArgument, match="kind 'likes'"):
            await update(memory, EdgeUpdate(source="a", target="b", kind="likes"))


async def test_only_the_heaviest_similar_edges_stay(opening):
    async with opening(similar_edges=3) as memory:
        weights = [0.1, 0.9, 0.5, 0.3, 0.7]
        changes = [
            EdgeUpdate(source="query:q", target=f"query:{at}", kind="similar", add=weight)
            for at, weight in enumerate(weights)
        ]
        await update(memory, *changes)
        expected = [("query:1", 0.9), ("query:4", 0.7), ("query:2", 0.5)]
        assert await neighbours(memory, "query:q", "similar") == expected
        assert await memory.service.graph.edges.count() == 3


async def answered(memory) -> list[tuple[str, float]] | None:
    try:
        return await neighbours(memory, "session:s")
    except Unavailable:
        return None


async def test_a_dead_hot_tier_is_said_and_comes_back(opening):
    async with opening() as memory:
        edge = EdgeUpdate(source="session:s", target="pattern:p", kind="used", add=0.5)
        await update(memory, edge)
        memory.valkey.kill()
        with pytest.raises(Unavailable, match="hot tier"):
            await neighbours(memory, "session:s")
        async with asyncio.timeout(20):
            while (found := await answered(memory)) is None:
                await asyncio.sleep(0.05)
        await memory.service.hot._reviving
        assert [target for target, _ in found] in ([], ["pattern:p"])
        assert memory.metric("russet_hot_restarts_total") == 1


def used(source: str, target: str, add: float, factor: float = 0) -> EdgeUpdate:
    return EdgeUpdate(source=source, target=target, kind="used", factor=factor, add=add)


async def test_neighbours_come_heaviest_first_of_one_kind_or_all(opening):
    async with opening("unix") as memory:
        weights = {"a": 0.1, "b": 0.9, "c": 0.5, "d": 0.9}
        await update(memory, *(used("n", target, weight) for target, weight in weights.items()))
        await update(memory, EdgeUpdate(source="n", target="e", kind="follows", add=0.7), used("m", "z", 1))
        assert [target for target, _ in await neighbours(memory, "n")] == ["b", "d", "e", "c", "a"]
        assert [target for target, _ in await neighbours(memory, "n", "used")] == ["b", "d", "c", "a"]
        reply = await memory.stub.Neighbours(NeighboursRequest(node="n", limit=2))
        assert [edge.target for edge in reply.edges] == ["b", "d"]
        assert await neighbours(memory, "nobody") == []


async def test_edges_in_all_are_bounded_and_the_node_touched_longest_ago_goes(opening):
    async with opening(graph_edges=6) as memory:
        for node in ("a", "b", "c"):
            await update(memory, used(node, "x", 0.5), used(node, "y", 0.5))
        await update(memory, used("a", "x", 0.1, 1))
        await update(memory, used("d", "x", 0.5))
        assert await neighbours(memory, "b") == []
        assert [len(await neighbours(memory, node)) for node in ("a", "c", "d")] == [2, 2, 1]
        assert await memory.service.graph.edges.count() == 5


async def test_updates_of_many_callers_do_not_lose_each_other(opening):
    async with opening() as memory:
        await asyncio.gather(*(update(memory, used("n", "a", 0.01, 1)) for _ in range(50)))
        assert await neighbours(memory, "n") == [("a", 0.5)]


async def test_edges_survive_a_restart(opening):
    async with opening() as memory:
        await update(memory, used("n", "a", 0.25))
    async with opening() as memory:
        assert await neighbours(memory, "n") == [("a", 0.25)]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (used("", "a", 1), "source of 0"),
        (used("n", "x" * 700, 1), "target of 700"),
        (used("n", "a", 0, float("inf")), "not finite"),
        (used("n", "a", float("nan")), "not finite"),
    ],
)
async def test_what_is_no_edge_is_refused_and_nothing_changes(opening, change, named):
    async with opening() as memory:
        with pytest.raises(InvalidArgument, match=named):
            await update(memory, used("n", "good", 1), change)
        with pytest.raises(InvalidArgument, match="1001 updates"):
            await update(memory, *[used("n", "a", 1)] * 1001)
        assert await neighbours(memory, "n") == []
