"""The hot tier: Valkey or Redis, through redis-py; by default an embedded server.

    command -> no answer -> Unavailable to the caller, a new generation, and the embedded server is started again

Sessions there are copies and named by `generation`: after an outage, or a restart of memory, no older copy is read.
Older copies expire by themselves.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from actors.base.errors import RussetError, Unavailable
from actors.base.telemetry import Telemetry
from actors.memory.config import MemoryConfig
from actors.memory.hot_server import EmbeddedServer

log = logging.getLogger(__name__)
ANSWER_S = 2.0
RETRY_AFTER_S = 1.0
MAX_PAUSE_S = 10.0
Answer = TypeVar("Answer")


class HotTier:
    """Owns the client, and the server where it is ours."""

    def __init__(self, config: MemoryConfig, directory: Path, telemetry: Telemetry) -> None:
        self.server = EmbeddedServer(directory) if config.hot_url is None else None
        self._url = config.hot_url or f"unix://{self.server.socket if self.server else ''}"
        self.generation = secrets.token_hex(8)
        self._reviving: asyncio.Task[None] | None = None
        self._outages = telemetry.counter("russet_hot_outages_total", "Commands that the hot tier did not answer")
        self._restarts = telemetry.counter("russet_hot_restarts_total", "Times the embedded Valkey was started again")
        self._client: redis.Redis = redis.from_url(
            self._url, retry=Retry(NoBackoff(), 0), socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S
        )

    async def start(self) -> None:
        """Connect, starting the embedded server where there is none. Raises Unavailable where that fails."""
        if self.server is not None:
            await asyncio.to_thread(self.server.ensure)
        try:
            await self._client.ping()
        except (RedisError, OSError) as error:
            raise Unavailable(f"no Valkey/Redis answers at {self._shown}: {error}; check memory.hot_url") from None

    async def stop(self) -> None:
        """Close; end the embedded server, also one that was adopted."""
        if self._reviving is not None:
            self._reviving.cancel()
            await asyncio.gather(self._reviving, return_exceptions=True)
        await self._client.aclose()
        if self.server is not None:
            await asyncio.to_thread(self.server.stop)

    async def ask(self, command: Callable[[redis.Redis], Awaitable[Answer]]) -> Answer:
        """One exchange. Raises Unavailable where it fails; it is not known then whether the command ran."""
        try:
            return await command(self._client)
        except (RedisError, OSError) as error:
            self._outages.inc()
            self.generation = secrets.token_hex(8)
            self._revive()
            raise Unavailable(
                f"memory's hot tier at {self._shown} does not answer ({error}); try again",
                retry_after_s=RETRY_AFTER_S,
            ) from None

    @property
    def _shown(self) -> str:
        """The address without the password that a URL may hold."""
        return self._url.rpartition("@")[2]

    def _revive(self) -> None:
        if self.server is not None and (self._reviving is None or self._reviving.done()):
            self._reviving = asyncio.create_task(self._start_again(self.server), name="hot tier")

    async def _start_again(self, server: EmbeddedServer) -> None:
        pause_s = 0.2
        while True:
            try:
                if await asyncio.to_thread(server.ensure):
                    self._restarts.inc()
                    log.warning("the embedded Valkey had died; it was started again")
            except RussetError as error:
                log.warning("the embedded Valkey is still away: %s", error)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, MAX_PAUSE_S)
            else:
                return
