"""Which KV of the running batch goes to a tier of fewer bits, and when."""

from collections import deque
from collections.abc import Callable, Iterable

from actors.scheduler.config import SchedulerConfig
from actors.scheduler.formats import demotable, is_finer, num_old_blocks
from actors.scheduler.kept import Kept, is_auto
from actors.scheduler.kv_pool import KvPool
from actors.scheduler.pages import PageTable
from actors.scheduler.prefix import Node, PrefixCache
from actors.scheduler.pressure import Pressure
from actors.scheduler.sequence import Sequence
from protos.gen import worker_pb2

# Blocks that one plan demotes at most: the worker moves them between two steps.
DEMOTIONS = 8
ARCHIVE = "q2"


class Tiering:
    """Moves the older parts of sequences, block by block, within the memory of one epoch."""

    def __init__(
        self,
        config: SchedulerConfig,
        pool: KvPool,
        cache: PrefixCache | None,
        kept: Kept | None,
        tables: Callable[[], Iterable[PageTable]],
    ) -> None:
        """`tables` gives every table there is but the cache's own."""
        self.pressure = Pressure(pool.formats)
        self.demoted: dict[str, int] = dict.fromkeys(pool.formats[1:], 0)
        """Tokens that went to each quantized tier so far."""
        self.quantized = 0
        """Those among them that went because memory was short."""
        self._tail_tokens = config.kv_tail_tokens
        self._pool = pool
        self._cache = cache
        self._kept = kept
        self._tables = tables
        # Whether nothing was left to be moved to the tier that pressure asks for.
        self._exhausted = False
        # What is to be archived next, as far as it is still there and idle by then.
        self._idle_blocks: deque[list[Node]] = deque()

    @property
    def short(self) -> bool:
        """Whether memory is short although all was quantized that may be."""
        return self.pressure.short and (self.pressure.tier is None or self._exhausted)

    def look(self) -> None:
        """See how much memory is in use now."""
        self.pressure.update(self._pool.live_bytes, self._pool.budget.capacity, self._exhausted)

    def is_due(self, sequence: Sequence) -> bool:
        """Whether a running sequence has blocks that are old enough for a quantized tier with room."""
        tier = self._tier_for(sequence)
        if tier is None or not self._pool.has_room(tier, evicting=True):
            return False
        looked_at = sequence.settled[1] if sequence.settled[0] == tier else 0
        return num_old_blocks(sequence, self._tail_tokens) > looked_at

    def demote(self, running: Iterable[Sequence], message: worker_pb2.Plan) -> None:
        """Move what is due, and write it into a plan."""
        left, wanting = DEMOTIONS, 0
        # The worker moves first and copies then: a block that is free by that time may have been filled anew.
        copied = set(message.copy_from)
        for sequence in running:
            tier = self._tier_for(sequence)
            if tier is None:
                continue
            for pages in demotable(sequence, tier, self._tail_tokens, self._pool):
                wanting += sequence.kv_format == "auto"
                if not left or not copied.isdisjoint(pages) or (self._kept and self._kept.is_pinned(pages)):
                    break
                if self._cache is not None:
                    self._cache.make_room(self._pool.as_pages(tier))
                if not self._pool.has_room(tier):
                    break
                left -= 1
                shared = any(self._pool.refcount(page) > 1 + self._is_cached(page) for page in pages)
                self._move(pages, tier, self._tables() if shared else [sequence.table], message)
                if sequence.kv_format == "auto":
                    self.quantized += len(pages) * self._pool.page_size
        self._exhausted = self.pressure.tier is not None and not wanting

    def archive(self, message: worker_pb2.Plan) -> None:
        """While memory is short, move what no sequence uses and no disk has to 2 bits, oldest first: it would be lost.

        Only what may be quantized at will: the prompts of `auto`.
        """
        if self._cache is None or ARCHIVE not in self.demoted:
            return
        left = DEMOTIONS - len(message.demote_to)
        if left <= 0 or not self._pool.budget.short() or not self._find_idle(self._cache):
            return
        # What is moved away makes room only for the next plan.
        self._cache.make_room(self._pool.as_pages(ARCHIVE, left))
        while left > 0 and self._pool.budget.short() and self._find_idle(self._cache):
            if not self._pool.has_room(ARCHIVE):
                return
            pages = [node.page for node in self._idle_blocks.popleft()]
            alone = all(page >= 0 and self._pool.refcount(page) == 1 for page in pages)
            if alone and is_finer(pages, ARCHIVE, self._pool):
                self._move(pages, ARCHIVE, [], message)
                left -= 1

    def _find_idle(self, cache: PrefixCache) -> bool:
        """Whether there are blocks that may be archived; where none are left, those of the next way."""
        count = self._pool.unit_pages(ARCHIVE)
        while not self._idle_blocks:
            salt, way = cache.idle_way(is_auto)
            if not way:
                return False
            if self._kept is None or not self._kept.has(salt, way):
                self._idle_blocks.extend(way[begin : begin + count] for begin in range(0, len(way) - count + 1, count))
        return True

    def _tier_for(self, sequence: Sequence) -> str | None:
        """The tier that the older part of a sequence's KV belongs in now."""
        tier = self.pressure.tier if sequence.kv_format == "auto" else sequence.kv_format
        return tier if tier in self.demoted else None

    def _move(self, pages: list[int], tier: str, tables: Iterable[PageTable], message: worker_pb2.Plan) -> None:
        moved = self._pool.demote(pages, tier)
        message.demote_from.extend(pages)
        message.demote_to.append(moved[0])
        self.demoted[tier] += len(pages) * self._pool.page_size
        places = dict(zip(pages, moved, strict=True))
        for table in tables:
            table.pages = [places.get(page, page) for page in table.pages]
        if self._cache is not None:
            for old, new in places.items():
                self._cache.replace(old, new)

    def _is_cached(self, page: int) -> bool:
        return self._cache is not None and self._cache.is_kept(page)
