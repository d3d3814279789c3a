"""The choice of prompt chunks by what a step costs: within the target, always going on, and fair."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.worker.batch import choose
from actors.worker.pace import FIRST_CHUNK, FIXED_SHARE, IDLE_STEP_MS, PROMPT_SHARE, Prompt, chunks, prompt_ms
from actors.worker.step_cost import StepCost, Work, attended

SMALL = StepCost(fixed=3.2, prefill=0.83, row=1.05, attended=0.00042)
"""SmolLM2-135M on two cores."""

costs = st.builds(
    StepCost,
    fixed=st.floats(0, 100),
    prefill=st.floats(0.001, 50),
    row=st.floats(0, 50),
    attended=st.one_of(st.just(0.0), st.floats(1e-6, 0.1)),
    error=st.just(0.0),
)
prompts = st.lists(st.builds(Prompt, st.integers(1, 6000), st.just(0), st.integers(0, 6000)), min_size=1, max_size=8)
prompts = prompts.map(lambda some: [prompt._replace(remaining=prompt.pending) for prompt in some])


def taken_ms(cost: StepCost, some: list[Prompt], counts: list[int]) -> float:
    return sum(cost.chunk_ms(count, prompt.context) for prompt, count in zip(some, counts, strict=True))


@given(prompts, costs, st.floats(0, 5000), st.integers(1, 16384))
def test_chunks_stay_within_their_time_and_leave_none_that_fits(
    some: list[Prompt], cost: StepCost, ms: float, tokens: int
) -> None:
    counts = chunks(some, cost, ms, tokens)
    assert all(0 <= count <= prompt.pending for count, prompt in zip(counts, some, strict=True))
    assert sum(counts) <= tokens
    took = taken_ms(cost, some, counts)
    assert took <= ms * (1 + 1e-9) + 1e-9 or counts == [1] + [0] * (len(some) - 1)
    if sum(counts) < tokens:
        for prompt, count in zip(some, counts, strict=True):
            one_more = cost.chunk_ms(1, prompt.context + count)
            assert count == prompt.pending or took + one_more > ms * (1 - 1e-9)


@given(prompts, costs, st.floats(0, 5000), st.integers(1, 16384))
def test_the_first_gets_half_and_always_goes_on(some: list[Prompt], cost: StepCost, ms: float, tokens: int) -> None:
    first, count = some[0], chunks(some, cost, ms, tokens)[0]
    assert count >= 1
    one_more = cost.chunk_ms(count + 1, first.context)
    assert count in (first.pending, tokens) or one_more > ms / 2 * (1 - 1e-9)


@given(costs, st.integers(0, 64), st.integers(0, 100000), st.floats(0.1, 1000), prompts)
def test_a_step_never_exceeds_the_target_where_the_model_is_exact(
    cost: StepCost, rows: int, context: int, target_ms: float, some: list[Prompt]
) -> None:
    """But for the share that prompts get in any case, and for a single token."""
    decode = Work(0, rows, rows * context)
    counts = chunks(some, cost, prompt_ms(cost, decode, target_ms, True), 16384)
    step_ms = cost.step_ms(decode) + taken_ms(cost, some, counts)
    alone_ms = cost.step_ms(decode)
    allowed = max(target_ms, alone_ms / (1 - PROMPT_SHARE), alone_ms + cost.chunk_ms(1, some[0].context))
    assert step_ms <= allowed * (1 + 1e-9)


@given(costs)
def test_while_nothing_streams_a_step_is_long_but_not_longer(cost: StepCost) -> None:
    step_ms = cost.fixed + prompt_ms(cost, Work(0, 0, 0), 0.1, False)
    assert step_ms == pytest.approx(max(IDLE_STEP_MS, cost.fixed / FIXED_SHARE))


def test_errors_of_prediction_are_kept_free_within_limits() -> None:
    decode = Work(0, 1, 100)
    exact, rough, wild = (prompt_ms(SMALL._replace(error=error), decode, 40, True) for error in (0.0, 0.05, 1.0))
    assert exact - rough == pytest.approx(40 * 0.1)
    assert exact - wild == pytest.approx(40 * 0.25)


class Server:
    """Eight rows that decode for ever and prompts that come and go; time is what the model says."""

    def __init__(self, cost: StepCost, target_ms: float) -> None:
        self.cost, self.target_ms = cost, target_ms
        self.left: dict[str, int] = {}
        self.done: dict[str, int] = {}
        self.now_ms = 0.0
        self.ended_ms: dict[str, float] = {}

    def arrive(self, name: str, tokens: int) -> None:
        self.left[name], self.done[name] = tokens, 0

    def step(self) -> None:
        decode = Work(0, 8, 8 * 300)
        names = list(self.left)
        some = [Prompt(self.left[name], self.left[name], self.done[name]) for name in names]
        counts = chunks(some, self.cost, prompt_ms(self.cost, decode, self.target_ms, True), 512)
        self.now_ms += self.cost.step_ms(decode) + taken_ms(self.cost, some, counts)
        for name, count in zip(names, counts, strict=True):
            self.left[name] -= count
            self.done[name] += count
            if not self.left[name]:
                del self.left[name]
                self.ended_ms[name] = self.now_ms

    def until(self, name: str) -> float:
        while name not in self.ended_ms:
            self.step()
        return self.ended_ms[name]


def alone_ms(tokens: int) -> float:
    server = Server(SMALL, 25)
    server.arrive("alone", tokens)
    return server.until("alone")


def test_a_short_prompt_does_not_starve_behind_a_long_one() -> None:
    server = Server(SMALL, 25)
    server.arrive("long", 6000)
    for _ in range(20):
        server.step()
    began = server.now_ms
    server.arrive("short", 64)
    assert server.until("short") - began < 3 * alone_ms(64)
    assert "long" in server.left


def test_a_long_prompt_does_not_starve_behind_short_ones_that_never_cease() -> None:
    server = Server(SMALL, 25)
    server.arrive("long", 3000)
    number = 0
    while "long" in server.left:
        while len(server.left) < 4:
            server.arrive(f"short {number}", 64)
            number += 1
        server.step()
    assert number > 50
    assert server.ended_ms["long"] < 2.2 * alone_ms(3000)


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=6))
def test_no_prompt_takes_more_than_twice_what_it_would_first_come_first_served(lengths: list[int]) -> None:
    server, in_turn_ms = Server(SMALL, 25), 0.0
    for index, length in enumerate(lengths):
        server.arrive(str(index), length)
    for index, length in enumerate(lengths):
        in_turn_ms += alone_ms(length)
        # Halves are rounded down to whole tokens.
        assert server.until(str(index)) <= 2.2 * in_turn_ms + 100


def test_equal_prompts_end_one_after_the_other() -> None:
    server = Server(SMALL, 25)
    for name in "abc":
        server.arrive(name, 600)
    ends = [server.until(name) for name in "abc"]
    assert ends == sorted(ends)
    assert ends[0] < 0.4 * ends[2]


def columns(*rows: tuple[int, int, int]) -> list[np.ndarray]:
    return [np.array(column, np.int32) for column in zip(*rows, strict=True)]


def test_the_choice_keeps_to_the_target_only_while_rows_stream() -> None:
    prompt, decoding, leaseless = (4000, 0, 4000), (301, 300, 340), (301, 300, 300)
    assert choose(*columns(prompt, decoding), 512, 25.0, SMALL).tolist()[0] < 30
    assert choose(*columns(prompt, leaseless), 512, 25.0, SMALL).tolist()[0] < 30
    assert choose(*columns(prompt), 512, 25.0, SMALL).tolist()[0] > 100
    assert choose(*columns(prompt, decoding), 512, 0.0, SMALL).tolist() == [511, 1]


@pytest.mark.parametrize("length", [100, 2000])
def test_the_choice_counts_what_decoding_rows_attend_to(length: int) -> None:
    target_ms = 50.0
    decoding = [(length + 1, length, 8000)] * 8
    counts = choose(*columns((4000, 0, 4000), *decoding), 512, target_ms, SMALL)
    work = Work(int(counts[0]), 8, 8 * (length + 1) + attended(int(counts[0]), 0))
    assert target_ms - 2 < SMALL.step_ms(work) <= target_ms


def test_before_anything_was_measured_a_chunk_is_small() -> None:
    assert choose(*columns((4000, 0, 4000), (301, 300, 340)), 512, 25.0, None).tolist() == [FIRST_CHUNK, 1]
