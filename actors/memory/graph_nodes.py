"""Nodes that are found by what they mean: their vectors, and nothing of the texts that those are of."""

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Sequence
from typing import NamedTuple

from actors.base.errors import InvalidArgument
from actors.memory import limits
from actors.memory.store import Collection, Entry, Where
from protos.gen import memory_pb2

KEYWORDS = ("tenant", "kind")
INTEGERS = ("time_ms",)
_IDS = uuid.UUID("3b0f7e52-5a55-4a0b-9c5e-6d0c5b0f0a91")


class Near(NamedTuple):
    """A node, and its cosine with what was asked for."""

    name: str
    similarity: float


class Nodes:
    """A tenant's nodes by name and by similarity. Of all tenants' the oldest past `most` are forgotten."""

    def __init__(self, collection: Collection, most: int, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives Unix seconds."""
        self._collection = collection
        self._most = most
        self._clock = clock
        self.count = collection.count()
        self._putting = asyncio.Lock()
        """Held while nodes are added: those that come at once see each other."""

    def check(self, tenant: str, nodes: Sequence[memory_pb2.Node]) -> None:
        """Raises InvalidArgument naming what is no node."""
        limits.name(tenant, "tenant", empty=True)
        if len(nodes) > limits.MAX_LIST:
            raise InvalidArgument(f"{len(nodes)} nodes; accepted: {limits.MAX_LIST} at most", param="nodes")
        for node in nodes:
            limits.name(node.name, "name of a node", most=limits.MAX_NODE)
            if not node.embedding:
                raise InvalidArgument(f"node {node.name[:80]!r} has no embedding; accepted is a text's", param="nodes")
            limits.vector(node.embedding, self._collection.schema.width, "embedding")

    async def put(
        self, tenant: str, nodes: Sequence[memory_pb2.Node], limit: int
    ) -> list[tuple[memory_pb2.Node, list[Near]]]:
        """Keep them; of each, the other nodes of its kind that are nearest now, at most `limit`."""
        async with self._putting:
            return await asyncio.to_thread(self._put, tenant, nodes, limit)

    async def nearest(self, tenant: str, kind: str, embedding: Sequence[float], limit: int) -> list[Near]:
        """The tenant's nodes of a kind, by cosine."""
        limits.name(tenant, "tenant", empty=True)
        limits.vector(embedding, self._collection.schema.width, "embedding")
        return await asyncio.to_thread(self._nearest, tenant, kind, embedding, limit)

    async def newest(self, tenant: str, kind: str, limit: int) -> list[tuple[str, Sequence[float]]]:
        """Names and vectors of the tenant's newest nodes of a kind."""

        def read() -> list[tuple[str, Sequence[float]]]:
            found = self._collection.scan(Where({"tenant": tenant, "kind": kind}), limit, "time_ms")
            entries = self._collection.get([entry.id for entry in found], vectors=True)
            return [(entry.payload["name"], entry.vector or ()) for entry in entries]

        return await asyncio.to_thread(read)

    def _put(
        self, tenant: str, nodes: Sequence[memory_pb2.Node], limit: int
    ) -> list[tuple[memory_pb2.Node, list[Near]]]:
        now = int(self._clock() * 1e3)
        entries = [
            Entry(
                _point(tenant, node.name),
                {"tenant": tenant, "kind": kind_of(node.name), "name": node.name, "time_ms": now},
                list(node.embedding),
            )
            for node in nodes
        ]
        ids = [entry.id for entry in entries]
        known = {entry.id for entry in self._collection.get(ids)}
        self._collection.upsert(entries)
        self.count += len(set(ids) - known)
        self._forget()
        return [
            (
                node,
                [
                    near
                    for near in self._nearest(tenant, kind_of(node.name), node.embedding, limit + 1)
                    if near.name != node.name
                ][:limit],
            )
            for node in nodes
        ]

    def _forget(self) -> None:
        excess = self.count - self._most
        while excess > 0:
            oldest = self._collection.scan(Where(), min(excess, limits.MAX_LIST), "time_ms", descending=False)
            self._collection.delete([entry.id for entry in oldest])
            self.count -= len(oldest)
            excess -= len(oldest) or excess

    def _nearest(self, tenant: str, kind: str, embedding: Sequence[float], limit: int) -> list[Near]:
        found = self._collection.search(list(embedding), limit, Where({"tenant": tenant, "kind": kind}))
        return [Near(entry.payload["name"], min(score, 1.0)) for entry, score in found]


def kind_of(name: str) -> str:
    """What kind of node it is: what stands before the colon."""
    return name.partition(":")[0]


def _point(tenant: str, name: str) -> str:
    return str(uuid.uuid5(_IDS, json.dumps([tenant, name])))
