"""What of a conversation and of what was recalled goes into a prompt of bounded size. Pure decisions.

    working    the conversation's own earlier turns
    semantic   passages of documents
    episodic   what was said in earlier conversations
    procedural what answered questions like this one before, and was rated well or corrected

A piece's priority is a weighted mean of how near it is to the question, how recent, how important and how much used,
each 0 to 1. Pieces are taken by priority while there is room. What is always there: the system messages that a
conversation begins with, its last user message and all that follows it. An exchange (a user message, and what follows
it up to the next) is taken or left as a whole, so that no tool call is without its results; those taken stay in their
order.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

from protos.gen import inference_pb2

Kind = Literal["working", "semantic", "episodic", "procedural"]
KINDS: tuple[Kind, ...] = ("working", "semantic", "episodic", "procedural")
RELEVANCE, RECENCY, IMPORTANCE, USE = 0.4, 0.3, 0.2, 0.1
"""Weights of a priority."""
MESSAGE_TOKENS = 8
"""What a template puts around a message, about; what it really is, is counted in the end."""
_WORD = re.compile(r"\w{3,}")


class Piece(NamedTuple):
    """Something that may stand in the prompt. `tokens` about; the others 0..1."""

    kind: Kind
    id: str
    tokens: int
    relevance: float
    recency: float
    importance: float
    use: float

    @property
    def priority(self) -> float:
        """0..1."""
        weighted = RELEVANCE * self.relevance + RECENCY * self.recency + IMPORTANCE * self.importance
        return weighted + USE * self.use


@dataclass(frozen=True)
class Parts:
    """A conversation, cut where it may be left out."""

    opening: Sequence[inference_pb2.Message]
    """The system messages that it begins with."""
    exchanges: Sequence[Sequence[inference_pb2.Message]]
    """Earlier turns."""
    ending: Sequence[inference_pb2.Message]
    """The last user message and all that follows it."""


class Packed(NamedTuple):
    """Which pieces are taken (indices, ascending), and the tokens that the prompt has with them."""

    taken: list[int]
    tokens: int


def parts_of(messages: Sequence[inference_pb2.Message]) -> Parts:
    """Cut before each user message; without one, all is the ending."""
    first = next((at for at, each in enumerate(messages) if each.role not in ("system", "developer")), len(messages))
    users = [at for at in range(first, len(messages)) if messages[at].role == "user"]
    last = users[-1] if users else first
    cuts = sorted({first, *users[:-1], last})
    exchanges = [messages[at:until] for at, until in pairwise(cuts)]
    return Parts(messages[:first], exchanges, messages[last:])


def pack(pieces: Sequence[Piece], budget: int, count: Callable[[Sequence[int]], int]) -> Packed | None:
    """The pieces that fit into `budget` tokens, those of the highest priority first, of equal ones the later first.

    `count`: the tokens of the whole prompt with these pieces (indices, ascending). None: it is too long without any.
    """
    room = budget - count([])
    if room < 0:
        return None
    taken: list[int] = []
    for index in sorted(range(len(pieces)), key=lambda at: (-pieces[at].priority, -at)):
        if pieces[index].tokens <= room:
            taken.append(index)
            room -= pieces[index].tokens
    while (tokens := count(sorted(taken))) > budget:
        taken.pop()  # The last taken is of the lowest priority.
    return Packed(sorted(taken), tokens)


def exchange_pieces(
    exchanges: Sequence[Sequence[inference_pb2.Message]], question: str, tokens: Callable[[str], int]
) -> list[Piece]:
    """The earlier turns as pieces: near by the words that they share with the question, recent by their place,
    important where tools were called."""
    pieces = []
    for at, messages in enumerate(exchanges):
        text = "\n".join([each.content + "".join(call.arguments for call in each.tool_calls) for each in messages])
        called = any(each.tool_calls for each in messages)
        pieces.append(
            Piece(
                "working",
                str(at),
                tokens(text) + MESSAGE_TOKENS * len(messages),
                relevance=shared_words(question, text),
                recency=(at + 1) / len(exchanges),
                importance=1.0 if called else 0.5,
                use=0.0,
            )
        )
    return pieces


def shared_words(question: str, text: str) -> float:
    """The share of a question's words (of three letters and more) that a text has."""
    asked = set(_WORD.findall(question.lower()))
    return len(asked & set(_WORD.findall(text.lower()))) / len(asked) if asked else 0.0


def decayed(age_ms: float, half_life_ms: float) -> float:
    """Recency of something so old: 1 now, half after `half_life_ms`."""
    return 0.5 ** (max(0.0, age_ms) / half_life_ms)
