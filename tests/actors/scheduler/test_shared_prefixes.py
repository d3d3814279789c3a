"""What the prefix cache is for: batch and worker in lockstep, and how many tokens are computed."""

import pytest

from actors.scheduler.config import SchedulerConfig
from actors.scheduler.sequence import Status

SYSTEM = list(range(100, 420))
"""A system prompt of 20 pages."""


@pytest.fixture
def drive(instruments):
    def make(**config):
        return instruments.Drive(SchedulerConfig(**config), pages=400, page_size=16, max_rows=64, max_step_tokens=256)

    return make


def alone(instruments, sequence):
    """What the model says to the sequence's prompt when nothing else runs."""
    prompt = sequence.token_ids[: sequence.num_prompt_tokens]
    return instruments.answer(prompt, sequence.max_length, ignore_eos=True)


def output(sequence):
    return sequence.token_ids[sequence.num_prompt_tokens :]


@pytest.mark.parametrize("turns_between", [0, 1])
def test_64_at_once_compute_their_system_prompt_once(instruments, drive, turns_between):
    """Whether they come together or while the first is still reading it."""
    it = drive(step_tokens=64)
    sequences = []
    for index in range(64):
        sequences.append(it.submit(f"s{index}", [*SYSTEM, *[500 + index] * 8], new=4))
        if index == 0:
            for _ in range(turns_between):
                it.turn()
    it.run()
    # Of the four new tokens the last is never computed.
    assert it.worker.tokens_computed == len(SYSTEM) + 64 * (8 + 3)
    assert [sequence.num_found_tokens for sequence in sequences] == [0] + [len(SYSTEM)] * 63
    assert all(output(sequence) == alone(instruments, sequence) for sequence in sequences)
    assert it.batch.pages_in_use == 0


def test_they_wait_for_the_shared_part_only(drive):
    """A second prompt goes on beside the first as soon as what they have in common is there."""
    it = drive(step_tokens=32)
    first = it.submit("first", [*SYSTEM[:64], *[500] * 256], new=4)
    second = it.submit("second", [*SYSTEM[:64], 501], new=4)
    it.turn()
    assert (first.status, second.status) == (Status.RUNNING, Status.WAITING)
    it.turn()
    it.turn()
    assert first.num_computed_tokens < 128
    assert second.status is Status.RUNNING
    assert second.num_found_tokens == 64
    it.run()


def test_others_pass_who_waits_and_nobody_else_is_passed(drive):
    it = drive(step_tokens=32, max_running=2)
    it.submit("first", SYSTEM, new=4)
    it.submit("alike", [*SYSTEM, 501], new=4)
    it.submit("other", 40, new=40)
    it.submit("last", 40, new=4)
    it.run()
    assert it.admitted == ["first", "other", "alike", "last"]


def test_a_conversation_grows_by_what_is_new(instruments, drive):
    it = drive()
    said, known = list(SYSTEM), 0
    for turn in range(6):
        said += [600 + turn] * 21
        before = it.worker.tokens_computed
        sequence = it.submit(f"t{turn}", said, new=37)
        it.run()
        assert output(sequence) == alone(instruments, sequence)
        computed = it.worker.tokens_computed - before
        # All that was read and said before, except for less than a page at the end.
        assert sequence.num_found_tokens == known // 16 * 16
        assert computed == sequence.num_tokens - 1 - sequence.num_found_tokens
        said = list(sequence.token_ids)
        known = len(said) - 1


def test_the_same_prompt_again_computes_one_token(instruments, drive):
    """Its last page is copied, not written: the one in the cache serves a third."""
    it = drive()
    for count, computed in (("first", 320), ("second", 1), ("third", 1)):
        before = it.worker.tokens_computed
        sequence = it.submit(count, SYSTEM, new=1)
        it.run()
        assert it.worker.tokens_computed - before == computed
        assert output(sequence) == alone(instruments, sequence)
    assert sequence.num_found_tokens == 319


