"""Constrained rows: what they say is of their grammar, and they change no other row, whatever happens to the batch."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from typing import Any

import pytest
from llguidance import LLTokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from actors.worker.engine import Engine
from actors.worker.grammar import tokenizer_of
from actors.worker.matcher import Matcher
from actors.worker.steady import Steady
from protos.gen import inference_pb2, worker_pb2
from tests.actors.worker.foresight import Foresight

END = 95
FIRST = 32
"""Token i is the character 32 + i; the last one ends an answer."""
LANGUAGES: dict[str, tuple[dict[str, Any], str]] = {
    "regex": ({"regex": "[a-f]{3,9}-[0-9]{2,30}"}, r"[a-f]{3,9}-[0-9]{2,30}"),
    "choice": ({"choice": inference_pb2.Choice(texts=["red", "green", "greenish"])}, r"red|green(ish)?"),
    "lark": ({"lark": 'start: "<" word ("," word)* ">"\nword: /[a-z]{1,4}/'}, r"<[a-z]{1,4}(,[a-z]{1,4})*>"),
    "gbnf": ({"gbnf": 'root ::= [A-C]+ "." tail\ntail ::= ("x" | "y") [0-9]{4}'}, r"[A-C]+\.[xy][0-9]{4}"),
    "schema": (
        {"json_schema": '{"type":"array","items":{"type":"boolean"},"minItems":2,"maxItems":3}'},
        r"\[\s*(true|false)(\s*,\s*(true|false)){1,2}\s*\]",
    ),
}


def vocabulary() -> worker_pb2.Vocabulary:
    tokenizer = Tokenizer(models.BPE(vocab={chr(FIRST + i) if i else "Ġ": i for i in range(END)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    return worker_pb2.Vocabulary(tokenizer_json=tokenizer.to_str().encode(), eos_ids=[END], vocab_size=END + 1)


def text(tokens: list[int]) -> str:
    return "".join(chr(FIRST + token) for token in tokens if token != END)


@pytest.fixture
def batch(scheduler, monkeypatch) -> Iterator[Callable[..., Any]]:
    """batch(decoder): a scheduler whose engine has a vocabulary; start rows with grammar=..."""
    engines: list[Engine] = []
    build = Engine.__init__

    def with_vocabulary(self: Engine, *arguments: Any, **options: Any) -> None:
        build(self, *arguments, **options, vocabulary=vocabulary())
        engines.append(self)

    monkeypatch.setattr(Engine, "__init__", with_vocabulary)
    yield scheduler
    for engine in engines:
        engine._grammars.close()


def start(work: Any, row: int, prompt: list[int], grammar: dict[str, Any] | None, **options: Any) -> None:
    options = {"temperature": 1.0, "seed": 100 + row, "stop_ids": [END], "max_length": 90} | options
    work.start(row, prompt, **options)
    if grammar is not None:
        work.rows[row].start.grammar.CopyFrom(inference_pb2.Grammar(**grammar))


def finish(work: Any, step_tokens: int = 64) -> dict[int, list[int]]:
    """Run to the end, waiting for grammars that compile where nothing else can run."""
    work.plan(step_tokens)
    while True:
        if work.tick():
            continue
        compiling = list(work.engine._grammars._compiling.values())
        if not compiling:
            return {row: state.output for row, state in work.rows.items()}
        wait(compiling)


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_said_is_of_the_grammar(decoder, batch, language: str) -> None:
    grammar, pattern = LANGUAGES[language]
    work = batch(decoder)
    for row in range(8):
        start(work, row, [3 + row, 7], grammar)
    said = finish(work)
    complete = [text(tokens) for row, tokens in said.items() if work.rows[row].end == worker_pb2.ROW_STOP]
    assert len(complete) >= 6, said
    for answer in complete:
        assert re.fullmatch(pattern, answer, re.S), answer
    assert len(set(map(text, said.values()))) > 1, "drawn, not given"


def test_a_row_says_in_a_mixed_batch_what_it_says_alone(decoder, batch) -> None:
    rows = [(row, [1 + row] * (1 + 5 * row), grammar) for row, (grammar, _) in enumerate(LANGUAGES.values())]
    rows += [(row, [row, 2, row], None) for row in range(len(rows), 10)]
    together = batch(decoder)
    for row, prompt, grammar in rows:
        start(together, row, prompt, grammar, frequency_penalty=0.5 if row % 3 == 1 else 0.0)
    said = finish(together, step_tokens=8)
    for row, prompt, grammar in rows:
        alone = batch(decoder)
        start(alone, row, prompt, grammar, frequency_penalty=0.5 if row % 3 == 1 else 0.0)
        assert finish(alone)[row] == said[row]


def test_the_same_with_and_without_stretches(toy, batch, monkeypatch) -> None:
    def said() -> dict[int, list[int]]:
        work = batch(toy)
        for row, (grammar, _) in enumerate(LANGUAGES.values()):
            start(work, row, [5 + row, 6], grammar)
        return finish(work)

    fast = said()
    monkeypatch.setattr(Steady, "of", classmethod(lambda cls, rows, slots, most=None: None))
    assert said() == fast


@pytest.mark.parametrize("emitted", [1, 4, 7])
def test_a_resumed_row_goes_on_as_it_would_have(toy, batch, emitted: int) -> None:
    grammar, _ = LANGUAGES["gbnf"]
    work = batch(toy)
    start(work, 0, [9, 8, 7], grammar, seed=5)
    whole = finish(work)[0]
    assert len(whole) > emitted
    again = batch(toy)
    start(again, 0, [9, 8, 7, *whole[:emitted]], grammar, seed=5, prompt_tokens=3)
    assert finish(again)[0] == whole


def test_a_row_dropped_and_started_again_elsewhere_in_the_batch(toy, batch) -> None:
    """Preemption: its slot goes to another row meanwhile, with another grammar."""
    grammar, _ = LANGUAGES["lark"]
    work = batch(toy)
    start(work, 0, [4, 4], grammar, seed=3)
    whole = finish(work)[0]
    work = batch(toy)
    start(work, 0, [4, 4], grammar, seed=3)
    work.lease(0, 5)
    work.plan()
    while not work.rows[0].output:
        if not work.tick():
            wait(work.engine._grammars._compiling.values())
    first = work.drop(0)
    assert 0 < len(first.output) < len(whole)
    start(work, 1, [6, 6], LANGUAGES["regex"][0])
    start(work, 2, [4, 4, *first.output], grammar, seed=3, prompt_tokens=2)
    said = finish(work)
    assert said[2] == whole
    assert re.fullmatch(LANGUAGES["regex"][1], text(said[1]))


def test_a_grammar_that_cannot_be_matched_ends_its_row_alone(toy, batch) -> None:
    work = batch(toy)
    start(work, 0, [1, 2], {"lark": "start: nowhere"}, logprobs=2)
    start(work, 1, [1, 2], LANGUAGES["choice"][0], logprobs=2)
    start(work, 2, [1, 2, 50], LANGUAGES["choice"][0], prompt_tokens=2, logprobs=2)
    said = finish(work)
    assert work.rows[0].end == worker_pb2.ROW_ERROR
    assert "nowhere" in work.rows[0].error
    assert not said[0]
    assert re.fullmatch(LANGUAGES["choice"][1], text(said[1]))
    assert "emitted before are not of its grammar" in work.rows[2].error
    told = [len(work.rows[row].logprobs.chosen) for row in range(3)]
    assert told == [0, len(said[1]), 0], "nothing is told of what is thrown away"


def test_a_row_that_cannot_be_compiled_yet_keeps_nobody_waiting(toy, batch, monkeypatch) -> None:
    work = batch(toy)
    grammars = work.engine._grammars
    compiled, held = grammars._compiler.matcher, threading.Event()

    def slowly(start: worker_pb2.RowStart) -> Matcher:
        held.wait(20)
        return compiled(start)

    monkeypatch.setattr(grammars._compiler, "matcher", slowly)
    start(work, 0, [1] * 12, LANGUAGES["choice"][0])
    start(work, 1, [2, 3], None, max_length=40)
    work.plan()
    while work.rows[1].end == worker_pb2.ROW_RUNNING:
        assert work.tick()
    assert not work.rows[0].output
    assert work.rows[0].computed == 11, "all of its prompt but the token that draws"
    held.set()
    assert re.fullmatch(LANGUAGES["choice"][1], text(finish(work)[0]))


def test_a_step_that_fails_and_is_run_again_consumes_no_token_twice(toy, batch) -> None:
    def said(fail: Callable[[Any], bool]) -> dict[int, list[int]]:
        work = batch(toy)
        for row in range(3):
            start(work, row, [1 + row, 2], LANGUAGES["regex"][0])
        toy.fail = fail
        toy.batches.clear()
        return finish(work)

    whole = said(lambda batch: False)
    assert said(lambda batch: len(batch.lengths) > 1 and int(batch.lengths.max()) % 3 == 0) == whole


RECORDS = """{"type": "array", "items": {"type": "object", "additionalProperties": false, "required": ["a", "b"],
    "properties": {"a": {"type": "string"}, "b": {"type": "array", "items": {"type": "integer"}}, "c": {}}}}"""


@pytest.mark.parametrize("length", [70, 90, 150])
def test_a_structure_is_closed_within_its_tokens(toy, batch, length: int) -> None:
    work = batch(toy)
    for row in range(6):
        start(work, row, [3 + row, 7], {"json_schema": RECORDS, "close": True}, max_length=length)
    said = finish(work)
    for row, tokens in said.items():
        assert work.rows[row].end == worker_pb2.ROW_STOP, text(tokens)
        assert all(set(each) >= {"a", "b"} for each in json.loads(text(tokens)))
    assert max(map(len, said.values())) > length - 60, "not sooner than need be"


def test_a_row_on_its_way_out_is_resumed_where_it_was(toy, batch) -> None:
    grammar = {"json_schema": RECORDS, "close": True}
    work = batch(toy)
    start(work, 0, [9, 8, 7], grammar, max_length=100)
    whole = finish(work)[0]
    for emitted in range(20, len(whole), 7):
        again = batch(toy)
        start(again, 0, [9, 8, 7, *whole[:emitted]], grammar, max_length=100, prompt_tokens=3)
        assert finish(again)[0] == whole


def test_what_cannot_be_closed_ends_by_its_length(toy, batch) -> None:
    work = batch(toy)
    start(work, 0, [9, 8], {"regex": "[a-z]{500}", "close": True}, max_length=60)
    assert len(finish(work)[0]) == 58
    assert work.rows[0].end == worker_pb2.ROW_LENGTH


def test_a_tokenizer_that_llguidance_does_not_read_is_taken_as_bytes() -> None:
    """SentencePiece pieces without byte fallback have no decoder that it knows."""
    pieces = {"▁": 0, "a": 1, "b": 2, "▁a": 3, "é": 4}
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=[("▁", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    message = worker_pb2.Vocabulary(tokenizer_json=tokenizer.to_str().encode(), eos_ids=[5], vocab_size=6)
    read = tokenizer_of(message)
    assert isinstance(read, LLTokenizer)
    assert [read.decode_bytes([token]) for token in range(5)] == [b" ", b"a", b"b", b" a", "é".encode()]


def test_tokens_without_a_choice_take_no_step_each(decoder, batch) -> None:
    """`true` is one choice and three tokens that follow from it."""
    work = batch(decoder)
    start(work, 0, [3, 7], LANGUAGES["schema"][0])
    said = finish(work)[0]
    forced = text(said).count("true") * 3 + text(said).count("false") * 4
    steps = work.results[-1].step
    assert forced >= 6
    assert steps <= len(said) - forced + 2 * text(said).count("e")
    assert sum(sum(result.accepted) for result in work.results) >= forced - 2 * text(said).count("e")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("right", [0.5, 0.95])
@pytest.mark.parametrize("branches", [False, True])
def test_guesses_change_nothing(decoder, batch, language: str, branches: bool, right: float) -> None:
    def rows(drafter: Foresight | None) -> Any:
        work = batch(decoder, drafter=drafter)
        for row in range(6):
            grammar = dict(LANGUAGES[language][0], close=row % 2 == 1)
            options = {"frequency_penalty": 0.5} if row == 2 else {"logprobs": 1} if row == 4 else {}
            start(work, row, [3 + row, 7], grammar if row < 5 else None, max_length=70 + row, **options)
        finish(work)
        return work

    plain = rows(None)
    said = {row: state.tokens for row, state in plain.rows.items()}
    guessed = rows(Foresight(said, right, branches=branches))
    assert {row: state.tokens for row, state in guessed.rows.items()} == said
    assert guessed.rows[4].logprobs.top_ids == plain.rows[4].logprobs.top_ids
    assert sum(sum(result.accepted) for result in guessed.results) > 10


def test_a_step_with_guesses_that_fails_is_run_again_without(toy, batch) -> None:
    def rows(drafter: Foresight | None, fail: Callable[[Any], bool]) -> Any:
        toy.fail = fail
        work = batch(toy, drafter=drafter)
        for row in range(4):
            start(work, row, [3 + row, 7], LANGUAGES["lark"][0], max_length=60)
        finish(work)
        return work

    said = {row: state.tokens for row, state in rows(None, lambda _: False).rows.items()}
    failures = iter(range(10_000))

    def fail(batch: Any) -> bool:
        return len(batch.tokens) > len(batch.lengths) and next(failures) % 3 == 0 and batch.lengths.max() > 4

    again = rows(Foresight(said, 0.9), fail)
    assert next(failures) > 6
    assert {row: state.tokens for row, state in again.rows.items()} == said
