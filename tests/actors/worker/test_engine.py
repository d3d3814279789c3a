"""The engine over every decoder: the same tokens however a row is batched, chunked, resumed or moved."""

import numpy as np
import pytest

from kernels.decoder import Decoder
from kernels.sampling import SampleBatch, sample
from protos.gen import worker_pb2

SEEDED = {"temperature": 1.2, "top_p": 0.95, "top_k": 40, "min_p": 0.01}
PENALISED = {
    "repetition_penalty": 1.3,
    "presence_penalty": 0.4,
    "frequency_penalty": 0.3,
    "logit_bias": {3: 4.0, 9: -100.0},
}


def prompt(row: int) -> list[int]:
    return np.random.default_rng(row).integers(0, 96, 5 + 7 * row % 60).tolist()


def style(row: int) -> dict:
    """Greedy, seeded, and seeded with penalties and bias, by turns."""
    return [{}, SEEDED | {"seed": row}, SEEDED | PENALISED | {"seed": 1 << 60 | row}][row % 3]


@pytest.fixture
def alone(decoder: Decoder, scheduler):
    """alone(row): the row's output of 24 tokens when nothing else runs."""
    outputs: dict[int, list[int]] = {}

    def run(row: int) -> list[int]:
        if row not in outputs:
            one = scheduler(decoder)
            one.start(0, prompt(row), max_length=len(prompt(row)) + 24, **style(row))
            outputs[row] = one.run(step_tokens=256)[0]
            assert len(outputs[row]) == 24
        return outputs[row]

    return run


def test_rows_answer_as_they_do_alone(decoder: Decoder, scheduler, alone) -> None:
    many = scheduler(decoder)
    for row in range(16):
        many.start(row, prompt(row), max_length=len(prompt(row)) + 24, **style(row))
    assert many.run(step_tokens=256) == {row: alone(row) for row in range(16)}
    assert {state.end for state in many.rows.values()} == {worker_pb2.ROW_LENGTH}


@pytest.mark.parametrize("step_tokens", [1, 5, 16, 33])
def test_chunked_prefill_changes_nothing(decoder: Decoder, scheduler, alone, step_tokens: int) -> None:
    many = scheduler(decoder)
    for row in range(6):
        many.start(row, prompt(row), max_length=len(prompt(row)) + 24, **style(row))
    assert many.run(step_tokens) == {row: alone(row) for row in range(6)}


@pytest.mark.parametrize("row", [3, 4, 5])
def test_preemption_by_recompute_changes_nothing(decoder: Decoder, scheduler, alone, row: int) -> None:
    one = scheduler(decoder)
    tokens, length, number = prompt(row), len(prompt(row)), 0
    while len(tokens) < length + 24:
        one.start(number, tokens, prompt_tokens=length, max_length=length + 24, limit=len(tokens) + 5, **style(row))
        one.run(step_tokens=16)
        tokens = one.drop(number).tokens
        number += 1
    assert number == 4
    assert tokens[length:] == alone(row)


def test_a_copied_page_goes_its_own_way(decoder: Decoder, scheduler, alone) -> None:
    """Copy-on-write: two rows share full pages; the page both go on writing is copied first."""
    row = 8
    tokens, length = prompt(row), len(prompt(row))
    assert length % 8, "the last page must be partly filled for the copy to matter"
    many = scheduler(decoder)
    many.start(0, tokens, limit=length, max_length=length + 24, **style(row))
    many.run()
    first = many.rows[0]
    full = length // 8
    copy = many.free.pop()
    shared = [*first.pages[:full], copy]
    many.start(1, [*tokens, 11], prompt_tokens=length, cached_tokens=length, pages=shared, max_length=length + 24)
    many.lease(0, 192)
    many.plan(copies=[(first.pages[full], copy)])
    while many.tick():
        pass
    fresh = scheduler(decoder)
    fresh.start(1, [*tokens, 11], prompt_tokens=length, max_length=length + 24)
    assert many.rows[0].output == alone(row)
    assert many.rows[1].output == fresh.run()[1]


