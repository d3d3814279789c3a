"""KV in tiers: what is older goes to fewer bits, within the budget, and no token changes for it here."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.scheduler.config import SchedulerConfig
from actors.scheduler.tiering import DEMOTIONS

PAGE = 16
TAIL = 64


def config(**more):
    return SchedulerConfig(lease_tokens=8, kv_tail_tokens=TAIL, reserve_fraction=0, **more)


def drive(instruments, pages=64, **worker):
    return instruments.Drive(config(), pages=pages, page_size=PAGE, tiers=True, max_step_tokens=64, **worker)


def prompt(length, seed=0):
    return [(seed * 131 + 7 * i) % 900 + 50 for i in range(length)]


def bytes_in_use(it):
    return {use.format: use.live_bytes for use in it.batch.allocator.uses()}


@pytest.mark.parametrize("form", ["q8", "q4"])
def test_what_is_older_than_the_tail_is_held_in_fewer_bits(instruments, form):
    it = drive(instruments)
    sequence = it.submit("a", prompt(400), 60, kv_format=form)
    while sequence.num_computed_tokens < 420:
        it.turn()
    forms = [it.batch.allocator.format_of(page) for page in sequence.table.pages]
    old = (sequence.num_computed_tokens - TAIL) // 64 * 64
    assert forms[: old // PAGE] == [form] * (old // PAGE)
    assert set(forms[old // PAGE :]) == {"f16"}
    assert it.batch.moves.demoted[form] == old == it.worker.tokens_demoted
    assert it.batch.moves.quantized == 0, "it was asked for, not forced"
    it.run()
    assert sequence.token_ids[400:] == instruments.answer(prompt(400), 460, ignore_eos=True)


def test_f16_stays_f16(instruments):
    it = drive(instruments)
    it.submit("a", prompt(400), 60)
    it.run()
    assert it.worker.tokens_demoted == 0


def test_quantized_sequences_need_less_memory(instruments):
    needed = {}
    for form in ("f16", "q8", "q4"):
        it = drive(instruments, pages=128)
        it.submit("a", prompt(1000), 10, kv_format=form)
        while len(it.queue) or not it.batch.running:
            it.turn()
        sequence = next(iter(it.batch.running.values()))
        while sequence.num_computed_tokens < 1004:
            it.turn()
        needed[form] = sum(bytes_in_use(it).values())
    assert needed["q8"] < needed["f16"] / 1.5
    assert needed["q4"] < needed["f16"] / 2.2


def test_more_fits_at_once_in_fewer_bits(instruments):
    at_once = {}
    for form in ("f16", "q4"):
        it = drive(instruments, pages=100, max_rows=16)
        for i in range(8):
            it.submit(f"r{i}", prompt(480, i), 60, kv_format=form)
        most = 0
        for _ in range(3000):
            it.turn()
            decoding = [row for row in it.batch.running.values() if row.is_decoding]
            most = max(most, len(decoding))
            if len(it.finished) == 8:
                break
        assert sorted(it.finished) == [f"r{i}" for i in range(8)]
        at_once[form] = most
    assert at_once["q4"] > at_once["f16"]


def test_a_shared_prefix_moves_once_for_all(instruments):
    it = drive(instruments, pages=128)
    common = prompt(320)
    first = it.submit("a", [*common, 1, 2, 3], 60, kv_format="q4")
    second = it.submit("b", [*common, 4, 5, 6], 60, kv_format="q4")
    while min(first.num_computed_tokens, second.num_computed_tokens) < 330:
        it.turn()
    assert first.table.pages[:16] == second.table.pages[:16]
    assert it.worker.tokens_demoted == 256, "the 256 tokens before both tails, once"
    it.run()
    assert first.token_ids[323:] == instruments.answer([*common, 1, 2, 3], 383, ignore_eos=True)
    assert second.token_ids[323:] == instruments.answer([*common, 4, 5, 6], 383, ignore_eos=True)


def test_formats_share_nothing(instruments):
    it = drive(instruments, pages=256)
    for form in ("f16", "q8", "q4", "auto"):
        it.submit(form, prompt(320), 2, kv_format=form)
        it.run()
    again = it.submit("again", prompt(320), 2, kv_format="q8")
    before = it.worker.tokens_computed
    it.run()
    assert again.num_found_tokens == 319
    assert it.worker.tokens_computed - before == 2
    assert before == 4 * 321


def test_a_full_hit_on_quantized_pages_writes_a_copy(instruments):
    it = drive(instruments, pages=128)
    it.submit("a", prompt(256), 200, kv_format="q4")
    it.run()
    again = it.submit("b", prompt(256), 30, kv_format="q4")
    it.run()
    assert again.num_found_tokens == 255
    assert again.token_ids[256:] == instruments.answer(prompt(256), 286, ignore_eos=True)


def test_a_page_that_a_plan_copies_is_not_moved_before(instruments):
    """Its block would be free, and filled anew by the same plan, when the copy is made."""
    it = drive(instruments, pages=200)
    pressure = it.batch.tiering.pressure
    pressure.update = lambda *use: None
    pressure.short = True
    first = it.submit("a", prompt(400), 100, kv_format="auto")
    while it.batch.moves.demoted["q8"] < 256:
        it.turn()
    other = it.submit("b", prompt(480, 1), 20, kv_format="q8")
    while other.num_computed_tokens < 256:
        it.turn()
    pressure._step = 1
    again = it.submit("c", prompt(64), 20, kv_format="auto")
    it.run()
    assert it.batch.moves.demoted["q4"] > 0
    assert again.num_found_tokens == 63
    for sequence, text in ((first, prompt(400)), (other, prompt(480, 1)), (again, prompt(64))):
        said = sequence.token_ids[len(text) :]
        assert said == instruments.answer(text, sequence.max_length, ignore_eos=True)


def test_auto_is_exact_until_memory_is_short_then_8_bits_then_4(instruments):
    it = drive(instruments, pages=76, max_rows=16)
    it.submit("a", prompt(480), 100, kv_format="auto")
    for _ in range(12):
        it.turn()
    assert it.worker.tokens_demoted == 0
    for i in range(1, 4):
        it.submit(f"r{i}", prompt(480, i), 100, kv_format="auto")
    seen = set()
    for _ in range(3000):
        it.turn()
        seen |= {tier for tier, live in bytes_in_use(it).items() if live}
        if len(it.finished) == 4:
            break
    assert seen == {"f16", "q8", "q4"}
    moves = it.batch.moves
    assert moves.quantized == moves.demoted["q8"] + moves.demoted["q4"] > 0
    assert sorted(it.finished) == ["a", "r1", "r2", "r3"]


def test_nobody_but_auto_is_quantized_for_others(instruments):
    it = drive(instruments, pages=64, max_rows=16)
    for i in range(4):
        it.submit(f"r{i}", prompt(300, i), 40, kv_format="f16")
    it.run()
    assert it.worker.tokens_demoted == 0


def test_idle_prompts_of_auto_go_to_2_bits_before_they_are_lost(instruments):
    it = drive(instruments, pages=100)
    texts = [prompt(320, index) for index in range(8)]
    for index, text in enumerate(texts):
        it.submit(f"r{index}", text, 2, kv_format="auto")
        it.run()
    assert it.batch.moves.demoted["q2"] > 0
    assert it.batch.moves.quantized == 0, "no sequence that runs"
    found = []
    for index, text in enumerate(texts):
        found.append(it.submit(f"again {index}", text, 2, kv_format="auto"))
        it.run()
    assert sum(row.num_found_tokens for row in found[-6:]) > 100 * PAGE, "more than f16 alone could hold"


def test_a_plan_archives_no_more_than_a_worker_moves_between_two_steps(instruments):
    it = drive(instruments, pages=100)
    moved = []
    enact = it.batch.enact
    it.batch.enact = lambda *state: moved.append(len((plan := enact(*state)).demote_to)) or plan
    for index in range(8):
        it.submit(f"r{index}", prompt(480, index), 2, kv_format="auto")
        it.run()
    assert max(moved) == DEMOTIONS
    assert sum(moved) > 3 * DEMOTIONS, "what did not fit into one plan goes with the next"


def test_what_is_exact_or_on_disk_is_not_archived(instruments):
    for form, disk, keep in (("f16", None, False), ("q8", None, False), ("auto", {}, True)):
        it = drive(instruments, pages=100, disk=disk)
        for index in range(8):
            it.submit(f"r{index}", prompt(320, index), 2, kv_format=form, keep=keep)
            it.run()
            while it.moving:
                it.turn()
        assert it.batch.moves.demoted["q2"] == 0


request = st.tuples(
    st.one_of(st.sampled_from([256, 300, 400, 448, 500]), st.integers(1, 500)),  # prompt tokens
    st.one_of(st.sampled_from([2, 60]), st.integers(1, 60)),  # new ones
    st.sampled_from(["f16", "q8", "q4", "auto"]),
    st.integers(0, 3),  # which text it begins with
    st.integers(0, 3),  # level
    st.booleans(),  # keep
    st.booleans(),  # whether another worker is asked
    st.booleans(),  # whether it ends by itself
)
submit, turns = st.tuples(st.just("submit"), request), st.tuples(st.just("turns"), st.integers(1, 40))
events = st.lists(
    st.one_of(
        *[submit] * 6,
        *[turns] * 4,
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("damage"), st.integers(0, 100)),
        st.tuples(st.just("lose"), st.none()),
        st.tuples(st.just("wait"), st.integers(1, 30)),
        st.tuples(st.just("stick"), st.booleans()),
    ),
    min_size=6,
    max_size=30,
)
machines = st.fixed_dictionaries(
    {
        "page_size": st.sampled_from([16, 32, 64]),
        "tokens": st.integers(576, 1300),
        "disk": st.sampled_from([True, True, False]),
        "disk_steps": st.integers(1, 4),
        "tail": st.sampled_from([64, 100, 200]),
        "prefix_cache": st.sampled_from([True, True, True, False]),
        "prefill_tokens_per_s": st.sampled_from([1.0, 1.0, 1e3, 1e9]),
        "page_strategy": st.sampled_from(["first_fit", "best_fit", "round_robin"]),
        "silent_about_keys": st.booleans(),
        "lag": st.integers(0, 3),
    }
)


@settings(max_examples=150)
@given(events, machines)
def test_whatever_comes_everyone_gets_their_tokens_within_the_budget(instruments, script, machine):
    """The simulated worker checks every token of KV that is read, and that no more memory is taken than the budget."""
    it = instruments.Drive(
        SchedulerConfig(
            lease_tokens=8,
            kv_tail_tokens=machine["tail"],
            reserve_fraction=0,
            prefix_cache=machine["prefix_cache"],
            page_strategy=machine["page_strategy"],
        ),
        lag=machine["lag"],
        pages=machine["tokens"] // machine["page_size"],
        page_size=machine["page_size"],
        tiers=True,
        max_step_tokens=64,
        disk={} if machine["disk"] else None,
        disk_steps=machine["disk_steps"],
    )
    it.costs.prefill_tokens_per_s = machine["prefill_tokens_per_s"]
    it.worker.silent_about_keys = machine["silent_about_keys"]
    sequences = []
    for what, value in script:
        if what == "submit":
            length, new, form, seed, level, keep, elsewhere, stops = value
            text = prompt(length, seed)
            name = f"r{len(sequences)}"
            more = {"kv_source": ("unix:/other",)} if elsewhere else {}
            more |= {"stop_ids": (instruments.eos,)} if stops else {}
            sequence = it.submit(name, text, new, level=level, kv_format=form, keep=keep, **more)
            sequences.append((sequence, text, new, stops))
        elif what == "turns":
            for _ in range(value):
                it.turn()
        elif what == "cancel" and value < len(sequences):
            it.cancel(sequences[value][0])
        elif what == "damage" and machine["disk"]:
            keys = sorted(it.worker.disk)
            if keys:
                it.worker.unreadable.add(keys[value % len(keys)])
        elif what == "lose":
            it.lose_worker()
        elif what == "wait":
            it.now += value
        elif what == "stick":
            it.worker.stuck = value
    it.worker.stuck = False
    it.run()
    for sequence, text, new, stops in sequences:
        if not sequence.cancelled:
            said = sequence.token_ids[len(text) :]
            assert said == instruments.answer(text, len(text) + new, ignore_eos=not stops)
    for _ in range(1000):
        if not it.moving:
            break
        it.turn()
    else:
        raise AssertionError("moves do not end")
    assert it.batch.allocator.live_bytes == 0
    assert it.batch.tiering.pressure.short is False or not it.batch.running
