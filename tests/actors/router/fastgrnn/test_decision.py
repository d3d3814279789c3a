"""What is decided with the router that ships: among models, within limits, over a session."""

import numpy as np
import pytest

from actors.base.errors import InvalidArgument
from actors.router.fastgrnn.cell import HIDDEN, Weights
from actors.router.fastgrnn.cost import CostRouter
from actors.router.fastgrnn.decision import Ask, decide
from actors.router.fastgrnn.features import Constraints, Served
from actors.router.fastgrnn.stored import dump, parse, shipped

SMALL, MIDDLE, LARGE = Served("small", 1.0), Served("middle", 4.0), Served("large", 16.0)
EASY = "What is the capital of France?\nA. Paris\nB. Rome\nC. Oslo\nD. Bern\nAnswer:"
HARD = (
    "For which of these two scenarios does the main character (who uses I/me/my) do something clearly morally wrong, "
    "according to ordinary moral standards in the US as of 2020? Scenario 1 | I poured the water on the floor. "
    "Scenario 2 | I gave the child the knife.\nA. Wrong, Wrong\nB. Wrong, Not wrong\nC. Not wrong, Wrong\n"
    "D. Not wrong, Not wrong\nAnswer:"
)


@pytest.fixture(scope="module")
def router() -> CostRouter:
    """The one that ships."""
    return shipped()


def test_an_easy_question_goes_to_the_small_model_and_a_hard_one_to_the_large(router: CostRouter) -> None:
    easy, hard = (decide(router, Ask(text), [LARGE, SMALL]) for text in (EASY, HARD))
    assert (easy.model, hard.model) == ("small", "large")
    assert easy.enough > hard.enough
    assert list(easy.probabilities) == ["small", "large"]
    assert easy.probabilities["small"] == pytest.approx(easy.enough)
    assert sum(easy.probabilities.values()) == pytest.approx(1)
    assert "small is the cheapest" in easy.reasons[0]


def test_a_bar_moves_the_border_and_models_lie_between_by_cost(router: CostRouter) -> None:
    enough = decide(router, Ask(EASY), [SMALL, MIDDLE, LARGE]).enough
    bars = 0.0, enough + 0.3 * (1 - enough), 1.0
    chosen = [decide(router, Ask(EASY), [SMALL, MIDDLE, LARGE], bar=bar).model for bar in bars]
    assert chosen == ["small", "middle", "large"]
    shares = decide(router, Ask(EASY), [SMALL, MIDDLE, LARGE]).probabilities
    assert shares["middle"] == pytest.approx(shares["large"])
    assert sum(shares.values()) == pytest.approx(1)


def test_hard_limits_come_before_what_was_learned(router: CostRouter) -> None:
    short, slow = SMALL._replace(context_length=512), LARGE._replace(ttft_ms=900.0)
    tight = Constraints(latency_budget_ms=300, prompt_tokens=600, max_tokens=100)
    decision = decide(router, Ask(EASY, constraints=tight), [short, MIDDLE, slow], bar=0.0)
    assert decision.model == "middle"
    assert "small holds 512 tokens, 700 are needed" in decision.reasons
    assert any("large takes 900 ms" in reason for reason in decision.reasons)
    impossible = decide(router, Ask(EASY, constraints=tight), [short], bar=0.0)
    assert impossible.model == "small"
    assert any("no model is within the limits" in reason for reason in impossible.reasons)


def test_without_confidence_the_default_answers(router: CostRouter) -> None:
    doubting = router._replace(confidence=router.confidence._replace(shift=-9.0))
    decision = decide(doubting, Ask(EASY), [SMALL, LARGE], default="large")
    assert (decision.model, decision.trusted) == ("large", False)
    assert "below 0.70: large, the default" in decision.reasons[-1]
    assert decide(doubting, Ask(EASY), [SMALL, LARGE], default="gone").model == "small"
    sure = router._replace(confidence=router.confidence._replace(shift=9.0))
    assert decide(sure, Ask(EASY), [SMALL, LARGE], default="large").model == "small"


def test_a_sessions_state_carries_over(router: CostRouter) -> None:
    first = decide(router, Ask(HARD), [SMALL, LARGE])
    assert first.hidden.shape == (HIDDEN,)
    alone, after = (
        decide(router, Ask(EASY), [SMALL, LARGE]),
        decide(router, Ask(EASY, hidden=first.hidden), [SMALL, LARGE]),
    )
    assert after.enough != alone.enough
    begun = Ask(EASY, hidden=np.zeros(HIDDEN, np.float32))
    assert decide(router, begun, [SMALL, LARGE]).enough == alone.enough


def test_one_model_is_chosen_whatever_is_asked(router: CostRouter) -> None:
    decision = decide(router, Ask(HARD), [SMALL])
    assert (decision.model, decision.probabilities) == ("small", {"small": 1.0})


@pytest.mark.parametrize(
    ("served", "ask", "said"),
    [
        ([], Ask("x"), "no model"),
        ([SMALL, SMALL], Ask("x"), "twice"),
        ([SMALL._replace(cost=0.0)], Ask("x"), "cost of small is 0.0"),
        ([SMALL], Ask("x", np.zeros(7, np.float32)), "7 components; this router reads 384"),
    ],
)
def test_what_cannot_be_decided_is_refused(router: CostRouter, served: list[Served], ask: Ask, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        decide(router, ask, served)


def test_a_router_is_the_same_after_it_was_stored(router: CostRouter) -> None:
    again = parse(dump(router))
    assert again.projection.embedder == router.projection.embedder
    for ours, theirs in zip(again.weights, router.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    prompts = [EASY, HARD, "hello"]
    vectors = np.random.default_rng(0).standard_normal((3, 384)).astype(np.float32)
    np.testing.assert_array_equal(again.score(prompts, vectors), router.score(prompts, vectors))
    assert again.quality == router.quality
    assert isinstance(again.weights, Weights)


@pytest.mark.parametrize("text", ["{}", "[]", "nonsense", '{"format": "other"}'])
def test_what_is_no_router_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="not a cost router"):
        parse(text)


def test_the_one_that_ships_was_judged_better_than_chance_and_than_length(router: CostRouter) -> None:
    quality = router.quality
    assert quality.rows > 3000
    assert quality.over_chance.low > 0
    assert quality.over_length.low > 0
    assert max(quality.calibration_error, quality.confidence_error) <= 0.05
    for factor in (router.weights.w1, router.weights.w2):
        assert (factor == 0).mean() == pytest.approx(0.9, abs=0.01)
