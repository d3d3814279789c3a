"""KV memory: pages of full precision and blocks of quantized ones, in one byte budget.

The worker has a range of addresses for each tier, and memory only for what was written there. Here are the numbers:
which pages are free, who holds which, and how many bytes that makes. A page id is a page of f16, or a part of a block
of a quantized tier, which is taken and given as a whole (protos/worker.proto: KvTier).

    unit     free -> used (some of its pages are referenced) -> free
    bytes    of used units are booked in the budget; of free ones that were written before, memory is still taken
             (warm), until it is released for another tier. The worker releases memory before it moves anything, so
             what the plan in the making moves away (fresh) is not released by that plan.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from actors.scheduler.budget import Budget
from actors.scheduler.config import Strategy
from actors.scheduler.pages import OutOfPages, PageAllocator, PageTable
from protos.gen import worker_pb2

_COLD, _WARM, _FRESH = b"\x00", b"\x01", b"\x02"


class TierUse(NamedTuple):
    """Bytes of one tier: of units that live sequences use, and of those that only the prefix cache keeps."""

    format: str
    live_bytes: int
    cached_bytes: int


class _Tier:
    """The units of one form of KV. Units are numbered from 0, their pages from first_page."""

    def __init__(self, tier: worker_pb2.KvTier, page_size: int, strategy: Strategy) -> None:
        self.format = tier.format
        self.first_page = tier.first_page
        self.unit_pages = tier.unit_pages
        self.unit_bytes = tier.unit_bytes
        self.units = PageAllocator(tier.units, page_size, strategy)
        # Of each unit: whether it is free and its memory still taken.
        self.warm = bytearray(_COLD * tier.units)
        # References of a unit's pages, and pages of it that only the prefix cache references.
        self.references = [0] * tier.units
        self.idle_pages = [0] * tier.units
        self.idle_units = 0

    def pages_of(self, unit: int) -> range:
        first = self.first_page + unit * self.unit_pages
        return range(first, first + self.unit_pages)


class KvPool:
    """Pages of all tiers with reference counts; what is taken never exceeds the budget, in bytes.

    `allocate`, `share`, `release` and `refcount` are those of PageAllocator, over f16 pages (which alone are written)
    and over the pages of blocks alike.
    """

    def __init__(
        self,
        tiers: Sequence[worker_pb2.KvTier],
        capacity: int,
        page_size: int,
        strategy: Strategy = "first_fit",
    ) -> None:
        self.page_size = page_size
        self.budget = Budget(capacity)
        self._tiers = [_Tier(tier, page_size, strategy) for tier in tiers]
        self._full = self._tiers[0]
        self._by_format = {tier.format: tier for tier in self._tiers}
        self.num_pages = self._full.units.num_pages
        self._tier_of: list[_Tier] = []
        for tier in self._tiers:
            if tier.first_page != len(self._tier_of):
                raise ValueError(f"pages of tier {tier.format} begin at {tier.first_page}, not {len(self._tier_of)}")
            self._tier_of += [tier] * (tier.units.num_pages * tier.unit_pages)
        self._references = [0] * len(self._tier_of)
        # Of each page: whether only the prefix cache needs it.
        self._idle_pages = bytearray(len(self._tier_of))
        self._resident_bytes = 0
        self._warm_bytes = 0
        self._idle_bytes = 0
        self._fresh: list[tuple[_Tier, int]] = []
        self._to_release: list[int] = []

    @classmethod
    def of_pages(cls, num_pages: int, page_size: int, strategy: Strategy = "first_fit") -> "KvPool":
        """Full precision alone, bounded by its pages."""
        tier = worker_pb2.KvTier(format="f16", first_page=0, units=num_pages, unit_pages=1, unit_bytes=1)
        return cls([tier], num_pages, page_size, strategy)

    @classmethod
    def of_worker(cls, hello: worker_pb2.HelloReply, strategy: Strategy) -> "KvPool":
        """What a worker offers."""
        if not hello.tiers:
            return cls.of_pages(hello.pages, hello.page_size, strategy)
        capacity = hello.kv_bytes or hello.pages * hello.tiers[0].unit_bytes
        return cls(hello.tiers, capacity, hello.page_size, strategy)

    @property
    def formats(self) -> tuple[str, ...]:
        """Tiers there are, f16 first."""
        return tuple(self._by_format)

    @property
    def num_free(self) -> int:
        """f16 pages that can be allocated as things are."""
        return min(self._full.units.num_free, self.budget.left // self._full.unit_bytes)

    @property
    def num_available(self) -> int:
        """f16 pages that can be allocated once the prefix cache has given up all that only it holds."""
        idle = self._full.idle_units
        left = self.budget.left + self._idle_bytes
        return min(self._full.units.num_free + idle, left // self._full.unit_bytes)

    @property
    def num_used(self) -> int:
        """f16 pages with at least one reference."""
        return self._full.units.num_used

    @property
    def live_bytes(self) -> int:
        """Bytes that somebody beside the prefix cache uses."""
        return self.budget.taken - self._idle_bytes

    def uses(self) -> list[TierUse]:
        """Who uses how much of each tier."""
        return [
            TierUse(
                tier.format,
                (tier.units.num_used - tier.idle_units) * tier.unit_bytes,
                tier.idle_units * tier.unit_bytes,
            )
            for tier in self._tiers
        ]

    def allocate(self, count: int) -> list[int]:
        """Take `count` free f16 pages, each with one reference; raises OutOfPages and takes none if there are fewer."""
        nbytes = count * self._full.unit_bytes
        if count > self._full.units.num_free or not self.budget.book(nbytes):
            raise OutOfPages(
                f"{count} pages asked for, {self._full.units.num_free} of {self.num_pages} are free and "
                f"{self.budget.left} of {self.budget.capacity} bytes."
            )
        pages = self._full.units.allocate(count)
        for page in pages:
            self._references[page] = self._full.references[page] = 1
        self._warm_up(self._full, pages)
        return pages

    def share(self, pages: Iterable[int]) -> None:
        """Add one reference to each page; every one must be in use."""
        for page in pages:
            if self._references[page] == 0:
                raise ValueError(f"Page {page} is free and cannot be shared.")
            self._count(page, references=1)

    def release(self, pages: Iterable[int]) -> int:
        """Drop one reference of each page; returns how many f16 pages and blocks became free."""
        freed = 0
        for page in pages:
            if self._references[page] == 0:
                raise ValueError(f"Page {page} is free already.")
            freed += self._count(page, references=-1)
        return freed

    def refcount(self, page: int) -> int:
        """References to a page; 0 is free."""
        return self._references[page]

    def writable(self, page: int) -> bool:
        """Whether the one who holds this page may write it: full precision, and nobody else's."""
        return self._references[page] == 1 and page < self.num_pages

    def idle(self, page: int) -> None:
        """Only the prefix cache needs this page any more."""
        self._idle_pages[page] = 1
        self._count(page, idle=1)

    def busy(self, page: int) -> None:
        """Undo `idle`."""
        self._idle_pages[page] = 0
        self._count(page, idle=-1)

    def format_of(self, page: int) -> str:
        """The tier of a page."""
        return self._tier_of[page].format

    def page_bytes(self, page: int) -> int:
        """A page's share of the bytes of its unit."""
        tier = self._tier_of[page]
        return tier.unit_bytes // tier.unit_pages

    def unit_bytes(self, format: str) -> int:
        """Bytes of one unit of a tier."""
        return self._by_format[format].unit_bytes

    def as_pages(self, format: str, units: int = 1) -> int:
        """f16 pages that take as many bytes as units of a tier."""
        return -(-units * self._by_format[format].unit_bytes // self._full.unit_bytes)

    def unit_pages(self, format: str) -> int:
        """Pages of one unit of a tier."""
        return self._by_format[format].unit_pages

    def unit_of(self, page: int) -> list[int]:
        """All pages of a page's unit."""
        tier = self._tier_of[page]
        return list(tier.pages_of((page - tier.first_page) // tier.unit_pages))

    def whole_unit(self, pages: Sequence[int]) -> bool:
        """Whether these are all pages of one unit, in order."""
        return list(pages) == self.unit_of(pages[0])

    def has_room(self, format: str, *, evicting: bool = False) -> bool:
        """Whether one unit of a tier could be taken now, or once the prefix cache has given up what only it holds."""
        tier = self._by_format[format]
        memory = self.budget.capacity - self._resident_bytes + self._warm_bytes
        idle_bytes = self._idle_bytes if evicting else 0
        return tier.units.num_free > 0 and min(self.budget.left, memory) + idle_bytes >= tier.unit_bytes

    def take_unit(self, format: str) -> list[int]:
        """The pages of a free unit, each with one reference; raises OutOfPages."""
        tier = self._by_format[format]
        if not tier.units.num_free or not self.budget.book(tier.unit_bytes):
            raise OutOfPages(f"No unit of {format} is free: {self.budget.left} bytes are left.")
        [unit] = tier.units.allocate(1)
        pages = tier.pages_of(unit)
        for page in pages:
            self._references[page] = 1
        tier.references[unit] = tier.unit_pages
        self._warm_up(tier, [unit])
        return list(pages)

    def demote(self, pages: Sequence[int], format: str) -> list[int]:
        """Move all that is known of these pages to a new block of `format`; returns its pages, in the same order.

        Whoever held one of `pages` holds the block's page at its place: tables and cache must say so too.
        """
        new = self.take_unit(format)
        for source, target in zip(pages, new, strict=True):
            if self._idle_pages[source]:
                self.busy(source)
                self.idle(target)
            # The new page comes with one reference.
            references = self._references[source]
            self._count(target, references=references - 1)
            self._count(source, references=-references, freed_as=_FRESH)
        return new

    def take_releases(self) -> list[int]:
        """Units (first page ids) whose memory the worker must give back before it writes what was allocated since."""
        releases, self._to_release = self._to_release, []
        fresh, self._fresh = self._fresh, []
        for tier, unit in fresh:
            if tier.warm[unit] == _FRESH[0]:
                tier.warm[unit] = _WARM[0]
                self._warm_bytes += tier.unit_bytes
        return releases

    def check_integrity(self, tables: Iterable[PageTable]) -> list[str]:
        """Sentences about what is wrong, given every table there is; empty where all is sound."""
        problems = []
        held: Counter[int] = Counter()
        for table in tables:
            held.update(table.pages)
            if len(set(table.pages)) != len(table.pages):
                problems.append(f"A page table lists a page twice: {table.pages}.")
        problems += [
            f"A table lists page {page} of {len(self._references)}." for page in held if page >= len(self._references)
        ]
        for page, references in enumerate(self._references):
            if references != held[page]:
                problems.append(f"Page {page} has {references} references, but {held[page]} tables list it.")
        taken = resident = idle = warm_bytes = 0
        for tier in self._tiers:
            for unit in range(tier.units.num_pages):
                references = sum(self._references[page] for page in tier.pages_of(unit))
                used, warm = tier.units.refcount(unit) > 0, tier.warm[unit] != _COLD[0]
                if references != tier.references[unit] or used != (references > 0) or (used and warm):
                    problems.append(f"Unit {unit} of {tier.format} has {references} references and used = {used}.")
                taken += used * tier.unit_bytes
                resident += (used or warm) * tier.unit_bytes
                warm_bytes += (tier.warm[unit] == _WARM[0]) * tier.unit_bytes
                idle += self._idle(tier, unit) * tier.unit_bytes
        for name, said, counted in (
            ("taken", self.budget.taken, taken),
            ("resident", self._resident_bytes, resident),
            ("warm", self._warm_bytes, warm_bytes),
            ("idle", self._idle_bytes, idle),
        ):
            if said != counted:
                problems.append(f"The pool says {said} bytes are {name}; its units say {counted}.")
        if self._resident_bytes > self.budget.capacity:
            problems.append(f"{self._resident_bytes} bytes are resident; the budget is {self.budget.capacity}.")
        return problems

    @staticmethod
    def _idle(tier: _Tier, unit: int) -> bool:
        return 0 < tier.references[unit] == tier.idle_pages[unit]

    def _count(self, page: int, references: int = 0, idle: int = 0, freed_as: bytes = _WARM) -> int:
        """Change a page's counts and what follows from them; returns 1 where its unit became free."""
        tier = self._tier_of[page]
        unit = (page - tier.first_page) // tier.unit_pages
        before = self._idle(tier, unit)
        self._references[page] += references
        tier.references[unit] += references
        tier.idle_pages[unit] += idle
        change = self._idle(tier, unit) - before
        tier.idle_units += change
        self._idle_bytes += change * tier.unit_bytes
        if references >= 0 or tier.references[unit]:
            return 0
        tier.units.release([unit])
        tier.warm[unit] = freed_as[0]
        if freed_as == _FRESH:
            self._fresh.append((tier, unit))
        else:
            self._warm_bytes += tier.unit_bytes
        self.budget.give_back(tier.unit_bytes)
        return 1

    def _warm_up(self, tier: _Tier, units: list[int]) -> None:
        """These units are about to be written: where that takes memory, other free units give theirs back."""
        for unit in units:
            if tier.warm[unit] == _COLD[0]:
                self._resident_bytes += tier.unit_bytes
            elif tier.warm[unit] == _WARM[0]:
                self._warm_bytes -= tier.unit_bytes
            tier.warm[unit] = _COLD[0]
        while self._resident_bytes > self.budget.capacity:
            self._cool_one()

    def _cool_one(self) -> None:
        for tier in self._tiers:
            # From the far end: first fit comes back to the near one.
            unit = tier.warm.rfind(_WARM)
            if unit >= 0:
                tier.warm[unit] = _COLD[0]
                self._resident_bytes -= tier.unit_bytes
                self._warm_bytes -= tier.unit_bytes
                self._to_release.append(tier.pages_of(unit)[0])
                return
        raise AssertionError("more bytes are resident than used and warm units have")
