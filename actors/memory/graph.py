"""The graph: weighted edges between sessions, queries and patterns, in the hot tier (which is append-only on disk)."""

from collections.abc import Sequence

from actors.base.errors import InvalidArgument
from actors.memory.hot import HotTier
from protos.gen import memory_pb2

KINDS = ("follows", "similar", "used")


class Graph:
    """A hash per (kind, source): target -> weight in [0, 1]. One actor writes, so reading then writing is safe."""

    def __init__(self, hot: HotTier, similar_edges: int) -> None:
        self._hot = hot
        self._similar_edges = similar_edges

    async def update(self, updates: Sequence[memory_pb2.EdgeUpdate]) -> None:
        """New weight = clamp(weight * factor + add, 0, 1). `similar` keeps only a node's heaviest edges."""
        for change in updates:
            if change.kind not in KINDS:
                raise InvalidArgument(f"edge kind {change.kind!r}; one of {', '.join(KINDS)}", param="kind")
        client = self._hot.client
        for change in updates:
            key = _key(change.kind, change.source)
            created = not await client.hexists(key, change.target)
            weight = float(await client.hget(key, change.target) or 0)
            weight = min(max(weight * change.factor + change.add, 0.0), 1.0)
            await client.hset(key, change.target, repr(weight))
            if created:
                await client.incr("russet:edges")
            if created and change.kind == "similar":
                await self._bound(key)

    async def neighbours(self, node: str, kind: str, limit: int) -> list[memory_pb2.Edge]:
        """Edges out of `node`, heaviest first."""
        edges = []
        for each in [kind] if kind else KINDS:
            weights = await self._hot.client.hgetall(_key(each, node))
            edges += [
                memory_pb2.Edge(source=node, target=target.decode(), kind=each, weight=float(weight))
                for target, weight in weights.items()
            ]
        return sorted(edges, key=lambda edge: (-edge.weight, edge.target))[:limit]

    async def count(self) -> int:
        """Edges in all."""
        return int(await self._hot.client.get("russet:edges") or 0)

    async def _bound(self, key: str) -> None:
        weights = await self._hot.client.hgetall(key)
        surplus = sorted(weights, key=lambda target: (float(weights[target]), target))[: -self._similar_edges]
        if surplus:
            await self._hot.client.hdel(key, *surplus)
            await self._hot.client.decrby("russet:edges", len(surplus))


def _key(kind: str, source: str) -> str:
    return f"russet:edge:{kind}:{source}"
