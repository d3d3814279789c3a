"""A text's words and sentences, by rules that need no model.

A line ends a sentence; so do . ! ? and … before a space and no small letter, unless they end an abbreviation, an
initial or a list's number; so do the full stops of Chinese and Japanese. What has fewer than two letters or digits is
no sentence: rules, bullets, fences of code.
"""

import re
from itertools import islice

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
_MARK = re.compile(r"\S")
_BULLET = re.compile(r"^\s*(?:[-*+•>#|]+\s+|\(?\d{1,3}[.)]\s+|\(?[a-z][.)]\s+)+")
_END = re.compile(r"(?:(?<![.!?…])(?P<mark>[.!?…]++)[\"'”’)\]*_]*+\s+|[。！？]+[」』”’]*\s*)")
_BEFORE = re.compile(r"[^\s(\[\"'“‘]*$")
_ABBREVIATIONS = (
    r"mr|mrs|ms|dr|prof|st|sr|jr|vs|etc|e\.g|i\.e|cf|approx|fig|no|vol|inc|ltd|co|corp|dept|est|al|a\.m|p\.m|u\.s|u\.k"
    r"|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mt|gen|col|capt|lt|sgt|rev|hon"
)
_NO_END = re.compile(rf"(?:{_ABBREVIATIONS}|[a-hj-z])", re.IGNORECASE)
"""A word whose full stop is its own: abbreviations, and initials (but not I)."""


def words(text: str, most: int) -> list[str]:
    """The first `most` words, lower case; a character is one in scripts without spaces, and in a text without words."""
    for word in (_WORD, _MARK):
        if found := [match[0].lower() for match in islice(word.finditer(text), most)]:
            return found
    return []


def sentences(text: str) -> list[str]:
    """The text's sentences in order, without white space around them and without a list's marks."""
    found = [sentence for line in text.splitlines() for sentence in _of_line(_BULLET.sub("", line))]
    return [sentence for sentence in found if sum(map(str.isalnum, sentence)) >= 2]


def _of_line(line: str) -> list[str]:
    found, start = [], 0
    for end in _END.finditer(line):
        if end["mark"] is None or _is_end(line, end):
            found.append(line[start : end.end()].strip())
            start = end.end()
    return [*found, line[start:].strip()]


def _is_end(line: str, end: re.Match[str]) -> bool:
    if line[end.end() : end.end() + 1].islower():
        return False
    if end["mark"] != ".":
        return True
    before = _BEFORE.search(line, max(0, end.start() - 16), end.start())
    return before is None or not _NO_END.fullmatch(before[0])


def chosen(count: int, most: int) -> list[int]:
    """Places of at most `most` (2 or more) of `count` sentences, in order: all, or pairs of neighbours spread evenly.

    count 11, most 6   |ab....cd..ef|  (pairs at 0, 4 or 5, and 9)
    """
    if count <= most:
        return list(range(count))
    pairs = most // 2
    starts = [round(pair * (count - 2) / max(pairs - 1, 1)) for pair in range(pairs)]
    return [place for start in starts for place in (start, start + 1)]
