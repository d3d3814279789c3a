"""Moving collections from one store to another: repeated until equal, and shown to be by counts and digests.

    each page of the source -> which of it does the target have, equal? -> write the rest -> read those back and compare

Points keep their ids, so what an interrupted run has written is found and not written again: running it again resumes.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np

from actors.base.errors import Conflict, Internal, NotFound
from actors.memory.config import MemoryConfig
from actors.memory.ownership import Ownership
from actors.memory.store import Collection, Entry, Where
from actors.memory.stores import Kind, open_store, schemas

TOLERANCE = 1e-5
"""By which a vector's values may differ: each store normalises it again, to float32."""
_MODULUS = 1 << 256


@dataclass(frozen=True)
class Migrated:
    """One collection's result: all its entries, how many of them this run wrote, and the digest that both stores have.

    The digest is the sum, modulo 2^256, of each entry's SHA-256 over id and payload, so that order does not matter.
    """

    name: str
    entries: int
    written: int
    digest: str


class Moved(NamedTuple):
    """What a migration did: from where, to where, and each collection's result."""

    source: str
    target: str
    collections: list[Migrated]


def move(config: MemoryConfig, to: Kind, width: int, embedder: str, progress: Callable[[str, int, int], None]) -> Moved:
    """Migrate every collection to store `to` from the other one; `progress` hears (collection, done, all).

    `width` and `embedder` are what both must have been made with. Raises Conflict while a process uses
    memory.directory, NotFound where there is nothing to migrate; see also `migrate`.
    """
    directory = config.directory
    assert directory is not None
    if not directory.is_dir():
        # The witness log's head and the proof of the cluster key stay there, whichever store is used.
        raise NotFound(f"memory.directory {directory} does not exist: there is nothing to migrate")
    with contextlib.ExitStack() as stack:
        stack.callback(Ownership(directory).release)
        stores = [open_store(config, "embedded" if to == "server" else "server"), open_store(config, to)]
        for store in stores:
            stack.callback(store.close)
        done = []
        for schema in schemas(width, embedder):
            with contextlib.ExitStack() as pair:
                source, target = (store.collection(schema) for store in stores)
                for collection in (source, target):
                    pair.callback(collection.close)

                def hear(at: int, total: int, name: str = schema.name) -> None:
                    progress(name, at, total)

                done.append(migrate(source, target, hear))
    return Moved(stores[0].shown, stores[1].shown, done)


def migrate(source: Collection, target: Collection, progress: Callable[[int, int], None]) -> Migrated:
    """Copy every entry of `source` into `target`; `progress` hears (done, all). Both keep what they have.

    Nobody may write to either meanwhile. Raises Conflict where the target has entries that the source has not, and
    Internal where what it answers is not what was written.
    """
    name, total = source.schema.name, source.count()
    seen = written = 0
    digest = 0
    for page in source.pages(Where(), vectors=True):
        missing = _missing(page, target)
        if missing:
            target.upsert(missing)
            written += len(missing)
            if lost := _missing(missing, target):
                raise Internal(
                    f"collection {name}: {len(lost)} entries, first {lost[0].id}, came back changed from the target"
                )
        digest += sum(map(_digest, page))
        seen += len(page)
        progress(seen, total)
    if seen != total:
        raise Conflict(f"collection {name} had {total} entries and gave {seen}: somebody writes to it; stop that")
    theirs, count = _digest_of_all(target.pages(Where()))
    if count != seen:
        raise Conflict(
            f"collection {name}: the target has {count} entries, {count - seen} more than the source's {seen}; "
            "migrate to a store that has none of its own (another directory, or memory.server_prefix)"
        )
    if theirs != digest % _MODULUS:
        raise Internal(f"collection {name}: the target's digest {_hex(theirs)} is not the source's {_hex(digest)}")
    return Migrated(name, seen, written, _hex(digest))


def _missing(page: Sequence[Entry], target: Collection) -> list[Entry]:
    """Those that the target has not, or has otherwise."""
    there = {entry.id: entry for entry in target.get([entry.id for entry in page], vectors=True)}
    return [entry for entry in page if entry.id not in there or not _equal(entry, there[entry.id])]


def _equal(ours: Entry, theirs: Entry) -> bool:
    if _digest(ours) != _digest(theirs) or (ours.vector is None) != (theirs.vector is None):
        return False
    return ours.vector is None or (
        theirs.vector is not None
        and len(ours.vector) == len(theirs.vector)
        and np.allclose(np.asarray(ours.vector), np.asarray(theirs.vector), atol=TOLERANCE, rtol=0)
    )


def _digest_of_all(pages: Iterator[list[Entry]]) -> tuple[int, int]:
    digest = count = 0
    for page in pages:
        digest += sum(map(_digest, page))
        count += len(page)
    return digest % _MODULUS, count


def _digest(entry: Entry) -> int:
    text = json.dumps([entry.id, _plain(entry.payload)], sort_keys=True, separators=(",", ":"))
    return int.from_bytes(sha256(text.encode()).digest())


def _plain(value: Any) -> Any:
    """A store's JSON may lose a float's last bit: compared as float32, which they were."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return f"{np.float32(value):.8g}"
    return value


def _hex(digest: int) -> str:
    return f"{digest % _MODULUS:064x}"
