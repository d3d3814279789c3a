"""One byte budget: never exceeded, persist before free, the order of eviction, hysteresis."""

import mmap
import random
import threading

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.base.errors import Unavailable
from actors.scheduler.budget import Budget, Kind, OutOfMemory, next_victim

THREADS = 32


def test_32_allocators_never_exceed_it_by_count_or_in_memory():
    """Each thread loads real memory after it was booked and frees it when it is evicted or done."""
    unit = 1 << 20
    budget = Budget(64 * unit)
    process = psutil.Process()
    content = b"x" * unit
    start = threading.Barrier(THREADS)
    most, errors = [0], []
    before = process.memory_info().rss

    def allocate(seed: int) -> None:
        dice = random.Random(seed)
        start.wait()
        try:
            for _ in range(40):
                held: list[mmap.mmap] = []
                pieces = dice.randrange(1, 6)
                nbytes = pieces * unit
                try:
                    resident = budget.admit(Kind(dice.randrange(4)), nbytes, free=lambda held=held: held.pop().close())
                except OutOfMemory:
                    continue
                memory = mmap.mmap(-1, nbytes)
                for _ in range(pieces):
                    memory.write(content)
                held.append(memory)
                most[0] = max(most[0], process.memory_info().rss - before)
                assert budget.taken <= budget.capacity
                # From here on others may evict it.
                budget.unpin(resident)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=allocate, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    # The interpreter and its threads need some, too.
    assert most[0] <= budget.capacity + 8 * unit
    assert most[0] > budget.capacity // 2, "it was put to use"


@given(st.lists(st.tuples(st.integers(1, 60), st.sampled_from(list(Kind)), st.booleans()), max_size=40))
def test_what_is_booked_is_what_is_there(steps):
    budget = Budget(100)
    there = {}
    for number, (nbytes, kind, pinned) in enumerate(steps):
        try:
            resident = budget.admit(kind, nbytes, free=lambda number=number: there.pop(number))
        except OutOfMemory:
            free = budget.capacity - sum(there.values())
            assert nbytes > free, "there was room"
            continue
        there[number] = nbytes
        if not pinned:
            budget.unpin(resident)
        assert budget.taken == sum(there.values()) <= budget.capacity


def test_a_pinned_resident_stays():
    budget = Budget(10)
    budget.admit(Kind.TEMPORARY, 10, free=lambda: pytest.fail("it was in use"))
    with pytest.raises(OutOfMemory, match="1 bytes are wanted, 0 of 10 are left"):
        budget.admit(Kind.TEMPORARY, 1, free=lambda: None)


def test_kinds_go_in_their_order_and_kv_last():
    gone = []
    budget = Budget(50, clock=lambda: 0.0)
    for kind in (Kind.ROUTER_WEIGHTS, Kind.WARM_ADAPTER, Kind.COLD_ADAPTER, Kind.TEMPORARY):
        budget.unpin(budget.admit(kind, 10, free=lambda kind=kind: gone.append(kind)))
    assert budget.book(10)

    def shrink(wanted):
        gone.append(Kind.KV)
        budget.give_back(10)

    budget.shrink_kv = shrink
    for _ in range(5):
        budget.book_or_evict(10)
    assert gone == sorted(Kind)


def test_within_a_kind_age_counts_most_then_size():
    now = [0.0]
    budget = Budget(1000, clock=lambda: now[0])
    residents = []
    for at, nbytes in ((0, 10), (5, 10), (5, 100), (9, 100)):
        now[0] = at
        residents.append(budget.admit(Kind.WARM_ADAPTER, nbytes, free=lambda: None))
        budget.unpin(residents[-1])
    left, order = set(residents), []
    while left:
        victim = next_victim(left, 10.0)
        order.append(residents.index(victim))
        left.remove(victim)
    assert order == [0, 2, 1, 3]


def test_what_cannot_be_persisted_is_not_freed_and_whoever_wanted_the_room_is_told():
    freed = []

    def fail():
        raise OSError(28, "No space left on device")

    budget = Budget(10)
    resident = budget.admit(Kind.WARM_ADAPTER, 10, free=lambda: freed.append(1), persist=fail)
    budget.unpin(resident)
    with pytest.raises(Unavailable, match="No space left on device"):
        budget.book_or_evict(5)
    assert not freed
    assert budget.taken == 10
    assert budget.pin(resident), "it is there as before"


def test_persisted_then_freed():
    steps = []
    budget = Budget(10)
    budget.unpin(
        budget.admit(Kind.COLD_ADAPTER, 10, free=lambda: steps.append("free"), persist=lambda: steps.append("persist"))
    )
    budget.book_or_evict(1)
    assert steps == ["persist", "free"]


def test_one_that_fails_does_not_stop_the_next():
    freed = []

    def fail():
        raise OSError("disk")

    budget = Budget(20, clock=iter(range(1000)).__next__)
    budget.unpin(budget.admit(Kind.COLD_ADAPTER, 10, free=lambda: freed.append("a"), persist=fail))
    budget.unpin(budget.admit(Kind.COLD_ADAPTER, 10, free=lambda: freed.append("b")))
    budget.book_or_evict(10)
    assert freed == ["b"]


def test_relief_begins_above_85_percent_and_ends_at_70():
    freed = []
    budget = Budget(100)
    for number in range(17):
        budget.unpin(budget.admit(Kind.COLD_ADAPTER, 5, free=lambda number=number: freed.append(number)))
    assert budget.relieve() == 0, "85 of 100 is not above"
    budget.unpin(budget.admit(Kind.COLD_ADAPTER, 5, free=lambda: freed.append(17)))
    assert budget.relieve() == 20
    assert budget.taken == 70
    assert not budget.short()


def test_the_larger_of_what_is_booked_and_what_the_system_counts_decides():
    footprint = [0]
    budget = Budget(100, footprint=lambda: footprint[0])
    budget.unpin(budget.admit(Kind.TEMPORARY, 10, free=lambda: footprint.__setitem__(0, 60)))
    assert not budget.short()
    footprint[0] = 86
    assert budget.short()
    assert budget.relieve() == 10
    assert not budget.short()


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one byte, got 0"):
        Budget(0)


def test_more_than_was_booked_cannot_be_given_back():
    budget = Budget(10)
    budget.book(5)
    with pytest.raises(ValueError, match="6 bytes cannot be given back: 5 are taken"):
        budget.give_back(6)


def test_nothing_is_evicted_for_what_can_never_fit():
    budget = Budget(10)
    budget.unpin(budget.admit(Kind.TEMPORARY, 10, free=lambda: pytest.fail("there is no point")))
    with pytest.raises(OutOfMemory, match="11 bytes are wanted; the budget is 10 in all"):
        budget.book_or_evict(11)
