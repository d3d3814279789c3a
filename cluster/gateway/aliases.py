"""Names that lead to models, for administrators: over HTTP here, over gRPC the same messages."""

import math
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.routing import Route

from actors.base.errors import NotFound
from cluster.gateway.answers import dumps
from cluster.gateway.asgi import Handler, Reply
from cluster.gateway.audit import Audit
from cluster.gateway.auth import check_admin
from cluster.gateway.bodies import Body, parse
from cluster.gateway.caller import Caller
from protos.gen import inference_pb2, router_pb2
from protos.gen.router_pb2_grpc import RouterStub

TIMEOUT_S = 15.0
Z = 1.959964
"""Of a 95 % interval."""


class AliasBody(Body):
    """Of PUT /v1/russet/aliases/{alias}: the weights of the models that it leads to."""

    models: dict[str, Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]] = Field(min_length=1, max_length=16)
    max_failures: float | None = Field(None, gt=0, le=1)


class Aliases:
    """Asks the router. Each method raises PermissionDenied for callers that are no administrators."""

    def __init__(self, router: RouterStub, audit: Audit) -> None:
        self._router = router
        self._audit = audit

    async def listed(self, caller: Caller) -> list[inference_pb2.Alias]:
        """All, by name."""
        check_admin(caller)
        reply = await self._router.ListAliases(router_pb2.ListAliasesRequest(), timeout=TIMEOUT_S)
        return list(reply.aliases)

    async def get(self, caller: Caller, name: str) -> inference_pb2.Alias:
        """One of them. Raises NotFound."""
        known = await self.listed(caller)
        for alias in known:
            if alias.name == name:
                return alias
        there = ", ".join(alias.name for alias in known) or "none"
        raise NotFound(f"there is no alias {name[:80]!r}; there are: {there}", param="alias")

    async def put(self, caller: Caller, alias: inference_pb2.Alias) -> inference_pb2.Alias:
        """Set one."""
        check_admin(caller)
        putting = self._router.PutAlias(router_pb2.PutAliasRequest(alias=alias), timeout=TIMEOUT_S)
        return (await self._audit.told(caller, "alias.put", alias.name, putting)).alias

    async def delete(self, caller: Caller, name: str) -> bool:
        """Forget one that was put."""
        check_admin(caller)
        deleting = self._router.DeleteAlias(router_pb2.DeleteAliasRequest(name=name), timeout=TIMEOUT_S)
        return (await self._audit.told(caller, "alias.delete", name, deleting)).found

    def routes(self, route: Callable[[str, str, Handler], Route]) -> list[Route]:
        """Where they are reached; `route` makes one of path, method and handler."""
        return [
            route("/v1/russet/aliases", "GET", self.http_list),
            route("/v1/russet/aliases/{alias:path}", "GET", self.http_get),
            route("/v1/russet/aliases/{alias:path}", "PUT", self.http_put),
            route("/v1/russet/aliases/{alias:path}", "DELETE", self.http_delete),
        ]

    async def http_list(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/russet/aliases."""
        return Reply(dumps({"object": "list", "data": [alias_row(alias) for alias in await self.listed(caller)]}))

    async def http_get(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/russet/aliases/{alias}."""
        return Reply(dumps(alias_row(await self.get(caller, request.path_params["alias"]))))

    async def http_put(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """PUT /v1/russet/aliases/{alias}."""
        asked = alias_message(request.path_params["alias"], parse(body, AliasBody))
        return Reply(dumps(alias_row(await self.put(caller, asked))))

    async def http_delete(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """DELETE /v1/russet/aliases/{alias}."""
        name = request.path_params["alias"]
        return Reply(dumps({"id": name, "object": "alias", "deleted": await self.delete(caller, name)}))


def alias_message(name: str, asked: AliasBody) -> inference_pb2.Alias:
    """The body as the router reads it."""
    targets = [inference_pb2.AliasTarget(model=model, weight=weight) for model, weight in asked.models.items()]
    return inference_pb2.Alias(name=name, targets=targets, max_failures=asked.max_failures or 0)


def alias_row(alias: inference_pb2.Alias) -> dict[str, Any]:
    """An alias with how its targets do, as JSON has it. Intervals are of 95 %."""
    total = sum(target.weight for target in alias.targets)
    targets = {}
    for target in alias.targets:
        told = target.outcomes
        targets[target.model] = {
            "weight": target.weight,
            "share": target.weight / total if total else 0.0,
            "ready": target.ready,
            "failing": target.failing,
            "requests": told.requests,
            "errors": told.errors,
            "error_rate": _share(told.errors, told.requests),
            "ttft_ms": _mean(told.ttft_ms),
            "tpot_ms": _mean(told.tpot_ms),
            "quality": _mean(told.quality),
            "rating": _mean(told.rating),
        }
    return {
        "id": alias.name,
        "object": "alias",
        "source": alias.source,
        "max_failures": alias.max_failures,
        "models": targets,
    }


def _share(count: int, of: int) -> dict[str, float] | None:
    """A share with Wilson's interval (1927); None of nothing."""
    if not of:
        return None
    share, squared = count / of, Z * Z / of
    middle = (share + squared / 2) / (1 + squared)
    half = Z * math.sqrt(share * (1 - share) / of + squared / (4 * of)) / (1 + squared)
    return {"mean": share, "low": max(0.0, middle - half), "high": min(1.0, middle + half)}


def _mean(moments: inference_pb2.Moments) -> dict[str, Any] | None:
    """A mean with the normal interval of it; unknown (None) for fewer than two numbers."""
    if not moments.count:
        return None
    half = Z * math.sqrt(moments.variance / moments.count) if moments.count > 1 else None
    low, high = (None, None) if half is None else (moments.mean - half, moments.mean + half)
    return {"count": moments.count, "mean": moments.mean, "low": low, "high": high}
