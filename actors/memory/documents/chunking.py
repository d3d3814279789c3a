"""A text as chunks: sentences put together up to a number of tokens, each chunk repeating the end of the one before.

Pure and deterministic: the same text gives the same chunks, so that ids, citations and prompts stay what they were.
Together the chunks hold every character of the text that is not white space; each is a range of it, cut nowhere else
than between sentences, unless a sentence alone is longer than a chunk.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

_PARAGRAPH = re.compile(r"\n[ \t\r\f\v]*\n\s*|\n(?=#{1,6} )")
_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’)\]*_]*+\s+|[。！？]+[」』”’]*\s*|\n\s*")
_SPACE = re.compile(r"\s+")
TOKEN_CHARACTERS = 16
"""What has more characters a token than this is taken to be too long without being tokenized: few texts have, and one
endless line must not hold up the embedder."""

CountTokens = Callable[[list[str]], Awaitable[list[int]]]
"""Tokens of each text; of one that is longer than the embedder reads, any number past that."""


class Span(NamedTuple):
    """Characters of a text, from start up to but without end, and how many tokens they are."""

    start: int
    end: int
    tokens: int = 0
    ends_paragraph: bool = False


class Range(NamedTuple):
    """A chunk: characters of the text, from start up to but without end."""

    start: int
    end: int


async def chunks_of(text: str, max_tokens: int, overlap_tokens: int, count: CountTokens) -> list[Range]:
    """Chunks of at most `max_tokens`, in order; `overlap_tokens` of them at most are repeated from the chunk before."""
    spans = sentence_spans(text)
    while unknown := [span for span in spans if not span.tokens]:
        short = [span for span in unknown if span.end - span.start <= TOKEN_CHARACTERS * max_tokens]
        counts = iter(await count([text[span.start : span.end] for span in short]))
        counted = {span.start: next(counts) for span in short}
        spans = [part for span in spans for part in _fitting(text, span, counted.get(span.start), max_tokens)]
    return pack(spans, max_tokens, overlap_tokens)


def sentence_spans(text: str) -> list[Span]:
    """The sentences of a text, without the white space around them. A line ends one, an empty line a paragraph."""
    spans, start = [], 0
    for end in [*_PARAGRAPH.finditer(text), None]:
        stop = end.start() if end else len(text)
        within = _stripped(text, [start, *(mark.end() for mark in _END.finditer(text, start, stop)), stop])
        spans += within[:-1] + [span._replace(ends_paragraph=True) for span in within[-1:]]
        start = end.end() if end else stop
    return spans


def pack(spans: Sequence[Span], max_tokens: int, overlap_tokens: int) -> list[Range]:
    """Spans put together in order. Of a chunk at least half full the end is a paragraph's, where one ends there.

    |-- sentence --|-- sentence --|-- sentence --|-- sentence --|
    |----------------- chunk -----------------|
                              |- overlap -|------- next chunk -------|
    """
    chunks: list[Range] = []
    first = 0
    while first < len(spans):
        last, tokens, half = first, spans[first].tokens, first
        while True:
            if spans[last].ends_paragraph and tokens * 2 >= max_tokens:
                half = last + 1
            if last + 1 == len(spans) or tokens + spans[last + 1].tokens > max_tokens:
                break
            last += 1
            tokens += spans[last].tokens
        after = last + 1
        if after < len(spans) and half > first:
            after = half
        chunks.append(Range(spans[first].start, spans[after - 1].end))
        if after == len(spans):
            break
        # A chunk brings something new: what is repeated leaves room for the next sentence, and is not all of the last.
        back, repeated = after, 0
        while back - 1 > first and repeated + spans[back - 1].tokens <= min(
            overlap_tokens, max_tokens - spans[after].tokens
        ):
            back -= 1
            repeated += spans[back].tokens
        first = back
    return chunks


def _stripped(text: str, cuts: Sequence[int]) -> list[Span]:
    spans = []
    for at, until in pairwise(cuts):
        piece = text[at:until]
        if inner := piece.strip():
            start = at + len(piece) - len(piece.lstrip())
            spans.append(Span(start, start + len(inner)))
    return spans


def _fitting(text: str, span: Span, tokens: int | None, max_tokens: int) -> list[Span]:
    """A span with its tokens where they are known and not too many; else in two, at the white space nearest to its
    middle, or there where it has none."""
    if span.tokens:
        return [span]
    if tokens is not None and (tokens <= max_tokens or span.end - span.start == 1):
        return [span._replace(tokens=min(max(tokens, 1), max_tokens))]
    middle = (span.start + span.end) // 2
    spaces = (space.start() for space in _SPACE.finditer(text, span.start, span.end))
    cut = min(spaces, key=lambda place: abs(place - middle), default=middle)
    first, second = _stripped(text, [span.start, cut, span.end])
    return [first, second._replace(ends_paragraph=span.ends_paragraph)]
