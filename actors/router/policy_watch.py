"""Policies of type "router", as memory has them and as they change: what aliases and cost routers are kept as."""

import asyncio
import logging
from collections.abc import Callable

from actors.base.errors import RussetError
from protos.gen import memory_pb2
from protos.gen.memory_pb2_grpc import MemoryStub

log = logging.getLogger(__name__)
RETRY_S = 1.0


async def watch(memory: MemoryStub, take: Callable[[memory_pb2.Policy], None]) -> None:
    """Give `take` every policy and every change, for ever; while memory is away, try again.

    One that `take` cannot read (it raises ValueError, KeyError or TypeError) is logged and passed over: who wrote it
    may be newer than this router.
    """
    while True:
        try:
            async for policy in memory.WatchPolicies(memory_pb2.WatchPoliciesRequest(types=["router"])):
                if not policy.id:
                    continue  # The list of those there are has ended.
                try:
                    take(policy)
                except (ValueError, KeyError, TypeError):
                    log.exception("policy %s is none that this router can read; it is passed over", policy.id)
        except RussetError as error:
            log.info("policies are not watched: %s; trying again in %g s", error.message, RETRY_S)
        await asyncio.sleep(RETRY_S)
