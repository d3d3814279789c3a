"""Walking the chain: archive, then store, held against the sealed head, the checkpoint and the signed heads.

0 ... removed ... kept ──── archive ──── live ──── store ──── head
                  ^ checkpoint           ^ checkpoint         ^ sealed head      signed heads anywhere between
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from actors.base.errors import Internal
from actors.memory.chain import Head, check, head_of
from actors.memory.store import Collection, Where
from actors.memory.witness_log.archive import Archive
from actors.memory.witness_log.files import WitnessFiles
from protos.gen import memory_pb2

WINDOW = 1000


class Found(NamedTuple):
    """An entry as the walk meets it, in its place."""

    sequence: int
    hash: bytes
    id: str
    payload: Mapping[str, Any]
    """As stored; empty in the archive."""


class Broken(Exception):
    """The chain does not go on."""

    def __init__(self, sequence: int, problem: str, entry_id: str = "") -> None:
        super().__init__(problem)
        self.sequence, self.problem, self.id = sequence, problem, entry_id


def verify(collection: Collection, archive: Archive, files: WitnessFiles, head: Head) -> memory_pb2.VerifyWitnessReply:
    """Walk all that is kept up to `head`; names the first entry that is missing, moved or changed. Blocks."""
    checkpoint = files.checkpoint.get()
    reply = memory_pb2.VerifyWitnessReply(head=head.hash, first=checkpoint.kept.next_sequence)
    at = checkpoint.kept
    try:
        signed = _signed(files, reply)
        at = _walk(_archived(archive, checkpoint.kept, checkpoint.live), at, signed)
        reply.archived = at.next_sequence - reply.first
        at = _walk(stored(collection, checkpoint.live, head), at, signed)
        _check_end(at, head, signed)
    except Broken as broken:
        reply.entries = reply.broken_at = broken.sequence
        reply.problem, reply.broken_id = broken.problem, broken.id
        return reply
    reply.entries, reply.sound = at.next_sequence, True
    return reply


def stored(collection: Collection, live: Head, head: Head) -> Iterator[Found]:
    """The store's entries from `live` to `head`, each checked. Raises Broken at the first that is off."""
    expected, previous, before = live.next_sequence, live.hash, ""
    while expected < head.next_sequence:
        last = min(expected + WINDOW, head.next_sequence) - 1
        # Twice the window, so that entries which share a sequence number are seen.
        entries = collection.scan(Where(between={"sequence": (expected, last)}), 2 * WINDOW, "sequence")
        for entry in reversed(entries):
            sequence, name = entry.payload["sequence"], str(entry.payload.get("entry_id", ""))
            if sequence < expected:
                raise Broken(sequence, f"two entries claim to be number {sequence}: {before} and {name}", name)
            if sequence > expected:
                between = f"it came after {before} and before {name}" if before else f"it came before {name}"
                raise Broken(expected, f"entry {expected} is missing; {sequence} follows ({between})")
            previous, problem = check(previous, expected, entry.payload)
            if problem:
                raise Broken(expected, problem, name)
            yield Found(expected, previous, name, entry.payload)
            expected, before = expected + 1, name
        if expected <= last:
            raise Broken(expected, f"entries {expected} to {last} are missing" + (f" after {before}" if before else ""))


def _archived(archive: Archive, kept: Head, live: Head) -> Iterator[Found]:
    expected, previous = kept.next_sequence, kept.hash
    for head in archive.heads:
        if not kept.next_sequence <= head.first < live.next_sequence:
            continue  # Written, and not moved yet: those entries are in the store.
        if head.first != expected:
            raise Broken(expected, f"the archive of entries {expected} to {head.first - 1} is missing")
        if head.previous != previous:
            raise Broken(expected, f"the archive of entries from {expected} on does not follow what was before it")
        try:
            entries = archive.read(head)
        except Internal as error:
            raise Broken(expected, error.message) from None
        for entry, digest in entries:
            yield Found(expected, digest, memory_pb2.WitnessEntry.FromString(entry.blob).id, {})
            expected, previous = expected + 1, digest
    if expected != live.next_sequence:
        raise Broken(expected, f"the archive of entries {expected} to {live.next_sequence - 1} is missing")
    if previous != live.hash:
        raise Broken(expected - 1, f"entry {expected - 1} is not the one that the checkpoint names")


def _walk(found: Iterable[Found], at: Head, signed: Mapping[int, Head]) -> Head:
    """The head after all of them, each held against the signed head of its place."""
    for each in found:
        at = Head(each.sequence + 1, each.hash)
        expected = signed.get(at.next_sequence)
        if expected is not None and expected.hash != at.hash:
            raise Broken(each.sequence, f"entry {each.sequence} ({each.id}) is not the one that was signed", each.id)
    return at


def _check_end(at: Head, head: Head, signed: Mapping[int, Head]) -> None:
    if at.hash != head.hash:
        raise Broken(at.next_sequence - 1, f"entry {at.next_sequence - 1} is not the one that was written last")
    if (most := max(signed, default=0)) > at.next_sequence:
        raise Broken(at.next_sequence, f"entries {at.next_sequence} to {most - 1} are missing: {most} were signed")


def _signed(files: WitnessFiles, reply: memory_pb2.VerifyWitnessReply) -> dict[int, Head]:
    heads: dict[int, Head] = {}
    for line, head, problem in files.signed.read():
        if problem:
            raise Broken(head.next_sequence, f"line {line} of {files.signed.path} {problem}")
        heads[head.next_sequence] = head
        reply.signed_heads += 1
    return heads


def newest(collection: Collection, files: WitnessFiles) -> tuple[Head, Head]:
    """(the head by the store, the head by the sealed file); after retention took everything, the checkpoint's."""
    entries = collection.scan(Where(), 1, "sequence")
    by_store = head_of(entries[0].payload) if entries else Head()
    live = files.checkpoint.get().live
    return (live if live.next_sequence > by_store.next_sequence else by_store), files.head.get()
