"""Patterns: the examples by which named routers answer, kept for a router to be rebuilt from."""

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence

from actors.base.errors import InvalidArgument
from actors.base.pattern_id import pattern_id
from actors.memory import limits
from actors.memory.store import Collection, Entry, Where
from protos.gen import memory_pb2

KEYWORDS = ("tenant", "router")
TEXT_BYTES = 64 << 10
FEATURE_BYTES = 64 << 10


class Patterns:
    """One example a (tenant, router, text). All methods leave the loop free."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    async def put(self, patterns: Sequence[memory_pb2.Pattern]) -> None:
        """Insert or replace; all of them, or none where one is malformed."""
        _check(patterns)
        width = self._collection.schema.width
        for pattern in patterns:
            limits.size(len(pattern.text.encode()), TEXT_BYTES, "text of a pattern")
            limits.size(len(pattern.features), FEATURE_BYTES, "features of a pattern")
            limits.name(pattern.label, "label", empty=True)
            limits.vector(pattern.embedding, width, "embedding")
            limits.share(pattern.success, "success")
        await asyncio.to_thread(self._collection.upsert, [_entry(pattern) for pattern in patterns])

    async def delete(self, patterns: Sequence[memory_pb2.Pattern]) -> None:
        """Forget those that are there."""
        _check(patterns)
        await asyncio.to_thread(self._collection.delete, [_point(pattern) for pattern in patterns])

    async def read(self) -> AsyncIterator[list[memory_pb2.Pattern]]:
        """All of every tenant, without embeddings, some at a time."""
        pages = self._collection.pages(Where())
        while page := await asyncio.to_thread(next, pages, None):
            yield [_pattern(entry) for entry in page]


def _check(patterns: Sequence[memory_pb2.Pattern]) -> None:
    if len(patterns) > limits.MAX_LIST:
        raise InvalidArgument(
            f"{len(patterns)} patterns; accepted are up to {limits.MAX_LIST} at a time", param="patterns"
        )
    for pattern in patterns:
        limits.name(pattern.tenant, "tenant", empty=True)
        limits.name(pattern.router, "router")


def _point(pattern: memory_pb2.Pattern) -> str:
    return pattern_id(pattern.tenant, pattern.router, pattern.text)


def _entry(pattern: memory_pb2.Pattern) -> Entry:
    payload = {
        "tenant": pattern.tenant,
        "router": pattern.router,
        "text": pattern.text,
        "label": pattern.label,
        "features": base64.b64encode(pattern.features).decode(),
        "uses": pattern.uses,
    }
    if pattern.HasField("success"):
        payload["success"] = pattern.success
    return Entry(_point(pattern), payload, list(pattern.embedding) or None)


def _pattern(entry: Entry) -> memory_pb2.Pattern:
    names = ("tenant", "router", "text", "label")
    return memory_pb2.Pattern(
        **{name: entry.payload[name] for name in names},
        features=base64.b64decode(entry.payload["features"]),
        # Written by a version that kept no outcomes, an entry has none.
        success=entry.payload.get("success"),
        uses=entry.payload.get("uses", 0),
    )