def test_a_cached_prefix_changes_nothing(decoder: Decoder, scheduler, alone) -> None:
    row = 4
    tokens, length = prompt(row), len(prompt(row))
    many = scheduler(decoder)
    many.start(0, tokens, max_length=length + 24, **style(row))
    many.run()
    pages = many.drop(0).pages[: length // 8]
    many.start(1, tokens, cached_tokens=8 * len(pages), pages=pages, max_length=length + 24, **style(row))
    assert many.run()[1] == alone(row)


def test_a_row_ends_at_its_stop_id_and_not_before_min_tokens(decoder: Decoder, scheduler, alone) -> None:
    tokens, length = prompt(1), len(prompt(1))
    stop = alone(1)[7]
    many = scheduler(decoder)
    many.start(0, tokens, stop_ids=[95, stop], max_length=length + 24, **style(1))
    many.start(1, tokens, stop_ids=[stop], min_tokens=12, max_length=length + 24, **style(1))
    many.start(2, tokens, max_length=length + 24, **style(1))
    outputs = many.run()
    first = alone(1).index(stop)
    assert outputs[0] == alone(1)[: first + 1]
    assert many.rows[0].end == worker_pb2.ROW_STOP
    assert stop not in outputs[1][:12]
    assert len(outputs[1]) >= 12
    assert outputs[2] == alone(1)


def test_min_tokens_counts_from_the_prompt_of_a_resumed_row(toy, scheduler) -> None:
    many = scheduler(toy)
    everything_else = {token: -100.0 for token in range(96) if token not in (7, 8)}
    settings = {"stop_ids": [7], "min_tokens": 4, "logit_bias": everything_else | {7: 100.0}, "max_length": 100}
    many.start(0, [1, 2], **settings)
    many.start(1, [1, 2, 8, 8], prompt_tokens=2, **settings)
    assert many.run() == {0: [8, 8, 8, 8, 7], 1: [8, 8, 8, 8, 7]}


def test_the_draw_is_the_samplers_at_the_position_after_the_kv(toy, scheduler) -> None:
    """Token n is drawn with position n, from the penalties of exactly the tokens before it."""
    tokens = prompt(2)
    many = scheduler(toy)
    many.start(0, tokens, max_length=len(tokens) + 12, **style(2))
    output = many.run()[0]
    settings = style(2)
    history = list(tokens)
    for token in output:
        seen = sorted(set(history))
        drawn = history[len(tokens) :]
        batch = SampleBatch(
            temperature=np.array([settings["temperature"]], np.float32),
            top_k=np.array([settings["top_k"]], np.int32),
            top_p=np.array([settings["top_p"]], np.float32),
            min_p=np.array([settings["min_p"]], np.float32),
            repetition=np.array([settings["repetition_penalty"]], np.float32),
            presence=np.array([settings["presence_penalty"]], np.float32),
            frequency=np.array([settings["frequency_penalty"]], np.float32),
            seed=np.array([settings["seed"]], np.uint64),
            position=np.array([len(history)], np.int32),
            seen_starts=np.array([0, len(seen)], np.int32),
            seen_ids=np.array(seen, np.int32),
            seen_output_counts=np.array([drawn.count(one) for one in seen], np.int32),
            bias_starts=np.array([0, 2], np.int32),
            bias_ids=np.array([3, 9], np.int32),
            bias_values=np.array([4.0, -100.0], np.float32),
        )
        assert token == sample(type(toy).logits(history)[None], batch)[0]
        history.append(token)


def test_the_last_token_of_a_full_row_is_not_in_its_kv(toy, scheduler) -> None:
    one = scheduler(toy)
    one.start(0, [1, 2, 3], max_length=10)
    one.run()
    assert one.rows[0].computed == 9
    assert len(one.rows[0].tokens) == 10


def test_a_row_waits_at_its_limit_and_goes_on_with_the_next_lease(toy, scheduler) -> None:
    one = scheduler(toy)
    one.start(0, list(range(20)), limit=13, max_length=40)
    assert one.run()[0] == []
    assert one.rows[0].computed == 13
    one.lease(0, 20)
    assert len(one.run()[0]) == 1, "the prompt is in the KV: one token follows it"
    one.lease(0, 25)
    assert len(one.run()[0]) == 6
    assert one.rows[0].computed == 25


def test_results_name_the_newest_plan_even_where_nothing_ran(toy, scheduler) -> None:
    one = scheduler(toy)
    one.start(0, [1, 2, 3], limit=4)
    one.run()
    one.drop(0)
    one.plan()
    assert not one.tick()
    assert (one.results[-1].plan_id, list(one.results[-1].row)) == (2, [])


def test_a_dropped_row_is_never_touched_again(toy, scheduler) -> None:
    one = scheduler(toy)
    one.start(0, [1, 2, 3])
    one.start(1, [4, 5, 6])
    one.plan()
    for _ in range(3):
        one.tick()
    pages = one.drop(0).pages
    one.plan()
    one.tick()
    toy_batches = len(toy.batches)
    while one.tick():
        pass
    for batch in toy.batches[toy_batches - 1 :]:
        assert not np.isin(batch.page_table, pages).any()


def test_a_failing_row_ends_alone(toy, scheduler) -> None:
    many = scheduler(toy)
    for row in range(4):
        many.start(row, [row + 1] * (row + 2), max_length=row + 12)
    toy.fail = lambda batch: bool((batch.tokens == 3).any())
    outputs = many.run()
    toy.fail = lambda batch: False
    clean = scheduler(toy)
    for row in range(4):
        clean.start(row, [row + 1] * (row + 2), max_length=row + 12)
    expected = clean.run()
    assert many.rows[2].end == worker_pb2.ROW_ERROR
    assert many.rows[2].error == "RuntimeError: the toy broke"
    for row in (0, 1, 3):
        cut = expected[row].index(3) + 1 if 3 in expected[row][:-1] else len(expected[row])
        assert outputs[row] == expected[row][:cut]


def test_an_engine_that_can_compute_nothing_gives_up(toy, scheduler) -> None:
    many = scheduler(toy)
    toy.fail = lambda batch: True
    for row in range(3):
        many.start(row, [1])
        many.plan()
        if row < 2:
            many.tick()
    with pytest.raises(RuntimeError, match="no row could be computed in 3 steps; the last: RuntimeError: the toy"):
        many.tick()


def test_time_between_steps_counts_only_while_rows_wait(toy, scheduler, monkeypatch) -> None:
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr("actors.worker.engine.time.perf_counter", lambda: float(next(clock)))
    one = scheduler(toy)
    one.start(0, [1, 2], max_length=5)
    one.run()
    one.start(1, [1, 2], max_length=4)
    one.run()
    steps = [result for result in one.results if result.row]
    assert [(result.busy_us, result.gap_us) for result in steps] == [(10_000_000, 10_000_000)] * 5


def test_tokens_are_counted_by_kind(toy, scheduler) -> None:
    one = scheduler(toy)
    one.start(0, list(range(30)), max_length=34)
    one.run(step_tokens=16)
    assert sum(result.prefill_tokens for result in one.results) == 30
    assert sum(result.decode_tokens for result in one.results) == 3
