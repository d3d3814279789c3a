"""What is learned of a replica's speed, against replicas whose speed is known."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.router.prediction import Regression, doubts, estimates, parts

TRUE = np.array([20.0, 200.0, 3.0])
PRIOR = np.array([5.0, 1000.0, 10.0])


def regression() -> Regression:
    """One that knows nothing but its prior."""
    return Regression(PRIOR, 0.7 * PRIOR)


def causes(draw: random.Random) -> tuple[float, float, float]:
    """Of a request: base, thousands of tokens, rows."""
    return 1.0, draw.uniform(0, 3), draw.uniform(0, 20)


def told(learned: Regression, row, now_s: float = 0.0) -> float:
    """The prediction."""
    total = float(parts(estimates([learned], now_s), np.array([row])).sum())
    assert learned.predict(row, now_s) == pytest.approx(total, rel=1e-12)
    return total


def doubt(learned: Regression, row, now_s: float = 0.0) -> float:
    """Of the prediction."""
    return float(doubts(estimates([learned], now_s), np.array([row]))[0])


def teach(learned: Regression, draw: random.Random, reports: int, slowness: float = 1.0, from_s: float = 0.0) -> None:
    """Reports of a replica whose times scatter by a tenth, one a second."""
    for number in range(reports):
        row = causes(draw)
        measured = slowness * float(TRUE @ row) * draw.lognormvariate(0, 0.1)
        assert learned.observe(row, measured, from_s + number)


def test_before_any_report_it_says_what_the_prior_says():
    assert told(regression(), (1.0, 2.0, 3.0)) == 5 + 2000 + 30


def test_it_learns_a_replica_from_its_reports_and_doubts_less():
    draw = random.Random(1)
    learned = regression()
    row = (1.0, 1.5, 10.0)
    before = doubt(learned, row)
    teach(learned, draw, 60)
    assert told(learned, row, 60.0) == pytest.approx(float(TRUE @ row), rel=0.15)
    assert doubt(learned, row, 60.0) < before / 3


def test_a_sudden_slowdown_is_followed_within_a_few_reports_and_so_is_its_end():
    draw = random.Random(2)
    learned = regression()
    teach(learned, draw, 200)
    row = (1.0, 1.0, 5.0)
    teach(learned, draw, 12, slowness=4.0, from_s=200)
    assert told(learned, row, 212.0) > 2.5 * float(TRUE @ row)
    teach(learned, draw, 20, from_s=212)
    assert told(learned, row, 232.0) < 1.5 * float(TRUE @ row)


def test_a_slowdown_that_nobody_hears_of_again_is_forgiven_and_doubted():
    draw = random.Random(3)
    learned = regression()
    teach(learned, draw, 200)
    teach(learned, draw, 8, slowness=4.0, from_s=200)
    row = (1.0, 1.0, 5.0)
    slow, later = told(learned, row, 208.0), told(learned, row, 900.0)
    assert later < 0.7 * slow
    soon, long = (doubt(learned, row, at_s) for at_s in (208.0, 900.0))
    assert long / later > 1.5 * soon / slow


def test_one_stalled_request_does_not_turn_it_over():
    draw = random.Random(4)
    learned = regression()
    teach(learned, draw, 100)
    row = (1.0, 1.0, 5.0)
    before = told(learned, row, 100.0)
    learned.observe(row, 600_000.0, 100.0)
    assert told(learned, row, 100.0) < 1.5 * before


@pytest.mark.parametrize("measured", [0.0, -1.0, math.nan, math.inf, 1e12])
def test_what_cannot_be_a_time_teaches_nothing(measured):
    learned = regression()
    assert not learned.observe((1.0, 1.0, 1.0), measured, 0.0)
    assert told(learned, (1.0, 1.0, 1.0)) == float(PRIOR.sum())


numbers = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(st.tuples(st.tuples(numbers, numbers, numbers), numbers, numbers), max_size=30), st.floats(0, 1e6))
def test_no_report_whatever_its_figures_and_clock_makes_predictions_useless(reports, now_s):
    learned = regression()
    for row, measured, at_s in reports:
        learned.observe(row, measured, at_s)
    for row in ((1.0, 0.0, 0.0), (1.0, 8.0, 64.0)):
        assert 0 < told(learned, row, now_s) < math.inf
        assert 0 <= doubt(learned, row, now_s) < math.inf


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100), st.floats(0.01, 1e6)), max_size=60))
def test_more_work_never_means_a_shorter_wait(reports):
    learned = regression()
    for tokens, rows, measured in reports:
        learned.observe((1.0, tokens, rows), measured, 0.0)
    least = told(learned, (1.0, 1.0, 1.0))
    assert told(learned, (1.0, 2.0, 1.0)) > least
    assert told(learned, (1.0, 1.0, 2.0)) > least
