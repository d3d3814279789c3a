"""The graph as memory's RPCs see it: edges, and the nodes that they are found by."""

from collections.abc import Sequence

from actors.base.errors import InvalidArgument
from actors.memory import limits
from actors.memory.config import MemoryConfig
from actors.memory.graph_edges import MOST_NODES, Edges, check_updates
from actors.memory.graph_nodes import Nodes
from actors.memory.hot import HotTier
from actors.memory.store import Collection
from protos.gen import memory_pb2

NEAREST, FIRST, SECOND = 8, 16, 8
"""What a neighbourhood is where the request does not say."""


class Graph:
    """Edges and nodes of every tenant; no method reaches across tenants."""

    def __init__(self, config: MemoryConfig, hot: HotTier, collection: Collection) -> None:
        self._config = config
        self.edges = Edges(config, hot)
        self.nodes = Nodes(collection, config.graph_nodes)

    async def update(self, request: memory_pb2.UpdateEdgesRequest) -> None:
        """Raises InvalidArgument before anything changed.

        A node that came before gets its edges once more, so that what broke off halfway may be sent again.
        """
        tenant = request.tenant
        check_updates(tenant, request.updates)
        self.nodes.check(tenant, request.nodes)
        await self.edges.update(tenant, request.updates)
        if not request.nodes:
            return
        similar = [
            memory_pb2.EdgeUpdate(source=source, target=target, kind="similar", add=near.similarity)
            for node, nearest in await self.nodes.put(tenant, request.nodes, self._config.similar_edges)
            for near in nearest
            if near.similarity > self._config.similar_cosine
            for source, target in ((node.name, near.name), (near.name, node.name))
        ]
        for at in range(0, len(similar), limits.MAX_LIST):
            await self.edges.update(tenant, similar[at : at + limits.MAX_LIST])

    async def neighbourhood(self, request: memory_pb2.NeighbourhoodRequest) -> memory_pb2.NeighbourhoodReply:
        """See memory.proto."""
        begun, nearest = list(dict.fromkeys(request.nodes)), []
        limits.name(request.tenant, "tenant", empty=True)
        if request.nearest > MOST_NODES:
            raise InvalidArgument(f"nearest is {request.nearest}; accepted are up to {MOST_NODES}", param="nearest")
        if request.embedding:
            limit = request.nearest or NEAREST
            nearest = await self.nodes.nearest(request.tenant, request.kind or "query", request.embedding, limit)
            begun = _with(begun, [near.name for near in nearest])
        edges = await self.edges.neighbourhood(
            request.tenant, begun, request.first or FIRST, request.second or SECOND, request.onward
        )
        near = [memory_pb2.NearNode(name=near.name, similarity=near.similarity) for near in nearest]
        return memory_pb2.NeighbourhoodReply(nearest=near, edges=edges)


def _with(begun: Sequence[str], nearest: Sequence[str]) -> list[str]:
    """Those named, then those near, each once; of the latter as many as there is room for."""
    most = max(len(begun), MOST_NODES)
    return list(dict.fromkeys([*begun, *nearest]))[:most]
