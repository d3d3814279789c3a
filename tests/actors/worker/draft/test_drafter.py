"""The drafter: what it finds, what it keeps apart, and when it is silent."""

from collections.abc import Callable

import numpy as np
import pytest

from actors.worker.draft.draft import Context
from actors.worker.draft.drafter import Drafter
from actors.worker.draft.lookahead import MOST_PAUSE, PATIENCE, PAUSE_PER_ROW
from actors.worker.step_cost import StepCost, Work

ONE = Work(0, 1, 0)
COST = StepCost(fixed=2.84, prefill=0.9, row=0.86, attended=0.0)


def words(seed: int, count: int, vocab: int = 5000) -> list[int]:
    return np.random.default_rng(seed).integers(0, vocab, count).tolist()


def context(tokens: list[int], most: int = 100, forced: tuple[int, ...] = (), slot: int = 0) -> Context:
    return Context(slot, np.array(tokens, np.int32), most, forced)


def test_what_followed_the_last_tokens_before_is_proposed() -> None:
    drafter, text = Drafter(), words(0, 300)
    prompt = [*text, *text[100:110]]
    drafter.start(0, len(prompt))
    (draft,) = drafter.draft([context(prompt)], COST, ONE)
    assert draft is not None
    assert draft.source == "prompt"
    assert draft.tokens.tolist() == text[110 : 110 + len(draft.tokens)]
    assert draft.is_chain


def test_of_two_places_the_longer_match_is_the_trunk_and_the_other_branches_off() -> None:
    drafter = Drafter()
    prompt = [1, 2, 3, 4, 5, 6, 7, 8, 50, 51, 52, 9, 9, 7, 8, 60, 61, 62, 10, 1, 2, 3, 4, 5, 6, 7, 8]
    drafter.start(0, len(prompt))
    free = StepCost(fixed=10.0, prefill=0.0, row=0.001, attended=0.0)
    (draft,) = drafter.draft([context(prompt)], free, ONE)
    assert draft is not None
    roots = [token for token, parent in zip(draft.tokens.tolist(), draft.parents.tolist(), strict=True) if parent < 0]
    assert roots == [50, 60]
    assert draft.chances == sorted(draft.chances, reverse=True)


def test_a_drafter_without_trees_proposes_chains() -> None:
    drafter = Drafter(trees=False)
    prompt = [1, 2, 3, 4, 5, 6, 7, 8, 50, 51, 52, 9, 9, 7, 8, 60, 61, 62, 10, 1, 2, 3, 4, 5, 6, 7, 8]
    drafter.start(0, len(prompt))
    (draft,) = drafter.draft([context(prompt)], StepCost(10.0, 0.0, 0.001, 0.0), ONE)
    assert draft is not None
    assert draft.is_chain


def test_a_quoted_prompt_takes_fewer_steps(replay: Callable) -> None:
    text = words(1, 400)
    result = replay(Drafter(), text, text[50:250])
    assert result.accepted > 0.8 * result.drafted
    assert result.plain_ms / result.ms > 2


def test_text_without_repetition_costs_nothing(replay: Callable) -> None:
    result = replay(Drafter(), words(2, 400), words(3, 400))
    assert result.drafted <= 8
    assert result.ms < 1.01 * result.plain_ms


def test_misleading_repetition_is_given_up(replay: Callable) -> None:
    """Every pair of tokens occurred before, and something else follows it each time."""
    draw = np.random.default_rng(4)
    output: list[int] = []
    for _ in range(300):
        output += [1, 2, int(draw.integers(10, 5000))]
    result = replay(Drafter(), [1, 2, 3], output)
    assert result.drafted < 60
    assert result.ms < 1.02 * result.plain_ms


def test_it_comes_back_when_text_begins_to_repeat(replay: Callable) -> None:
    draw = np.random.default_rng(5)
    noise: list[int] = []
    for _ in range(200):
        noise += [1, 2, int(draw.integers(10, 5000))]
    text = words(6, 300)
    alone = replay(Drafter(), [*text, 1, 2, 3], noise)
    both = replay(Drafter(), [*text, 1, 2, 3], noise + text)
    assert (both.plain_ms - alone.plain_ms) / (both.ms - alone.ms) > 1.8


def test_a_repeating_output_is_continued_past_its_end() -> None:
    drafter = Drafter()
    prompt = words(7, 50) + [1, 2] * 10
    drafter.start(0, len(prompt))
    (draft,) = drafter.draft([context(prompt)], COST, ONE)
    assert draft is not None
    assert draft.tokens.tolist() == ([1, 2] * 4)[: len(draft.tokens)]


def test_outputs_are_drafted_from_within_a_pool_and_never_from_another(replay: Callable) -> None:
    drafter, answer = Drafter(), words(8, 200)
    replay(drafter, words(9, 20), answer, pool=b"one")
    other = replay(drafter, words(10, 20), answer, pool=b"two")
    common = replay(drafter, words(11, 20), answer)
    again = replay(drafter, words(12, 20), answer, pool=b"one")
    assert other.drafted == common.drafted == 0
    assert again.accepted > 120


def test_a_reference_is_followed_from_the_first_token_and_after_a_difference(replay: Callable) -> None:
    reference = words(13, 200)
    output = [*reference[:60], 7777, 7778, *reference[62:]]
    result = replay(Drafter(), words(14, 30), output, reference=reference)
    assert result.accepted > 120


@pytest.mark.parametrize("most", [0, 1, 3])
def test_never_more_than_a_lease_allows(most: int) -> None:
    drafter, text = Drafter(), words(15, 300)
    prompt = [*text, *text[100:130]]
    drafter.start(0, len(prompt))
    (draft,) = drafter.draft([context(prompt, most, forced=(1, 2))], COST, ONE)
    assert (0 if draft is None else len(draft.tokens)) <= most


def test_forced_tokens_come_first_and_text_goes_on_after_them() -> None:
    drafter, text = Drafter(), words(16, 300)
    prompt = [*text, *text[100:110]]
    drafter.start(0, len(prompt))
    (draft,) = drafter.draft([context(prompt, forced=tuple(text[110:112]))], COST, ONE)
    assert draft is not None
    assert draft.source == "grammar"
    assert draft.tokens.tolist() == text[110 : 110 + len(draft.tokens)]
    assert len(draft.tokens) > 2


def test_forced_tokens_that_lead_elsewhere_are_kept() -> None:
    drafter, text = Drafter(), words(17, 300)
    prompt = [*text, *text[100:110]]
    drafter.start(0, len(prompt))
    (draft,) = drafter.draft([context(prompt, forced=(4990, 4991))], COST, ONE)
    assert draft is not None
    assert draft.tokens.tolist()[:2] == [4990, 4991]


def test_without_a_measured_step_there_are_no_drafts() -> None:
    drafter, text = Drafter(), words(18, 300)
    prompt = [*text, *text[100:110]]
    drafter.start(0, len(prompt))
    assert drafter.draft([context(prompt)], None, ONE) == [None]


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_where_nothing_is_found_it_asks_for_a_pause_after_some_looks(rows: int) -> None:
    drafter, tokens = Drafter(), words(19, 300)
    drafter.start(0, 100)
    pauses = []
    known = 100
    while len(pauses) < 8:
        assert drafter.draft([context(tokens[:known])], COST, Work(0, rows, 0)) == [None]
        pauses.append(drafter.pause)
        known += drafter.pause + 1
    patient = -(-PATIENCE // rows) - 1
    assert pauses == [0] * patient + [min(PAUSE_PER_ROW * rows, MOST_PAUSE)] * (8 - patient)
    drafter.start(1, 10)
    assert drafter.pause == 0
