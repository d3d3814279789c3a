"""Words and sentences."""

import time
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.memory.quality.sentences import chosen, sentences, words
from actors.memory.quality.temporal import temporal_realism


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Dr. Smith paid 3.50 to Mr. Lee. He left.", ["Dr. Smith paid 3.50 to Mr. Lee.", "He left."]),
        ("J. R. Tolkien wrote it, e.g. it. So did I. Oh.", ["J. R. Tolkien wrote it, e.g. it.", "So did I.", "Oh."]),
        ("He said “Go.” Then he went... and came.", ["He said “Go.”", "Then he went... and came."]),
        ("It is 5 p.m. now. Late.", ["It is 5 p.m. now.", "Late."]),
        ("Steps:\n1. Boil water\n2) Add *tea*.\n- Wait\n\n---\n```\n", ["Steps:", "Boil water", "Add *tea*.", "Wait"]),
        ("# Title\n> A quote. Another.", ["Title", "A quote.", "Another."]),
        ("これは本です。あれも本だ！", ["これは本です。", "あれも本だ！"]),
        ("", []),
        ("...", []),
    ],
)  # fmt: skip
def test_sentences(text: str, found: list[str]) -> None:
    assert sentences(text) == found


@given(st.lists(st.sampled_from(["Ab", "CD", "ef", "42", ". ", "! ", "... ", "\n", " ", "。"]), max_size=30))
def test_no_word_is_lost(parts: list[str]) -> None:
    text = "".join(parts)
    assert [*filter(str.isalnum, "".join(sentences(text)))] == [*filter(str.isalnum, text)]


@pytest.mark.parametrize("text", ["." * 200_000, "a" * 200_000 + ". ", ('."' * 99_999), "- " * 99_999, "1 " * 99_999])
def test_no_text_takes_long(text: str) -> None:
    began = time.thread_time()
    sentences(text)
    words(text, 4096)
    temporal_realism(text, date(2026, 7, 1))
    assert time.thread_time() - began < 2, "quadratic time would be minutes"


def test_words() -> None:
    assert words("Don't stop: 3 times, ÉTÉ!", 9) == ["don", "t", "stop", "3", "times", "été"]
    assert words("本を読む ok", 9) == ["本", "を", "読", "む", "ok"]
    assert words("a b c d", 2) == ["a", "b"]
    assert words(",, !", 2) == [",", ","]
    assert words(" \n", 2) == []


@given(st.integers(0, 200), st.integers(2, 20))
def test_chosen_places_are_few_in_order_and_in_pairs(count: int, most: int) -> None:
    places = chosen(count, most)
    assert places == sorted(set(places))
    assert len(places) == (count if count <= most else most // 2 * 2)
    assert not places or (places[0] == 0 and 0 <= places[-1] < count)
    if count > most:
        assert all(after == before + 1 for before, after in zip(places[::2], places[1::2], strict=True))
