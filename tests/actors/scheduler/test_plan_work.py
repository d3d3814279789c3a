"""How much work a plan is, counted in function calls: no clock, so it holds on a busy machine too."""

import sys

from actors.scheduler.batch import Batch
from actors.scheduler.config import SchedulerConfig
from actors.scheduler.queue import WaitingQueue
from actors.scheduler.sequence import Sequence
from protos.gen import worker_pb2


def calls(function):
    """Python and C functions called while `function` runs."""
    count = 0

    def profile(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def decoding_batch(rows, strategy="first_fit"):
    config = SchedulerConfig(max_running=rows, page_strategy=strategy)
    queue = WaitingQueue(config.policy, config.aging_s)
    hello = worker_pb2.HelloReply(epoch=1, pages=rows * 64, page_size=16, max_rows=rows, max_step_tokens=512)
    batch = Batch(config, hello, queue)
    for index in range(rows):
        queue.arrive(Sequence(f"r{index}", [index] * 200, 200, 1000, arrival_s=0.0, index=index))
    batch.enact(batch.decide(0.0), 0.0)
    for sequence in batch.running.values():
        sequence.token_ids += [1] * 30
        sequence.num_computed_tokens = sequence.num_tokens - 1
    return batch


def test_a_plan_takes_few_calls_a_row_and_grows_with_the_rows_alone():
    work = {}
    for rows in (64, 256):
        batch = decoding_batch(rows)
        assert batch.decide(1.0).urgent
        work[rows] = calls(lambda batch=batch: batch.enact(batch.decide(1.0), 1.0))
        assert len(batch.running) == rows
    assert work[64] < 64 * 80
    assert work[256] < 4.5 * work[64]


def test_what_a_plan_sends_does_not_grow_with_the_answers():
    batch = decoding_batch(64)
    message = batch.enact(batch.decide(1.0), 1.0)
    assert not message.start
    assert len(message.row) == len(message.limit) == 64
    assert message.ByteSize() < 64 * 20
    assert not batch.decide(1.0).urgent, "nothing more to say until half a lease is used up"


def test_a_plan_takes_the_same_calls_however_much_is_cached_or_on_disk(instruments):
    work = {}
    for cached in (8, 24):
        disk = {bytes([number]) * 16: [] for number in range(cached)}
        config = SchedulerConfig()
        it = instruments.Drive(config, pages=20 * cached + 40, page_size=16, max_step_tokens=64, tiers=True, disk=disk)
        for index in range(cached + 4):
            it.submit(f"r{index}", 320, 2, kv_format="auto" if index % 2 else "f16", keep=bool(index % 4))
            it.run()
        it.submit("runs", 100, 60)
        for _ in range(10):
            it.turn()
        assert it.batch.allocator.budget.short()
        work[cached] = calls(lambda it=it: (it.batch.enact(it.batch.decide(0.0), 0.0), it.batch.tokens_kept))
    assert work[24] < work[8] + 10


def test_entering_with_a_prompt_that_is_found_takes_no_more_calls_a_page_with_a_disk(instruments):
    work = {}
    for disk in (None, {b"x" * 16: []}):
        it = instruments.Drive(SchedulerConfig(), pages=200, page_size=16, max_step_tokens=512, disk=disk)
        for index in range(9):
            it.submit(f"r{index}", [*range(480), index], 2)
            it.run()
        last = it.submit("last", [*range(480), 9], 2)
        work[disk is None] = calls(lambda it=it: it.batch.enact(it.batch.decide(0.0), 0.0))
        assert last.num_cached_tokens == 480
    assert work[False] < work[True] + 90, "three a page, for its hits"
