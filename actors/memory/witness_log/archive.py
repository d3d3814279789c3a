"""Entries past retention: files of consecutive entries, compressed and sealed, with what the chain needs to go on.

    magic and version (8)  length of the next (4, little-endian)  sealed ArchiveHead  sealed zlib(ArchivedEntries)

Named by the number of the first entry. The seal binds a file to that number, so that renamed files do not open, and the
heads of all files are held in memory: a query by time opens only those that the range touches.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from actors.base.errors import Internal, InvalidArgument
from actors.base.files import write_whole
from actors.base.keys import Keyring
from actors.memory.chain import link
from protos.gen import memory_pb2

SUFFIX = ".archive"
MOST_ENTRIES = 5000
"""In a file: what is opened at once."""
_MAGIC = b"RussetW\x01"
_START = struct.Struct("<8sI")

Matches = Callable[[memory_pb2.WitnessEntry], bool]


class Archive:
    """The files in a directory. Methods may block: call off the loop."""

    def __init__(self, directory: Path, keyring: Keyring) -> None:
        """Reads every file's head. Raises InvalidArgument for one that was changed."""
        self._directory, self._keyring = directory, keyring
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        heads = (self._head(path) for path in directory.glob(f"*{SUFFIX}"))
        self._heads = {head.first: head for head in sorted(heads, key=lambda head: head.first)}

    @property
    def heads(self) -> list[memory_pb2.ArchiveHead]:
        """Of every file, oldest first."""
        return list(self._heads.values())

    @property
    def entries(self) -> int:
        """In all files."""
        return sum(head.entries for head in self._heads.values())

    def write(self, first: int, previous: bytes, entries: Sequence[memory_pb2.ArchivedEntry]) -> memory_pb2.ArchiveHead:
        """Keep consecutive entries from number `first`; durable on return."""
        times = [memory_pb2.WitnessEntry.FromString(each.blob).time_ms for each in entries]
        last = previous
        for each in entries:
            last = link(last, each.vectors, each.blob)
        head = memory_pb2.ArchiveHead(
            first=first, entries=len(entries), from_ms=min(times), to_ms=max(times), previous=previous, last=last
        )
        body = zlib.compress(memory_pb2.ArchivedEntries(entries=entries).SerializeToString())
        self._put(head, body)
        self._heads[first] = head
        return head

    def read(self, head: memory_pb2.ArchiveHead) -> list[tuple[memory_pb2.ArchivedEntry, bytes]]:
        """A file's entries in order, each with its hash.

        Raises Internal where it is gone, was changed, or does not hold what its head says.
        """
        path = self._path(head.first)
        try:
            _, body = self._open(path)
            entries = memory_pb2.ArchivedEntries.FromString(zlib.decompress(body)).entries
        except (OSError, InvalidArgument, zlib.error) as error:
            raise Internal(f"archive {path} cannot be read: {error}") from None
        found, last = [], head.previous
        for each in entries:
            last = link(last, each.vectors, each.blob)
            found.append((each, last))
        if len(found) != head.entries or last != head.last:
            raise Internal(f"archive {path} does not hold the {head.entries} entries that it was written with")
        return found

    def search(self, matches: Matches, from_ms: int, to_ms: int, before: int) -> Iterator[memory_pb2.WitnessRecord]:
        """Entries with a number less than `before` that match, newest first.

        Files that the range misses (Unix milliseconds, inclusive, 0 is open) stay closed.
        """
        for head in reversed(self.heads):
            if head.first >= before or (to_ms and head.from_ms > to_ms) or (from_ms and head.to_ms < from_ms):
                continue
            numbered = list(enumerate(self.read(head), head.first))
            for sequence, (each, digest) in reversed(numbered):
                entry = memory_pb2.WitnessEntry.FromString(each.blob)
                if matches(entry):
                    yield memory_pb2.WitnessRecord(entry=entry, sequence=sequence, hash=digest, archived=True)

    def remove(self, head: memory_pb2.ArchiveHead) -> None:
        """Forget a file."""
        self._path(head.first).unlink(missing_ok=True)
        del self._heads[head.first]

    def reseal(self, head: memory_pb2.ArchiveHead) -> None:
        """Seal a file with the newest key."""
        _, body = self._open(self._path(head.first))
        self._put(head, body)

    def _put(self, head: memory_pb2.ArchiveHead, body: bytes) -> None:
        sealed = self._keyring.seal(head.SerializeToString(), _context(head.first, b"head"))
        start = _START.pack(_MAGIC, len(sealed))
        content = start + sealed + self._keyring.seal(body, _context(head.first, b"entries"))
        write_whole(self._path(head.first), content)
        directory = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(directory)  # The name too: what was archived is removed from the store next.
        finally:
            os.close(directory)

    def _head(self, path: Path) -> memory_pb2.ArchiveHead:
        try:
            with path.open("rb") as file:
                magic, length = _START.unpack(file.read(_START.size))
                sealed = file.read(min(length, 1 << 16))
            return self._opened(path, magic, sealed)
        except (struct.error, InvalidArgument) as error:
            raise InvalidArgument(
                f"archive {path} is damaged or of another cluster key ({error}); restore it, or move it away"
            ) from None

    def _open(self, path: Path) -> tuple[memory_pb2.ArchiveHead, bytes]:
        content = path.read_bytes()
        magic, length = _START.unpack(content[: _START.size])
        end = _START.size + length
        head = self._opened(path, magic, content[_START.size : end])
        return head, self._keyring.open(memoryview(content)[end:], _context(head.first, b"entries"))

    def _opened(self, path: Path, magic: bytes, sealed: bytes) -> memory_pb2.ArchiveHead:
        if magic != _MAGIC or not path.stem.isdigit():
            raise InvalidArgument(f"it begins with {magic!r} instead of {_MAGIC!r}, or its name is no number")
        content = self._keyring.open(sealed, _context(int(path.stem), b"head"))
        return memory_pb2.ArchiveHead.FromString(content)

    def _path(self, first: int) -> Path:
        return self._directory / f"{first:016d}{SUFFIX}"


def _context(first: int, part: bytes) -> bytes:
    return b"witness archive\0%d\0%s" % (first, part)
