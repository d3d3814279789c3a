"""The form of a prompt: length and shape, language and code signals, domain. Counted, never guessed by a model.

A prompt longer than HEAD and TAIL together is read at both ends: its length tells the rest, at no more cost.
"""

import math
import re
from collections.abc import Iterable

import numpy as np

HEAD, TAIL = 1280, 768
"""Characters read of a long prompt: what it begins with, and the question at its end."""

SHAPE = (
    "log_characters",
    "log_characters_squared",
    "past_150_characters",
    "past_300_characters",
    "past_600_characters",
    "past_1200_characters",
    "log_words",
    "word_length",
    "log_lines",
    "log_longest_line",
    "log_sentences",
    "words_per_sentence",
    "question_marks",
    "ends_asking",
    "log_numbers",
    "share_of_numbers",
    "share_of_operators",
    "share_of_capitals",
    "share_of_shouted_words",
    "share_of_punctuation",
    "share_of_distinct_words",
    "has_options",
    "options",
    "log_stem",
    "log_longest_option",
    "spread_of_options",
    "share_of_numeric_options",
    "negated",
    "negation_shouted",
    "has_blank",
    "asks_quantity",
    "enumerates_statements",
)
LANGUAGE = (
    "share_beyond_ascii",
    "share_latin_accented",
    "share_cyrillic_or_greek",
    "share_east_asian",
    "share_other_scripts",
    "share_of_english_stopwords",
    "share_of_other_stopwords",
    "has_code_fence",
    "share_of_indented_lines",
    "share_of_brackets",
    "share_of_code_words",
    "share_of_identifiers",
    "share_of_maths_markup",
    "has_path_or_address",
    "share_of_tags",
    "looks_like_json",
)
DOMAINS = {
    "maths": "sum product equation integer prime polynomial triangle graph probability average percent ratio solve "
    "function matrix vector derivative integral theorem group ring field digits angle radius total each twice half",
    "code": "code python javascript java function bug compile class api sql database algorithm program array string "
    "recursive loop git server test refactor typescript rust software computer memory network binary",
    "law": "court law defendant plaintiff contract statute jury crime murder constitutional amendment tort liability "
    "attorney appeal sued evidence property landlord deed offense guilty trial legal rights",
    "medicine": "patient disease treatment symptoms blood physician cancer clinical diagnosis infection pain drug "
    "pressure examination history muscle nerve virus vaccine syndrome therapy dose surgery",
    "science": "energy force mass velocity electron atom molecule reaction acid species cell gene dna protein planet "
    "star light wave temperature gas solution chemical evolution organism current",
    "history": "war century empire king government president treaty revolution policy political party state election "
    "colonial soviet military nation ancient religion church archaeological security",
    "business": "price market demand supply cost tax inflation firm income profit investment interest bank stock "
    "company product consumer accounting revenue monopoly audit marketing management economy",
    "mind": "behavior psychologist psychology moral wrong ethical theory child cognitive learning therapist society "
    "social philosopher argument belief memory emotion personality scenario person attitude",
    "writing": "write essay story poem email letter blog article summarize rewrite translate draft tone paragraph "
    "headline speech character compose review edit imagine describe",
}
OTHER_DOMAIN = "other"


