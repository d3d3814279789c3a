"""Diversity tells one that repeats itself from one that does not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.memory.quality.diversity import WORDS, distance, distinct, diversity
from actors.memory.quality.sentences import words

WORD = st.sampled_from("abcdefgh")
NONE = np.zeros((0, 3), np.float32)


def unit(*rows: list[float]) -> np.ndarray:
    vectors = np.array(rows, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_distinct_ngrams() -> None:
    assert distinct(words("the cat saw a dog", 99)) == 1
    # 2 of 4 words, 2 of 3 pairs, 2 of 2 triples.
    assert distinct(words("a b a b", 99)) == pytest.approx((2 / 4 + 2 / 3 + 2 / 2) / 3)
    assert distinct([]) == 1
    assert distinct(["a"] * 100) < 0.02


def test_distance_of_sentences() -> None:
    assert distance(unit([1, 0, 0])) is None
    assert distance(unit([1, 0, 0], [0, 1, 0])) == pytest.approx(1)
    assert distance(unit([1, 0, 0], [1, 0, 0], [0, 0, 1])) == pytest.approx(2 / 3)
    assert distance(unit([1, 0, 0], [-1, 0, 0])) == 1


def test_the_two_are_weighed() -> None:
    same, apart = unit([1, 0, 0], [1, 0, 0]), unit([1, 0, 0], [0, 1, 0])
    assert diversity(words("a b c", 99), apart) == pytest.approx(1)
    assert diversity(words("a b c", 99), same) == pytest.approx(0.4)
    assert diversity(words("a b a b", 99), apart) == pytest.approx(0.6 + 0.4 * distinct(words("a b a b", 99)))
    assert diversity(words("a b c", 99), NONE) == 1


@given(st.lists(WORD, min_size=1, max_size=40))
def test_saying_it_twice_is_never_more_diverse(said: list[str]) -> None:
    assert distinct(said * 2) <= distinct(said) + 1e-9
    assert 0 < distinct(said) <= 1


def test_only_so_many_words_count() -> None:
    said = [str(at) for at in range(WORDS)]
    assert distinct(said + said) == 1
