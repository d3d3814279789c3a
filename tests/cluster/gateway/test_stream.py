"""Text from tokens: the same however they are cut, and ended exactly at a stop string."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.gateway.stream import StopStrings, TextStream


class Pieces:
    """A vocabulary whose token i is `pieces[i]`; the last is special."""

    def __init__(self, pieces):
        self.pieces = [*pieces, b"<|end|>"]
        self.special_ids = frozenset({len(pieces)})

    def token_bytes(self, token):
        return self.pieces[token]


def run(pieces, stop=(), groups=None):
    """(text, tokens counted, stopped) of pieces pushed in groups of the sizes given."""
    stream = TextStream(Pieces(pieces), stop)
    ids, text = list(range(len(pieces))), ""
    for size in groups or [1] * len(ids):
        text += stream.push(ids[:size])
        ids = ids[size:]
    text += stream.push(ids)
    return text + stream.finish(), stream.tokens, stream.stopped


def cut(data, places):
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def expected(text, stops):
    """By brute force: the text before the stop string that ends first, the longest of those."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


texts = st.text(alphabet="ab 東é😀", max_size=30)
stops = st.lists(st.text(alphabet="ab東", min_size=1, max_size=4), max_size=4)


@given(st.binary(max_size=40) | texts.map(str.encode), st.lists(st.integers(0, 200)), st.lists(st.integers(0, 4)))
def test_any_split_of_tokens_gives_the_same_text(data, places, groups):
    assert run(cut(data, places), groups=groups)[0] == data.decode("utf-8", "replace")


@given(texts, stops, st.lists(st.integers(0, 200)), st.lists(st.integers(0, 4)))
def test_stop_strings_are_found_exactly(text, stop, places, groups):
    pieces = cut(text.encode(), places)
    found, tokens, stopped = run(pieces, stop, groups)
    assert (found, stopped) == expected(text, stop)
    if not stopped:
        assert tokens == len(pieces)


@given(texts, stops)
def test_what_is_given_out_is_never_taken_back(text, stop):
    stream = TextStream(Pieces([character.encode() for character in text]), stop)
    sent = ""
    for token in range(len(text)):
        sent += stream.push([token])
        assert expected(text, stop)[0].startswith(sent)


def test_a_character_split_over_tokens_waits_until_it_is_whole():
    stream = TextStream(Pieces([b"\xe6", b"\x9d", b"\xb1"]))
    assert [stream.push([token]) for token in range(3)] == ["", "", "東"]


def test_an_unfinished_character_is_replaced_only_at_the_end():
    stream = TextStream(Pieces([b"a\xe6\x9d"]))
    assert (stream.push([0]), stream.finish()) == ("a", "\ufffd")


def test_tokens_past_the_stop_string_count_for_nothing():
    assert run([b"on", b"e t", b"wo", b" more"], ["two"], groups=[4]) == ("one ", 3, True)


def test_special_tokens_have_no_text_but_count():
    pieces = [b"a", b"b"]
    stream = TextStream(Pieces(pieces))
    assert stream.push([0, 2, 1]) == "ab"
    assert stream.tokens == 3


def test_a_beginning_that_comes_to_nothing_is_released():
    finder = StopStrings(["aab"])
    assert [finder.push(c) for c in "aaac"] == ["", "", "a", "aac"]


@pytest.mark.parametrize(("text", "stop", "before"), [("xabc", ["b", "abc"], "xa"), ("xab", ["b", "ab"], "x")])
def test_the_first_to_end_wins_and_then_the_longest(text, stop, before):
    assert run([text.encode()], stop)[0] == before


class Spelling:
    """Byte-fallback and whole-character tokens: ids below 256 are bytes, the others are characters."""

    special_ids = frozenset({1 << 30})

    def token_bytes(self, token):
        return bytes([token]) if token < 256 else chr(token).encode()


spelled = st.lists(st.integers(0, 255) | st.sampled_from([ord(c) for c in "東é😀\u200d\ufe0f"]), max_size=30)


@given(spelled, stops, st.lists(st.integers(0, 4)), st.integers(0, 30))
def test_no_replacement_character_that_the_tokens_do_not_spell(ids, stop, groups, length):
    """Streamed in any groups, ended by a stop text or cut off by its length, each piece is of whole characters."""
    ids = [token for token in ids if not 0x80 <= token < 256 or token >= 256] if length % 2 else ids
    cut_off = ids[:length]
    stream, pieces, rest = TextStream(Spelling(), stop), [], list(cut_off)
    for size in groups:
        pieces.append(stream.push(rest[:size]))
        rest = rest[size:]
    pieces += [stream.push(rest), stream.finish()]
    whole = b"".join(map(Spelling().token_bytes, cut_off)).decode("utf-8", "replace")
    assert "".join(pieces) == expected(whole, stop)[0]
    for piece in pieces:
        piece.encode()  # no half of a surrogate pair
    if all(token < 0x80 or token >= 256 for token in cut_off):
        assert "\ufffd" not in "".join(pieces)


@given(st.text(alphabet="aé東😀", min_size=1, max_size=12), st.lists(st.integers(0, 60)), st.integers(0, 48))
def test_only_a_character_that_the_length_cut_is_replaced_and_only_at_the_end(text, places, length):
    data = text.encode()[:length]
    stream = TextStream(Pieces(cut(data, places)))
    streamed = "".join(stream.push([token]) for token in range(len(cut(data, places))))
    assert "\ufffd" not in streamed
    assert text.startswith(streamed)
    assert stream.finish() == ("" if streamed.encode() == data else "\ufffd")
