"""Sessions in use, in this process: the hot tier's first step, for what a round trip to Valkey is too slow."""

from collections import OrderedDict
from collections.abc import Callable

LIVE_SESSIONS = 16_384
LIVE_BYTES = 64 << 20


class LiveSessions:
    """Sealed sessions by their owner's digest, each for `idle_s` seconds of `clock`.

    Bounded in number and in bytes: past either the least recently used leave. Who writes a session writes it here too,
    so that nothing here is ever older than what is persisted.
    """

    def __init__(
        self, idle_s: float, clock: Callable[[], float], sessions: int = LIVE_SESSIONS, most_bytes: int = LIVE_BYTES
    ) -> None:
        self._idle_s = idle_s
        self._clock = clock
        self._sessions = sessions
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, digest: str) -> bytes | None:
        """The session, unless it is not here or has been idle for too long."""
        found = self._kept.get(digest)
        if found is None:
            return None
        if self._clock() >= found[1]:
            self.drop(digest)
            return None
        self._kept.move_to_end(digest)
        return found[0]

    def put(self, digest: str, sealed: bytes) -> None:
        """Replace it."""
        self.drop(digest)
        self._kept[digest] = (sealed, self._clock() + self._idle_s)
        self._bytes += len(sealed)
        while len(self._kept) > self._sessions or self._bytes > self._most_bytes:
            self.drop(next(iter(self._kept)))

    def drop(self, digest: str) -> None:
        """Forget it, if it is here."""
        if (found := self._kept.pop(digest, None)) is not None:
            self._bytes -= len(found[0])
