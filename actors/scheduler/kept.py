"""KV on disk: what it is called, which of it is there, and what is on its way there or back.

A unit of KV depends on all tokens up to its last one and on what computed it. So its key is the end of a hash chain
over pages of tokens that begins with the model's revision, instruction set, page size, KV format and tenant. The last
byte of a key tells how many pages it stands for: of a block that was begun by one prompt and shared by another up to
its second page, the other one knows two.
"""

import logging
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from actors.scheduler.costs import Costs
from actors.scheduler.kv_pool import KvPool
from actors.scheduler.pages import PageTable
from actors.scheduler.prefix import Hold, Node, PrefixCache
from actors.scheduler.sequence import Sequence
from protos.gen import worker_pb2

KEY_BYTES = 16
HOT_AFTER = 2
"""Sequences that begin with a page somebody else computed, after which it is kept on disk: looked at when they are
this many, twice, four times ..."""

LEAST_SAVES, SHARE_OF_SAVES = 256, 0.25
"""Units on their way to disk at most, and as a share of the f16 pages where that is more: they are pinned meanwhile."""

PATIENCE_S = 10.0
"""After so long without an answer the disk counts as stuck: nobody waits for it any more, and nothing more is saved."""


STUCK = f"has not answered for {PATIENCE_S:g} s: nothing is saved or loaded until it does"

log = logging.getLogger(__name__)


class Unit(NamedTuple):
    """One unit to be read from disk: its key, its tier, and what of it is needed.

    Its pages skip .. skip + pages - 1 are the sequence's pages first .. first + pages - 1.
    """

    key: bytes
    format: str
    first: int
    pages: int
    skip: int = 0


@dataclass(eq=False)
class Restore:
    """Pages on their way from disk into the tree; it promises them like a sequence that computes them."""

    sequence: Sequence
    # None once nobody waits for it any more.
    hold: Hold | None
    # Those that were ready, then those on their way.
    table: PageTable
    # First page id of a unit that is still on its way -> the unit.
    awaited: dict[int, Unit]
    sources: tuple[str, ...]
    began_s: float
    # Places (in pages) of units that could not be had.
    missing: list[int] = field(default_factory=list)


class Restored(NamedTuple):
    """How a restore ended: tokens whose KV need not be computed, seconds since it began."""

    tokens: int
    seconds: float


def salt_of(sequence: Sequence) -> bytes:
    """What KV depends on beside the tokens, of what differs within an epoch: nothing is shared across it."""
    return f"{sequence.kv_format}\0{sequence.tenant}".encode()


def is_auto(salt: bytes) -> bool:
    """Whether what has this salt may be quantized at will."""
    return salt.startswith(b"auto\0")


def seed(hello: worker_pb2.HelloReply, salt: bytes) -> bytes:
    """Where a hash chain begins: whatever KV depends on beside the tokens."""
    parts = (hello.model.revision.encode(), hello.isa_class.encode(), str(hello.page_size).encode(), salt)
    digest = blake2b(digest_size=32)
    for part in parts:
        digest.update(len(part).to_bytes(4, "little") + part)
    return digest.digest()


def chain(start: bytes, pages: Iterable[bytes]) -> Iterator[bytes]:
    """The digest of each page (its tokens as 32-bit integers) and all before it."""
    for page in pages:
        start = blake2b(page, digest_size=32, key=start).digest()
        yield start


def key_of(digest: bytes, format: str, pages: int) -> bytes:
    """The key of a unit of `pages` pages whose last page has this digest."""
    return blake2b(format.encode(), digest_size=KEY_BYTES - 1, key=digest).digest() + bytes([pages])


def split(keys: bytes) -> Iterator[bytes]:
    """Keys that stand in a message end to end."""
    return (keys[start : start + KEY_BYTES] for start in range(0, len(keys) - KEY_BYTES + 1, KEY_BYTES))


