"""Scoring, as properties: predicted waits decide, what lies somewhere is worth what it saves, and nothing is random."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from actors.router.config import RouterConfig
from actors.router.policy import Ask, Ranking, Views, by_load, by_prediction, confidence, explain
from tests.actors.router import per_replica
from tests.actors.router.per_replica import Prediction, Scored, View, columns, foretold, rows

CONFIG = RouterConfig()
ASK = Ask(prompt_tokens=512, isa_class="")
IDLE = View("a", 0, 0, 64, 1.0, "x86-avx512vnni", 0.0, 0.0, False)
TOLD = Prediction(base=5, backlog=0, batch=0, waiting=0, kv_room=0, per_prompt_token=1.0, doubt=0, per_token=10)
ms = st.floats(0, 10_000)
views = st.builds(
    View,
    replica_id=st.text("abcdef", min_size=1, max_size=3),
    requests=st.integers(0, 128),
    waiting=st.integers(0, 64),
    queue_limit=st.sampled_from([0, 8, 64]),
    success=st.floats(0, 1),
    isa_class=st.sampled_from(["x86-avx512vnni", "arm64-neon"]),
    prefix_tokens=st.floats(0, 1000),
    session_tokens=st.floats(0, 1000),
    holds_session=st.booleans(),
)
predictions = st.builds(
    Prediction,
    base=ms,
    backlog=ms,
    batch=ms,
    waiting=ms,
    kv_room=ms,
    per_prompt_token=st.floats(0.01, 100),
    doubt=ms,
    per_token=st.floats(0, 1000),
)
fleets = st.lists(st.tuples(views, predictions), min_size=1, max_size=8, unique_by=lambda each: each[0].replica_id)
asks = st.builds(Ask, prompt_tokens=st.integers(2000, 8192), isa_class=st.sampled_from(["", "arm64-neon"]))


def rankings(fleet: list[tuple[View, Prediction]], ask: Ask) -> list[tuple[Ranking, Views]]:
    """By prediction, and by load."""
    seen = columns([view for view, _ in fleet])
    told = foretold([told for _, told in fleet])
    return [(by_prediction(seen, told, ask, CONFIG), seen), (by_load(seen, 20.0, ask, CONFIG), seen)]


def ranked(fleet: list[tuple[View, Prediction]], ask: Ask = ASK) -> list[Scored]:
    """By prediction."""
    return rows(*rankings(fleet, ask)[0])


def winner(fleet: list[tuple[View, Prediction]], ask: Ask = ASK) -> str:
    """Id of the replica that would be chosen."""
    return ranked(fleet, ask)[0].view.replica_id


def both(fleet: list[tuple[View, Prediction]], ask: Ask) -> list[list[Scored]]:
    """By either rule."""
    return [rows(*each) for each in rankings(fleet, ask)]


@given(fleets, asks, st.randoms(use_true_random=False))
def test_the_order_in_which_replicas_are_known_does_not_matter(fleet, ask, random):
    shuffled = list(fleet)
    random.shuffle(shuffled)
    assert both(fleet, ask) == both(shuffled, ask)


@given(fleets, asks)
def test_every_replica_is_ranked_once_by_the_sum_of_its_terms(fleet, ask):
    for ranking, seen in rankings(fleet, ask):
        order = rows(ranking, seen)
        assert sorted(each.view.replica_id for each in order) == sorted(view.replica_id for view, _ in fleet)
        assert all(each.score == sum(each.terms.values()) for each in order)
        scores = [each.score for each in order]
        assert scores == sorted(scores, reverse=True)
        assert 0 <= confidence(ranking) <= 1


@given(fleets, asks)
def test_the_columns_say_what_replica_by_replica_is_said(fleet, ask):
    views, told = [view for view, _ in fleet], [each for _, each in fleet]
    alone = [
        per_replica.by_prediction(views, told, ask, CONFIG),
        per_replica.by_load(views, 20.0, ask, CONFIG),
    ]
    assert both(fleet, ask) == alone


@given(
    views, predictions, asks, st.sampled_from(["base", "backlog", "batch", "waiting", "per_token"]), st.integers(1, 999)
)
def test_the_longer_wait_loses_all_else_equal(view, told, ask, field, more):
    slower = told._replace(**{field: getattr(told, field) + more})
    # The slower one has the id that would win a tie.
    assert winner([(view._replace(replica_id="a"), slower), (view._replace(replica_id="b"), told)], ask) == "b"


@given(views, predictions, asks)
def test_equals_go_to_the_lowest_id(view, told, ask):
    fleet = [(view._replace(replica_id=name), told) for name in ("c", "a", "b")]
    assert [order[0].view.replica_id for order in both(fleet, ask)] == ["a", "a"]


def test_a_session_of_unknown_extent_sticks_until_its_replica_is_overloaded():
    home = IDLE._replace(replica_id="b", holds_session=True)
    assert winner([(IDLE, TOLD), (home, TOLD)]) == "b"
    assert winner([(IDLE, TOLD), (home, TOLD._replace(backlog=199))]) == "b"
    assert winner([(IDLE, TOLD), (home, TOLD._replace(backlog=201))]) == "a", "the wait there is more than the bonus"


@pytest.mark.parametrize("field", ["prefix_tokens", "session_tokens"])
def test_what_lies_there_is_worth_the_prefill_that_it_saves(field):
    holder = IDLE._replace(replica_id="b", **{field: 500.0})
    assert winner([(IDLE, TOLD), (holder, TOLD._replace(backlog=499))]) == "b"
    assert winner([(IDLE, TOLD), (holder, TOLD._replace(backlog=501))]) == "a"
    [scored] = ranked([(holder, TOLD)])
    assert scored.terms[field.removesuffix("_tokens")] == 500
    assert scored.terms["prompt"] == -512


def test_a_prompt_that_would_hold_up_many_goes_where_few_are():
    busy = IDLE._replace(requests=20)
    idle = IDLE._replace(replica_id="b")
    quick, slow = TOLD._replace(per_prompt_token=0.5), TOLD._replace(per_prompt_token=0.6)
    assert winner([(busy, quick), (idle, slow)]) == "b"
    assert winner([(busy, quick), (idle._replace(requests=20), slow)]) == "a"


def test_doubt_speaks_for_a_replica_but_only_so_far():
    doubtful = IDLE._replace(replica_id="b")
    waits = TOLD._replace(backlog=20)
    assert winner([(IDLE, TOLD), (doubtful, waits)]) == "a"
    assert winner([(IDLE, TOLD), (doubtful, waits._replace(doubt=300))]) == "b"
    [far] = ranked([(doubtful, TOLD._replace(backlog=9000, doubt=1e9))])
    assert far.terms["explore"] == pytest.approx(CONFIG.explore_share * (9000 + 5 + 512))


def test_the_isa_class_asked_for_is_preferred():
    arm = IDLE._replace(replica_id="b", isa_class="arm64-neon")
    fleet = [(IDLE, TOLD), (arm, TOLD)]
    assert [order[0].view.replica_id for order in both(fleet, Ask(512, "arm64-neon"))] == ["b", "b"]
    assert [order[0].view.replica_id for order in both(fleet, Ask(512, ""))] == ["a", "a"]
    assert winner([(IDLE, TOLD), (arm, TOLD._replace(backlog=1100))], Ask(512, "arm64-neon")) == "a"


def test_failures_count_against_a_replica():
    fleet = [(IDLE._replace(success=0.5), TOLD), (IDLE._replace(replica_id="b", requests=40), TOLD)]
    assert [order[0].view.replica_id for order in both(fleet, Ask(0, ""))] == ["b", "b"]


def test_by_load_the_fewest_requests_win_whatever_was_foretold():
    fast, slow = TOLD, TOLD._replace(per_prompt_token=100.0)
    fleet = [(IDLE._replace(requests=3), fast), (IDLE._replace(replica_id="b", requests=2), slow)]
    assert [order[0].view.replica_id for order in both(fleet, ASK)] == ["a", "b"]


@given(fleets, asks)
def test_a_full_queue_comes_after_every_other(fleet, ask):
    assume(any(view.waiting < view.queue_limit or view.queue_limit == 0 for view, _ in fleet))
    for order in both(fleet, ask):
        assert order[0].view.waiting < order[0].view.queue_limit or order[0].view.queue_limit == 0


@given(fleets, asks)
def test_the_explanation_names_the_winner_first_and_every_candidate(fleet, ask):
    for ranking, seen in rankings(fleet, ask):
        order = rows(ranking, seen)
        sentences = explain(ranking, seen.replica_ids, [each.terms for each in order])
        assert sentences[0].startswith(f"{order[0].view.replica_id} is chosen: {order[0].score:.0f} ms")
        for each, sentence in zip(order, sentences, strict=True):
            assert sentence.startswith(f"{each.view.replica_id} is ")
            for name, value in each.terms.items():
                assert (f"{name} {value:+.0f}" in sentence) == bool(round(value))


def test_confidence_is_certain_alone_and_even_between_equals():
    [(alone, _), _] = rankings([(IDLE, TOLD)], ASK)
    [(equal, _), _] = rankings([(IDLE, TOLD), (IDLE._replace(replica_id="b"), TOLD)], ASK)
    assert (confidence(alone), confidence(equal)) == (1, 0.5)
