"""Limits of keys: one question before a request, one settlement after, none between.

Memory counts for all gateways. While it does not answer each gateway counts for itself, and says so in its log and
metrics: a key may then use its limits once at every gateway.
"""

import asyncio
import logging
import math
import secrets
import time
from dataclasses import asdict

from actors.base.errors import RussetError
from actors.base.quota import Room, Usage, Verdict
from actors.base.telemetry import Telemetry
from cluster.gateway.caller import Caller
from cluster.gateway.errors import InsufficientQuota, RateLimited
from protos.gen import quotas_pb2
from protos.gen.quotas_pb2_grpc import QuotasStub

log = logging.getLogger(__name__)
ANSWER_S = 1.0
"""Longest wait for memory, before a request."""
AWAY_S = 5.0
"""After it did not answer it is not asked for so long."""
Headers = list[tuple[bytes, bytes]]
RATE_LIMIT_HEADERS = [
    f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")
]
SAID = {
    "requests": "requests a minute",
    "tokens": "tokens a minute",
    "day": "tokens a day",
    "concurrent": "requests at a time",
}


class Quotas:
    """Takes and settles for every face of the gateway."""

    def __init__(self, stub: QuotasStub, telemetry: Telemetry) -> None:
        self._stub = stub
        self._own: dict[str, Usage] = {}
        """By tenant, while memory is away; forgotten when it is back."""
        self._away_until_s = 0.0
        self._settling: set[asyncio.Task[None]] = set()
        self._refused = telemetry.counter(
            "russet_gateway_limited_total", "Requests refused by a limit of their key", labels=("limit",)
        )
        self._alone = telemetry.gauge(
            "russet_gateway_limits_alone", "1 while memory is away and this gateway counts keys' limits for itself"
        )

    async def take(self, caller: Caller) -> "Grant | None":
        """What lets the caller's request run; None where its key has no limits.

        Raises RateLimited, or InsufficientQuota where the day's tokens are used up.
        """
        if not caller.limits:
            return None
        request_id = secrets.token_hex(8)
        verdict = await self._ask(caller, request_id)
        headers = headers_of(verdict)
        if verdict.refused is not None:
            self._refused.labels(limit=verdict.refused).inc()
            kind = InsufficientQuota if verdict.refused == "day" else RateLimited
            raise kind(_message(caller, verdict), retry_after_s=verdict.retry_after_s, headers=headers)
        return Grant(self, caller, request_id, headers)

    def settle(self, caller: Caller, request_id: str) -> None:
        """Tell what the request used, beside whatever follows."""
        task = asyncio.get_running_loop().create_task(self._settle(caller, request_id), name="settlement")
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def stop(self) -> None:
        """Let what is being settled end."""
        await asyncio.gather(*self._settling)

    async def _ask(self, caller: Caller, request_id: str) -> Verdict:
        if time.monotonic() >= self._away_until_s:
            asked = quotas_pb2.TakeRequest(
                tenant=caller.tenant, request_id=request_id, limits=quotas_pb2.Limits(**asdict(caller.limits))
            )
            try:
                verdict = verdict_of(await self._stub.Take(asked, timeout=ANSWER_S))
                self._back()
                return verdict
            except RussetError as error:
                self._gone(error)
        return self._own.setdefault(caller.tenant, Usage()).take(caller.limits, request_id, time.time())

    async def _settle(self, caller: Caller, request_id: str) -> None:
        tokens = caller.spent.tokens
        own = self._own.get(caller.tenant)
        if own is not None and request_id in own.running:
            own.settle(caller.limits, request_id, tokens, time.time())
            return
        asked = quotas_pb2.SettleRequest(
            tenant=caller.tenant,
            request_id=request_id,
            limits=quotas_pb2.Limits(**asdict(caller.limits)),
            tokens=tokens,
        )
        try:
            await self._stub.Settle(asked, timeout=ANSWER_S)
        except RussetError as error:
            self._gone(error)
            self._own.setdefault(caller.tenant, Usage()).settle(caller.limits, request_id, tokens, time.time())

    def _gone(self, error: RussetError) -> None:
        if not self._away_until_s:
            log.warning("memory does not count keys' limits (%s); this gateway counts its own requests", error)
        self._away_until_s = time.monotonic() + AWAY_S
        self._alone.set(1)

    def _back(self) -> None:
        if self._away_until_s:
            log.warning("memory counts keys' limits again")
            self._away_until_s = 0.0
            self._own.clear()
            self._alone.set(0)


class Grant:
    """A request that may run. Settle it once, when it has ended."""

    def __init__(self, quotas: Quotas, caller: Caller, request_id: str, headers: Headers) -> None:
        self._quotas = quotas
        self._caller = caller
        self._request_id = request_id
        self.headers = headers
        """OpenAI's x-ratelimit-*."""

    def settle(self) -> None:
        """Give its place back and count what it used."""
        self._quotas.settle(self._caller, self._request_id)


def verdict_of(reply: quotas_pb2.TakeReply) -> Verdict:
    """What memory decided."""
    refused = reply.refused or None
    rooms = [
        Room(room.limit, room.remaining, room.reset_s) if reply.HasField(name) else None
        for name, room in (("requests", reply.requests), ("tokens", reply.tokens))
    ]
    known = refused if refused in ("requests", "tokens", "day", "concurrent", None) else "requests"
    return Verdict(known, reply.retry_after_s, *rooms)


def headers_of(verdict: Verdict) -> Headers:
    """As OpenAI has them: limit, what remains of it, and until when all of it is back."""
    found: Headers = []
    for name, room in ((b"requests", verdict.requests), (b"tokens", verdict.tokens)):
        if room is not None:
            found += [
                (b"x-ratelimit-limit-" + name, b"%d" % room.limit),
                (b"x-ratelimit-remaining-" + name, b"%d" % room.remaining),
                (b"x-ratelimit-reset-" + name, f"{math.ceil(room.reset_s * 1000)}ms".encode()),
            ]
    return found


def _message(caller: Caller, verdict: Verdict) -> str:
    assert verdict.refused is not None
    limits = caller.limits
    most = {
        "requests": limits.requests_per_minute,
        "tokens": limits.tokens_per_minute,
        "day": limits.tokens_per_day,
        "concurrent": limits.concurrent,
    }[verdict.refused]
    return (
        f"the key of {caller.tenant} may use {most} {SAID[verdict.refused]}, and has; "
        f"come back in {max(1, math.ceil(verdict.retry_after_s))} s"
    )
