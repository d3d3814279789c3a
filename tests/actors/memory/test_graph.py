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
        assert await memory.service.graph.count() == 3


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
        assert [target for target, _ in found] in ([], ["pattern:p"])
        assert memory.metric("russet_hot_restarts_total") == 1
