"""Temporal realism: can the dates and durations that an answer states be true, and do its dates go one way?

0.6 share of statements within range and in order + 0.4 trend; 1 where nothing is stated. Read are, in English:

- dates: 2024-03-05, 2024-03, 5 March 2024, March 5 (2024), March 2024, and a year after a word that makes it one (in
  1998, since 2001) or at either end of an interval (1998-2004). Within range: a day that the calendar has, in a year at
  most AHEAD years from now. In order: what ends an interval (A to B, between A and B) is not before what begins it.
- durations: 90 minutes, two to three weeks, 1.5 hours a day, P3DT4H. Within range: above 0, at most LONGEST_YEARS, and
  no more than what they are part of (25 hours a day). In order: of two to three, two is not the larger.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import date
from typing import NamedTuple

AHEAD = 100
LONGEST_YEARS = 1_000_000
TEXT_CHARS = 32_768
"""Read of an answer."""
DATES = 256
"""Compared of an answer, in pairs."""

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?"
    r"|Nov(?:ember)?|Dec(?:ember)?)\b\.?"
)
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_DATE = re.compile(
    rf"(?<![\w.,/$€£-])(?:(?P<y1>\d{{4}})-(?P<m1>\d{{2}})(?:-(?P<d1>\d{{2}}))?(?![\w-])"
    rf"|(?P<d2>{_DAY})\s+(?:of\s+)?(?P<m2>{_MONTH})(?:,?\s+(?P<y2>\d{{4}})\b)?"
    rf"|(?P<m3>{_MONTH})\s+(?P<d3>{_DAY})\b(?!:)(?:,?\s+(?P<y3>\d{{4}})\b)?"
    rf"|(?P<m4>{_MONTH}),?\s+(?P<y4>\d{{4}})\b)"
    rf"|(?<![\w.,/$€£])(?P<y5>[12]\d{{3}})\b(?![%°]|[.,/]\d)"
)
_YEAR_FOLLOWS = re.compile(
    r"\b(?:in|since|by|until|till|from|before|after|during|around|circa|year|of|early|late|mid)\s+(?:the\s+year\s+)?$",
    re.IGNORECASE,
)
_TO = re.compile(r"\s*(?:-|–|—|to|until|till|through)\s*(?:the\s+)?")
_AND = re.compile(r"\s*and\s*")
_BETWEEN = re.compile(r"\bbetween\s+(?:the\s+)?$", re.IGNORECASE)

_SECONDS = {
    "second": 1.0,
    "minute": 60.0,
    "hour": 3600.0,
    "day": 86400.0,
    "week": 7 * 86400.0,
    "month": 31 * 86400.0,
    "year": 366 * 86400.0,
    "decade": 3660 * 86400.0,
    "century": 36600 * 86400.0,
}
"""The longest that each can be."""
_UNIT = r"(?:second|minute|hour|day|week|month|year|decade|century|centurie)"
_COUNT_WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)
_COUNT = rf"(?:\d{{1,15}}(?:,\d{{3}})*(?:\.\d{{1,9}})?|(?:{'|'.join(_COUNT_WORDS)})\b)"
_DURATION = re.compile(
    rf"(?<![\w.,$€£:/])(?:(?P<low>-?{_COUNT})\s*(?:-|–|to|or)\s*)?(?P<high>(?<!\d)-?{_COUNT})[\s-]?(?P<unit>{_UNIT})s?\b"
    rf"(?:\s+(?:a|an|per|each|every|in\s+an?|in\s+one)\s+(?P<of>{_UNIT})\b)?",
    re.IGNORECASE,
)
_ISO_DURATION = re.compile(
    r"(?<!\w)P(?=\d|T\d)(?:(\d{1,9})Y)?(?:(\d{1,9})M)?(?:(\d{1,9})W)?(?:(\d{1,9})D)?"
    r"(?:T(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9})S)?)?(?!\w)"
)
_ISO_UNITS = ("year", "month", "week", "day", "hour", "minute", "second")


class Date(NamedTuple):
    """A date as stated: month and day, or the year, are 0 where they are not said."""

    year: int
    month: int
    day: int


class Found(NamedTuple):
    """A date and where in the text it stands."""

    start: int
    end: int
    date: Date
    bare: bool
    """Whether it is four digits that may be no year."""


def temporal_realism(text: str, today: date) -> float:
    """0 to 1; `today`: when the answer was given."""
    text = text[:TEXT_CHARS]
    found = _dates(text)
    sound = [
        in_range(each.date, today) and (not before or compared(before.date, each.date) <= 0)
        for each, before in zip(found, _begins(text, found), strict=True)
    ]
    sound += _durations(text, found)
    if not sound:
        return 1.0
    return 0.6 * sum(sound) / len(sound) + 0.4 * trend([each.date for each in found])


def trend(dates: Sequence[Date]) -> float:
    """|Kendall's tau| of dates in the order stated: 1 where they go one way, near 0 where they jump about.

    Pairs count where one is known to be earlier; fewer than three pairs show no jump: 1.
    """
    dates = dates[:DATES]
    orders = [compared(one, other) for at, one in enumerate(dates) for other in dates[at + 1 :]]
    known = sum(map(abs, orders))
    return abs(sum(orders)) / known if known >= 3 else 1.0


def compared(one: Date, other: Date) -> int:
    """-1 where `one` is earlier, 1 where it is later, 0 where that is not said."""
    for a, b in zip(one, other, strict=True):
        if not a or not b:
            return 0
        if a != b:
            return -1 if a < b else 1
    return 0


def in_range(stated: Date, today: date) -> bool:
    """Whether the calendar has it (a day without its year: in a leap year), not too far ahead."""
    try:
        date(stated.year or 2000, stated.month or 1, stated.day or 1)
    except ValueError:
        return False
    return stated.year <= today.year + AHEAD


def _dates(text: str) -> list[Found]:
    """All dates in order. Four digits are a year where a word before them or an interval says so."""
    candidates = [_read(match) for match in _DATE.finditer(text)]
    found: list[Found] = []
    for at, each in enumerate(candidates):
        after = candidates[at + 1] if at + 1 < len(candidates) else None
        if (
            not each.bare
            or _YEAR_FOLLOWS.search(text, max(0, each.start - 40), each.start)
            or (found and _TO.fullmatch(text, found[-1].end, each.start))
            or (found and _AND.fullmatch(text, found[-1].end, each.start))
            or (after and _TO.fullmatch(text, each.end, after.start))
            or _BETWEEN.search(text, max(0, each.start - 40), each.start)
        ):
            found.append(each)
    return found


def _read(match: re.Match[str]) -> Found:
    parts = {name[0]: value for name, value in match.groupdict().items() if value}
    month = parts.get("m", "0")
    named = month if month.isdigit() else str(_MONTHS.index(month[:3].lower()) + 1)
    day = re.sub(r"\D", "", parts.get("d", "0"))
    year = int(parts.get("y", "0"))
    # A zero that is written is no day and no month; one that is not written is left open.
    written = Date(year, int(named) or (99 if "m" in parts else 0), int(day) or (99 if "d" in parts else 0))
    return Found(match.start(), match.end(), written, match["y5"] is not None)


def _begins(text: str, found: Sequence[Found]) -> Iterator[Found | None]:
    """For each date, the one that begins the interval which it ends, if it ends one."""
    last: Found | None = None
    for each in found:
        joined = last is not None and (
            _TO.fullmatch(text, last.end, each.start)
            or (
                _AND.fullmatch(text, last.end, each.start)
                and _BETWEEN.search(text, max(0, last.start - 40), last.start)
            )
        )
        yield last if joined else None
        last = each


def _durations(text: str, dates: Sequence[Found]) -> list[bool]:
    """Whether each stated duration is sound."""
    taken = {place for each in dates for place in range(each.start, each.end)}
    sound = []
    for match in _DURATION.finditer(text):
        if match.start("high") in taken:
            continue
        unit = _seconds(match["unit"])
        low = _count(match["low"]) if match["low"] else None
        high = _count(match["high"])
        whole = _seconds(match["of"]) if match["of"] else LONGEST_YEARS * _SECONDS["year"]
        sound.append(0 < high * unit <= whole and (low is None or 0 <= low <= high))
    for match in _ISO_DURATION.finditer(text):
        total = sum(int(count or 0) * _SECONDS[unit] for count, unit in zip(match.groups(), _ISO_UNITS, strict=True))
        sound.append(0 < total <= LONGEST_YEARS * _SECONDS["year"])
    return sound


def _seconds(unit: str) -> float:
    unit = unit.lower()
    return _SECONDS["century" if unit.startswith("centur") else unit]


def _count(written: str) -> float:
    sign = -1.0 if written.startswith("-") else 1.0
    written = written.lstrip("-").lower()
    return sign * (_COUNT_WORDS.index(written) if written in _COUNT_WORDS else float(written.replace(",", "")))
