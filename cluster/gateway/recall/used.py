"""Which passages of its prompt an answer is made of: those that it cites, else those that share its words. Pure."""

import re
from collections.abc import Sequence

LEAST_SHARE = 0.3
"""Of the words that an answer has and its question has not, a passage that was used has at least these."""
LEAST_OF_BEST = 0.5
"""And at least this share of what the passage with the most has."""
_CITED = re.compile(r"\[(\d{1,3})\]")
_WORD = re.compile(r"\w{4,}")


def used_passages(answer: str, question: str, passages: Sequence[str]) -> list[int]:
    """Indices of `passages`, ascending. Passage i is the one that an answer cites as [i + 1]."""
    cited = {int(number) - 1 for number in _CITED.findall(answer)} & set(range(len(passages)))
    if cited:
        return sorted(cited)
    told = set(_WORD.findall(answer.lower())) - set(_WORD.findall(question.lower()))
    if not told:
        return []
    shares = [len(told & set(_WORD.findall(passage.lower()))) / len(told) for passage in passages]
    least = max(LEAST_SHARE, LEAST_OF_BEST * max(shares, default=0.0))
    return [at for at, share in enumerate(shares) if share >= least]
