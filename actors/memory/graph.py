"""The graph: weighted edges between sessions, queries and patterns, in the hot tier (which is append-only on disk).

russet:edge:<kind>:<source>   hash target -> weight
russet:edge-nodes             those hashes, by when they were last touched
russet:edges                  how many edges there are
"""

import contextlib
import time
from collections.abc import Sequence

from actors.base.errors import InvalidArgument, Unavailable
from actors.memory import limits
from actors.memory.hot import HotTier
from protos.gen import memory_pb2

KINDS = ("follows", "similar", "used")
NODES, COUNT = "russet:edge-nodes", "russet:edges"

# One script for a whole request: all of it happens or none, and nothing comes between reading a weight and writing it.
UPDATE = """
local now, total = ARGV[1], tonumber(ARGV[2])
for at = 3, #ARGV, 5 do
  local key, target, most = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 4])
  local weight = tonumber(redis.call('HGET', key, target) or '0') * tonumber(ARGV[at + 2]) + tonumber(ARGV[at + 3])
  weight = math.min(math.max(weight, 0), 1)
  redis.call('ZADD', KEYS[1], now, key)
  if redis.call('HSET', key, target, string.format('%.9g', weight)) == 1 then
    redis.call('INCR', KEYS[2])
    if most > 0 and redis.call('HLEN', key) > most then
      local edges, lightest, least = redis.call('HGETALL', key), nil, nil
      for i = 1, #edges, 2 do
        local w = tonumber(edges[i + 1])
        if not least or w < least or (w == least and edges[i] > lightest) then lightest, least = edges[i], w end
      end
      redis.call('HDEL', key, lightest)
      redis.call('DECR', KEYS[2])
    end
  end
end
while tonumber(redis.call('GET', KEYS[2]) or '0') > total and redis.call('ZCARD', KEYS[1]) > 1 do
  local oldest = redis.call('ZPOPMIN', KEYS[1])[1]
  redis.call('DECRBY', KEYS[2], redis.call('HLEN', oldest))
  redis.call('DEL', oldest)
end
return redis.status_reply('OK')
"""


class Graph:
    """Edges out of a node, by kind. At most `similar_edges` of kind `similar` a node, and `edges` in all."""

    def __init__(self, hot: HotTier, similar_edges: int, edges: int) -> None:
        self._hot = hot
        self._similar_edges = similar_edges
        self._edges = edges
        self._count = 0

    async def update(self, updates: Sequence[memory_pb2.EdgeUpdate]) -> None:
        """New weight = clamp(weight * factor + add, 0, 1), in order. Raises InvalidArgument before anything changed.

        `similar` keeps a node's heaviest edges, of equals the first by name.
        """
        if len(updates) > limits.MAX_LIST:
            raise InvalidArgument(f"{len(updates)} updates; accepted: {limits.MAX_LIST} at most", param="updates")
        arguments: list[str | float] = [time.time(), self._edges]
        for change in updates:
            _check_kind(change.kind)
            limits.name(change.source, "source", most=limits.MAX_NODE)
            limits.name(change.target, "target", most=limits.MAX_NODE)
            limits.finite((change.factor, change.add), "factor or add")
            most = self._similar_edges if change.kind == "similar" else 0
            arguments += [_key(change.kind, change.source), change.target, change.factor, change.add, most]
        if updates:
            await self._hot.ask(lambda client: client.eval(UPDATE, 2, NODES, COUNT, *arguments))

    async def neighbours(self, node: str, kind: str, limit: int) -> list[memory_pb2.Edge]:
        """Edges out of `node`, heaviest first, of equals the first by name."""
        if kind:
            _check_kind(kind)
        edges = []
        for each in [kind] if kind else KINDS:
            key = _key(each, node)
            weights = await self._hot.ask(lambda client, key=key: client.hgetall(key))
            edges += [
                memory_pb2.Edge(source=node, target=_text(target), kind=each, weight=float(weight))
                for target, weight in weights.items()
            ]
        return sorted(edges, key=lambda edge: (-edge.weight, edge.target))[:limit]

    async def count(self) -> int:
        """Edges in all; while the hot tier is away, as many as there were."""
        with contextlib.suppress(Unavailable):
            self._count = int(await self._hot.ask(lambda client: client.get(COUNT)) or 0)
        return self._count


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise InvalidArgument(f"edge kind {kind!r}; one of {', '.join(KINDS)}", param="kind")


def _key(kind: str, source: str) -> str:
    return f"russet:edge:{kind}:{source}"


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
