"""Witness entries on disk until memory has written them: neither its end nor this process's loses one.

    put ──> a sealed file ──> sent, oldest first, until memory says that they are written ──> removed

A file that was sent and whose answer was lost is sent again: memory knows entries by their ids, and writes each once.
The directory belongs to one gateway at a time; the next one that has it sends what is left.
"""

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from actors.base.errors import Conflict, DeadlineExceeded, InvalidArgument, QueueFull, TooLarge, Unavailable
from actors.base.files import write_whole
from actors.base.keys import Keyring
from actors.base.telemetry import Telemetry
from protos.gen import memory_pb2
from protos.gen.memory_pb2_grpc import MemoryStub

log = logging.getLogger(__name__)
TIMEOUT_S = 30.0
AT_ONCE, BYTES_AT_ONCE = 1000, 4 << 20
"""Entries, and bytes of their files, sent together."""
FIRST_PAUSE_S, MAX_PAUSE_S = 0.05, 5.0
SUFFIX = ".entries"
CONTEXT = b"witness spool"
"""Of its files' seals."""


@dataclass(frozen=True)
class Waiting:
    """A file: its bytes, how many entries it has, and which: the first and last id, and their arrivals (Unix ms)."""

    path: Path
    nbytes: int
    entries: int
    first: str
    last: str
    first_ms: int
    last_ms: int


