"""Chunks: ranges of the text, bounded in tokens, in order, overlapping, and together all that it says."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.memory.documents.chunking import Range, chunks_of, sentence_spans


async def words(texts: list[str]) -> list[int]:
    """A token is a word, or four characters of a longer one."""
    return [sum(-(-len(word) // 4) for word in text.split()) for text in texts]


def cut(text: str, most: int, overlap: int) -> list[Range]:
    return asyncio.run(chunks_of(text, most, overlap, words))


TEXT = st.lists(
    st.one_of(st.text(max_size=12), st.sampled_from([". ", "! ", "\n", "\n\n", " ", "a", "word ", "\n# ", "x" * 90])),
    max_size=60,
).map("".join)


@given(text=TEXT, most=st.integers(16, 40), share=st.floats(0, 0.5))
def test_what_chunks_always_are(text: str, most: int, share: float):
    overlap = int(most * share)
    chunks = cut(text, most, overlap)
    assert chunks == cut(text, most, overlap)
    for chunk in chunks:
        piece = text[chunk.start : chunk.end]
        assert piece == piece.strip() != ""
        assert asyncio.run(words([piece]))[0] <= most
    for before, after in pairwise(chunks):
        assert before.start < after.start
        assert before.end < after.end
        repeated = text[after.start : before.end] if after.start < before.end else ""
        assert asyncio.run(words([repeated]))[0] <= overlap
    covered = {at for chunk in chunks for at in range(chunk.start, chunk.end)}
    assert all(text[at].isspace() for at in range(len(text)) if at not in covered)


def test_sentences_and_paragraphs():
    text = "One is here. Two is there!\nThree\n\n# Four\nFive 3.5 goes on"
    spans = sentence_spans(text)
    told = [(text[span.start : span.end], span.ends_paragraph) for span in spans]
    assert told == [
        ("One is here.", False),
        ("Two is there!", False),
        ("Three", True),
        ("# Four", False),
        ("Five 3.5 goes on", True),
    ]


def test_a_chunk_ends_with_a_paragraph_where_it_is_half_full_and_repeats_the_end_of_the_last():
    first = " ".join(f"w{at}." for at in range(12))
    second = " ".join(f"v{at}." for at in range(12))
    text = f"{first}\n\n{second}"
    pieces = [text[start:end] for start, end in cut(text, 20, 0)]
    assert pieces == [first, second]
    pieces = [text[start:end] for start, end in cut(text, 20, 3)]
    assert pieces == [first, f"w9. w10. w11.\n\n{second}"]


@pytest.mark.parametrize("endless", ["." * 300_000, "x" * 300_000, "\n" * 300_000, "a. " * 100_000, '."' * 150_000])
def test_endless_lines_are_cut_too(endless: str):
    chunks = cut(endless, 200, 40)
    assert all(len(endless[start:end]) <= 16 * 200 for start, end in chunks)
    assert bool(chunks) == bool(endless.strip())
