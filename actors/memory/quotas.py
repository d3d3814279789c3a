"""What keys have used of their limits: decided here for all gateways, and kept in the hot tier to outlive this process.

Where the hot tier does not answer, counting goes on in this process.
"""

import asyncio
import json
import logging
import time
from collections import OrderedDict
from hashlib import sha256
from typing import Any

from actors.base.errors import InvalidArgument, Unavailable
from actors.base.quota import Limits, Room, Usage, Verdict
from actors.memory import limits as bounds
from actors.memory.hot import HotTier
from protos.gen import quotas_pb2, quotas_pb2_grpc

log = logging.getLogger(__name__)
KEPT = 10_000
"""Keys whose counts are in this process; those of others are read again."""
EXPIRE_S = 2 * 86_400
MOST = 10**12


class Quotas(quotas_pb2_grpc.QuotasServicer):
    """See quotas.proto. One process decides, so no two requests can both take the last of a limit."""

    def __init__(self, hot: HotTier) -> None:
        self._hot = hot
        self._usage: OrderedDict[str, Usage] = OrderedDict()
        self._reading: dict[str, asyncio.Lock] = {}

    async def Take(self, request: quotas_pb2.TakeRequest, context: Any) -> quotas_pb2.TakeReply:
        """Whether it may run."""
        limits = _checked(request)
        usage = await self._of(request.tenant)
        verdict = usage.take(limits, request.request_id, time.time())
        await self._keep(request.tenant, usage)
        return reply_of(verdict)

    async def Settle(self, request: quotas_pb2.SettleRequest, context: Any) -> quotas_pb2.SettleReply:
        """Count its tokens."""
        limits = _checked(request)
        if request.tokens > MOST:
            raise InvalidArgument(f"tokens is {request.tokens}; accepted: 0 to {MOST}", param="tokens")
        usage = await self._of(request.tenant)
        usage.settle(limits, request.request_id, request.tokens, time.time())
        await self._keep(request.tenant, usage)
        return quotas_pb2.SettleReply()

    async def _of(self, tenant: str) -> Usage:
        """The one object of this key: whoever changes it does so between two awaits."""
        async with self._reading.setdefault(tenant, asyncio.Lock()):
            if (usage := self._usage.get(tenant)) is None:
                usage = self._usage[tenant] = await self._stored(tenant)
        self._reading.pop(tenant, None)
        self._usage.move_to_end(tenant)
        while len(self._usage) > KEPT:
            self._usage.popitem(last=False)
        return usage

    async def _stored(self, tenant: str) -> Usage:
        try:
            text = await self._hot.ask(lambda client: client.get(_key(tenant)))
        except Unavailable as error:
            log.warning("what a key used before is not known: %s", error)
            return Usage()
        try:
            return Usage.of_row(json.loads(text)) if text else Usage()
        except (ValueError, TypeError) as error:
            log.warning("what a key used before cannot be read: %s", error)
            return Usage()

    async def _keep(self, tenant: str, usage: Usage) -> None:
        row = json.dumps(usage.as_row())
        try:
            await self._hot.ask(lambda client: client.set(_key(tenant), row, ex=EXPIRE_S))
        except Unavailable as error:
            log.warning("what a key used is kept in this process alone: %s", error)


def reply_of(verdict: Verdict) -> quotas_pb2.TakeReply:
    """A verdict as it travels."""
    return quotas_pb2.TakeReply(
        refused=verdict.refused or "",
        retry_after_s=verdict.retry_after_s,
        requests=_room(verdict.requests),
        tokens=_room(verdict.tokens),
    )


def _room(room: Room | None) -> quotas_pb2.Room | None:
    return quotas_pb2.Room(**room._asdict()) if room is not None else None


def _checked(request: quotas_pb2.TakeRequest | quotas_pb2.SettleRequest) -> Limits:
    bounds.name(request.tenant, "tenant")
    bounds.name(request.request_id, "request_id")
    asked = request.limits
    given = (asked.requests_per_minute, asked.tokens_per_minute, asked.tokens_per_day, asked.concurrent)
    if max(given) > MOST:
        raise InvalidArgument(f"a limit is {max(given)}; accepted: 0 to {MOST}", param="limits")
    return Limits(*given)


def _key(tenant: str) -> str:
    return f"russet:quota:{sha256(tenant.encode()).hexdigest()}"
