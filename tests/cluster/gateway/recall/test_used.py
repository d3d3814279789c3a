"""Which passages an answer is made of."""

import pytest

from cluster.gateway.recall.used import used_passages

TIDES = "Tides are caused by the pull of the moon and of the sun on the seas."
BREAD = "Bread rises because yeast makes carbon dioxide out of sugar."


@pytest.mark.parametrize(
    ("answer", "question", "used"),
    [
        ("Yeast makes carbon dioxide.", "Why does bread rise?", [1]),
        ("The moon's pull moves the seas.", "What makes tides?", [0]),
        ("Because [2] says so, as does [9].", "Why?", [1]),
        ("Both [2] and [1].", "Why?", [0, 1]),
        ("Nobody knows that exactly.", "Why does bread rise?", []),
        ("Bread.", "Does bread rise?", []),
        ("", "Why?", []),
    ],
)
def test_used_are_those_cited_or_sharing_words(answer: str, question: str, used: list[int]):
    assert used_passages(answer, question, [TIDES, BREAD]) == used


def test_without_passages_none_is_used():
    assert used_passages("Yeast [1].", "Why?", []) == []
