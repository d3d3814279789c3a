"""The thread pool, seen through products that run on it."""

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from kernels import cpu

if not cpu.available():
    pytest.skip(cpu.reason(), allow_module_level=True)

from kernels.cpu import _ext


@pytest.fixture(autouse=True)
def restore():
    yield
    _ext.set_threads(0)


def test_every_chunk_runs_exactly_once_under_stress():
    for threads in (1, 2, 3, 8):
        _ext.set_threads(threads)
        for chunks in (0, 1, 2, 7, 64, 1000):
            counts = _ext.count_chunks(chunks, 50)
            assert counts == [50] * chunks


def test_threads_are_started_and_stopped_many_times():
    for i in range(100):
        _ext.set_threads(1 + i % 5)
        assert _ext.threads() == 1 + i % 5
        assert _ext.count_chunks(9, 1) == [1] * 9


def test_callers_on_several_threads_take_turns():
    _ext.set_threads(3)
    results = []
    callers = [threading.Thread(target=lambda: results.append(_ext.count_chunks(50, 200))) for _ in range(4)]
    for caller in callers:
        caller.start()
    _ext.set_threads(2)
    for caller in callers:
        caller.join()
    assert results == [[200] * 50] * 4


def test_a_busy_process_beside_it_does_not_stop_it():
    """More threads than processors, so that some thread is always descheduled: phases still end."""
    _ext.set_threads(16)
    weight = _ext.pack_dense(mx.random.normal((256, 64), key=mx.random.key(0)))
    x = mx.random.normal((4, 64), key=mx.random.key(1))
    expected = np.array(_ext.linear(x, weight))
    for _ in range(200):
        assert np.array_equal(np.array(_ext.linear(x, weight)), expected)


def test_idle_threads_sleep():
    _ext.set_threads(4)
    _ext.count_chunks(64, 10)
    time.sleep(0.05)  # longer than the threads stay awake
    before = time.process_time()
    time.sleep(0.3)  # the claim is about time passing: nothing else can be waited for
    assert time.process_time() - before < 0.05


def test_numbers_of_threads_that_make_no_sense_are_refused():
    for wrong in (-1, 100_000):
        with pytest.raises(ValueError, match="accepted: 0"):
            _ext.set_threads(wrong)
    assert _ext.count_chunks(4, 1) == [1] * 4


def pool_threads() -> dict[str, set[int]]:
    """The pool threads of this process by id, each with the processors it may run on."""
    found = {}
    for thread in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it is ending
            if (thread / "comm").read_text().startswith("russet-pool-"):
                found[thread.name] = os.sched_getaffinity(int(thread.name))
    return found


def until_there_are(threads: dict[str, set[int]]) -> None:
    """Return when those are the pool's threads: the system lists one for a moment after it has been joined."""
    deadline = time.monotonic() + 10
    while pool_threads().keys() != threads.keys():
        assert time.monotonic() < deadline, f"{pool_threads()} instead of {threads}"
        os.sched_yield()


def on_a_thread_of_its_own(work: Callable[[], None]) -> None:
    """Run `work` on a thread that ends with it, and its pool with the thread; raises what it raises."""
    failures: list[BaseException] = []

    def body() -> None:
        try:
            work()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of threads and binds them")


@linux
def test_threads_are_bound_to_the_processors_asked_for_one_each():
    cpus = sorted(os.sched_getaffinity(0))
    before = pool_threads()

    def work():
        _ext.own_threads(0, cpus, 100)
        assert _ext.threads() == len(cpus)
        assert _ext.count_chunks(50, 20) == [20] * 50
        assert os.sched_getaffinity(threading.get_native_id()) == {cpus[0]}
        bound = {thread: where for thread, where in pool_threads().items() if thread not in before}
        assert sorted(bound.values(), key=min) == [{cpu} for cpu in cpus[1:]]
        _ext.own_threads(2, [], 100)
        assert os.sched_getaffinity(threading.get_native_id()) == set(cpus)
        known = before.keys() | bound.keys()
        assert [where for thread, where in pool_threads().items() if thread not in known] == [set(cpus)]

    on_a_thread_of_its_own(work)
    until_there_are(before)


@linux
def test_two_engines_have_threads_of_their_own():
    before = pool_threads()
    both_are_there = threading.Barrier(3, timeout=60)
    counts = []

    def engine(threads: int) -> None:
        _ext.own_threads(threads, [], 0)
        both_are_there.wait()
        counts.append((_ext.threads(), _ext.count_chunks(30, 500)))
        both_are_there.wait()

    engines = [threading.Thread(target=engine, args=(threads,)) for threads in (2, 3)]
    for thread in engines:
        thread.start()
    both_are_there.wait()
    assert len(pool_threads().keys() - before.keys()) == 1 + 2
    both_are_there.wait()
    for thread in engines:
        thread.join()
    assert sorted(counts) == [(2, [500] * 30), (3, [500] * 30)]
    until_there_are(before)


def test_what_cannot_be_honoured_is_refused_and_changes_nothing():
    def work():
        _ext.own_threads(2, [], 100)
        for threads, cpus, awake_us, accepted in (
            (-1, [], 100, "accepted: 0"),
            (1, [], -1, "awake_us is -1"),
            (1, [], 10_000_000, "accepted: 0 to 1000000"),
            (1, [100_000], 100, "cpus are 100000; accepted:"),
            (0, [0, 0], 100, "cpus are 0, 0; accepted:"),
        ):
            with pytest.raises(ValueError, match=accepted):
                _ext.own_threads(threads, cpus, awake_us)
        if sys.platform == "linux":
            with pytest.raises(ValueError, match="threads is 3 for 1 cpus"):
                _ext.own_threads(3, [min(os.sched_getaffinity(0))], 100)
        assert _ext.threads() == 2
        assert _ext.count_chunks(9, 3) == [3] * 9

    on_a_thread_of_its_own(work)
