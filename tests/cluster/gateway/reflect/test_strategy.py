"""Strategies, the choice among attempts, and confidence: pure decisions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.gateway.reflect.assertions import Judgement
from cluster.gateway.reflect.strategy import (
    ANSWER_CHARS,
    Strategy,
    attempt_request,
    best,
    confidence,
    explanation,
    next_strategy,
)
from cluster.gateway.seeds import derived_seed
from protos.gen.inference_pb2 import Assertion, ChatRequest, Decoding, Grammar, Message, Reflect, Sampling

ASKED = ChatRequest(
    messages=[Message(role="user", content="q")],
    decoding=Decoding(sampling=Sampling(temperature=0.8, seed=7), max_tokens=9),
    reflect=Reflect(assertions=[Assertion(contains="x")]),
)
DIGITS = Grammar(regex="[0-9]+")


@pytest.mark.parametrize(
    ("allowed", "held", "enforceable", "found"),
    [
        (1, False, True, ["plain"]),
        (2, False, True, ["plain", "constrain"]),
        (3, False, True, ["plain", "explain", "constrain"]),
        (3, False, False, ["plain", "explain", "explain"]),
        (3, True, False, ["plain", "explain", "close"]),
        (2, True, True, ["plain", "close"]),
    ],
)
def test_the_last_resort_comes_last(allowed: int, held: bool, enforceable: bool, found: list[str]) -> None:
    made = [next_strategy(at, allowed, held=held, enforceable=enforceable) for at in range(allowed)]
    assert made == found


def test_the_first_attempt_is_the_request_without_reflection() -> None:
    plain = ChatRequest()
    plain.CopyFrom(ASKED)
    plain.ClearField("reflect")
    assert attempt_request(ASKED, Strategy.PLAIN, 0, "", (), DIGITS) == plain


def test_further_attempts_know_what_was_wrong_and_draw_anew() -> None:
    request = attempt_request(ASKED, Strategy.EXPLAIN, 1, "the answer", ("it lacks x",), DIGITS)
    assert [message.role for message in request.messages] == ["user", "assistant", "user"]
    assert request.messages[1].content == "the answer"
    assert request.messages[2].content == explanation(["it lacks x"])
    assert "- it lacks x" in request.messages[2].content
    assert request.decoding.sampling.temperature == pytest.approx(0.4)
    assert request.decoding.sampling.seed == derived_seed(7, 1)
    assert not request.decoding.HasField("grammar")
    assert not request.HasField("reflect")
    assert ASKED.messages[-1].content == "q", "what was asked is as it was"


def test_the_last_resort_enforces() -> None:
    request = attempt_request(ASKED, Strategy.CONSTRAIN, 2, "", ("no",), DIGITS)
    assert (request.decoding.grammar.regex, request.decoding.grammar.close) == ("[0-9]+", True)
    held = ChatRequest()
    held.CopyFrom(ASKED)
    held.decoding.grammar.regex = "[a-z]+"
    request = attempt_request(held, Strategy.CLOSE, 2, "", ("no",), None)
    assert (request.decoding.grammar.regex, request.decoding.grammar.close) == ("[a-z]+", True)


def test_greedy_stays_greedy_and_no_seed_stays_none() -> None:
    asked = ChatRequest(decoding=Decoding(sampling=Sampling(temperature=0)))
    sampling = attempt_request(asked, Strategy.EXPLAIN, 1, "", ("no",), None).decoding.sampling
    assert sampling.temperature == 0
    assert not sampling.HasField("seed")


def test_what_the_model_is_told_is_bounded() -> None:
    request = attempt_request(ASKED, Strategy.EXPLAIN, 1, "a" * 10**6, ["p" * 10**6] * 1000, None)
    assert len(request.messages[1].content) == ANSWER_CHARS
    assert len(request.messages[2].content) < 2000


PASSED = Judgement(1.0, ())
FAILED = st.builds(Judgement, st.floats(0, 1, exclude_max=True), st.just(("wrong",)))
TRIED = st.lists(FAILED, max_size=3).flatmap(lambda failed: st.sampled_from([[*failed, PASSED], failed or [PASSED]]))
"""Attempts as they come: the first that passes is the last."""


@given(TRIED)
def test_the_best_is_the_first_that_passed_or_met_most(judgements: list[Judgement]) -> None:
    chosen = judgements[best(judgements)]
    assert all((each.passed, each.met) <= (chosen.passed, chosen.met) for each in judgements)
    assert judgements.index(chosen) == best(judgements)


@given(TRIED, st.none() | st.floats(0, 1))
def test_confidence(judgements: list[Judgement], quality: float | None) -> None:
    sure = confidence(judgements, quality)
    assert 0 <= sure <= 1
    if judgements == [PASSED]:
        assert sure == (1 if quality is None else quality)
    assert confidence([Judgement(0.0, ("wrong",)), *judgements], quality) <= sure, (
        "what took more attempts is less sure"
    )
    chosen = judgements[best(judgements)]
    if not chosen.passed:
        assert sure <= chosen.met / 2
