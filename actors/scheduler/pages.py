"""KV pages: who holds which. The worker owns what is in them; here they are numbers with reference counts."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from actors.scheduler.config import Strategy
from actors.scheduler.runs import FreeRuns

_FREE, _USED = b"\x01", b"\x00"


class OutOfPages(Exception):
    """More pages were asked for than are free: a planner defect, since plans are made within the budget."""


class PageCopy(NamedTuple):
    """Copy-on-write: the worker copies `source` to `target` before the first step of the plan."""

    source: int
    target: int


def pages_for(tokens: int, page_size: int) -> int:
    """Pages that hold `tokens` tokens."""
    return -(-tokens // page_size)


class PageAllocator:
    """Free pages and reference counts of a slab of `num_pages` pages of `page_size` tokens.

    The strategies differ in which free pages they take:
    - first_fit: the lowest numbers, so the slab's far end stays untouched (and unmapped) at low load;
    - best_fit: the smallest run of neighbouring pages that holds all that is asked for, so long runs survive and a
      sequence's KV lies contiguous; where no run is long enough, the longest is used up first;
    - round_robin: the next ones after those taken last, so every page is used equally often and a freed page keeps
      its content longest.
    """

    def __init__(self, num_pages: int, page_size: int, strategy: Strategy = "first_fit") -> None:
        if num_pages < 1 or page_size < 1:
            raise ValueError(f"A slab needs at least one page of one token; got {num_pages} pages of {page_size}.")
        self.num_pages = num_pages
        self.page_size = page_size
        self.strategy = strategy
        self.num_free = num_pages
        # One byte a page, so that searching is bytes.find, not a Python loop.
        self._free = bytearray(_FREE * num_pages)
        self._refcounts = [0] * num_pages
        self._cursor = 0
        self._runs = FreeRuns(num_pages) if strategy == "best_fit" else None

    @property
    def num_used(self) -> int:
        """Pages with at least one reference."""
        return self.num_pages - self.num_free

    def allocate(self, count: int) -> list[int]:
        """Take `count` free pages, each with one reference; raises OutOfPages and takes none if there are fewer."""
        if count > self.num_free:
            raise OutOfPages(f"{count} pages asked for, {self.num_free} of {self.num_pages} are free.")
        if count == 0:
            return []
        pages = self._choose(count)
        for page in pages:
            self._free[page] = _USED[0]
            self._refcounts[page] = 1
        self.num_free -= count
        return pages

    def share(self, pages: Iterable[int]) -> None:
        """Add one reference to each page; every one must be in use."""
        for page in pages:
            if self._refcounts[page] == 0:
                raise ValueError(f"Page {page} is free and cannot be shared.")
            self._refcounts[page] += 1

    def release(self, pages: Iterable[int]) -> int:
        """Drop one reference of each page; returns how many became free."""
        freed = 0
        for page in pages:
            if self._refcounts[page] == 0:
                raise ValueError(f"Page {page} is free already.")
            self._refcounts[page] -= 1
            if self._refcounts[page] == 0:
                self._free[page] = _FREE[0]
                freed += 1
                if self._runs is not None:
                    self._runs.give_back(page)
        self.num_free += freed
        return freed

    def refcount(self, page: int) -> int:
        """References to a page; 0 is free."""
        return self._refcounts[page]

    def writable(self, page: int) -> bool:
        """Whether the one who holds this page may write it."""
        return self._refcounts[page] == 1

    def check_integrity(self, tables: Iterable["PageTable"]) -> list[str]:
        """Sentences about what is wrong, given every table there is; empty where all is sound."""
        problems = []
        free = self._free.count(_FREE)
        if free != self.num_free:
            problems.append(f"{free} pages are marked free, but num_free is {self.num_free}.")
        held: Counter[int] = Counter()
        for table in tables:
            held.update(table.pages)
            if len(set(table.pages)) != len(table.pages):
                problems.append(f"A page table lists a page twice: {table.pages}.")
        for page, (references, marked_free) in enumerate(zip(self._refcounts, self._free, strict=True)):
            if references != held[page]:
                problems.append(f"Page {page} has {references} references, but {held[page]} tables list it.")
            if bool(marked_free) != (references == 0):
                problems.append(f"Page {page} has {references} references and free = {bool(marked_free)}.")
        if self._runs is not None and sorted(self._runs.pages()) != [i for i, free in enumerate(self._free) if free]:
            problems.append(f"The free runs hold {sorted(self._runs.pages())}, which are not the free pages.")
        problems += [f"A table lists page {page} of {self.num_pages}." for page in held if page >= self.num_pages]
        return problems

    def _choose(self, count: int) -> list[int]:
        if self._runs is not None:
            return self._runs.take(count)
        pages = self._scan(self._cursor if self.strategy == "round_robin" else 0, count)
        self._cursor = (pages[-1] + 1) % self.num_pages
        return pages

    def _scan(self, start: int, count: int) -> list[int]:
        """The first `count` free pages from `start` on, going round at the end."""
        pages: list[int] = []
        position = start
        while len(pages) < count:
            position = self._free.find(_FREE, position)
            if position < 0:
                position = 0
                continue
            pages.append(position)
            position += 1
        return pages


class Pages(Protocol):
    """What a page table needs of whoever counts references: PageAllocator, or the pool over all tiers."""

    def allocate(self, count: int) -> list[int]:
        """Take free pages, each with one reference."""
        ...

    def share(self, pages: Iterable[int]) -> None:
        """Add one reference to each page."""
        ...

    def release(self, pages: Iterable[int]) -> int:
        """Drop one reference of each page."""
        ...

    def writable(self, page: int) -> bool:
        """Whether the one who holds this page may write it."""
        ...


class PageTable:
    """The pages of one sequence, in token order: token i lies in pages[i // page_size].

    |-- shared with other tables, read only --|-- own, written --|
    """

    __slots__ = ("pages",)

    def __init__(self, pages: Iterable[int] = ()) -> None:
        self.pages = list(pages)

    def __len__(self) -> int:
        return len(self.pages)

    def grow(self, allocator: Pages, count: int) -> list[int]:
        """Append `count` new pages and return them."""
        pages = allocator.allocate(count)
        self.pages += pages
        return pages

    def fork(self, allocator: Pages, count: int) -> "PageTable":
        """A table that shares the first `count` pages."""
        shared = self.pages[:count]
        allocator.share(shared)
        return PageTable(shared)

    def make_writable(self, allocator: Pages, index: int) -> PageCopy | None:
        """Replace pages[index] by a copy of its own where it must not be written; None where it may be."""
        if index >= len(self.pages) or allocator.writable(self.pages[index]):
            return None
        source = self.pages[index]
        [target] = allocator.allocate(1)
        allocator.release([source])
        self.pages[index] = target
        return PageCopy(source, target)

    def release(self, allocator: Pages) -> int:
        """Give up every page; returns how many became free."""
        pages, self.pages = self.pages, []
        return allocator.release(pages)
