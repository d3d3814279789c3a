"""What worked before, over HTTP: the caller's procedures, newest first, and forgetting one."""

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from actors.base.errors import InvalidArgument
from cluster.gateway.answers import dumps
from cluster.gateway.asgi import Handler, Reply
from cluster.gateway.caller import Caller
from cluster.gateway.errors import UnknownParameter
from protos.gen import memory_pb2
from protos.gen.memory_pb2_grpc import MemoryStub

TIMEOUT_S = 10.0
MOST_LISTED = 1000


class Procedures:
    """The handlers."""

    def __init__(self, memory: MemoryStub) -> None:
        self._memory = memory

    def routes(self, route: Callable[[str, str, Handler], Route]) -> list[Route]:
        """Where they are reached; `route` makes one of path, method and handler."""
        return [
            route("/v1/russet/procedures", "GET", self.listed),
            route("/v1/russet/procedures/{procedure}", "DELETE", self.deleted),
        ]

    async def listed(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/russet/procedures?limit=N."""
        for name in request.query_params:
            if name != "limit":
                raise UnknownParameter(f"unknown parameter: {name[:80]}", param=name[:80])
        limit = request.query_params.get("limit", "100")
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= MOST_LISTED):
            raise InvalidArgument(f"limit is {limit[:40]!r}; accepted is 1 to {MOST_LISTED}", param="limit")
        asked = memory_pb2.ListProceduresRequest(tenant=caller.tenant, limit=int(limit))
        found = await self._memory.ListProcedures(asked, timeout=TIMEOUT_S)
        return Reply(dumps({"object": "list", "data": [row(each) for each in found.procedures]}))

    async def deleted(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """DELETE /v1/russet/procedures/{id}."""
        id = request.path_params["procedure"]
        asked = memory_pb2.DeleteProcedureRequest(tenant=caller.tenant, id=id)
        found = (await self._memory.DeleteProcedure(asked, timeout=TIMEOUT_S)).found
        return Reply(dumps({"id": id, "object": "procedure", "deleted": found}))


def row(procedure: memory_pb2.Procedure) -> dict[str, Any]:
    """As it is listed; times are Unix seconds."""
    return {
        "id": procedure.id,
        "object": "procedure",
        "question": procedure.question,
        "answer": procedure.answer,
        "source": procedure.source,
        "rating": round(procedure.rating, 4),
        "uses": procedure.uses,
        "created": procedure.created_ms // 1000,
        "last_used": procedure.last_used_ms // 1000 or None,
    }