class Kept:
    """What the worker has on disk, and the moves between disk and memory. Of one epoch."""

    def __init__(self, hello: worker_pb2.HelloReply, pool: KvPool, cache: PrefixCache, costs: Costs) -> None:
        self._hello = hello
        self._pool = pool
        self._cache = cache
        self._costs = costs
        self._there = set(split(hello.kept))
        self._there_pages = sum(key[-1] for key in self._there)
        self._saving: dict[bytes, list[int]] = {}
        # The same pages, each with the number of units that pin it.
        self._pinned: Counter[int] = Counter()
        self._restores: dict[int, Restore] = {}
        self._to_save: list[tuple[int, bytes]] = []
        self._to_load: list[Restore] = []
        self._saves_at_once = max(LEAST_SAVES, int(SHARE_OF_SAVES * pool.num_pages))
        # When the worker last answered, or was asked for the first of what it has not answered.
        self._heard_s = 0.0
        self.stuck = False
        """Whether the worker does not answer although it was asked to save or load."""

    @property
    def num_tokens(self) -> int:
        """Tokens whose KV is on disk."""
        return self._there_pages * self._pool.page_size

    @property
    def num_pinned(self) -> int:
        """Pages that are held until they are on disk."""
        return len(self._pinned)

    @property
    def pending(self) -> bool:
        """Whether there is something to tell the worker."""
        return bool(self._to_save or self._to_load)

    @property
    def outstanding(self) -> bool:
        """Whether there are saves or loads that the worker has not answered."""
        return bool(self._saving or self._restores)

    def look(self, now_s: float) -> None:
        """See whether the disk is stuck: who waits for it then computes instead.

        Units that it may still read or write stay held until it has answered.
        """
        before, self.stuck = self.stuck, self.outstanding and now_s - self._heard_s >= PATIENCE_S
        if self.stuck is not before:
            log.warning("The disk of the worker %s", STUCK if self.stuck else "answers again")
        if self.stuck:
            for restore in self._restores.values():
                self._break(restore)

    def is_pinned(self, pages: Iterable[int]) -> bool:
        """Whether one of these pages is on its way to disk."""
        return not self._pinned.keys().isdisjoint(pages)

    def save(self, sequence: Sequence, pages: int) -> int:
        """Keep the first `pages` pages of a sequence, which are in the tree. Returns how many go to disk now."""
        if self.stuck:
            return 0
        table, digests = sequence.table.pages[:pages], self.digests(sequence)
        # Of these the worker may tell that they are lost, which must not be taken for the answer to a save.
        loading = {restore.awaited[page].key for page, restore in self._restores.items()}
        saved = index = 0
        while index < len(table) and len(self._saving) < self._saves_at_once:
            unit, known = self._unit_at(table, index)
            index += max(1, known)
            if not known:
                continue
            key = key_of(digests[index - 1], self._pool.format_of(unit[0]), known)
            if key not in self._there and key not in self._saving and key not in loading:
                self._pool.share(unit)
                self._pinned.update(unit)
                self._saving[key] = unit
                self._to_save.append((unit[0], key))
                saved += known
        return saved

    def count_hits(self, sequence: Sequence) -> None:
        """A sequence begins with what it found; whatever many begin with is worth keeping.

        It may have been lost since it was saved, but looking for that at each hit took more time than all else.
        """
        if sequence.hold is None:
            return
        hot, due = 0, False
        for node in sequence.hold.nodes[: sequence.hold.kept]:
            node.hits += 1
            hot += node.hits >= HOT_AFTER
            due = due or (node.hits >= HOT_AFTER and node.hits.bit_count() == 1)
        if due:
            self.save(sequence, hot)

    def _unit_at(self, pages: list[int], index: int) -> tuple[list[int], int]:
        """The pages in use of the unit that begins at a place in a table, and how many of them the table goes on with.

        0 where what lies there is not the beginning of a unit.
        """
        unit = self._pool.unit_of(pages[index])
        if pages[index] != unit[0]:
            return [], 0
        known = 1
        while known < len(unit) and pages[index : index + known + 1] == unit[: known + 1]:
            known += 1
        return [page for page in unit if self._pool.refcount(page)], known

    def find(self, sequence: Sequence, ready: int, tail_tokens: int) -> list[Unit]:
        """The units on disk that follow the first `ready` pages of a sequence; one token is left to be computed.

        Where another worker is to be asked everything is assumed to be there, in the form that it had at the end.
        """
        page_size = self._pool.page_size
        wanted = (sequence.num_tokens - 1) // page_size
        if ready >= wanted or not (self._there or sequence.kv_source):
            return []
        digests = self.digests(sequence)
        old_pages = max(0, sequence.num_tokens - tail_tokens) // page_size
        guess = sequence.kv_format if sequence.kv_source else ""
        units: list[Unit] = []
        index = ready
        while index < wanted:
            unit = self._kept_at(digests[:wanted], index)
            if unit is None and guess:
                unit = self._guessed_at(digests[:wanted], index, guess, old_pages)
            if unit is None:
                break
            units.append(unit)
            index += unit.pages
        return units

    def _kept_at(self, digests: list[bytes], index: int) -> Unit | None:
        """The unit on disk that holds the page at `index`, and perhaps some after it."""
        key = key_of(digests[index], "f16", 1)
        if key in self._there:
            return Unit(key, "f16", index, 1)
        for format in self._pool.formats[1:]:
            per_block = self._pool.unit_pages(format)
            begin = index // per_block * per_block
            for end in range(min(begin + per_block, len(digests)), index, -1):
                key = key_of(digests[end - 1], format, end - begin)
                if key in self._there:
                    return Unit(key, format, index, end - index, index - begin)
        return None

    def _guessed_at(self, digests: list[bytes], index: int, format: str, old_pages: int) -> Unit:
        """What another worker calls the page at `index`, if the first `old_pages` pages went to a quantized tier."""
        form = format if format in self._pool.formats else "f16"
        count = self._pool.unit_pages(form)
        if index % count or index + count > old_pages:
            form, count = "f16", 1
        return Unit(key_of(digests[index + count - 1], form, count), form, index, count)

    def digests(self, sequence: Sequence) -> list[bytes]:
        """The hash chain over the sequence's whole pages, as far as its tokens are known."""
        start = seed(self._hello, salt_of(sequence))
        if sequence.digests[:1] != [start]:
            sequence.digests = [start]
        page_size = self._pool.page_size
        done = len(sequence.digests) - 1
        if (done + 1) * page_size <= sequence.num_tokens:
            data = array("I", sequence.token_ids[done * page_size :]).tobytes()
            size = 4 * page_size
            pages = (data[at : at + size] for at in range(0, len(data) - size + 1, size))
            sequence.digests += chain(sequence.digests[-1], pages)
        return sequence.digests[1:]

    def has(self, salt: bytes, way: list[Node]) -> bool:
        """Whether what lies on a way through the tree is on disk: its beginning, at least."""
        first_block = way[: max(map(self._pool.unit_pages, self._pool.formats))]
        digests = list(chain(seed(self._hello, salt), (node.key for node in first_block)))
        return self._kept_at(digests, 0) is not None

    def worth(self, units: list[Unit]) -> bool:
        """Whether reading these units is cheaper than computing them."""
        tokens = sum(unit.pages for unit in units) * self._pool.page_size
        nbytes = sum(self._pool.unit_bytes(unit.format) for unit in units)
        worth = tokens > 0 and self._costs.restore(tokens, nbytes)
        if tokens and not worth:
            self._costs.forget()
        return worth

    def worth_swapping(self, sequence: Sequence) -> bool:
        """Whether to keep a row that gives way on disk, rather than to compute it again."""
        if self.stuck or len(self._saving) >= self._saves_at_once:
            return False
        pages = [node.page for node in sequence.hold.nodes[: sequence.hold.kept]] if sequence.hold else []
        nbytes = sum(map(self._pool.page_bytes, pages))
        return bool(pages) and self._costs.swap(len(pages) * self._pool.page_size, nbytes)

    def restore(self, restore: Restore) -> None:
        """Begin to read; another worker is asked once, whatever comes of it."""
        restore.sequence.kv_source = ()
        for page in restore.awaited:
            self._restores[page] = restore
        self._to_load.append(restore)

    def tell(self, message: worker_pb2.Plan, now_s: float) -> None:
        """Write into a plan what is to be saved and loaded. Loads of one plan ask the same worker, or none."""
        to_load = sum(len(restore.awaited) for restore in self._to_load)
        if len(self._to_save) == len(self._saving) and to_load == len(self._restores):
            self._heard_s = now_s  # it owes nothing yet
        for page, key in self._to_save:
            message.save.append(page)
            message.save_keys += key
        self._to_save = []
        later: list[Restore] = []
        for restore in self._to_load:
            if message.load and tuple(message.load_from) != restore.sources:
                later.append(restore)
                continue
            message.load_from[:] = restore.sources
            for page, unit in restore.awaited.items():
                message.load.append(page)
                message.load_keys += unit.key
        self._to_load = later

    def settle(self, result: worker_pb2.StepResult, now_s: float) -> list[Restored]:
        """What the worker did; returns the restores that ended."""
        self._costs.observe(result)
        if result.saved or result.lost or result.loaded or result.unloaded:
            self._heard_s = now_s
        for key in split(result.saved):
            self._note(key, there=True)
            self._unpin(key)
        for key in split(result.lost):
            self._note(key, there=False)
            self._unpin(key)
        ended = []
        for page in result.loaded:
            restore = self._restores.pop(page)
            self._note(restore.awaited.pop(page).key, there=True)
            ended += self._end(restore, now_s)
        for page in result.unloaded:
            restore = self._restores.pop(page)
            restore.missing.append(restore.awaited.pop(page).first)
            ended += self._end(restore, now_s)
        return ended

    def tables(self) -> list[PageTable]:
        """The pages that are held here."""
        restores = {id(restore): restore for restore in (*self._restores.values(), *self._to_load)}
        return [PageTable(pages) for pages in self._saving.values()] + [r.table for r in restores.values()]

    def _note(self, key: bytes, *, there: bool) -> None:
        """A unit is on disk, or is not."""
        if there is not (key in self._there):
            (self._there.add if there else self._there.discard)(key)
            self._there_pages += key[-1] if there else -key[-1]

    def _unpin(self, key: bytes) -> None:
        pages = self._saving.pop(key, None)
        if pages is not None:
            self._pool.release(pages)
            for page in pages:
                self._pinned[page] -= 1
                if not self._pinned[page]:
                    del self._pinned[page]

    def _end(self, restore: Restore, now_s: float) -> list[Restored]:
        if restore.awaited:
            return []
        tokens = 0
        if restore.hold is not None:
            before, page_size = restore.hold.kept, self._pool.page_size
            whole = min(restore.missing, default=len(restore.table))
            self._cache.keep(restore.hold, restore.sequence.token_ids, restore.table, whole * page_size)
            tokens = (restore.hold.kept - before) * page_size
            restore.sequence.num_restored_tokens += tokens
        self._break(restore)
        restore.table.release(self._pool)
        return [Restored(tokens, now_s - restore.began_s)]

    def _break(self, restore: Restore) -> None:
        """Let nobody wait for a restore any more."""
        if restore.hold is not None:
            self._cache.release(restore.hold)
            restore.hold = None
