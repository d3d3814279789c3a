"""A collection's index beside its store, so that a start need not read every vector again.

A file of records to which each change is added before the store is told: of an entry's records the last one holds.
So whatever ended the process, file and store differ in the last change at most, and that one is read again. Only the
machine's own end can take more from one than from the other; then the index is made from the store.

    header, a line of JSON │ record │ record │ ...
"""

import json
import logging
import os
from collections.abc import Iterable
from io import FileIO
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from actors.base.files import write_whole

log = logging.getLogger(__name__)
VERSION = 2
"""Of the hash, the codes and the fields together: another one's file is of no use."""
SPARE = 1 << 14
"""Records beside those that hold, at least, before the file is written anew: it is then twice as long as it need be."""


class IndexFile:
    """The records of one collection's index. What it cannot keep costs the next start some seconds, and nothing else.

    A record begins with the id of its entry (`id`), and says whether that has a vector (`there`).
    """

    def __init__(self, path: Path, record: np.dtype) -> None:
        self._path = path
        self._opened = path.with_suffix(".open")
        self._record = record
        self._header = json.dumps({"version": VERSION, "record": str(record.descr)}).encode() + b"\n"
        self._file: FileIO | None = None
        self._written = 0

    def read(self) -> NDArray | None:
        """All that was written, in order, for more to be added; None where that is nothing, or of no use."""
        try:
            content = self._records()
        except (OSError, ValueError) as error:
            log.warning("%s is of no use (%s); reading the vectors instead", self._path, error)
            return None
        if content is not None:
            self._add_to(len(content))
        return content

    def _records(self) -> NDArray | None:
        if not self._path.exists():
            return None
        if self._opened.exists() and self._opened.read_text() != _boot():
            raise ValueError("the machine ended before it was closed")
        with self._path.open("rb") as file:
            header = file.readline(len(self._header))
            size = os.fstat(file.fileno()).st_size - len(self._header)
        if header != self._header:
            raise ValueError("it is of other fields, or of another version")
        # What was half written when the process was killed is not there yet.
        count = size // self._record.itemsize
        if not count:
            return np.empty(0, self._record)
        return np.memmap(self._path, self._record, "r", len(self._header), (count,))

    def _add_to(self, count: int) -> None:
        try:
            write_whole(self._opened, _boot().encode())
            self._file = self._path.open("r+b", buffering=0)
            self._file.truncate(len(self._header) + count * self._record.itemsize)
            self._file.seek(0, os.SEEK_END)
            self._written = count
        except OSError as error:
            self._give_up(error)

    def write(self, whole: Iterable[NDArray]) -> None:
        """Begin anew, with these records."""
        draft = self._path.with_suffix(".new")
        count = 0
        try:
            with draft.open("wb") as file:
                file.write(self._header)
                for records in whole:
                    file.write(records.tobytes())
                    count += len(records)
            if self._file is not None:
                self._file.close()
            draft.replace(self._path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            self._give_up(error)
        else:
            self._add_to(count)

    def add(self, records: NDArray) -> None:
        """These change now."""
        if self._file is None:
            return
        content = records.tobytes()
        try:
            if self._file.write(content) < len(content):
                raise OSError(f"{len(content)} bytes did not fit")
            self._written += len(records)
        except OSError as error:
            self._give_up(error)

    def wasteful(self, held: int) -> bool:
        """Whether it had better be written anew, where `held` records hold."""
        return self._file is not None and self._written > 2 * held + SPARE

    def forget(self) -> None:
        """What was added may not be so: the next start makes the index from the store."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._path.unlink(missing_ok=True)
        self._opened.unlink(missing_ok=True)

    def close(self) -> None:
        """All of it on disk."""
        if self._file is None:
            return
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            self._opened.unlink()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        log.warning("%s not written (%s); the next start reads the vectors instead", self._path, error)
        self.forget()


def _boot() -> str:
    """When the machine began to run: what was written since is there, on disk or not."""
    return str(psutil.boot_time())
