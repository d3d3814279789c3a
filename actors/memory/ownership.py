"""A memory directory belongs to one process at a time, and to one cluster key for good."""

import fcntl
import os
from pathlib import Path

from actors.base.errors import Conflict, InvalidArgument
from actors.base.files import write_whole
from actors.base.keys import ID_BYTES, Keyring

_CONTEXT = b"memory directory"
_PROOF = b"russet"


class Ownership:
    """Holds the directory's lock; the kernel releases it when the process ends, however it ends.

    Raises Conflict where another process holds it.
    """

    def __init__(self, directory: Path) -> None:
        self._descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._descriptor, 20).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            raise Conflict(
                f"{directory} is in use by process {holder}; stop it, or use another memory.directory",
                param="memory.directory",
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let the next one in."""
        os.close(self._descriptor)


def keyring_of(directory: Path, key_file: Path) -> Keyring:
    """The keys that open what lies in `directory`; new ones where nothing does yet.

    Raises InvalidArgument where `key_file` is missing, or is not the one that the directory was begun with.
    """
    proof = directory / "key.proof"
    if not proof.exists():
        keyring = Keyring.load_or_create(key_file)
        prove(directory, keyring)
        return keyring
    if not key_file.exists():
        raise InvalidArgument(
            f"{directory} is encrypted, and its key {key_file} is missing; restore it, or use another memory.directory",
            param="memory.key_file",
        )
    keyring = Keyring.load(key_file)
    check_proof(directory, keyring, key_file)
    return keyring


def check_proof(directory: Path, keyring: Keyring, key_file: Path) -> None:
    """Raises InvalidArgument where the directory was begun with another key."""
    proof = directory / "key.proof"
    try:
        keyring.open(proof.read_bytes(), _CONTEXT)
    except InvalidArgument:
        raise InvalidArgument(
            f"{directory} is encrypted with another key than {key_file} holds; restore that key (a line of the file), "
            "or use another memory.directory",
            param="memory.key_file",
        ) from None


def prove(directory: Path, keyring: Keyring) -> None:
    """Say that all in the directory is sealed with the newest key."""
    write_whole(directory / "key.proof", keyring.seal(_PROOF, _CONTEXT))


def proven(directory: Path) -> str:
    """Id of the key that all in the directory is sealed with, at least; empty where nothing is there."""
    proof = directory / "key.proof"
    return proof.read_bytes()[:ID_BYTES].hex() if proof.exists() else ""
