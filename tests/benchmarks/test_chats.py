"""An answer is read as its client saw it, and no two texts begin alike."""

import json
from itertools import combinations

import pytest

from actors.base.errors import RussetError
from actors.base.vocabulary import Vocabulary
from actors.worker.models import load_model
from cluster.gateway.chat import ChatTemplate
from tests.benchmarks.chats import Answer, Texts, found, percent_found, read
from tests.benchmarks.decoding import MODEL

RECORDS = [
    {"question": "A hen lays an egg a day. How many in a week?", "answer": "7 eggs."},
    {"question": "A hen lays an egg a day. How many in a year?", "answer": "365 eggs."},
]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(load_model(MODEL).vocabulary)


def events(*events: dict[str, object]) -> list[tuple[float, bytes]]:
    """They arrive a second apart."""
    lines = [(float(at), b"data: " + json.dumps(event).encode()) for at, event in enumerate(events, 1)]
    return [*lines, (9.0, b"data: [DONE]")]


def piece(content: str | None, finish: str | None = None) -> dict[str, object]:
    return {"choices": [{"delta": {"content": content}, "finish_reason": finish}]}


USAGE = {
    "choices": [],
    "usage": {"prompt_tokens": 50, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 48}},
}


def test_the_first_token_is_the_first_text() -> None:
    answer = read(events(piece(""), piece("Seven"), piece(" eggs"), piece(None, "stop"), USAGE), 5.5)
    assert answer == Answer("Seven eggs", 2.0, 5.5, 50, 48, 2)


def test_an_answer_without_text_has_its_end_for_a_first_token() -> None:
    assert read(events(piece(""), piece(None, "stop"), USAGE), 5.5).first_s == 2.0


def test_a_server_that_says_nothing_of_its_cache_found_nothing() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 50, "completion_tokens": 2}}
    assert read(events(piece("Seven", "length"), usage), 5.5).cached_tokens == 0


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (events(piece("Seven")), "before its finish_reason"),
        (events(piece("Seven", "stop")), "without a usage"),
        (events({"error": {"message": "the replica is gone"}}), "the replica is gone"),
    ],
)
def test_a_stream_that_is_not_whole_is_no_answer(what: list[tuple[float, bytes]], said: str) -> None:
    with pytest.raises(RussetError, match=said):
        read(what, 5.5)


@pytest.mark.parametrize(("cached", "tokens"), [(0, 0), (16, 0), (20, 0), (32, 12), (120, 100), (160, 100)])
def test_of_a_piece_only_its_own_tokens_are_found(cached: int, tokens: int) -> None:
    assert found(Answer("", 0, 0, 200, cached, 1), before=20, tokens=100) == tokens


def test_the_share_found_is_of_tokens_not_of_requests() -> None:
    assert percent_found([Answer("", 0, 0, 300, 300, 1), Answer("", 0, 0, 100, 0, 1)]) == 75


def test_texts_have_the_asked_size_and_never_begin_alike(vocabulary: Vocabulary) -> None:
    texts = Texts(vocabulary, RECORDS)
    passages = [texts.passage(200) for _ in range(12)]  # the two records come many times
    assert all(abs(passage.tokens - 200) <= 2 for passage in passages)
    pieces = [*(passage.text for passage in passages), *(texts.question() for _ in range(12)), texts.sentence()]
    assert all(one[:8] != other[:8] for one, other in combinations(pieces, 2))


def test_tokens_before_a_message_are_those_of_the_rendered_conversation(vocabulary: Vocabulary) -> None:
    texts = Texts(vocabulary, RECORDS)
    messages = [{"role": "system", "content": "One word."}, {"role": "user", "content": "Tell me."}]
    rendered = ChatTemplate(vocabulary, timeout_s=5, max_chars=1000).render(messages)
    for system, content in ((None, "One word."), ("One word.", "Tell me.")):
        before = vocabulary.encode(rendered, add_bos=False)[: texts.tokens_before(system)]
        assert vocabulary.decode(before, skip_special=False) == rendered[: rendered.index(content)]
