"""Everything that memory keeps sealed, sealed anew with the newest key, so that older keys can go.

sessions · documents · procedures · witness head, checkpoint, signed head · archive · questions that wait ──> key.proof

The proof comes last: it says that nothing is left under an older key. Broken off, it is begun again where it was.
"""

import base64
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

from actors.base.files import write_whole
from actors.base.keys import Keyring
from actors.memory import procedures, sessions
from actors.memory.config import MemoryConfig
from actors.memory.documents import sealed as documents
from actors.memory.ownership import check_proof, prove
from actors.memory.store import Collection, Entry, Schema, Where
from actors.memory.stores import open_store, schemas
from actors.memory.witness_log import embedding
from actors.memory.witness_log.archive import Archive
from actors.memory.witness_log.files import WitnessFiles


def reseal(config: MemoryConfig, width: int, embedder: str) -> dict[str, int]:
    """How many of each kind were sealed anew. The caller owns memory.directory (actors.memory.ownership).

    Raises InvalidArgument for what no key in memory.key_file opens: then nothing is said to be proven.
    """
    directory, key_file = config.directory, config.key_file
    assert directory is not None
    assert key_file is not None
    keyring = Keyring.load(key_file)
    check_proof(directory, keyring, key_file)
    wanted, done = schemas(width, embedder), {}
    with contextlib.ExitStack() as stack:
        store = open_store(config, config.store)
        stack.callback(store.close)

        def collection(schema: Schema) -> Collection:
            opened = store.collection(schema)
            stack.callback(opened.close)
            return opened

        kept, said, worked = (collection(each) for each in (wanted.session, wanted.documents, wanted.procedures))
        done["sessions"] = _entries(kept, keyring, _of_session)
        done["documents"] = _entries(said, keyring, lambda entry: documents.context_of(entry.id))
        done["procedures"] = _entries(worked, keyring, lambda entry: procedures.context_of(entry.id))
    files = WitnessFiles(directory, keyring, config.witness_heads_file)
    files.reseal()
    if (head := files.head.get()).next_sequence:
        files.signed.add(head)
    archive = Archive(directory / "witness-archive", keyring)
    for each in archive.heads:
        archive.reseal(each)
    done["archives"] = len(archive.heads)
    waiting = (directory / "witness-unembedded").glob("*.texts")
    done["questions that wait"] = reseal_files(waiting, keyring, embedding.CONTEXT)
    prove(directory, keyring)
    return done


def reseal_files(paths: Iterable[Path], keyring: Keyring, context: bytes) -> int:
    """Seal whole files anew; how many."""
    count = 0
    for path in paths:
        if (renewed := keyring.renewed(path.read_bytes(), context)) is not None:
            write_whole(path, renewed)
            count += 1
    return count


def _of_session(entry: Entry) -> bytes:
    return sessions.context_of(entry.payload["tenant"], entry.payload["session_id"])


def _entries(collection: Collection, keyring: Keyring, context: Callable[[Entry], bytes]) -> int:
    count = 0
    for page in collection.pages(Where(), vectors=True):
        changed = []
        for entry in page:
            renewed = keyring.renewed(base64.b64decode(entry.payload["sealed"]), context(entry))
            if renewed is not None:
                payload = entry.payload | {"sealed": base64.b64encode(renewed).decode()}
                changed.append(Entry(entry.id, payload, entry.vector))
        if changed:
            collection.upsert(changed)
        count += len(changed)
    return count
