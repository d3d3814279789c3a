"""Units of KV on disk: a file each, found by key, in a directory that one process owns and keeps below a budget.

    DIRECTORY/lock                 held by the process that uses it
    DIRECTORY/3f/3f09..c1          the unit of that key (32 hex digits), sealed (actors.worker.sealed)
    DIRECTORY/3f/3f09..c1.draft    one that is being written; after a crash, removed at the next start

Files are renamed into place whole but never synced: what a power cut tears does not open, and costs a prefill, as if it
had never been kept. A sync would cost each unit some milliseconds of the disk, and flash some of its life.
"""

import contextlib
import errno
import fcntl
import logging
import os
import re
import shutil
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from actors.base.errors import Conflict, InvalidArgument
from actors.worker.sealed import KEY_BYTES, Sealer, sealed_bytes
from actors.worker.seldom import Seldom

log = logging.getLogger(__name__)

SHARE = 0.25
"""Of the disk's free space, what units may take: it is everybody's."""

DRAFT = ".draft"
_FOLDER = re.compile(r"[0-9a-f]{2}")
_NAME = re.compile(rf"[0-9a-f]{{{2 * KEY_BYTES}}}")
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

Cause = Literal["evicted", "damaged", "absent"]
"""Why a unit is there no more: for others that are newer, because it did not open, or somebody removed its file."""


