"""The witness log over HTTP: entries, failures like one, latency spikes, aggregates, and whether the chain holds.

A caller reads the entries of its own tenant. An administrator (see cluster.gateway.auth) may name another with
`tenant`, or ask for `all_tenants`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict
from starlette.requests import Request
from starlette.routing import Route

from actors.base.errors import InvalidArgument, NotFound, PermissionDenied
from cluster.gateway.answers import dumps
from cluster.gateway.asgi import Handler, Reply
from cluster.gateway.caller import Caller
from cluster.gateway.errors import UnknownParameter
from cluster.moments import moment_ms
from protos.gen import memory_pb2
from protos.gen.memory_pb2_grpc import MemoryStub

TIMEOUT_S = 110.0
"""A verification reads the whole log."""
MOST_LISTED = 1000
SCOPE = ("from", "to", "tenant", "all_tenants")
Query = Mapping[str, str]


class Witness:
    """The handlers."""

    def __init__(self, memory: MemoryStub) -> None:
        self._memory = memory

    def routes(self, route: Callable[[str, str, Handler], Route]) -> list[Route]:
        """Its paths, made by `route`; the entry's comes last, for it takes any name."""
        return [
            route("/v1/witness", "GET", self.listed),
            route("/v1/witness/similar", "GET", self.similar),
            route("/v1/witness/slow", "GET", self.slow),
            route("/v1/witness/stats", "GET", self.stats),
            route("/v1/witness/verify", "GET", self.verify),
            route("/v1/witness/{entry}", "GET", self.shown),
        ]

    async def listed(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/witness: newest first."""
        names = ("limit", "model", "session", "errors", "quality_below", "slower_than_ms")
        query = _known(request, *SCOPE, *names)
        asked = memory_pb2.QueryWitnessRequest(
            limit=_limit(query, 100),
            model=query.get("model", ""),
            session_id=query.get("session", ""),
            errors_only=_flag(query, "errors"),
            quality_below=_number(query, "quality_below", 0, 1),
            slower_than_ms=_number(query, "slower_than_ms", 0, 1e9),
        )
        _scope(asked, query, caller)
        reply = await self._memory.QueryWitness(asked, timeout=TIMEOUT_S)
        return _list([row(each) for each in reply.records])

    async def shown(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/witness/{id}; an archived one where `from` or `to` reaches it."""
        name = request.path_params["entry"]
        asked = memory_pb2.QueryWitnessRequest(id=name, limit=1)
        _scope(asked, _known(request, *SCOPE), caller)
        reply = await self._memory.QueryWitness(asked, timeout=TIMEOUT_S)
        if not reply.records:
            raise NotFound(
                f"there is no witness entry {name[:80]!r}; of archived ones, `from` must reach it", param="id"
            )
        return Reply(dumps(row(reply.records[0])))

    async def similar(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/witness/similar?text=... or ?id=...: failures like it."""
        query = _known(request, *SCOPE, "text", "id", "limit")
        asked = memory_pb2.SimilarWitnessRequest(
            text=query.get("text", ""), id=query.get("id", ""), limit=_limit(query, 10)
        )
        _scope(asked, query, caller)
        reply = await self._memory.SimilarWitness(asked, timeout=TIMEOUT_S)
        more = [{"similarity": each.similarity, "matched": each.matched} for each in reply.found]
        return _list([row(each.record) | extra for each, extra in zip(reply.found, more, strict=True)])

    async def slow(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/witness/slow: more than `factor` times the median of their model."""
        query = _known(request, *SCOPE, "factor", "limit")
        asked = memory_pb2.SlowWitnessRequest(factor=_number(query, "factor", 1, 1e6) or 0, limit=_limit(query, 100))
        _scope(asked, query, caller)
        reply = await self._memory.SlowWitness(asked, timeout=TIMEOUT_S)
        rows = [
            row(each.record) | {"median_ms": each.median_ms, "p99_ms": each.p99_ms, "ratio": each.ratio}
            for each in reply.spikes
        ]
        return _list(rows, entries=reply.entries)

    async def stats(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/witness/stats?by=model,replica: counts, tokens, mean quality, percentiles."""
        query = _known(request, *SCOPE, "by")
        by = [name for name in query.get("by", "").split(",") if name]
        asked = memory_pb2.WitnessStatsRequest(by=by)
        _scope(asked, query, caller)
        reply = await self._memory.WitnessStats(asked, timeout=TIMEOUT_S)
        groups = [_group(by, each) for each in reply.groups]
        return _list(groups, first_ms=reply.first_ms, last_ms=reply.last_ms)

    async def verify(self, request: Request, body: bytes, caller: Caller) -> Reply:
        """GET /v1/witness/verify: of the whole log, so for operators only."""
        _known(request)
        if not caller.admin:
            raise _not_admin("verify")
        reply = await self._memory.VerifyWitness(memory_pb2.VerifyWitnessRequest(), timeout=TIMEOUT_S)
        return Reply(dumps(verdict(reply)))


def row(record: memory_pb2.WitnessRecord) -> dict[str, Any]:
    """An entry as JSON: without its vectors; texts are hashes already."""
    entry = memory_pb2.WitnessEntry()
    entry.CopyFrom(record.entry)
    del entry.query_embedding[:]
    del entry.response_embedding[:]
    found = MessageToDict(entry, preserving_proto_field_name=True)
    always = {"tenant": "", "session_id": "", "model": "", "replica_id": "", "finish": "", "error": "", "quality": None}
    found = {"object": "witness.entry", **always, **found}
    latency = {field.name: getattr(entry.latency, field.name) for field in entry.latency.DESCRIPTOR.fields}
    usage = {field.name: getattr(entry.usage, field.name) for field in entry.usage.DESCRIPTOR.fields}
    found |= {"time_ms": entry.time_ms, "latency": latency, "usage": usage}
    return found | {"sequence": record.sequence, "hash": record.hash.hex(), "archived": record.archived}


def verdict(reply: memory_pb2.VerifyWitnessReply) -> dict[str, Any]:
    """What a verification found, as JSON."""
    found = {"object": "witness.verification", "sound": reply.sound, "entries": reply.entries, "first": reply.first}
    found |= {"archived": reply.archived, "signed_heads": reply.signed_heads, "head": reply.head.hex()}
    broken = {"sequence": reply.broken_at, "id": reply.broken_id or None, "problem": reply.problem}
    return found | {"broken": None if reply.sound else broken}


def _group(by: list[str], group: memory_pb2.WitnessGroup) -> dict[str, Any]:
    latency = {
        each.part: {"p50": each.p50, "p90": each.p90, "p95": each.p95, "p99": each.p99} for each in group.latency
    }
    found: dict[str, Any] = dict(zip(by, group.key, strict=True))
    for name in ("entries", "errors", "prompt_tokens", "completion_tokens", "scored"):
        found[name] = getattr(group, name)
    return found | {"mean_quality": group.mean_quality if group.scored else None, "latency_ms": latency}


def _list(rows: list[dict[str, Any]], **more: Any) -> Reply:
    return Reply(dumps({"object": "list", "data": rows, **more}))


def _scope(asked: Any, query: Query, caller: Caller) -> None:
    """Whose entries, and of when."""
    asked.all_tenants, asked.tenant = _flag(query, "all_tenants"), query.get("tenant", caller.tenant)
    if asked.all_tenants and not caller.admin:
        raise _not_admin("all_tenants")
    if asked.tenant != caller.tenant and not caller.admin:
        raise _not_admin("tenant")
    if asked.all_tenants and "tenant" in query:
        raise InvalidArgument("tenant and all_tenants are both set; accepted is one of them", param="tenant")
    for param, field in (("from", "from_ms"), ("to", "to_ms")):
        if param in query:
            setattr(asked, field, moment_ms(query[param], param))


def _not_admin(param: str) -> PermissionDenied:
    return PermissionDenied(f"{param} is for administrators: keys with the role admin", param=param)


def _known(request: Request, *names: str) -> Query:
    for name in request.query_params:
        if name not in names:
            accepted = f"; accepted: {', '.join(names)}" if names else ""
            raise UnknownParameter(f"unknown parameter: {name[:80]}{accepted}", param=name[:80])
    return request.query_params


def _limit(query: Query, default: int) -> int:
    text = query.get("limit", str(default))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MOST_LISTED):
        raise InvalidArgument(f"limit is {text[:40]!r}; accepted is 1 to {MOST_LISTED}", param="limit")
    return int(text)


def _flag(query: Query, name: str) -> bool:
    return _read(query, name, {"true": True, "1": True, "false": False, "0": False}.get, "true or false") or False


def _number(query: Query, name: str, low: float, high: float) -> float | None:
    def read(text: str) -> float | None:
        try:
            value = float(text)
        except ValueError:
            return None
        return value if math.isfinite(value) and low <= value <= high else None

    return _read(query, name, read, f"{low:g} to {high:g}")


def _read(query: Query, name: str, read: Callable[[str], Any], accepted: str) -> Any:
    if name not in query:
        return None
    if (value := read(query[name])) is None:
        raise InvalidArgument(f"{name} is {query[name][:40]!r}; accepted is {accepted}", param=name)
    return value
