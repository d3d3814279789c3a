"""A conversation's tokens: those that the model read and wrote, wherever they spell what is read now."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from actors.base.vocabulary import Vocabulary, byte_of_character
from cluster.gateway.prompt import continued
from protos.gen import worker_pb2

START, END, AB, BC = 256, 257, 258, 259


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    """Bytes, <s> 256, </s> 257, and the pairs "ab" 258 and "bc" 259, so that one text has several spellings."""
    pieces = {**byte_of_character(), "ab": AB, "bc": BC}
    tokenizer = Tokenizer(models.BPE(vocab={**pieces, "<s>": START, "</s>": END}, merges=[("a", "b"), ("b", "c")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<s>", "</s>")])
    message = worker_pb2.Vocabulary(tokenizer_json=tokenizer.to_str().encode(), vocab_size=260, eos_ids=[END])
    return Vocabulary.from_message(message)


def test_the_vocabulary_has_two_spellings(vocabulary):
    assert vocabulary.encode("abc") == [AB, ord("c")]
    assert vocabulary.token_bytes(ord("a")) + vocabulary.token_bytes(BC) == b"abc"


def test_an_answer_keeps_the_tokens_it_was_written_in(vocabulary):
    known = [START, ord("a"), BC]
    assert continued(vocabulary, known, "<s>abc</s><s>ab") == [*known, END, START, AB]


def test_what_nobody_wrote_is_tokenized_as_ever(vocabulary):
    assert continued(vocabulary, [], "<s>abc") == vocabulary.encode("<s>abc", add_bos=False)


def test_text_that_goes_on_within_the_answer_is_read_from_its_last_special_token(vocabulary):
    """A stop string was cut away, or the client edited the answer: what follows might join with what is before."""
    first, known = [START, ord("a"), BC, END], [START, ord("a"), BC, END, START, ord("a"), ord("b")]
    assert continued(vocabulary, known, "<s>abc</s><s>abc</s>") == [*first, START, AB, ord("c"), END]
    assert continued(vocabulary, known, "<s>abc</s><s>xyz") == [*first, START, *b"xyz"]


def test_another_conversation_keeps_nothing(vocabulary):
    assert continued(vocabulary, [START, ord("a"), BC], "abc</s>") == vocabulary.encode("abc</s>", add_bos=False)


def test_an_answer_that_ended_within_a_character(vocabulary):
    """Its text ends with U+FFFD, whose first bytes the cut character may share."""
    for cut in (b"\xef", b"\xef\xbf", b"\xe2\x82"):
        known = [START, *cut]
        text = "<s>\ufffd</s>"
        assert continued(vocabulary, known, text) == vocabulary.encode(text, add_bos=False)


PIECES = st.sampled_from([START, END, AB, BC, *b"abcx", *"é".encode()])


@given(known=st.lists(PIECES, max_size=12), text=st.text(st.sampled_from("abcxé"), max_size=6), kept=st.integers(0, 12))
def test_it_always_spells_the_text(vocabulary, known, text, kept):
    """Whatever is known, and however far it agrees: the ids are a spelling of the text, as long as that is text."""
    spelled = b"".join(map(vocabulary.token_bytes, known[:kept])).decode("utf-8", "replace") + "</s>" + text
    ids = continued(vocabulary, known, spelled)
    assert b"".join(map(vocabulary.token_bytes, ids)) == spelled.encode()
