"""KV that survives: kept on disk by name, restored where that is cheaper, never trusted."""

import pytest

from actors.scheduler.config import SchedulerConfig
from actors.scheduler.costs import Costs
from actors.scheduler.kept import PATIENCE_S, chain, key_of, salt_of, seed
from actors.scheduler.sequence import Sequence
from protos.gen import worker_pb2

PAGE = 16


def config(**more):
    return SchedulerConfig(lease_tokens=8, kv_tail_tokens=64, reserve_fraction=0, **more)


def drive(instruments, disk, pages=64, **worker):
    return instruments.Drive(config(), pages=pages, page_size=PAGE, tiers=True, max_step_tokens=64, disk=disk, **worker)


def prompt(length, start=0):
    return [(start * 131 + 7 * i) % 900 + 50 for i in range(length)]


def finish(it):
    it.run()
    while it.moving:
        it.turn()


@pytest.mark.parametrize("form", ["f16", "q8", "q4"])
def test_a_session_is_restored_after_a_restart(instruments, form):
    disk = {}
    it = drive(instruments, disk)
    first = it.submit("a", prompt(400), 30, keep=True, kv_format=form, tenant="t")
    finish(it)
    assert disk
    it = drive(instruments, disk)
    more = [*first.token_ids, 5, 6, 7]
    second = it.submit("b", more, 30, kv_format=form, tenant="t")
    it.run()
    whole = (429 // PAGE) * PAGE
    assert second.num_found_tokens == second.num_restored_tokens == it.worker.tokens_loaded == whole
    assert it.worker.tokens_computed == len(second.token_ids) - 1 - whole
    assert second.token_ids[len(more) :] == instruments.answer(more, len(more) + 30, ignore_eos=True)


@pytest.mark.parametrize("form", ["q8", "q4"])
def test_blocks_that_two_share_in_part_come_back_for_both(instruments, form):
    """The 100 tokens in common end within a block, which the first one's pages go on with."""
    disk, common = {}, prompt(100)
    texts = [[*common, *prompt(300, start)] for start in (1, 2)]
    it = drive(instruments, disk, pages=128)
    for text in texts:
        it.submit("a", text, 5, keep=True, kv_format=form)
        finish(it)
    for text in reversed(texts):
        it = drive(instruments, disk, pages=128)
        again = it.submit("b", text, 20, kv_format=form)
        it.run()
        assert again.num_restored_tokens == 24 * PAGE
        assert again.token_ids[400:] == instruments.answer(text, 420, ignore_eos=True)


@pytest.mark.parametrize("ready", [16, 48, 70])
def test_what_is_in_memory_in_another_form_does_not_hide_what_is_on_disk(instruments, ready):
    disk, text = {}, prompt(400)
    it = drive(instruments, disk)
    it.submit("a", text, 5, keep=True, kv_format="q4")
    finish(it)
    it = drive(instruments, disk)
    it.submit("b", [*text[:ready], 1], 2, kv_format="q4")
    it.costs.load_bytes_per_s = 1.0
    it.run()
    it.costs.load_bytes_per_s = 1e9
    again = it.submit("c", text, 20, kv_format="q4")
    it.run()
    assert again.num_found_tokens == 24 * PAGE
    assert again.num_restored_tokens == (24 - ready // PAGE) * PAGE
    assert again.token_ids[400:] == instruments.answer(text, 420, ignore_eos=True)


def test_nothing_is_kept_of_a_request_without_a_session(instruments):
    disk = {}
    it = drive(instruments, disk)
    it.submit("a", prompt(400), 30)
    finish(it)
    assert disk == {}


def test_what_many_prompts_begin_with_is_kept(instruments):
    disk = {}
    it = drive(instruments, disk)
    for i in range(4):
        it.submit(f"r{i}", [*prompt(160), i], 2)
        finish(it)
    assert len(disk) == 160 // PAGE


def test_other_tenants_and_formats_find_nothing(instruments):
    disk = {}
    it = drive(instruments, disk)
    it.submit("a", prompt(400), 30, keep=True, tenant="t")
    finish(it)
    for more in ({"tenant": "u"}, {"tenant": "t", "kv_format": "q8"}):
        it = drive(instruments, disk)
        it.submit("b", prompt(400), 2, **more)
        it.run()
        assert it.worker.tokens_loaded == 0


def test_what_cannot_be_read_is_computed(instruments):
    disk = {}
    it = drive(instruments, disk)
    it.submit("a", prompt(400), 30, keep=True)
    finish(it)
    it = drive(instruments, disk)
    # The key of page 10.
    start = seed(it.worker.hello(), salt_of(it.submit("x", prompt(1), 1)))
    digests = list(chain(start, (_bytes(prompt(400)[i : i + PAGE]) for i in range(0, 400, PAGE))))
    it = drive(instruments, disk)
    it.worker.unreadable.add(key_of(digests[10], "f16", 1))
    again = it.submit("b", prompt(400), 30)
    it.run()
    assert again.num_restored_tokens == 10 * PAGE, "up to the first page that is not there"
    assert again.token_ids[400:] == instruments.answer(prompt(400), 430, ignore_eos=True)


def test_reading_is_not_begun_where_computing_is_cheaper(instruments):
    disk = {}
    it = drive(instruments, disk)
    it.submit("a", prompt(400), 30, keep=True)
    finish(it)
    it = drive(instruments, disk)
    it.costs.load_bytes_per_s = 1.0
    it.submit("b", prompt(400), 2)
    it.run()
    assert it.worker.tokens_loaded == 0


def test_those_that_begin_alike_wait_for_one_restore(instruments):
    disk = {}
    it = drive(instruments, disk)
    it.submit("a", prompt(400), 30, keep=True)
    finish(it)
    it = drive(instruments, disk, pages=128, disk_steps=5)
    rows = [it.submit(f"r{i}", [*prompt(400), i], 5) for i in range(6)]
    it.run()
    assert it.worker.tokens_loaded == 400
    assert [row.num_found_tokens for row in rows] == [400] * 6


def test_another_workers_disk_is_asked_once(instruments):
    disk = {}
    it = drive(instruments, disk)
    it.submit("a", prompt(400), 30, keep=True, kv_format="q8")
    finish(it)
    it = drive(instruments, {})
    it.worker.disk = disk  # as if it were fetched: the scheduler has not been told of it
    plans = []
    apply = it.worker.apply
    it.worker.apply = lambda plan: (plans.append(plan), apply(plan))
    found = it.submit("b", prompt(400), 2, kv_format="q8", kv_source=("unix:/other",))
    lost = it.submit("c", prompt(400, 3), 2, kv_format="q8", kv_source=("unix:/gone",))
    it.run()
    asked = [list(plan.load_from) for plan in plans if plan.load]
    assert asked == [["unix:/other"], ["unix:/gone"]]
    assert found.num_restored_tokens == 384
    assert lost.num_restored_tokens == 0
    assert lost.token_ids[400:] == instruments.answer(prompt(400, 3), 402, ignore_eos=True)


def test_a_prompt_is_read_once_and_then_computed(instruments):
    disk = {}
    it = drive(instruments, disk)
    it.submit("a", prompt(400), 30, keep=True)
    finish(it)
    it = drive(instruments, disk)
    it.worker.unreadable |= set(disk)
    it.worker.silent_about_keys = True
    again = it.submit("b", prompt(400), 30)
    it.run(turns=200)
    assert again.token_ids[400:] == instruments.answer(prompt(400), 430, ignore_eos=True)


def test_a_prompt_is_not_read_before_there_is_room_for_all_of_it(instruments):
    """What is read for one that has to wait takes the memory of those that run, and may be gone by the time."""
    disk = {}
    it = drive(instruments, disk)
    it.submit("a", prompt(480), 5, keep=True)
    finish(it)
    it = drive(instruments, disk, pages=40)
    first = it.submit("b", prompt(300, 1), 100)
    while first.num_computed_tokens < 310:
        it.turn()
    again = it.submit("c", prompt(480), 5)
    for _ in range(20):
        it.turn()
    assert it.worker.tokens_loaded == 0
    assert it.batch.moves.preempted == 0
    it.run()
    assert again.num_restored_tokens == 29 * PAGE


def test_nobody_waits_for_a_disk_that_is_stuck(instruments):
    disk = {}
    it = drive(instruments, disk)
    it.submit("a", prompt(400), 30, keep=True)
    finish(it)
    it = drive(instruments, disk, pages=128)
    it.worker.stuck = True
    rows = [it.submit(f"r{i}", [*prompt(400), i], 5) for i in range(2)]
    it.turn()
    assert not it.batch.running
    it.now += PATIENCE_S
    it.run(turns=200)
    it.worker.stuck = False
    finish(it)
    assert not it.batch.awaits_disk
    assert it.batch.allocator.live_bytes == 0
    for i, row in enumerate(rows):
        assert row.token_ids[401:] == instruments.answer([*prompt(400), i], 406, ignore_eos=True)
    last = it.submit("b", prompt(401), 5)
    it.run()
    assert last.num_found_tokens == 400


def test_pages_on_their_way_to_a_disk_that_is_stuck_do_not_stop_others(instruments):
    it = drive(instruments, {}, pages=40)
    it.worker.stuck = True
    it.submit("a", prompt(160), 2, keep=True)
    it.run()
    it.turn()
    assert it.worker.moves
    it.now += PATIENCE_S
    rows = [it.submit(f"r{i}", prompt(150, i + 1), 150) for i in range(3)]
    it.run(turns=2000)
    for i, row in enumerate(rows):
        assert row.token_ids[150:] == instruments.answer(prompt(150, i + 1), 300, ignore_eos=True)


def test_what_is_asked_of_another_worker_is_not_saved_meanwhile(instruments):
    """It may be told as lost: taken for the answer to a save, that would let the unit be used while it is read."""
    it = drive(instruments, {}, disk_steps=12)
    it.submit("a", prompt(400), 5, kv_source=("unix:/gone",))
    it.turn()
    assert [kind for _, kind, *_ in it.worker.moves] == ["load"] * 24
    first = it.submit("b", prompt(400), 2, level=2, keep=True)
    while first.request_id not in it.finished:
        it.turn()
    it.turn()
    assert {kind for _, kind, *_ in it.worker.moves} == {"load"}
    finish(it)
    it.submit("c", prompt(400), 2, keep=True)
    finish(it)
    assert len(it.worker.disk) == 25


def test_200_requests_with_room_for_20_all_end(instruments):
    """Each holds 3 pages at its end; rows give way to their seniors, and come back from disk."""
    it = drive(instruments, {}, pages=60, max_rows=64)
    it.costs.prefill_tokens_per_s = 10.0  # so that writing pages and reading them back is cheaper
    rows = []
    for i in range(200):
        rows.append((prompt(20, i), it.submit(f"r{i}", prompt(20, i), 24, level=i % 4)))
    it.run()
    assert len(it.finished) == 200
    for text, row in rows:
        assert row.token_ids[20:] == instruments.answer(text, 44, ignore_eos=True)


def test_a_row_that_gives_way_is_read_back(instruments):
    it = drive(instruments, {}, pages=40, max_rows=8)
    it.costs.prefill_tokens_per_s = 10.0
    low = it.submit("low", prompt(400, 1), 60, level=0)
    while low.num_computed_tokens < 410:
        it.turn()
    it.now += 1.0
    high = it.submit("high", prompt(400, 2), 60, level=3)
    it.run()
    assert it.batch.moves.swapped == it.batch.moves.preempted >= 1
    assert it.worker.tokens_loaded > 200
    assert it.worker.tokens_computed <= 2 * 459 + PAGE, "nothing was computed twice but a part of a page"
    for row, start in ((low, 1), (high, 2)):
        assert row.token_ids[400:] == instruments.answer(prompt(400, start), 460, ignore_eos=True)


def test_costs_are_learned():
    costs = Costs()
    for _ in range(50):
        costs.observe(worker_pb2.StepResult(busy_us=100_000, prefill_tokens=200, load_bytes=10**8, load_us=50_000))
    assert costs.prefill_tokens_per_s == pytest.approx(2000, rel=0.01)
    assert costs.load_bytes_per_s == pytest.approx(2e9, rel=0.01)
    costs.observe(worker_pb2.StepResult(busy_us=1, decode_tokens=64))
    assert costs.prefill_tokens_per_s == pytest.approx(2000, rel=0.01), "decoding says nothing of prompts"


def test_a_disk_that_was_slow_once_is_tried_again(instruments):
    disk = {}
    it = drive(instruments, disk, pages=128)
    it.submit("a", prompt(400), 30, keep=True)
    finish(it)
    it = drive(instruments, disk)
    it.costs.load_bytes_per_s = 1e4
    for turn in range(100):
        it.submit(f"r{turn}", prompt(400), 2)
        it.run()
        it.batch.cache.make_room(it.batch.allocator.num_pages)
        if it.worker.tokens_loaded:
            break
    assert 10 < turn < 99, "now and then"


def test_a_long_session_is_kept_whole(instruments):
    disk = {}
    it = instruments.Drive(config(), pages=2000, page_size=PAGE, max_step_tokens=512, disk=disk)
    it.submit("a", prompt(400 * PAGE + 1), 2, keep=True)
    finish(it)
    assert len(disk) == 400


def test_names_tell_everything_apart_that_kv_depends_on(instruments):
    hello = worker_pb2.HelloReply(model=worker_pb2.ModelInfo(revision="r"), isa_class="x", page_size=16)
    names = set()
    for change in ("", "revision", "isa", "page", "tenant", "format", "tokens"):
        other = worker_pb2.HelloReply()
        other.CopyFrom(hello)
        other.model.revision = "s" if change == "revision" else "r"
        other.isa_class = "y" if change == "isa" else "x"
        other.page_size = 32 if change == "page" else 16
        sequence = Sequence("a", [1], 1, 2, 0.0, tenant="t" if change == "tenant" else "")
        sequence.kv_format = "q8" if change == "format" else "f16"
        pages = [_bytes([2 if change == "tokens" else 1] * 16), _bytes([3] * 16)]
        names.add(key_of(list(chain(seed(other, salt_of(sequence)), pages))[1], "f16", 1))
    names.add(key_of(list(chain(seed(hello, salt_of(sequence)), pages))[1], "q8", 4))
    assert len(names) == 8


def _bytes(tokens):
    return b"".join(token.to_bytes(4, "little") for token in tokens)
