"""The pool over tiers against a model that counts plainly."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.scheduler.kv_pool import KvPool
from actors.scheduler.pages import OutOfPages, PageTable
from protos.gen import worker_pb2

PAGE_BYTES = {"f16": 100, "q8": 53, "q4": 28}


def tiers(pages=24, unit_pages=4):
    capacity, first, made = pages * PAGE_BYTES["f16"], 0, []
    for form, nbytes in PAGE_BYTES.items():
        count = 1 if form == "f16" else unit_pages
        made.append(
            worker_pb2.KvTier(
                format=form,
                first_page=first,
                units=capacity // (nbytes * count),
                unit_pages=count,
                unit_bytes=nbytes * count,
            )
        )
        first += made[-1].units * count
    return made, capacity


class PoolMachine(RuleBasedStateMachine):
    """Tables come, share, grow, are demoted and go; written memory is tracked as a worker would."""

    def __init__(self):
        super().__init__()
        made, self.capacity = tiers()
        self.pool = KvPool(made, self.capacity, 16)
        self.tables: list[PageTable] = []
        self.resident: set[int] = set()

    def tell(self):
        """What a plan says: memory goes back first, then pages are written."""
        self.resident -= set(self.pool.take_releases())

    def write(self, pages):
        for page in pages:
            unit = self.unit_of(page)
            self.resident.add(unit)
        assert sum(self.unit_bytes(unit) for unit in self.resident) <= self.capacity

    def unit_of(self, page):
        form = self.pool.format_of(page)
        if form == "f16":
            return page
        tier = next(tier for tier in tiers()[0] if tier.format == form)
        return page - (page - tier.first_page) % tier.unit_pages

    def unit_bytes(self, unit):
        return self.pool.unit_bytes(self.pool.format_of(unit))

    @rule(count=st.integers(1, 9))
    def grow(self, count):
        table = PageTable()
        free = self.pool.num_free
        if count > free:
            with pytest.raises(OutOfPages):
                table.grow(self.pool, count)
            return
        table.grow(self.pool, count)
        self.tables.append(table)
        self.tell()
        self.write(table.pages)

    @precondition(lambda self: self.tables)
    @rule(which=st.integers(0, 99), part=st.integers(1, 9))
    def fork(self, which, part):
        self.tables.append(self.tables[which % len(self.tables)].fork(self.pool, part))

    @precondition(lambda self: self.tables)
    @rule(which=st.integers(0, 99))
    def release(self, which):
        self.tables.pop(which % len(self.tables)).release(self.pool)

    @precondition(lambda self: self.tables)
    @rule(which=st.integers(0, 99), form=st.sampled_from(["q8", "q4"]))
    def demote(self, which, form):
        pages = self.tables[which % len(self.tables)].pages[:4]
        if len(pages) < 4 or {self.pool.format_of(page) for page in pages} != {"f16"} or not self.pool.has_room(form):
            return
        new = self.pool.demote(pages, form)
        places = dict(zip(pages, new, strict=True))
        for table in self.tables:
            table.pages = [places.get(page, page) for page in table.pages]
        released = self.pool.take_releases()
        assert not set(released) & set(pages), "what is moved away is released by a later plan"
        self.resident -= set(released)
        self.write(new)

    @invariant()
    def sound(self):
        assert self.pool.check_integrity(self.tables) == []
        assert self.pool.budget.taken <= self.capacity


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40)


def test_bytes_bound_all_tiers_together():
    made, capacity = tiers(pages=8)
    pool = KvPool(made, capacity, 16)
    table = PageTable()
    table.grow(pool, 8)
    assert pool.num_free == 0
    assert not pool.has_room("q4")
    with pytest.raises(OutOfPages, match="No unit of q4 is free: 0 bytes are left"):
        pool.take_unit("q4")
    pool.release([table.pages.pop(), table.pages.pop()])
    assert pool.has_room("q4")
    pool.take_unit("q4")
    assert pool.num_free == 0, "200 bytes less 112 are less than a page"


def test_only_full_precision_that_nobody_shares_is_written():
    made, capacity = tiers()
    pool = KvPool(made, capacity, 16)
    table = PageTable()
    table.grow(pool, 4)
    assert all(map(pool.writable, table.pages))
    other = table.fork(pool, 1)
    assert not pool.writable(table.pages[0])
    other.release(pool)
    block = pool.demote(table.pages, "q8")
    assert not any(map(pool.writable, block))
    table.pages = list(block)
    copy = table.make_writable(pool, 3)
    assert copy is not None
    assert copy.source == block[3]
    assert pool.format_of(copy.target) == "f16"


def test_a_block_is_idle_when_all_its_pages_are():
    made, capacity = tiers()
    pool = KvPool(made, capacity, 16)
    block = pool.take_unit("q8")
    available = pool.num_available
    for page in block[:3]:
        pool.idle(page)
    assert pool.num_available == available
    pool.idle(block[3])
    assert (available, pool.num_available) == (21, 24), "188 bytes more than 2,000, and all 2,400"
    assert [use.cached_bytes for use in pool.uses()] == [0, 212, 0]
    pool.busy(block[0])
    assert pool.num_available == available


def test_mixed_up_tiers_are_refused():
    made, capacity = tiers()
    made[1].first_page += 1
    with pytest.raises(ValueError, match="pages of tier q8 begin at 25, not 24"):
        KvPool(made, capacity, 16)


def test_a_worker_that_states_no_bytes_is_bounded_by_its_pages():
    hello = worker_pb2.HelloReply(pages=24, page_size=16, tiers=tiers()[0], kv_bytes=0)
    pool = KvPool.of_worker(hello, "first_fit")
    assert pool.budget.capacity == 24 * PAGE_BYTES["f16"]