@pytest.mark.parametrize("page_size", [1, 4])
def test_the_same_prompt_again_fits_where_it_fills_the_slab(instruments, page_size):
    """There is no page left to copy its last one to: it does without the cache rather than wait for ever."""
    it = instruments.Drive(SchedulerConfig(reserve_fraction=0), pages=64 // page_size, page_size=page_size, max_rows=2)
    for name in ("first", "second"):
        sequence = it.submit(name, SYSTEM[:64], new=1)
        it.run()
        assert output(sequence) == alone(instruments, sequence)


def test_tenants_share_nothing(instruments, drive):
    it = drive()
    for tenant in ("a", "b", "a"):
        sequence = it.submit(f"of {tenant}", SYSTEM, new=2, tenant=tenant)
        it.run()
    assert it.worker.tokens_computed == 2 * (320 + 1) + 1 + 1
    assert sequence.num_found_tokens == 319
    both = [it.submit(f"again {tenant}", [*SYSTEM, 7], new=2, tenant=tenant) for tenant in "ac"]
    it.turn()
    assert [sequence.num_found_tokens for sequence in both] == [320, 0]
    assert not set(both[0].table.pages) & set(both[1].table.pages)
    it.run()


def test_without_the_cache_all_compute_for_themselves(instruments, drive):
    it = drive(prefix_cache=False)
    sequences = [it.submit(f"s{index}", SYSTEM, new=2) for index in range(4)]
    it.turn()
    assert len(it.batch.running) == 4
    it.run()
    assert it.worker.tokens_computed == 4 * (320 + 1)
    assert [sequence.num_found_tokens for sequence in sequences] == [0] * 4
    assert it.batch.allocator.num_used == 0


def test_a_preempted_sequence_goes_on_where_it_was(instruments):
    it = instruments.Drive(SchedulerConfig(), pages=64, page_size=4, max_rows=1)
    low = it.submit("low", 40, 60, level=0)
    for _ in range(20):
        it.turn()
    critical = it.submit("critical", 8, 4, level=3)
    it.run()
    assert (low.num_preemptions, critical.num_preemptions) == (1, 0)
    assert output(low) == alone(instruments, low)
    assert it.worker.tokens_computed < (40 + 59) + (8 + 3) + 4, "less than a page was computed again"
    assert low.num_found_tokens == 0, "what it computed itself, nobody saved it from"


def test_a_broken_promise_sets_free_who_waits_for_it(instruments, drive):
    it = drive(step_tokens=16)
    first = it.submit("first", SYSTEM, new=4)
    others = [it.submit(f"s{index}", [*SYSTEM, 500 + index], new=4) for index in range(3)]
    for _ in range(5):
        it.turn()
    first.cancelled = True
    it.run()
    assert it.admitted == ["first", "s0", "s1", "s2"]
    assert all(output(sequence) == alone(instruments, sequence) for sequence in others)
    assert others[0].num_found_tokens > 0, "what the first did compute stays"
    assert it.worker.tokens_computed == len(SYSTEM) + 3 * (1 + 3), "every page was computed once"


def test_nobody_waits_for_a_prompt_of_lower_level(drive):
    """Its chunks come after all others': a critical request would wait for everybody."""
    it = drive(step_tokens=16)
    it.submit("low", SYSTEM, new=4, level=0)
    it.turn()
    high = it.submit("high", SYSTEM, new=4, level=2)
    it.turn()
    assert high.status is Status.RUNNING
    it.run()


def test_who_does_not_get_in_holds_nothing(instruments):
    """Cached pages of a waiting sequence stay free for the rows that run."""
    it = instruments.Drive(SchedulerConfig(reserve_fraction=0), pages=20, page_size=4, max_rows=4)
    it.submit("seed", [5] * 40, 1)
    it.run()
    assert it.batch.pages_cached == 10
    rows = [it.submit(f"row{index}", 8, 32) for index in range(2)]
    for _ in range(3):
        it.turn()
    waiting = it.submit("waiting", [5] * 41, 20)
    while any(row.status is not Status.FINISHED for row in rows):
        it.turn()
        if waiting.status is Status.WAITING:
            assert (waiting.hold, len(waiting.table), waiting.num_cached_tokens) == (None, 0, 0)
    assert [row.num_preemptions for row in rows] == [0, 0]
    it.run()
    assert output(waiting) == alone(instruments, waiting)


def test_who_waits_for_pages_is_not_looked_up_at_every_plan(drive, monkeypatch):
    it = drive(step_tokens=32)
    looked_up = []
    match = it.batch.cache.match
    monkeypatch.setattr(it.batch.cache, "match", lambda *words: looked_up.append(words) or match(*words))
    for index in range(32):
        it.submit(f"s{index}", [*SYSTEM, 500 + index], new=4)
    it.run()
    assert len(looked_up) == 1 + 31 + 31, "when it comes, and when the pages do"


def test_who_needs_all_pages_gets_them_although_it_began_with_a_page_that_it_copied(instruments):
    """What it copied stays in the tree, as its copy: there is no room for both."""
    it = instruments.Drive(SchedulerConfig(reserve_fraction=0), pages=4, page_size=4)
    prompt = list(range(100, 108))
    it.submit("a", prompt, 1)
    it.run()
    again = it.submit("b", prompt, 9)
    it.run(200)
    assert again.num_found_tokens == 7
    assert output(again) == alone(instruments, again)


def test_who_computed_the_same_as_another_needs_it_once_when_the_other_is_gone(instruments):
    """Both draw the same tokens beside each other; then the longer one needs all pages but one."""
    it = instruments.Drive(
        SchedulerConfig(reserve_fraction=0, lease_tokens=4), pages=12, page_size=4, max_step_tokens=32
    )
    prompt = list(range(100, 106))
    it.submit("a", prompt, 14)
    longer = it.submit("b", prompt, 40)
    it.run(400)
    assert output(longer) == alone(instruments, longer)
