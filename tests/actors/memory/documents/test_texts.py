"""Files that are texts are read, others refused by name."""

import pytest

from actors.base.errors import InvalidArgument, TooLarge
from actors.memory.documents.texts import text_of


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.txt", "grüße".encode(), "grüße"),
        ("A.MD", b"\xef\xbb\xbf# a", "# a"),
        ("a.json", b'{"a": 1}', '{"a": 1}'),
        ("a.jsonl", '{"a": "\u2028"}\n\n{"b": 2}\n'.encode(), '{"a": "\u2028"}\n\n{"b": 2}\n'),
    ],
)
def test_texts_are_read(name: str, content: bytes, text: str):
    assert text_of(name, content, 1000) == text


@pytest.mark.parametrize(
    ("name", "content", "kind", "says"),
    [
        ("a.pdf", b"%PDF", InvalidArgument, r"'a.pdf'; accepted are names that end with .txt, .text, .md"),
        ("a", b"a", InvalidArgument, "accepted are names"),
        ("", b"a", InvalidArgument, "filename of 0 characters"),
        ("a.txt", b"a\xff", InvalidArgument, "byte 1 is not UTF-8"),
        ("a.txt", b"ab\0", InvalidArgument, "character 2 is NUL"),
        ("a.txt", b" \n ", InvalidArgument, "is empty"),
        ("a.txt", b"a" * 1001, TooLarge, "1001 bytes; accepted: 1000"),
        ("a.json", b"{", InvalidArgument, "no JSON"),
        ("a.json", b"[" * 900, InvalidArgument, "no JSON"),
        ("a.jsonl", b"{}\n{", InvalidArgument, "no JSON: line 2"),
    ],
)
def test_others_are_refused_by_name(name: str, content: bytes, kind: type[Exception], says: str):
    with pytest.raises(kind, match=says):
        text_of(name, content, 1000)
