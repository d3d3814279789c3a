"""Uniqueness tells an answer given before from one that is new."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.memory.quality.sentences import words
from actors.memory.quality.uniqueness import SKETCH, TENANTS, Recent, similarity, sketch

WORDS = st.lists(st.sampled_from("abcde"), max_size=30)


def grams(said: list[str]) -> set[tuple[str, ...]]:
    return set(zip(said, said[1:], said[2:], strict=False)) or ({tuple(said)} if said else set())


@given(WORDS, WORDS)
def test_of_short_texts_the_similarity_is_jaccards(one: list[str], other: list[str]) -> None:
    either = grams(one) | grams(other)
    exact = len(grams(one) & grams(other)) / len(either) if either else 0
    assert similarity(sketch(one), sketch(other)) == pytest.approx(exact)


def test_of_long_texts_it_is_close() -> None:
    text = [f"w{at}" for at in range(4000)]
    one, other = text[:3000], text[1000:]
    exact = len(grams(one) & grams(other)) / len(grams(one) | grams(other))
    assert len(sketch(one)) == SKETCH
    assert similarity(sketch(one), sketch(other)) == pytest.approx(exact, abs=3 / SKETCH**0.5)


def test_what_was_said_before_is_not_unique() -> None:
    recent = Recent(each=4)
    say = sketch(words("the capital of France is Paris as everybody knows", 99))
    other = sketch(words("a quite different answer to another question altogether", 99))
    assert recent.uniqueness("a", "1", say) == 1
    assert recent.uniqueness("a", "2", other) == 1
    assert recent.uniqueness("a", "3", say) == 0
    nearly = sketch(words("the capital of France is Paris as all know", 99))
    assert 0 < recent.uniqueness("a", "4", nearly) < 1
    assert recent.uniqueness("b", "5", say) == 1, "another tenant's answers are nothing to this one"


def test_an_answer_that_is_scored_again_is_not_its_own_double() -> None:
    recent = Recent(each=4)
    say = sketch(words("once and only once", 99))
    assert [recent.uniqueness("a", "1", say) for _ in range(2)] == [1, 1]


def test_only_so_much_is_remembered() -> None:
    recent = Recent(each=2)
    says = [sketch(words(f"answer number {at} of them", 99)) for at in range(3)]
    for at, say in enumerate(says):
        recent.uniqueness("a", str(at), say)
    assert recent.uniqueness("a", "3", says[2]) == 0
    assert recent.uniqueness("a", "4", says[0]) == pytest.approx(1), "the oldest of two went when the third came"
    for tenant in range(TENANTS):
        recent.uniqueness(f"t{tenant}", "1", says[0])
    assert recent.uniqueness("a", "5", says[0]) == 1
