"""The thread pool, seen through products that run on it."""

import threading
import time

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
