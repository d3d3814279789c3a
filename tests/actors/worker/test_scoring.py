"""Log-probabilities of the prompt: of every token, however it is cut into chunks and whatever runs beside it."""

import numpy as np
import pytest

from actors.base.errors import InvalidArgument
from actors.worker.scoring import MOST_SCORED
from kernels.decoder import Decoder

PROMPT = [(7 * place + place * place) % 90 + 2 for place in range(70)]


def scored(state) -> tuple[list[float], list[int]]:
    return list(state.prompt_logprobs.chosen), list(state.prompt_logprobs.top_ids)


def alone(scheduler, decoder, step_tokens: int = 64, **more: object):
    one = scheduler(decoder)
    one.start(1, PROMPT, logprobs=2, max_length=80, **({"score_from": 1} | more))
    one.run(step_tokens)
    return one.rows[1]


def test_they_are_those_of_generating_the_prompt(scheduler, decoder: Decoder) -> None:
    """What the engine tells of a token it drew is what it tells of it as a prompt."""
    drawn = scheduler(decoder)
    drawn.start(1, PROMPT[:5], logprobs=3, max_length=60, temperature=0.8, seed=4)
    drawn.run()
    written = drawn.rows[1]
    again = scheduler(decoder)
    again.start(1, written.tokens, logprobs=3, score_from=5, max_length=62)
    again.run()
    values, ids = scored(again.rows[1])
    np.testing.assert_allclose(values, list(written.logprobs.chosen), atol=1e-3)
    if decoder.isa_class == "toy" or decoder.isa_class.startswith("x86"):
        assert values == list(written.logprobs.chosen)
        assert ids == list(written.logprobs.top_ids)


@pytest.mark.parametrize("step_tokens", [1, 7, 64])
def test_chunks_change_nothing(scheduler, decoder: Decoder, step_tokens: int) -> None:
    whole, cut = alone(scheduler, decoder, 256), alone(scheduler, decoder, step_tokens)
    assert len(scored(whole)[0]) == len(PROMPT) - 1
    assert len(scored(whole)[1]) == 2 * (len(PROMPT) - 1)
    np.testing.assert_allclose(scored(cut)[0], scored(whole)[0], atol=1e-3)
    assert cut.output == whole.output
    assert list(cut.logprobs.top_ids) == list(whole.logprobs.top_ids)


def test_beside_others_that_draw_in_every_way(scheduler, decoder: Decoder) -> None:
    want = alone(scheduler, decoder)
    others = [
        {"temperature": 0.9, "seed": 3, "logprobs": 1},
        {"frequency_penalty": 1.0, "repetition_penalty": 1.2},
        {"logit_bias": {9: 3.0}, "temperature": 0.5},
        {"logprobs": 4, "score_from": 1},
    ]
    plain = []
    for index, other in enumerate(others):
        single = scheduler(decoder)
        single.start(index + 2, PROMPT[index : 30 + index], max_length=60, **other)
        single.run()
        plain.append(single.rows[index + 2])
    mixed = scheduler(decoder)
    for index, other in enumerate(others[:2]):
        mixed.start(index + 2, PROMPT[index : 30 + index], max_length=60, **other)
    mixed.plan(40)
    for _ in range(3):
        mixed.tick()  # these decode already while the others' prompts are computed
    mixed.start(1, PROMPT, logprobs=2, max_length=80, score_from=1)
    for index in (2, 3):
        mixed.start(index + 2, PROMPT[index : 30 + index], max_length=60, **others[index])
    mixed.run(40)
    for single, together in [(want, mixed.rows[1]), *((plain[i], mixed.rows[i + 2]) for i in range(4))]:
        assert together.output == single.output
        np.testing.assert_allclose(scored(together)[0], scored(single)[0], atol=1e-3)
        np.testing.assert_allclose(list(together.logprobs.chosen), list(single.logprobs.chosen), atol=1e-3)


def test_a_row_that_begins_anew_goes_on_where_it_was_told(scheduler, decoder: Decoder) -> None:
    whole = alone(scheduler, decoder)
    values, ids = scored(alone(scheduler, decoder, score_from=31))
    np.testing.assert_allclose(values, scored(whole)[0][30:], atol=1e-3)
    assert ids == scored(whole)[1][60:]


def test_a_step_scores_no_more_than_its_logits_may_take(scheduler, toy) -> None:
    many = scheduler(toy)
    for row in range(4):
        many.start(row + 1, PROMPT, logprobs=0, score_from=1, max_length=75)
    many.run(256)
    assert max(len(batch.logits_at) for batch in toy.batches) <= MOST_SCORED + 4
    assert [len(scored(many.rows[row + 1])[0]) for row in range(4)] == [69] * 4


def test_a_step_that_fails_tells_of_the_rows_that_do_not(scheduler, toy) -> None:
    toy.fail = lambda batch: 95 in batch.tokens.tolist()
    both = scheduler(toy)
    both.start(1, PROMPT, logprobs=2, max_length=80, score_from=1)
    both.start(2, [95, 3, 4], logprobs=1, score_from=1, max_length=20)
    both.run(256)
    failed = both.rows[2]
    toy.fail = lambda batch: False
    assert scored(both.rows[1]) == scored(alone(scheduler, toy, 256))
    assert failed.error
    assert scored(failed) == ([], [])


@pytest.mark.parametrize(
    "wrong",
    [{"score_from": 71, "logprobs": 1}, {"score_from": 1}, {"score_from": 8, "logprobs": 1, "cached_tokens": 8}],
)
def test_what_cannot_be_scored_is_refused(scheduler, toy, wrong: dict) -> None:
    one = scheduler(toy)
    one.start(1, PROMPT, **wrong)
    with pytest.raises(InvalidArgument, match="score_from"):
        one.plan()