def _terms(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


_ENGLISH = _terms("the of and to in is a that for it with as on are was by be this from which or an at")
_OTHER = _terms(
    "de la el que y los se del las un por con una le les des et est pour dans der die und das ist nicht ein zu den mit "
    "von o os da em um para não uma il di che è per non sono"
)
_CODE = _terms(
    "def class return import from self const let var function if else for while public static void int print select "
    "insert update where async await lambda try except struct fn use include #include null none true false"
)
_OF_DOMAIN = {word: place for place, terms in reversed(list(enumerate(DOMAINS.values()))) for word in _terms(terms)}
_NEGATIONS = _terms("not except never least incorrect false cannot without")
_SHOUTED = frozenset(("NOT", "EXCEPT", "LEAST"))
_EDGES = ".,;:!?\"'()[]{}"
_OPTION = re.compile(r"^\(?([A-J1-9])[.):]\s+(.*)$", re.MULTILINE)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_SENTENCE_END = re.compile(r"[.?!](?=\s|$)")
_IDENTIFIER = re.compile(r"\b(?:[a-z]+_[a-z_0-9]+|[a-z]+[A-Z]\w*)\b|\w\(")
_MARKUP = re.compile(r"[$^\\]|\b[a-z] ?= ?")
_PATH = re.compile(r"https?://|(?:^|\s)[./~]*/\w+/")
_TAG = re.compile(r"</?[a-zA-Z][^>\n]{0,80}>")
_STATEMENTS = re.compile(r"\b(?:statement|scenario|premise|step) ?(?:1|i)\b|\bI\. |\(1\)", re.IGNORECASE)
_QUANTITY = re.compile(r"\bhow (?:many|much|long|far|old)\b", re.IGNORECASE)

# One pass over the code points tells the kinds of characters apart.
_OPERATORS, _BRACKETS, _PUNCTUATION = "+-*/=^<>%$|~", "{}[]();", ".,;:!?\"'`"


def form(text: str) -> list[float]:
    """Values of SHAPE, LANGUAGE and the domains' one-hots, in that order, each of about unit size."""
    read = text if len(text) <= HEAD + TAIL else text[:HEAD] + "\n" + text[-TAIL:]
    size, count = len(text), max(1, len(read))
    points = np.frombuffer(read.encode("utf-32-le", "replace"), np.uint32)
    ascii_counts = np.bincount(np.minimum(points, 128), minlength=129)
    words = read.split()
    plain = [word.strip(_EDGES) for word in words]
    lowered = [word.lower() for word in plain]
    several = max(1, len(words))
    lines = read.split("\n")
    marks = list(_OPTION.finditer(read))
    options = [mark.group(2).strip() for mark in marks] if len(marks) > 1 else []
    stem = read[: marks[0].start()] if options else read
    lengths = [len(option) for option in options] or [0]
    sentences = max(1, len(_SENTENCE_END.findall(stem)))
    numbers = len(_NUMBER.findall(read))
    logs = math.log1p(size)
    stem_words = {word.strip(_EDGES) for word in stem.split()}
    shape = (
        logs / 4,
        logs * logs / 40,
        *(max(0.0, logs - math.log1p(border)) for border in (150, 300, 600, 1200)),
        math.log1p(len(words)) / 4,
        sum(map(len, plain)) / several / 5,
        math.log1p(len(lines)) / 2,
        math.log1p(max(map(len, lines))) / 4,
        math.log1p(sentences),
        math.log1p(len(words) / sentences) / 2,
        math.log1p(_count(ascii_counts, "?")),
        float(stem.rstrip()[-1:] in ("?", ":")),
        math.log1p(numbers),
        numbers / several,
        10 * _count(ascii_counts, _OPERATORS) / count,
        10 * int(ascii_counts[65:91].sum()) / count,
        sum(len(word) > 1 and word.isupper() for word in plain) / several * 5,
        10 * _count(ascii_counts, _PUNCTUATION) / count,
        len(set(lowered)) / several,
        float(bool(options)),
        len(options) / 4,
        math.log1p(len(stem)) / 4,
        math.log1p(max(lengths)) / 4,
        math.log1p(max(lengths)) - math.log1p(min(lengths)),
        sum(_numeric(option) for option in options) / max(1, len(options)),
        float(not _NEGATIONS.isdisjoint(map(str.lower, stem_words))),
        float(not _SHOUTED.isdisjoint(stem_words)),
        float("__" in read),
        float(_QUANTITY.search(read) is not None),
        float(_STATEMENTS.search(read) is not None),
    )
    return [*shape, *_language(read, points, ascii_counts, lowered, lines), *_domain(lowered)]


def _language(
    read: str, points: np.ndarray, ascii_counts: np.ndarray, lowered: list[str], lines: list[str]
) -> Iterable[float]:
    count, several = max(1, len(read)), max(1, len(lowered))
    beyond = int(ascii_counts[128])
    scripts = (0.0, 0.0, 0.0, 0.0)
    if beyond:
        latin = int(((points >= 0xC0) & (points < 0x250)).sum())
        greek = int(((points >= 0x370) & (points < 0x530)).sum())
        other = int(((points >= 0x530) & (points < 0x1100)).sum())
        asian = int(((points >= 0x2E80) & (points < 0xD7B0)).sum())
        scripts = (10 * latin / count, greek / count, asian / count, other / count)
    return (
        10 * beyond / count,
        *scripts,
        sum(word in _ENGLISH for word in lowered) / several * 2,
        sum(word in _OTHER for word in lowered) / several * 2,
        float("```" in read),
        sum(line[:1] in (" ", "\t") for line in lines) / len(lines),
        10 * _count(ascii_counts, _BRACKETS) / count,
        sum(word in _CODE for word in lowered) / several * 2,
        len(_IDENTIFIER.findall(read)) / several,
        len(_MARKUP.findall(read)) / several,
        float(_PATH.search(read) is not None),
        len(_TAG.findall(read)) / several,
        float(read.lstrip()[:1] in ("{", "[") or '": ' in read),
    )


def _domain(lowered: list[str]) -> list[float]:
    votes = [0] * (len(DOMAINS) + 1)
    votes[-1] = 1
    for word in lowered:
        if (place := _OF_DOMAIN.get(word)) is not None:
            votes[place] += 1
    # With one word alone nothing is told: the other domain wins ties.
    best = max(range(len(votes)), key=lambda place: (votes[place], place))
    return [float(place == best) for place in range(len(votes))]


def _count(ascii_counts: np.ndarray, characters: str) -> int:
    return sum(int(ascii_counts[ord(character)]) for character in characters)


def _numeric(option: str) -> bool:
    return any(map(str.isdigit, option)) and sum(map(str.isalpha, option)) <= 6
