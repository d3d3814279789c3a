"""Where a request goes: the router's decision, or its last table while it is away."""

import asyncio
import hashlib
import logging
import struct
import time
from collections.abc import Sequence

from actors.base.errors import DeadlineExceeded, NotFound, RussetError, Unavailable
from actors.base.telemetry import Telemetry
from actors.router.naming import LEAST_RECENT, Alias, Failures, Tables, Target, resolve, routing_key
from cluster.gateway.config import GatewayConfig
from protos.gen import inference_pb2, router_pb2
from protos.gen.router_pb2_grpc import RouterStub

log = logging.getLogger(__name__)
PAGE_TOKENS = 16
"""Tokens a prefix hash adds to the one before: the size of a KV page."""
MAX_HASHES = 256
AWAY_S = 1.0
"""After the router failed to decide and the table could, requests go by the table for so long without asking."""


def prefix_hashes(ids: Sequence[int]) -> list[int]:
    """A 64-bit hash for each leading run of whole pages: hash i covers the first 16 * (i + 1) tokens; 256 at most."""
    hashes, last = [], b""
    for end in range(PAGE_TOKENS, min(len(ids), PAGE_TOKENS * MAX_HASHES) + 1, PAGE_TOKENS):
        page = struct.pack(f"<{PAGE_TOKENS}I", *ids[end - PAGE_TOKENS : end])
        last = hashlib.blake2b(last + page, digest_size=8).digest()
        hashes.append(int.from_bytes(last, "little"))
    return hashes


FRESH_S = 0.1
"""For so long a table that was asked for is the newest there is, however many ask."""


class Routes:
    """Asks the router, and remembers its table for when there is none to ask."""

    def __init__(self, config: GatewayConfig, router: RouterStub, telemetry: Telemetry) -> None:
        self._config = config
        self._router = router
        self._reading: asyncio.Task[None] | None = None
        self._seen: dict[str, float] = {}
        self._away_until_s = 0.0
        self._read_s = -FRESH_S
        self.table = router_pb2.ListReplicasReply()
        """The replica table as last read."""
        self._alone = telemetry.counter("russet_gateway_routed_alone_total", "Requests routed without the router")

    async def start(self) -> None:
        """Begin to read the table, now and then every table_refresh_s."""
        self._reading = asyncio.create_task(self._read())

    async def stop(self) -> None:
        """Stop reading."""
        if self._reading:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def refresh(self) -> router_pb2.ListReplicasReply:
        """Read the table now; the last one where the router is away."""
        request = router_pb2.ListReplicasRequest()
        try:
            self.table = await self._router.ListReplicas(request, timeout=self._config.route_timeout_s)
        except (Unavailable, DeadlineExceeded):
            return self.table
        self._seen.update((replica.state.model, time.monotonic()) for replica in self.table.replicas)
        return self.table

    async def another(self, model: str, replica_id: str) -> bool:
        """Whether a replica of `model` other than this one takes requests now."""
        if time.monotonic() - self._read_s >= FRESH_S:
            self._read_s = time.monotonic()
            await self.refresh()
        states = (replica.state for replica in self.table.replicas if replica.available)
        return any(state.model == model and state.replica_id != replica_id for state in states)

    async def workers_of(self, replica_id: str) -> Sequence[str]:
        """Addresses of a replica's worker; none where the router does not know it.

        The table is read again where it lacks the replica, which may have come since, unless the router is away.
        """
        known = _workers(self.table, replica_id)
        if known or time.monotonic() < self._away_until_s:
            return known
        return _workers(await self.refresh(), replica_id)

    async def choose(self, request: router_pb2.RouteRequest) -> router_pb2.RouteReply:
        """Candidates for a request, best first, never none.

        Raises NotFound for a model that nobody serves, Unavailable where no replica can take it now.
        """
        try:
            if time.monotonic() < self._away_until_s:
                raise Unavailable("the router did not answer a moment ago")
            reply = await self._router.Route(request, timeout=self._config.route_timeout_s)
        except (Unavailable, DeadlineExceeded) as error:
            reply = route_by_table(self.table, request, error)
            self._alone.inc()
            if time.monotonic() >= self._away_until_s:
                self._away_until_s = time.monotonic() + AWAY_S
        except NotFound as error:
            # A router that just started knows nothing yet; a model seen a moment ago is coming back.
            if time.monotonic() - self._seen.get(request.model, -1e9) > self._config.failover_wait_s:
                raise
            if request.model in (await self.refresh()).retired:
                raise
            raise Unavailable(f"no replica of {request.model} is known right now: {error}") from error
        if not reply.candidates:
            raise Unavailable(f"no replica of {request.model or 'any model'} is ready")
        self._seen[reply.model] = self._seen[request.model] = time.monotonic()
        return reply

    async def _read(self) -> None:
        while True:
            try:
                await self.refresh()
            except Exception:
                log.exception("The table of replicas was not read; it is tried again")
            await asyncio.sleep(self._config.table_refresh_s)


def _workers(table: router_pb2.ListReplicasReply, replica_id: str) -> Sequence[str]:
    states = (replica.state for replica in table.replicas)
    return next((state.worker_addresses for state in states if state.replica_id == replica_id), ())


def tables_of(table: router_pb2.ListReplicasReply) -> Tables:
    """What names are looked up in while the router is away: as it was when the table was read."""
    aliases = {alias.name: alias_of(alias) for alias in table.aliases}
    ready = {replica.state.model for replica in table.replicas if replica.available}
    failing = {(alias.name, target.model) for alias in table.aliases for target in alias.targets if target.failing}
    return Tables(aliases, table.default_model, ready, dict.fromkeys(failing, Failures(LEAST_RECENT, LEAST_RECENT)))


def alias_of(alias: inference_pb2.Alias) -> Alias:
    """An alias as the router tells it."""
    targets = tuple(Target(target.model, target.weight) for target in alias.targets)
    return Alias(alias.name, targets, alias.max_failures)


def route_by_table(
    table: router_pb2.ListReplicasReply, request: router_pb2.RouteRequest, reason: RussetError
) -> router_pb2.RouteReply:
    """Choose by ISA class, where one is preferred, then by load.

    Raises `reason` where the table has no available replica of the model."""
    named = resolve(request.model, routing_key(request), tables_of(table))
    models = [request.settled] if request.begun else [choice.model for choice in named.choices]
    free = [
        replica.state
        for replica in table.replicas
        if replica.available and replica.state.replica_id not in request.exclude
    ]
    there = {state.model for state in free}
    # As the router does: what the name led to before comes first.
    model = next((model for model in sorted(models, key=lambda each: each != request.settled) if model in there), "")
    if not model:
        raise reason
    states = [state for state in free if state.model == model]
    wanted = request.isa_class
    states.sort(
        key=lambda state: (
            bool(wanted) and state.isa_class != wanted,
            state.load.running + state.load.waiting,
            state.replica_id,
        )
    )
    return router_pb2.RouteReply(
        model=model,
        candidates=[
            router_pb2.Candidate(
                replica_id=state.replica_id,
                addresses=state.addresses,
                score=-float(state.load.running + state.load.waiting),
                epoch=state.load.epoch,
                isa_class=state.isa_class,
            )
            for state in states
        ],
        explanation=[
            *named.explanation,
            f"the router did not decide ({reason}); its last table's least loaded replica was taken",
        ],
        alias=named.alias,
    )
