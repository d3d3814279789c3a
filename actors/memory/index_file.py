"""A collection's index beside its store, so that a start need not read every vector again.

It is written at the end and taken away at the next start: a process that was killed has left none, and the index is
then made from the store.
"""

import logging
import os
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from actors.memory.index import VectorIndex

log = logging.getLogger(__name__)
VERSION = 1
"""Of the hash, the codes and the fields together: another one's file is of no use."""


def write(index: VectorIndex, path: Path) -> None:
    """Whole and on disk, or not at all: a disk that is full costs the next start some seconds, not this end."""
    draft = path.with_suffix(".new")
    try:
        with draft.open("wb") as file:
            np.savez(file, version=VERSION, **index.arrays())  # pyright: ignore[reportArgumentType]
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    except OSError as error:
        log.warning("%s not written (%s); the next start reads the vectors instead", path, error)
        draft.unlink(missing_ok=True)


def take(index: VectorIndex, path: Path, entries: int) -> bool:
    """Fill an empty index from the file and remove that; False where it is missing, or not of these `entries`."""
    if not path.exists():
        return False
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if int(arrays["version"]) != VERSION or len(arrays["ids"]) != entries:
                raise ValueError(f"it is of version {int(arrays['version'])} and {len(arrays['ids'])} entries")
            index.restore(arrays)
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        log.warning("%s is of no use (%s); reading the vectors instead", path, error)
        return False
    finally:
        path.unlink()
    return True
