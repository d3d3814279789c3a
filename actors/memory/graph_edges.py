"""A tenant's weighted edges, in the hot tier (which is append-only on disk).

russet:graph:<kind>:<tenant's length>:<tenant>:<source>   hash target -> weight, time and uses
russet:edge-nodes                                         those hashes, by when they were last touched
russet:edges                                              how many edges there are

An edge is named by its tenant's graph and two names in it: there is none that leads from one graph to another. Used and
follows lose half of their weight in every half-life, and a node whose edges nobody touched until even a weight of 1
would be below FORGOTTEN loses them. A cosine is what it is however old: similar edges do not age, but go with the rest.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from actors.base.errors import InvalidArgument, Unavailable
from actors.memory import limits
from actors.memory.config import MemoryConfig
from actors.memory.graph_scripts import READ, UPDATE
from actors.memory.hot import HotTier
from protos.gen import memory_pb2

KINDS = ("follows", "similar", "used")
FORGOTTEN = 0.01
"""MECHANISMS.md, deep loop: lighter edges are dropped."""
MOST_NODES = 64
"""Begun from at once."""
MOST_FOLLOWED = 64
"""Edges followed from a node on the way to a second hop."""
NODES, COUNT = "russet:edge-nodes", "russet:edges"


class Edges:
    """Edges out of a node, by kind. Bounded for a node and in all."""

    def __init__(self, config: MemoryConfig, hot: HotTier, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives Unix seconds."""
        self._hot = hot
        self._clock = clock
        self._most = {"similar": config.similar_edges, "used": config.graph_degree, "follows": config.graph_degree}
        half_ms = config.graph_half_life_s * 1e3
        self._half_ms = {"similar": 0.0, "used": half_ms, "follows": half_ms}
        self._kept_ms = half_ms * math.log2(1 / FORGOTTEN)
        self._total = config.graph_edges
        self._count = 0

    async def update(self, tenant: str, updates: Sequence[memory_pb2.EdgeUpdate]) -> None:
        """New weight = clamp(weight by now * factor + add, 0, 1), in order.

        A node keeps the heaviest of a kind, of equals the first by name. Raises InvalidArgument before any changed.
        """
        check_updates(tenant, updates)
        now = self._clock() * 1e3
        arguments: list[str | float] = [now, self._total, now - self._kept_ms]
        for change in updates:
            kind = change.kind
            key = f"russet:graph:{kind}:{_owner(tenant)}{change.source}"
            arguments += [key, change.target, self._half_ms[kind], self._most[kind], change.factor, change.add]
        if updates:
            await self._hot.ask(lambda client: client.eval(UPDATE, 2, NODES, COUNT, *arguments))

    async def neighbours(self, tenant: str, node: str, kind: str, limit: int) -> list[memory_pb2.Edge]:
        """Edges out of `node`, heaviest first, of equals the first by name. An empty kind is every kind."""
        if kind:
            _check_kind(kind)
        return await self._read(tenant, [node], limit, 0, [kind] if kind else KINDS, ())

    async def neighbourhood(
        self, tenant: str, nodes: Sequence[str], first: int, second: int, onward: Sequence[str] = ()
    ) -> list[memory_pb2.Edge]:
        """Edges out of `nodes`, at most `first` of each, then out of what those lead to, at most `second` of each.

        The second hop follows the kinds `onward`, or all. One exchange with the hot tier. Raises InvalidArgument past
        MOST_NODES or MOST_FOLLOWED.
        """
        if len(nodes) > MOST_NODES:
            raise InvalidArgument(f"{len(nodes)} nodes; accepted are up to {MOST_NODES}", param="nodes")
        for value, name in ((first, "first"), (second, "second")):
            if not 0 < value <= MOST_FOLLOWED:
                raise InvalidArgument(f"{name} is {value}; accepted are 1 to {MOST_FOLLOWED}", param=name)
        for kind in onward:
            _check_kind(kind)
        return await self._read(tenant, nodes, first, second, KINDS, onward or KINDS) if nodes else []

    async def count(self) -> int:
        """Edges in all; while the hot tier is away, as many as there were."""
        with contextlib.suppress(Unavailable):
            self._count = int(await self._hot.ask(lambda client: client.get(COUNT)) or 0)
        return self._count

    async def _read(
        self,
        tenant: str,
        nodes: Sequence[str],
        first: int,
        second: int,
        kinds: Sequence[str],
        onward: Sequence[str],
    ) -> list[memory_pb2.Edge]:
        now = self._clock() * 1e3
        aging = [part for kind in kinds for part in (kind, self._half_ms[kind], int(kind in onward))]
        arguments = [now, first, second, len(kinds), *aging, _owner(tenant), *nodes]
        reply: Any = await self._hot.ask(lambda client: client.eval(READ, 0, *arguments))
        found: list[str] = json.loads(reply)
        return [_edge(now, *found[place : place + 4]) for place in range(0, len(found), 4)]


def check_updates(tenant: str, updates: Sequence[memory_pb2.EdgeUpdate]) -> None:
    """Raises InvalidArgument naming what is no edge."""
    limits.name(tenant, "tenant", empty=True)
    if len(updates) > limits.MAX_LIST:
        raise InvalidArgument(f"{len(updates)} updates; accepted: {limits.MAX_LIST} at most", param="updates")
    for change in updates:
        _check_kind(change.kind)
        limits.name(change.source, "source", most=limits.MAX_NODE)
        limits.name(change.target, "target", most=limits.MAX_NODE)
        limits.finite((change.factor, change.add), "factor or add")


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise InvalidArgument(f"edge kind {kind!r}; one of {', '.join(KINDS)}", param="kind")


def _owner(tenant: str) -> str:
    """The length keeps the graph of tenant a with node b:c apart from that of tenant a:b with node c."""
    return f"{len(tenant)}:{tenant}:"


def _edge(now_ms: float, source: str, target: str, kind: str, held: str) -> memory_pb2.Edge:
    weight, time_ms, uses = held.split()
    return memory_pb2.Edge(
        source=source,
        target=target,
        kind=kind,
        weight=float(weight),
        age_ms=max(0, int(now_ms - float(time_ms))),
        uses=int(uses),
    )
