"""Log-probabilities from the engine: of exactly the tokens drawn, whatever else is in the batch."""

from collections.abc import Callable

import numpy as np
import pytest

from actors.base.errors import InvalidArgument
from kernels import cpu
from kernels.backend import build_decoder
from kernels.decoder import Decoder
from protos.gen import worker_pb2

MakeScheduler = Callable[..., object]
PROMPTS = [list(range(3 + row, 20 + 2 * row)) for row in range(16)]


def start(scheduler, row: int, **more: object) -> None:
    """Row `row` as in every batch: a few ask, and for different numbers of alternatives; others draw in other ways."""
    asks = {"logprobs": row % 7} if row % 3 != 1 else {}
    options: dict = {"seed": 11 + row, "temperature": 0.0 if row % 4 == 0 else 0.9, "max_length": 60 + row}
    if row % 5 == 2:
        options |= {"frequency_penalty": 0.5, "repetition_penalty": 1.1}
    if row % 5 == 3:
        options |= {"logit_bias": {5: 4.0}}
    scheduler.start(row + 1, PROMPTS[row], **(options | asks | more))


def columns(state) -> tuple[list[int], list[float], list[int], list[float]]:
    told = state.logprobs
    return state.output, list(told.chosen), list(told.top_ids), list(told.top_values)


def test_a_row_is_told_the_same_alone_and_among_16(scheduler: MakeScheduler, decoder: Decoder) -> None:
    exact = decoder.isa_class.startswith("x86") or decoder.isa_class == "toy"
    together = scheduler(decoder)
    for row in range(16):
        start(together, row)
    together.run()
    for row in range(16):
        alone = scheduler(decoder)
        start(alone, row)
        alone.run()
        ours, theirs = columns(together.rows[row + 1]), columns(alone.rows[1 + row])
        assert ours[0] == theirs[0]
        tops = row % 7
        if row % 3 == 1:
            assert ours[1] == ours[2] == []
        else:
            assert len(ours[1]) == len(ours[0])
            assert len(ours[2]) == len(ours[3]) == tops * len(ours[0])
        if exact:
            assert ours == theirs
        else:
            np.testing.assert_allclose(ours[1], theirs[1], atol=1e-3)


def test_a_greedy_token_is_its_own_best_alternative(scheduler: MakeScheduler, decoder: Decoder) -> None:
    one = scheduler(decoder)
    one.start(1, PROMPTS[0], logprobs=3, max_length=40)
    one.run()
    output, chosen, ids, values = columns(one.rows[1])
    assert ids[::3] == output
    assert values[::3] == chosen
    assert (np.diff(np.array(values).reshape(-1, 3), axis=1) <= 0).all()
    assert (np.exp(np.array(values, np.float64)).reshape(-1, 3).sum(axis=1) <= 1 + 1e-4).all()


def test_a_row_taken_up_again_goes_on_where_it_was(scheduler: MakeScheduler, decoder: Decoder) -> None:
    """Preemption and failover alike: prompt and emitted tokens come back as one; nothing is told twice or left out."""
    whole = scheduler(decoder)
    start(whole, 2)
    whole.run()
    output, chosen, ids, _ = columns(whole.rows[3])
    half = len(output) // 2
    rest = scheduler(decoder)
    tokens = PROMPTS[2] + output[:half]
    options: dict = {"seed": 13, "temperature": 0.9, "max_length": 62, "frequency_penalty": 0.5}
    rest.start(3, tokens, prompt_tokens=len(PROMPTS[2]), logprobs=2, repetition_penalty=1.1, **options)
    rest.run()
    state = rest.rows[3]
    assert state.output == output
    np.testing.assert_allclose(list(state.logprobs.chosen), chosen[half:], atol=1e-4)
    assert list(state.logprobs.top_ids) == ids[2 * half :]


def test_a_row_that_fails_takes_nothing_from_the_others(scheduler: MakeScheduler, toy) -> None:
    def run(fails: bool):
        made = scheduler(toy)
        toy.fail = lambda batch: fails and 90 in batch.tokens.tolist()
        made.start(1, PROMPTS[0], logprobs=2, max_length=40)
        if fails:
            made.start(2, [90, 1, 2], logprobs=1, max_length=30)
        made.start(3, PROMPTS[2], logprobs=0, max_length=40)
        made.run()
        return made.rows

    failed, sound = run(True), run(False)
    assert failed[2].end == worker_pb2.ROW_ERROR
    assert not failed[2].logprobs.chosen
    for row in (1, 3):
        assert columns(failed[row]) == columns(sound[row])


def test_more_alternatives_than_there_are_is_refused(scheduler: MakeScheduler, toy) -> None:
    one = scheduler(toy)
    one.start(1, PROMPTS[0], logprobs=21)
    with pytest.raises(InvalidArgument, match="at most 20"):
        one.plan()


@pytest.mark.skipif(not cpu.available(), reason="the compiled kernels are not there")
def test_the_compiled_decoder_tells_what_the_float32_reference_tells(scheduler: MakeScheduler, tiny_model) -> None:
    told = {}
    for backend in ("cpu", "mlx"):
        made = scheduler(build_decoder(*tiny_model(), backend=backend))
        for row in range(4):
            # Forced to the same tokens, whatever the last bit of a logit says.
            made.start(row + 1, PROMPTS[row], logprobs=20, max_length=50, logit_bias={7 + row: 100.0})
        made.run()
        told[backend] = [columns(made.rows[row + 1]) for row in range(4)]
    for ours, reference in zip(told["cpu"], told["mlx"], strict=True):
        assert ours[0] == reference[0]
        # The decoder rounds KV and activations; what it tells is its logits' log-softmax (tests/kernels/test_logprobs).
        error = np.abs(np.array(ours[1] + ours[3]) - np.array(reference[1] + reference[3]))
        assert error.mean() < 0.02
        assert error.max() < 0.2
