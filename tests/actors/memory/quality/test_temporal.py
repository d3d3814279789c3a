"""Temporal realism: dates and durations that can be true, told from those that cannot."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.memory.quality.temporal import Date, compared, temporal_realism, trend

TODAY = date(2026, 7, 1)

GOOD = [
    "Nothing is dated here, though the number 1789 stands in it.",
    "The war lasted from 1914 to 1918, and peace came in 1919.",
    "She was born on 29 February 2024 and left on March 3rd, 2024.",
    "It ran 2020-01-31 to 2021-06-01. The rest takes two to three weeks, or 10-20 minutes a day.",
    "Between 1999 and 2001 it took 18 months.",
    "In 1969 we landed, in 1989 the wall fell, in 2004 we joined, since 2015 it stands.",
    "In 2015 it opened; before, in 2004, it was planned; the idea came in 1989. Schemas say P3DT4H.",
    "An hour has 60 minutes; a day in May has 24 hours. Room 2410 costs $1500 for 2 months.",
]
BAD = [
    ("He died on February 30, 2021.", 0.4),
    ("Due 2024-13-01.", 0.4),
    ("It lasted from 1918 to 1914.", 0.7),
    ("Between 15 June 2020 and 3 May 2020 nothing happened.", 0.7),
    ("They work 25 hours a day.", 0.4),
    ("It takes 5 to 3 days.", 0.4),
    ("It took -5 minutes, then 0 seconds.", 0.4),
    ("It will be built in 2890.", 0.4),
    ("A pause of P0D.", 0.4),
    ("It is 2000000 years old, 31 April is its day, and 3 May is mine.", 0.6),
    ("In 1990 a. In 1850 b. In 2001 c. In 1700 d.", 0.6 + 0.4 * 2 / 6),
]


@pytest.mark.parametrize("text", GOOD)
def test_what_can_be_true_is_realistic(text: str) -> None:
    assert temporal_realism(text, TODAY) == 1


@pytest.mark.parametrize(("text", "score"), BAD)
def test_what_cannot_is_not(text: str, score: float) -> None:
    assert temporal_realism(text, TODAY) == pytest.approx(score)


DAYS = st.dates(date(1500, 1, 1), date(2099, 12, 31))


@given(DAYS, st.integers(1, 50_000))
def test_an_interval_is_in_order_one_way_only(begin: date, days: int) -> None:
    end = min(begin + timedelta(days), date(2099, 12, 31))
    if begin == end:
        return
    assert temporal_realism(f"It ran from {begin} to {end}.", TODAY) == 1
    assert temporal_realism(f"It ran from {end} to {begin}.", TODAY) == pytest.approx(0.7)


@given(DAYS)
def test_every_way_of_writing_a_date_is_read_as_the_same(day: date) -> None:
    ways = (f"{day:%Y-%m-%d}", f"{day.day} {day:%B %Y}", f"{day:%B} {day.day}, {day.year}")
    for way in ways:
        assert temporal_realism(f"{way} to {day - timedelta(1)}", TODAY) == pytest.approx(0.7), way
        assert temporal_realism(f"{way} to {day + timedelta(1)}", TODAY) == 1, way


@given(st.lists(st.integers(1500, 2100), max_size=12))
def test_the_trend_is_whole_in_order_and_the_same_backwards(years: list[int]) -> None:
    dates = [Date(year, 0, 0) for year in years]
    assert trend(sorted(dates)) == trend(sorted(dates, reverse=True)) == 1
    assert 0 <= trend(dates) <= 1
    assert trend(dates) == pytest.approx(trend(dates[::-1]))


@given(st.tuples(*[st.integers(0, 3)] * 3), st.tuples(*[st.integers(0, 3)] * 3))
def test_comparing_goes_both_ways(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    assert compared(Date(*one), Date(*other)) == -compared(Date(*other), Date(*one))


@given(st.text("0123456789-–/. tooPDTMarchMay,yearsday\n", max_size=200))
def test_any_text_has_a_score(text: str) -> None:
    assert 0 <= temporal_realism(text, TODAY) <= 1
