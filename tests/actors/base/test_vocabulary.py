"""The tokenizer: exact bytes of every token, special tokens only where they are wanted."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.base.errors import InvalidArgument
from actors.base.vocabulary import Vocabulary
from protos.gen import worker_pb2
from tests.oracles import tiny_llama


def byte_level(**fields) -> Vocabulary:
    given = {"bos_id": 1, "eos_ids": [2], "vocab_size": len(tiny_llama.TOKENS) + 5} | fields
    return Vocabulary.from_message(
        worker_pb2.Vocabulary(tokenizer_json=json.dumps(tiny_llama.tokenizer_json()).encode(), **given)
    )


VOCABULARY = byte_level()


@given(st.text())
@settings(max_examples=200)
def test_bytes_of_the_tokens_are_the_bytes_of_the_text(text):
    ids = VOCABULARY.encode(text, special=False)
    assert b"".join(map(VOCABULARY.token_bytes, ids)) == text.encode()
    assert VOCABULARY.decode(ids) == text


def test_merges_are_applied():
    assert [VOCABULARY.token_bytes(token) for token in VOCABULARY.encode("hello hello")] == [
        b"hello",
        b" he",
        b"ll",
        b"o",
    ]


def test_a_character_may_span_tokens_and_a_cut_one_is_replaced():
    ids = VOCABULARY.encode("é")
    assert [VOCABULARY.token_bytes(token) for token in ids] == [b"\xc3", b"\xa9"]
    assert VOCABULARY.decode(ids[:1]) == "�"


def test_special_tokens_are_read_only_where_wanted():
    assert VOCABULARY.encode("<|im_end|>") == [2]
    plain = VOCABULARY.encode("<|im_end|>", special=False)
    assert 2 not in plain
    assert VOCABULARY.decode(plain) == "<|im_end|>"
    # The switch of one call is not seen by the next.
    assert VOCABULARY.encode("<|im_end|>") == [2]


def test_special_tokens_are_left_out_of_text_unless_asked_for():
    ids = VOCABULARY.encode("<|im_start|>he<|im_end|>")
    assert VOCABULARY.decode(ids) == "he"
    assert VOCABULARY.decode(ids, skip_special=False) == "<|im_start|>he<|im_end|>"
    assert VOCABULARY.special_ids == {0, 1, 2}
    assert VOCABULARY.token_bytes(2) == b"<|im_end|>"


def test_bos_by_the_models_wish_or_the_callers():
    assert VOCABULARY.encode("he") == VOCABULARY.encode("he", add_bos=False)
    assert VOCABULARY.encode("he", add_bos=True) == [1, *VOCABULARY.encode("he")]
    wanting = byte_level(add_bos=True)
    assert wanting.encode("he") == [1, *wanting.encode("he", add_bos=False)]
    assert byte_level(add_bos=True, bos_id=None).encode("he") == VOCABULARY.encode("he")


def test_rows_past_the_vocabulary_are_empty():
    assert VOCABULARY.size == len(tiny_llama.TOKENS) + 5
    assert VOCABULARY.token_bytes(VOCABULARY.size - 1) == b""
    assert VOCABULARY.decode([VOCABULARY.size - 1, *VOCABULARY.encode("he")]) == "he"


def test_truncation_and_padding_of_the_file_are_not_applied():
    document = tiny_llama.tokenizer_json() | {
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    }
    vocabulary = Vocabulary(worker_pb2.Vocabulary(tokenizer_json=json.dumps(document).encode()))
    assert len(vocabulary.encode("abcdef")) == 6


@pytest.mark.parametrize("raw", [b"", b"{}", b"not json", b'{"version": "1.0", "model": {"type": "Nonsense"}}'])
def test_what_is_no_tokenizer_is_refused(raw):
    with pytest.raises(InvalidArgument, match=r"tokenizer\.json"):
        Vocabulary(worker_pb2.Vocabulary(tokenizer_json=raw))


def test_a_tokenizer_without_exact_bytes_is_refused():
    document = tiny_llama.tokenizer_json() | {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}
    with pytest.raises(InvalidArgument, match="WordPiece"):
        Vocabulary(worker_pb2.Vocabulary(tokenizer_json=json.dumps(document).encode()))
