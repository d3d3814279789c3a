"""What administrators did, kept in the witness log under the requests' chain: who, what, when and how it ended."""

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Awaitable
from typing import TypeVar

from actors.base.errors import RussetError
from cluster.gateway.caller import Caller
from cluster.gateway.spool import Spool
from protos.gen import memory_pb2
from protos.gen.memory_pb2_grpc import MemoryStub

log = logging.getLogger(__name__)
Done = TypeVar("Done")


class Audit:
    """Writes entries by way of the spool, which memory's absence does not empty; without one, to memory at once."""

    def __init__(self, memory: MemoryStub, spool: Spool | None) -> None:
        self._memory = memory
        self._spool = spool
        self._writing: set[asyncio.Task[None]] = set()

    async def told(self, caller: Caller, action: str, subject: str, doing: Awaitable[Done]) -> Done:
        """What `doing` returns or raises; either is written before this returns."""
        error = ""
        try:
            return await doing
        except BaseException as failure:
            error = f"{type(failure).__name__}: {failure}"
            raise
        finally:
            await self._write(_entry(secrets.token_hex(12), caller.tenant, action, subject, error))

    def keys_changed(self, action: str, name: str, digest: str) -> None:
        """The key file changed: `name` was created or revoked there. Gateways that all see it write one entry."""
        told = hashlib.sha256(f"{action}\0{name}\0{digest}".encode()).hexdigest()[:24]
        task = asyncio.get_running_loop().create_task(self._write(_entry(told, "", action, name, "")), name="audit")
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def stop(self) -> None:
        """Let what is being written end."""
        await asyncio.gather(*self._writing)

    async def _write(self, entry: memory_pb2.WitnessEntry) -> None:
        log.info("%s %s by %s: %s", entry.action, entry.subject, entry.tenant or "no key", entry.error or "done")
        try:
            if self._spool is not None:
                await self._spool.put([entry])
            else:
                await self._memory.AppendWitness(memory_pb2.AppendWitnessRequest(entries=[entry]), timeout=5)
        except RussetError as failure:
            log.error("%s of %s is not in the witness log: %s", entry.action, entry.subject, failure)


def _entry(name: str, tenant: str, action: str, subject: str, error: str) -> memory_pb2.WitnessEntry:
    return memory_pb2.WitnessEntry(
        id=f"audit-{name}",
        tenant=tenant,
        time_ms=int(time.time() * 1000),
        action=action,
        subject=subject[:200],
        finish="error" if error else "stop",
        error=error[:500],
    )
