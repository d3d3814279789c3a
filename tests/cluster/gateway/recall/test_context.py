"""Packing: never over the budget, never without what has to be there, calls with their results, order kept."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.gateway.recall.context import KINDS, Packed, Piece, exchange_pieces, pack, parts_of, shared_words
from protos.gen.inference_pb2 import Message, ToolCall


def conversation(turns: Sequence[tuple[bool, int]]) -> list[Message]:
    """User turns, each with its answer, perhaps after so many tool calls; the last is not answered yet."""
    messages = []
    for at, (answered, calls) in enumerate(turns):
        messages.append(Message(role="user", content=f"question {at}"))
        if calls:
            made = [ToolCall(id=f"{at}.{call}", name="f", arguments="{}") for call in range(calls)]
            messages.append(Message(role="assistant", tool_calls=made))
            messages += [Message(role="tool", content="result", tool_call_id=call.id) for call in made]
        if answered:
            messages.append(Message(role="assistant", content=f"answer {at}"))
    return [*messages, Message(role="user", content="and now?")]


TURNS = st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=6).map(conversation)
SYSTEM = st.lists(st.just(Message(role="system", content="be brief")), max_size=2)
SHARE = st.floats(0, 1)
PIECES = st.lists(
    st.builds(Piece, st.sampled_from(KINDS), st.just("x"), st.integers(0, 30), SHARE, SHARE, SHARE, SHARE), max_size=12
)


@given(system=SYSTEM, turns=TURNS, after=st.integers(0, 2))
def test_parts_are_the_conversation_and_no_call_is_without_its_results(system, turns, after: int):
    made = [ToolCall(id=f"now.{call}", name="f", arguments="{}") for call in range(after)]
    ending = [Message(role="assistant", tool_calls=made)] if after else []
    ending += [Message(role="tool", content="r", tool_call_id=call.id) for call in made]
    messages = [*system, *turns, *ending]
    parts = parts_of(messages)
    assert [*parts.opening, *(each for part in parts.exchanges for each in part), *parts.ending] == messages
    assert list(parts.opening) == system
    assert parts.ending[0] == Message(role="user", content="and now?")
    for part in [*parts.exchanges, parts.ending]:
        called = {call.id for each in part for call in each.tool_calls}
        assert {each.tool_call_id for each in part if each.role == "tool"} == called


@given(
    pieces=PIECES, budget=st.integers(0, 120), base=st.integers(0, 60), more=st.lists(st.integers(0, 5), min_size=12)
)
def test_a_prompt_is_never_over_its_budget(pieces: list[Piece], budget: int, base: int, more: list[int]):
    """Also where a piece turns out to be longer than it was taken for."""

    def count(taken: Sequence[int]) -> int:
        return base + sum(pieces[at].tokens + more[at] for at in taken)

    packed = pack(pieces, budget, count)
    assert packed == pack(pieces, budget, count)
    if packed is None:
        assert base > budget
        return
    assert packed.tokens == count(packed.taken) <= budget
    assert packed.taken == sorted(set(packed.taken))
    left = [at for at in range(len(pieces)) if at not in packed.taken]
    if not any(more):
        # Nothing left out would have fit in place of all that is of lower priority.
        for at in left:
            higher = [other for other in packed.taken if pieces[other].priority >= pieces[at].priority]
            assert count([*higher, at]) > budget


def test_priority_is_what_counts_and_later_ones_break_ties():
    def piece(relevance: float, recency: float) -> Piece:
        return Piece("working", "", 10, relevance, recency, 0, 0)

    pieces = [piece(0, 0.5), piece(1, 0.5), piece(0, 0.5), piece(0, 1)]
    for budget, taken in ((9, []), (10, [1]), (20, [1, 3]), (30, [1, 2, 3]), (40, [0, 1, 2, 3])):
        assert pack(pieces, budget, lambda some: 10 * len(some)) == Packed(taken, 10 * len(taken))


def test_what_an_exchange_is_worth():
    (called, plain) = exchange_pieces(
        [conversation([(True, 1)])[:-1], [Message(role="user", content="The blue whale sings")]],
        "Which whale sings?",
        lambda text: len(text.split()),
    )
    assert (called.importance, plain.importance) == (1.0, 0.5)
    assert (called.recency, plain.recency) == (0.5, 1.0)
    assert called.relevance == 0
    assert plain.relevance == pytest.approx(2 / 3)
    assert shared_words("", "x") == 0
