"""Telling the router that this replica lives and how loaded it is."""

import asyncio
import logging
from collections.abc import Callable

from actors.base.errors import RussetError
from protos.gen import router_pb2, router_pb2_grpc

log = logging.getLogger(__name__)

GOODBYE_TIMEOUT_S = 1.0


class Announcer:
    """Sends a heartbeat every interval_s and at once when something changed. A router that is away is no error.

    While `describe` gives None there is nothing to announce: the replica does not know its model yet.
    """

    def __init__(
        self,
        router: router_pb2_grpc.RouterStub,
        describe: Callable[[], router_pb2.HeartbeatRequest | None],
        interval_s: float,
    ) -> None:
        self._router = router
        self._describe = describe
        self._interval_s = interval_s
        self._sequence = 0
        self._changed = asyncio.Event()
        self._reachable = True
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; the first heartbeat goes out at once."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def changed(self) -> None:
        """Something the router should know of now."""
        self._changed.set()

    async def stop(self) -> None:
        """Say goodbye, if the router can be reached, and end."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        await self._send(GOODBYE_TIMEOUT_S, leaving=True)

    async def _run(self) -> None:
        known = True
        while True:
            self._changed.clear()
            try:
                was_known, known = known, await self._send(max(1.0, self._interval_s))
            except Exception:
                # A replica that nobody hears of is lost, whatever went wrong with one heartbeat.
                log.exception("A heartbeat failed; the next one follows")
            else:
                if was_known and not known:
                    # The router has just started and asks to be told again.
                    continue
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _send(self, timeout_s: float, *, leaving: bool = False) -> bool:
        """Send one heartbeat; returns whether the router is content with it (or away)."""
        request = self._describe()
        if request is None:
            return True
        self._sequence += 1
        request.sequence = self._sequence
        request.leaving = leaving
        try:
            reply = await self._router.Heartbeat(request, timeout=timeout_s)
        except RussetError as error:
            if self._reachable:
                log.info("The router does not take heartbeats of %s: %s", request.replica_id, error)
            self._reachable = False
            return True
        self._reachable = True
        return reply.known
