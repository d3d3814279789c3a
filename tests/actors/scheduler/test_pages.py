"""Page allocator and page tables: properties over random use, and that the strategies really differ."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.scheduler.pages import OutOfPages, PageAllocator, PageTable, pages_for

STRATEGIES = ["first_fit", "best_fit", "round_robin"]
PAGE_SIZE = 4


class PagesMachine(RuleBasedStateMachine):
    """Tables grow, fork, are written and released; a model holds what every table must read."""

    @initialize(strategy=st.sampled_from(STRATEGIES), pages=st.integers(1, 24))
    def start(self, strategy, pages):
        self.allocator = PageAllocator(pages, PAGE_SIZE, strategy)
        self.tables: list[PageTable] = []
        # Content of the slab, and what each table wrote at each of its pages.
        self.slab: dict[int, int] = {}
        self.expected: list[list[int]] = []
        self.stamp = 0

    def _pick(self, data):
        return data.draw(st.integers(0, len(self.tables) - 1))

    def _write(self, which, index):
        self.stamp += 1
        self.slab[self.tables[which].pages[index]] = self.stamp
        self.expected[which][index] = self.stamp

    @rule(count=st.integers(0, 6))
    def new_table(self, count):
        self.tables.append(PageTable())
        self.expected.append([])
        self._grow(len(self.tables) - 1, count)

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), count=st.integers(0, 6))
    def grow(self, data, count):
        self._grow(self._pick(data), count)

    def _grow(self, which, count):
        free, table = self.allocator.num_free, self.tables[which]
        if count > free:
            before = list(table.pages)
            with pytest.raises(OutOfPages, match=f"{count} pages asked for, {free} of"):
                table.grow(self.allocator, count)
            assert table.pages == before
            assert self.allocator.num_free == free
            return
        pages = table.grow(self.allocator, count)
        assert len(pages) == len(set(pages)) == count
        assert self.allocator.num_free == free - count
        self.expected[which] += [0] * count
        for index in range(len(table) - count, len(table)):
            self._write(which, index)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def fork(self, data):
        which = self._pick(data)
        count = data.draw(st.integers(0, len(self.tables[which])))
        self.tables.append(self.tables[which].fork(self.allocator, count))
        self.expected.append(self.expected[which][:count])

    @precondition(lambda self: any(len(table) for table in self.tables))
    @rule(data=st.data())
    def write(self, data):
        which = data.draw(st.sampled_from([i for i, table in enumerate(self.tables) if len(table)]))
        table = self.tables[which]
        index = data.draw(st.integers(0, len(table) - 1))
        shared = self.allocator.refcount(table.pages[index]) > 1
        if shared and self.allocator.num_free == 0:
            with pytest.raises(OutOfPages):
                table.make_writable(self.allocator, index)
            return
        copy = table.make_writable(self.allocator, index)
        assert (copy is not None) == shared
        if copy is not None:
            self.slab[copy.target] = self.slab[copy.source]
        self._write(which, index)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def release(self, data):
        which = self._pick(data)
        free = self.allocator.num_free
        freed = self.tables.pop(which).release(self.allocator)
        self.expected.pop(which)
        assert self.allocator.num_free == free + freed

    @invariant()
    def sound(self):
        if not hasattr(self, "allocator"):
            return
        assert self.allocator.check_integrity(self.tables) == []
        assert self.allocator.num_free + self.allocator.num_used == self.allocator.num_pages
        for table, expected in zip(self.tables, self.expected, strict=True):
            assert [self.slab[page] for page in table.pages] == expected

    def teardown(self):
        if hasattr(self, "allocator"):
            for table in self.tables:
                table.release(self.allocator)
            assert self.allocator.num_free == self.allocator.num_pages
            assert self.allocator.check_integrity([]) == []


PagesMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40)
TestPages = PagesMachine.TestCase


def holes(strategy):
    """Ten pages of which 0, 1, 2, 5 and 8, 9 are free; round robin has last taken page 4."""
    allocator = PageAllocator(10, PAGE_SIZE, strategy)
    allocator.allocate(10)
    allocator.release([0, 1, 2, 5, 8, 9])
    allocator._cursor = 5
    return allocator


@pytest.mark.parametrize(
    ("strategy", "count", "pages"),
    [
        ("first_fit", 1, [0]),
        ("best_fit", 1, [5]),
        ("round_robin", 1, [5]),
        ("first_fit", 2, [0, 1]),
        ("best_fit", 2, [8, 9]),
        ("round_robin", 2, [5, 8]),
        ("best_fit", 4, [0, 1, 2, 5]),
        ("round_robin", 4, [5, 8, 9, 0]),
    ],
)
def test_strategies_take_different_pages(strategy, count, pages):
    assert holes(strategy).allocate(count) == pages


def test_best_fit_takes_the_smallest_run_that_is_long_enough():
    allocator = PageAllocator(12, PAGE_SIZE, "best_fit")
    allocator.allocate(12)
    allocator.release([0, 1, 2, 3, 4, 6, 7, 8])
    assert allocator.allocate(2) == [6, 7]


def test_round_robin_uses_every_page_before_any_twice():
    allocator = PageAllocator(8, PAGE_SIZE, "round_robin")
    seen = []
    for _ in range(8):
        [page] = allocator.allocate(1)
        seen.append(page)
        allocator.release([page])
    assert sorted(seen) == list(range(8))


def test_misuse_is_refused():
    allocator = PageAllocator(4, PAGE_SIZE)
    [page] = allocator.allocate(1)
    allocator.release([page])
    with pytest.raises(ValueError, match="free already"):
        allocator.release([page])
    with pytest.raises(ValueError, match="cannot be shared"):
        allocator.share([page])
    with pytest.raises(ValueError, match="at least one page"):
        PageAllocator(0, PAGE_SIZE)


def test_check_integrity_finds_what_is_wrong():
    allocator = PageAllocator(4, PAGE_SIZE)
    table = PageTable()
    [page] = table.grow(allocator, 1)
    assert "0 tables list it" in allocator.check_integrity([])[0]
    assert "2 tables list it" in allocator.check_integrity([table, PageTable([page])])[0]
    allocator.num_free -= 1
    assert "num_free is 2" in allocator.check_integrity([table])[0]


def test_pages_for():
    assert [pages_for(tokens, 4) for tokens in (0, 1, 4, 5)] == [0, 1, 1, 2]
