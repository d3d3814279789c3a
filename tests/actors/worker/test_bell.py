"""The bell between engine thread and event loop."""

import asyncio
import os
import threading

import pytest

from actors.worker.bell import Bell
from kernels.bell import NO_BELL, ring


async def test_a_ring_from_another_thread_is_heard_in_the_loop() -> None:
    bell, heard, where = Bell(), asyncio.Event(), []
    bell.listen(lambda: (where.append(threading.current_thread()), heard.set()))
    for _ in range(3):
        heard.clear()
        threading.Thread(target=bell.ring).start()
        async with asyncio.timeout(10):
            await heard.wait()
    assert set(where) == {threading.current_thread()}
    bell.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(bell.fd)


async def test_rings_that_nobody_heard_are_one() -> None:
    bell, heard = Bell(), []
    for _ in range(100_000):  # more than a pipe holds
        bell.ring()
    bell.listen(lambda: heard.append(True))
    while not heard:
        await asyncio.sleep(0)
    count = len(heard)
    for _ in range(20):
        await asyncio.sleep(0)
    if hasattr(os, "eventfd"):
        assert len(heard) == count == 1
    bell.close()


def test_no_bell_is_rung_by_nobody() -> None:
    ring(NO_BELL)