class Kept:
    """The units of one directory. Any thread may call; only one at a time puts and gets.

    Errors of the disk leave as OSError.
    """

    def __init__(self, directory: Path, sealer: Sealer, unit_bytes: Mapping[str, int], budget: int) -> None:
        """Take `directory`, made with mode 0700, for this process. Raises Conflict where another has it.

        `unit_bytes` is the length of a unit by format, `budget` the most bytes that files may take together; they also
        take no more than what is there already and SHARE of what is free now.
        """
        self.directory = directory
        self._sealer = sealer
        self._unit_bytes = dict(unit_bytes)
        self._sizes = {form: sealed_bytes(length) for form, length in unit_bytes.items()}
        self._budget = budget
        self._files: OrderedDict[bytes, int] = OrderedDict()
        """Size of each file by key, the least recently used first."""
        self._total = 0
        self._gone: list[tuple[bytes, Cause]] = []
        self._changing = threading.Lock()
        self._sealed = bytearray(max(self._sizes.values()))
        self._warn = Seldom(log)
        _make(directory)
        self._lock: int | None = _locked(directory / "lock")
        try:
            self._find()
        except BaseException:
            self.close()
            raise

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return self._total

    @property
    def budget(self) -> int:
        """Most bytes that all files take."""
        return self._budget

    @property
    def largest(self) -> int:
        """Bytes of the largest sealed unit."""
        return len(self._sealed)

    def __iter__(self) -> Iterator[bytes]:
        """Keys of what is there now, the least recently used first.

        Copied in one go under Python's lock, not ours: that may wait for the disk, and an event loop asks.
        """
        return iter(list(self._files))

    def __contains__(self, key: bytes) -> bool:
        return key in self._files

    def gone(self) -> list[tuple[bytes, Cause]]:
        """What was removed since the last call, and why."""
        with self._changing:
            gone, self._gone = self._gone, []
        return gone

    def put(self, key: bytes, form: str, unit: memoryview) -> None:
        """Keep `unit` under `key`, which has none. Others may go for it (`gone`), also where it then fails."""
        size = self._make_room(key, form)
        path = self._path(key)
        draft = path.with_name(path.name + DRAFT)
        try:
            descriptor = _opened_for_writing(draft)
            try:
                for part in self._sealer.seal(key, form, unit):
                    _write(descriptor, part)
            finally:
                os.close(descriptor)
            os.rename(draft, path)
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise
        with self._changing:
            self._files[key] = size
            self._total += size

    def get(self, key: bytes, form: str, into: memoryview) -> bool:
        """Fill `into` with the unit of `key`. False where there is none, or what is there is not it: that is removed.

        `into` may then have been filled in part.
        """
        if key not in self._files:
            return False
        size = self._sizes[form]
        buffer = memoryview(self._sealed)[:size]
        try:
            descriptor = os.open(self._path(key), _READ)
        except OSError as error:
            return self._cannot_open(key, error)
        try:
            _check(descriptor, size)
            read = os.readv(descriptor, [buffer])
            self._sealer.open(key, form, buffer[:read], into)
            with contextlib.suppress(OSError):
                os.utime(descriptor)  # only the order after the next start hangs on it
        except InvalidArgument as damage:
            self._damaged(key, damage.message)
            return False
        finally:
            os.close(descriptor)
        self._touch(key)
        return True

    def sealed(self, key: bytes) -> bytes | None:
        """The file of `key` as it is, unopened; None where there is none."""
        with self._changing:
            size = self._files.get(key)
        if size is None:
            return None
        try:
            descriptor = os.open(self._path(key), _READ)
        except OSError as error:
            self._cannot_open(key, error)
            return None
        try:
            _check(descriptor, size)
            content = os.read(descriptor, size)
        except InvalidArgument as damage:
            self._damaged(key, damage.message)
            return None
        finally:
            os.close(descriptor)
        self._touch(key)
        return content

    def open(self, key: bytes, form: str, sealed: bytes, into: memoryview) -> None:
        """Fill `into` from a file of another worker. Raises InvalidArgument where it is not the unit of `key`."""
        self._sealer.open(key, form, memoryview(sealed), into)

    def close(self) -> None:
        """Let another process have the directory; a second call does nothing."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _find(self) -> None:
        """Index what an earlier process left; remove its drafts, what cannot be a unit, and what is over the budget."""
        found: list[tuple[int, str, int]] = []
        strange = 0
        for folder in os.scandir(self.directory):
            if folder.name == "lock":
                continue
            if not _FOLDER.fullmatch(folder.name) or not folder.is_dir(follow_symlinks=False):
                strange += 1
                continue
            for file in os.scandir(folder.path):
                key = _NAME.fullmatch(file.name.removesuffix(DRAFT))
                if key is None or not file.name.startswith(folder.name) or file.is_dir(follow_symlinks=False):
                    strange += 1
                    continue
                status = file.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and status.st_size in self._sizes.values() and key[0] == file.name:
                    found.append((status.st_mtime_ns, file.name, status.st_size))
                else:
                    os.unlink(file.path)
        if strange:
            log.warning("%s holds %d entries that are not ours; they are left alone", self.directory, strange)
        for _, name, size in sorted(found):
            self._files[bytes.fromhex(name)] = size
            self._total += size
        self._budget = min(self._budget, self._total + int(shutil.disk_usage(self.directory).free * SHARE))
        self._evict(self._budget)
        self._gone.clear()

    def _make_room(self, key: bytes, form: str) -> int:
        """Bytes that the unit will take, once there is room for them."""
        size = self._sizes[form]
        if size > self._budget:
            raise OSError(errno.ENOSPC, f"a unit takes {size} bytes, more than all may take: {self._budget}")
        with self._changing:
            assert key not in self._files, "kept already"
            self._evict(self._budget - size)
        return size

    def _evict(self, most: int) -> None:
        """Remove the least recently used until the others take no more than `most` bytes."""
        while self._total > most:
            self._remove(next(iter(self._files)), "evicted")

    def _remove(self, key: bytes, cause: Cause) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._path(key).unlink()
        self._forget(key, cause)

    def _forget(self, key: bytes, cause: Cause) -> None:
        size = self._files.pop(key, None)
        if size is not None:
            self._total -= size
            self._gone.append((key, cause))

    def _cannot_open(self, key: bytes, error: OSError) -> bool:
        """False where the file is not there, or is a link; anything else is the disk's fault, and raised."""
        if error.errno == errno.ENOENT:
            with self._changing:
                self._forget(key, "absent")
        elif error.errno == errno.ELOOP:
            self._damaged(key, "it is a symbolic link")
        else:
            raise error
        return False

    def _damaged(self, key: bytes, why: str) -> None:
        self._warn.warning("KV unit %s is ignored and removed: %s", self._path(key), why)
        with self._changing:
            try:
                self._remove(key, "damaged")
            except OSError as error:
                self._forget(key, "damaged")
                self._warn.warning("KV unit %s cannot be removed: %s", self._path(key), error)

    def _touch(self, key: bytes) -> None:
        with self._changing:
            if key in self._files:
                self._files.move_to_end(key)

    def _path(self, key: bytes) -> Path:
        name = key.hex()
        return self.directory / name[:2] / name


def _make(directory: Path) -> None:
    """It and what is missing above it, each for its owner alone."""
    if not directory.parent.is_dir():
        _make(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)


def _locked(path: Path) -> int:
    """A descriptor that holds the lock; the kernel releases it when the process ends, however it ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Conflict(f"{path.parent} is in use by another process; give this one a directory of its own") from None
    return descriptor


def _opened_for_writing(draft: Path) -> int:
    try:
        return os.open(draft, _WRITE, 0o600)
    except FileNotFoundError:
        _make(draft.parent)
        return os.open(draft, _WRITE, 0o600)


def _write(descriptor: int, part: bytes) -> None:
    left = memoryview(part)
    while left:
        left = left[os.write(descriptor, left) :]


def _check(descriptor: int, size: int) -> None:
    """Raise InvalidArgument where it is no plain file of this size: nothing is read then."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size != size:
        raise InvalidArgument(f"it should be a file of {size} bytes, and has {status.st_size}")
