"""Tokenizers rebuilt from GGUF metadata behave like the models' own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.base.errors import InvalidArgument
from actors.base.vocabulary import Vocabulary
from actors.worker.models.gguf_tokenizer import vocabulary_message
from actors.worker.models.pretokenizers import PRE_TOKENIZERS
from tests.oracles import tiny_llama

ROWS = 1000


def byte_level(**changes) -> Vocabulary:
    metadata = tiny_llama.metadata() | {f"tokenizer.ggml.{key}": item for key, item in changes.items()}
    kept = {key: item for key, item in metadata.items() if item is not None}
    return Vocabulary(vocabulary_message(kept, ROWS, "m.gguf"))


def pieces(vocabulary: Vocabulary, text: str) -> list[bytes]:
    return [vocabulary.token_bytes(token) for token in vocabulary.encode(text)]


def merging(*words: str) -> dict:
    """Changes that add merges which build each word from its characters, left to right."""
    tokens, merges = list(tiny_llama.TOKENS), []
    for word in words:
        for end in range(2, len(word) + 1):
            if word[:end] not in tokens:
                tokens.append(word[:end])
                merges.append(f"{word[: end - 1]} {word[end - 1]}")
    kinds = np.array([3] * 3 + [1] * (len(tokens) - 3), np.int32)
    return {"tokens": tokens, "merges": merges, "token_type": kinds}


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
@given(text=st.text())
@settings(max_examples=50)
def test_no_byte_is_lost(pre, text):
    vocabulary = byte_level(pre=pre)
    # Qwen's normal form is NFC: composed characters come back for what was written apart.
    if PRE_TOKENIZERS[pre].normalizer is None:
        assert b"".join(pieces(vocabulary, text)) == text.encode()


def test_digits_stand_alone_or_in_threes_as_the_model_has_it():
    changes = merging("Ġ12", "1234")
    assert pieces(byte_level(pre="smollm", **changes), "1234") == [b"1", b"2", b"3", b"4"]
    assert pieces(byte_level(pre="qwen2", **changes), "1234") == [b"1", b"2", b"3", b"4"]
    assert pieces(byte_level(pre="llama-bpe", **changes), "1234") == [b"123", b"4"]
    assert pieces(byte_level(pre="gpt-2", **changes), "1234") == [b"1234"]
    assert pieces(byte_level(pre="gpt-2", **changes), " 12") == [b" 12"]
    assert pieces(byte_level(pre="smollm", **changes), " 12") == [b" ", b"1", b"2"]


def test_qwen_composes_characters():
    assert b"".join(pieces(byte_level(pre="qwen2"), "e\u0301")) == "é".encode()


def test_llama3_takes_a_whole_word_without_merges():
    tokens = [*tiny_llama.TOKENS, "xyz"]
    changes = {"tokens": tokens, "token_type": np.array([3] * 3 + [1] * (len(tokens) - 3), np.int32)}
    assert pieces(byte_level(pre="llama-bpe", **changes), "xyz") == [b"xyz"]
    assert pieces(byte_level(pre="gpt-2", **changes), "xyz") == [b"x", b"y", b"z"]


def test_control_tokens_are_special_and_user_defined_ones_are_text():
    kinds = tiny_llama.KINDS.copy()
    kinds[0] = 4
    vocabulary = byte_level(token_type=kinds)
    assert vocabulary.encode("a<|endoftext|><|im_end|>")[1:] == [0, 2]
    assert vocabulary.special_ids == {1, 2}
    assert vocabulary.decode([0, 2]) == "<|endoftext|>"


def test_special_ids_come_from_metadata_and_from_known_names():
    vocabulary = byte_level(eos_token_id=5)
    assert vocabulary.eos_ids == {0, 2, 5}  # <|endoftext|>, <|im_end|>, and the metadata's
    assert vocabulary.bos_id == 1
    assert vocabulary.chat_template == tiny_llama.CHAT_TEMPLATE
    assert byte_level(bos_token_id=None).bos_id is None
    assert byte_level(add_bos_token=None, pre="llama-bpe").message.add_bos
    assert not byte_level(add_bos_token=None, pre="smollm").message.add_bos


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "wordpiece"}, "'wordpiece'; supported are gpt2"),
        ({"pre": "unheard-of"}, "'unheard-of'; supported are gpt-2"),
        ({"tokens": None}, "no tokenizer"),
        ({"tokens": ["a"] * len(tiny_llama.TOKENS)}, "twice"),
        ({"token_type": np.array([1], np.int32)}, "token_type"),
        ({"eos_token_id": 10_000}, "eos_token_id is 10000"),
        ({"bos_token_id": -1}, "bos_token_id is -1"),
        ({"model": "llama"}, "scores"),
    ],
)
def test_what_does_not_fit_is_refused(changes, said):
    with pytest.raises(InvalidArgument, match=said):
        byte_level(**changes)


def test_more_tokens_than_rows_are_refused():
    with pytest.raises(InvalidArgument, match="only 10 rows"):
        vocabulary_message(tiny_llama.metadata(), 10, "m.gguf")


SPM = {"<unk>": 2, "<s>": 3, "</s>": 3} | {f"<0x{byte:02X}>": 6 for byte in range(256)}
PIECES = {"▁": -9.0, "h": -10.0, "e": -11.0, "l": -12.0, "o": -13.0, "he": -1.0, "▁he": -2.0, "ll": -3.0, "▁hell": -4.0}


def sentencepiece(**changes) -> Vocabulary:
    tokens = [*SPM, *PIECES]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.array([0.0] * len(SPM) + list(PIECES.values()), np.float32),
        "tokenizer.ggml.token_type": np.array([*SPM.values(), *[1] * len(PIECES)], np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    } | {f"tokenizer.ggml.{key}": item for key, item in changes.items()}
    return Vocabulary(vocabulary_message(metadata, ROWS, "m.gguf"))


def test_sentencepiece_merges_by_score_and_falls_back_to_bytes():
    vocabulary = sentencepiece()
    assert vocabulary.message.add_bos
    assert vocabulary.encode("hello")[0] == 1
    assert pieces(vocabulary, "hello")[1:] == [b" hell", b"o"]
    assert pieces(vocabulary, "hé")[1:] == [b" ", b"h", b"\xc3", b"\xa9"]


@given(text=st.text().filter(lambda text: "▁" not in text and "<" not in text))
@settings(max_examples=100)
def test_sentencepiece_round_trip(text):
    for vocabulary in (sentencepiece(), sentencepiece(add_space_prefix=False)):
        assert vocabulary.decode(vocabulary.encode(text)) == text


def test_sentencepiece_without_a_space_in_front():
    assert pieces(sentencepiece(add_space_prefix=False), "he")[1:] == [b"he"]
