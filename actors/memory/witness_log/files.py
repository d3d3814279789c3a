"""What the witness log keeps beside the store: its sealed head, the checkpoint of retention, and signed heads.

witness.head        sealed, after every batch: a cut end of the store is missed by it
witness.checkpoint  sealed: where what is still kept begins, and where the store does
witness.heads       a line for every N entries, signed; may lie elsewhere, where whoever writes here cannot
witness.open        there while the log is written: a start that finds it follows a kill
"""

import contextlib
import json
import logging
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from actors.base.errors import InvalidArgument
from actors.base.files import write_whole
from actors.base.keys import Keyring
from actors.memory.chain import Head

log = logging.getLogger(__name__)
_HEAD_CONTEXT, _CHECKPOINT_CONTEXT, _SIGNED_CONTEXT = b"witness head", b"witness checkpoint", b"witness signed head"
_HEAD, _CHECKPOINT = struct.Struct("<Q32s"), struct.Struct("<Q32sQ32s")


class SealedFile:
    """A small file that is there as a whole or not at all, sealed with the cluster key."""

    def __init__(self, path: Path, keyring: Keyring, context: bytes) -> None:
        self._path, self._keyring, self._context = path, keyring, context

    def write(self, content: bytes) -> None:
        """Replace it."""
        write_whole(self._path, self._keyring.seal(content, self._context))

    def read(self) -> bytes | None:
        """What was written last; None where nothing was. Raises InvalidArgument if it was changed."""
        if not self._path.exists():
            return None
        try:
            return self._keyring.open(self._path.read_bytes(), self._context)
        except InvalidArgument as error:
            raise InvalidArgument(f"{self._path}: {error}; restore it, or move it away and trust the store") from None

    def reseal(self) -> None:
        """Seal it with the newest key."""
        if (content := self.read()) is not None:
            self.write(content)


class HeadFile(SealedFile):
    """The head outside the store: entries cut from the chain's end are missed by it."""

    def __init__(self, path: Path, keyring: Keyring) -> None:
        super().__init__(path, keyring, _HEAD_CONTEXT)

    def put(self, head: Head) -> None:
        """Replace it."""
        self.write(_HEAD.pack(head.next_sequence, head.hash))

    def get(self) -> Head:
        """The head as last written; an empty chain's where it never was."""
        content = self.read()
        return Head() if content is None else Head(*_HEAD.unpack(content))


class Checkpoint(NamedTuple):
    """Where the chain goes on after what retention removed. Before `kept` nothing is left; from `live` on it is stored.

    Between the two lies the archive.
    """

    kept: Head = Head()
    live: Head = Head()


class CheckpointFile(SealedFile):
    """Its word is what lets a log begin elsewhere than at entry 0."""

    def __init__(self, path: Path, keyring: Keyring) -> None:
        super().__init__(path, keyring, _CHECKPOINT_CONTEXT)
        self.current = self.get()
        """As this process last wrote or read it."""

    def put(self, checkpoint: Checkpoint) -> None:
        """Replace it."""
        (kept, kept_hash), (live, live_hash) = (
            (head.next_sequence, head.hash) for head in (checkpoint.kept, checkpoint.live)
        )
        self.write(_CHECKPOINT.pack(kept, kept_hash, live, live_hash))
        self.current = checkpoint

    def get(self) -> Checkpoint:
        """As last written; where the chain begins where it never was."""
        content = self.read()
        if content is None:
            return Checkpoint()
        kept, kept_hash, live, live_hash = _CHECKPOINT.unpack(content)
        return Checkpoint(Head(kept, kept_hash), Head(live, live_hash))


class SignedHeads:
    """Heads signed with the cluster key, a JSON line each: {"entries", "hash", "time_ms", "signature"}.

    Kept on another machine, or where lines can only be added, they hold against whoever owns this one: a history that
    was written anew with the key has other hashes than those.
    """

    def __init__(self, path: Path, keyring: Keyring) -> None:
        self.path = path
        self._keyring = keyring

    def add(self, head: Head) -> None:
        """Sign the head. A file that cannot be written is logged: the log itself goes on."""
        row = {"entries": head.next_sequence, "hash": head.hash.hex(), "time_ms": int(time.time() * 1000)}
        row["signature"] = self._keyring.sign(_signed(head), _SIGNED_CONTEXT).hex()
        try:
            with open(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            log.error("the witness log's head after %d entries was not signed: %s", head.next_sequence, error)

    def read(self) -> Iterator[tuple[int, Head, str]]:
        """(line from 1, head, what is wrong with the line). A key that is gone from the key file says nothing of it."""
        if not self.path.exists():
            return
        with self.path.open() as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                    head, signature = Head(int(row["entries"]), bytes.fromhex(row["hash"])), row["signature"]
                    verdict = self._keyring.verify(bytes.fromhex(signature), _signed(head), _SIGNED_CONTEXT)
                except (ValueError, KeyError, TypeError):
                    yield number, Head(), "cannot be read"
                    continue
                if verdict is not None:
                    yield number, head, "" if verdict else "was changed: the cluster key did not sign it"


class WitnessFiles:
    """All of them, in a memory directory; the signed heads at `heads` where that is set."""

    def __init__(self, directory: Path, keyring: Keyring, heads: Path | None = None) -> None:
        self.directory = directory
        self.keyring = keyring
        self.head = HeadFile(directory / "witness.head", keyring)
        self.checkpoint = CheckpointFile(directory / "witness.checkpoint", keyring)
        self.signed = SignedHeads(heads or directory / "witness.heads", keyring)
        self._open = directory / "witness.open"

    def opened(self) -> bool:
        """Say that the log is written from now on; False where the process before this one was killed meanwhile."""
        clean = not self._open.exists()
        self._open.touch(mode=0o600)
        return clean

    def closed(self) -> None:
        """Say that all that was accepted is written."""
        with contextlib.suppress(FileNotFoundError):
            self._open.unlink()

    def reseal(self) -> None:
        """Seal them with the newest key."""
        self.head.reseal()
        self.checkpoint.reseal()


def _signed(head: Head) -> bytes:
    return _HEAD.pack(head.next_sequence, head.hash)
