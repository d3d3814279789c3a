"""Verifying the log of a memory that does not run."""

import contextlib

from actors.base.errors import NotFound
from actors.memory.config import MemoryConfig
from actors.memory.ownership import Ownership, keyring_of
from actors.memory.stores import open_store, schemas
from actors.memory.witness_log.archive import Archive
from actors.memory.witness_log.files import WitnessFiles
from actors.memory.witness_log.verification import newest, verify
from protos.gen import memory_pb2


def verify_stopped(config: MemoryConfig, width: int, embedder: str) -> memory_pb2.VerifyWitnessReply:
    """Walk the log in memory.directory, and in the store beside it; `width` and `embedder` are what it was made with.

    Raises Conflict while a process uses the directory, NotFound where there is none.
    """
    directory, key_file = config.directory, config.key_file
    assert directory is not None
    assert key_file is not None
    if not (directory / "key.proof").exists():
        raise NotFound(f"there is no memory in {directory}; accepted: the memory.directory of a Russet that ran")
    with contextlib.ExitStack() as stack:
        stack.callback(Ownership(directory).release)
        files = WitnessFiles(directory, keyring_of(directory, key_file), config.witness_heads_file)
        archive = Archive(directory / "witness-archive", files.keyring)
        store = open_store(config, config.store)
        stack.callback(store.close)
        collection = store.collection(schemas(width, embedder).witness)
        stack.callback(collection.close)
        stored, kept = newest(collection, files)
        return verify(collection, archive, files, max(stored, kept, key=lambda head: head.next_sequence))