class Spool:
    """Takes batches of entries, and sends them for as long as it takes. Past `most_bytes` the oldest go."""

    def __init__(
        self, directory: Path, keyring: Keyring, memory: MemoryStub, most_bytes: int, telemetry: Telemetry
    ) -> None:
        self._directory, self._keyring, self._memory, self._most_bytes = directory, keyring, memory, most_bytes
        self._files: deque[Waiting] = deque()
        self._next = self._bytes = 0
        self._lock = -1
        self._arrived, self._empty = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._away = False
        self._replayed = telemetry.counter("russet_gateway_spool_sent_total", "Witness entries that memory has written")
        self._dropped = telemetry.counter(
            "russet_gateway_spool_dropped_total", "Witness entries lost: memory refuses them, or too many waited"
        )

    async def start(self) -> None:
        """Take up what an earlier gateway left. Raises Conflict where another has the directory."""
        await asyncio.to_thread(self._open)
        if self._files:
            log.info("witness entries are left to send: %s", _told(list(self._files)))
        self._ring()
        self._task = asyncio.create_task(self._run(), name="witness spool")

    async def stop(self, within_s: float) -> None:
        """Send what can be sent `within_s` seconds; the rest stays on disk."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self.flush()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def flush(self) -> None:
        """Return when memory has written everything."""
        await self._empty.wait()

    async def put(self, entries: Sequence[memory_pb2.WitnessEntry]) -> None:
        """Keep entries; on return they outlive this process."""
        if not entries:
            return
        number, self._next = self._next, self._next + 1
        waiting = await asyncio.to_thread(self._write, self._directory / f"{number:016d}{SUFFIX}", entries)
        self._files.append(waiting)
        self._bytes += waiting.nbytes
        self._bound()
        self._ring()

    def _open(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            flock(self._lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = -1
            raise Conflict(
                f"{self._directory} is in use by another gateway; stop that, or use another gateway.spool_directory",
                param="gateway.spool_directory",
            ) from None
        for path in sorted(self._directory.glob(f"*{SUFFIX}")):
            self._next = int(path.stem) + 1
            if (entries := self._read(path)) is not None:
                self._files.append(_waiting(path, path.stat().st_size, entries))
        self._bytes = sum(each.nbytes for each in self._files)
        self._bound()

    def _bound(self) -> None:
        """Past `most_bytes` drop the oldest, a tenth of them at once; the newest stays."""
        gone, most = [], self._most_bytes if self._bytes <= self._most_bytes else 0.9 * self._most_bytes
        while self._bytes > most and len(self._files) > 1:
            gone.append(self._files.popleft())
            self._bytes -= gone[-1].nbytes
            gone[-1].path.unlink(missing_ok=True)
        if gone:
            self._dropped.inc(sum(each.entries for each in gone))
            log.error("witness entries are lost, for more than %d bytes waited: %s", self._most_bytes, _told(gone))

    def _ring(self) -> None:
        if self._files:
            self._empty.clear()
            self._arrived.set()
        else:
            self._arrived.clear()
            self._empty.set()

    async def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            await self._arrived.wait()
            files = self._some()
            try:
                entries = await asyncio.to_thread(self._entries, files)
                await self._send(entries)
            except (Unavailable, DeadlineExceeded, QueueFull) as error:
                if not self._away:
                    log.warning("memory is away (%s); witness entries wait: %s", error, _told(list(self._files)))
                self._away = True
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
                continue
            except Exception:
                # They stay on disk, and are tried again: nothing else has them.
                log.exception("witness entries were not sent; trying again in %.1f s", pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
                continue
            if self._away:
                log.warning("memory is back; witness entries sent again: %s", _told(files))
            self._away, pause_s = False, FIRST_PAUSE_S
            for each in files:
                each.path.unlink(missing_ok=True)
                if self._files and self._files[0] is each:  # Or it was dropped meanwhile, for too much waited.
                    self._files.popleft()
                    self._bytes -= each.nbytes
            self._ring()

    async def _send(self, entries: Sequence[memory_pb2.WitnessEntry]) -> None:
        """Return when memory has written all of them. Raises QueueFull where it has no room now."""
        try:
            request = memory_pb2.AppendWitnessRequest(entries=entries, wait=True)
            reply = await self._memory.AppendWitness(request, timeout=TIMEOUT_S)
        except (InvalidArgument, TooLarge) as error:
            if len(entries) == 1:
                self._dropped.inc()
                log.error("memory refuses witness entry %s: %s", entries[0].id, error)
                return
            middle = len(entries) // 2  # One of them is refused: the others are not lost with it.
            await self._send(entries[:middle])
            await self._send(entries[middle:])
            return
        if reply.dropped:
            raise QueueFull(f"its queue had no room for {reply.dropped} of {len(entries)} entries")
        self._replayed.inc(len(entries))

    def _some(self) -> list[Waiting]:
        """The oldest files, as many as go together."""
        files, entries, nbytes = [], 0, 0
        for each in self._files:
            entries, nbytes = entries + each.entries, nbytes + each.nbytes
            if files and (entries > AT_ONCE or nbytes > BYTES_AT_ONCE):
                break
            files.append(each)
        return files

    def _entries(self, files: Sequence[Waiting]) -> list[memory_pb2.WitnessEntry]:
        return [entry for each in files for entry in self._read(each.path) or ()]

    def _write(self, path: Path, entries: Sequence[memory_pb2.WitnessEntry]) -> Waiting:
        content = memory_pb2.AppendWitnessRequest(entries=entries).SerializeToString()
        sealed = self._keyring.seal(content, CONTEXT)
        write_whole(path, sealed, synced=False)
        return _waiting(path, len(sealed), entries)

    def _read(self, path: Path) -> Sequence[memory_pb2.WitnessEntry] | None:
        """A file's entries; None where it cannot be opened, and then it is put aside."""
        try:
            content = self._keyring.open(path.read_bytes(), CONTEXT)
        except FileNotFoundError:
            return None  # Dropped meanwhile, for too much waited.
        except InvalidArgument as error:
            path.rename(path.with_suffix(".unreadable"))
            log.error("witness entries in %s cannot be read: %s; it was renamed", path, error)
            return None
        return memory_pb2.AppendWitnessRequest.FromString(content).entries


def _waiting(path: Path, nbytes: int, entries: Sequence[memory_pb2.WitnessEntry]) -> Waiting:
    first, last = entries[0], entries[-1]
    return Waiting(path, nbytes, len(entries), first.id, last.id, first.time_ms, last.time_ms)


def _told(files: Sequence[Waiting]) -> str:
    """How many entries, and which."""
    count, first, last = sum(each.entries for each in files), files[0], files[-1]
    return f"{count}, from {first.first} ({_moment(first.first_ms)}) to {last.last} ({_moment(last.last_ms)})"


def _moment(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
