"""What is asked of an answer, checked."""

import pytest

from actors.base.errors import InvalidArgument, TooLarge
from cluster.gateway.reflect.asked import (
    ReflectBody,
    check_readable,
    check_reflect,
    reflect_message,
)
from cluster.gateway.reflect.assertions import asks_quality, judged
from protos.gen.inference_pb2 import Assertion, ChatRequest, Choice, Decoding, Grammar, Reflect, ServerTools, Tool

LIST = Grammar(json_schema='{"type": "array", "uniqueItems": true}')


def asked(*assertions: Assertion, grammar: Grammar | None = None, **more) -> ChatRequest:
    return ChatRequest(decoding=Decoding(grammar=grammar), reflect=Reflect(assertions=assertions), **more)


@pytest.mark.parametrize(
    ("assertion", "text", "met"),
    [
        (Assertion(contains="é"), "café", 1),
        (Assertion(contains="x"), "café", 0),
        (Assertion(lacks="x"), "café", 1),
        (Assertion(lacks="a"), "café", 0),
        (Assertion(max_chars=4), "café", 1),
        (Assertion(max_chars=2), "café", 0.5),
        (Assertion(quality=0.8), "café", 1),
        (Assertion(quality=0.9), "café", 0.8 / 0.9),
        (Assertion(grammar=LIST), "[1, 2]", 1),
        (Assertion(grammar=LIST), "[1, 1]", 0),
        (Assertion(grammar=Grammar(regex="[a-z]+")), "abc", 1),
        (Assertion(grammar=Grammar(regex="[a-z]+")), "abc!", 0.75),
    ],
)
def test_an_assertion_holds_or_says_why_not(assertion: Assertion, text: str, met: float) -> None:
    judgement = judged(text, asked(assertion), 0.8)
    assert judgement.met == pytest.approx(met)
    assert judgement.passed == (met == 1)
    assert bool(judgement.problems) == (met < 1)


def test_everything_asked_counts_the_same() -> None:
    request = asked(Assertion(contains="1"), Assertion(lacks="2"), grammar=LIST)
    assert judged("[1, 3]", request, "") == (1, ())
    assert judged("[1, 2]", request, "").met == pytest.approx(2 / 3)
    assert judged("[2, 2", request, "").problems == (
        "it is not JSON: Expecting ',' delimiter: line 1 column 6 (char 5)",
        'accepted is JSON of the schema {"type": "array", "uniqueItems": true}',
        "it does not contain '1'",
        "it contains '2'",
    )


@pytest.mark.parametrize(
    ("grammar", "wanted"),
    [
        (Grammar(regex="[a-z]+"), "accepted is what the regular expression [a-z]+ matches"),
        (Grammar(choice=Choice(texts=["yes", "no"])), "accepted is one of 'yes', 'no'"),
        (Grammar(lark="start: /[a-z]+/"), "accepted is what is of the grammar start: /[a-z]+/"),
    ],
)
def test_a_problem_says_what_would_be_accepted(grammar: Grammar, wanted: str) -> None:
    assert judged("A", asked(Assertion(grammar=grammar)), "").problems[-1] == wanted


def test_a_quality_that_is_not_known_is_not_met() -> None:
    judgement = judged("text", asked(Assertion(quality=0.1)), "memory is away")
    assert (judgement.met, judgement.problems) == (0, ("its quality is not known: memory is away",))
    assert asks_quality(asked(Assertion(quality=0.1)).reflect.assertions)
    assert not asks_quality(asked(Assertion(contains="q")).reflect.assertions)


def test_a_body_is_the_same_as_its_message() -> None:
    written = {
        "attempts": 2,
        "deadline_ms": 5000,
        "assert": [
            {"json_schema": {"type": "object"}},
            {"json_schema": True},
            {"regex": "a+"},
            {"choice": ["a", "b"]},
            {"lark": "start: /a/"},
            {"gbnf": "root ::= [a]"},
            {"contains": "x"},
            {"lacks": "y"},
            {"max_chars": 9},
            {"quality": 0.5},
        ],
    }
    message = reflect_message(ReflectBody.model_validate(written))
    assert (message.attempts, message.deadline_ms) == (2, 5000)
    assert list(message.assertions) == [
        Assertion(grammar=Grammar(json_schema='{"type": "object"}')),
        Assertion(grammar=Grammar(json_schema="true")),
        Assertion(grammar=Grammar(regex="a+")),
        Assertion(grammar=Grammar(choice=Choice(texts=["a", "b"]))),
        Assertion(grammar=Grammar(lark="start: /a/")),
        Assertion(grammar=Grammar(gbnf="root ::= [a]")),
        Assertion(contains="x"),
        Assertion(lacks="y"),
        Assertion(max_chars=9),
        Assertion(quality=0.5),
    ]
    default = reflect_message(ReflectBody())
    assert (default.attempts, default.deadline_ms, len(default.assertions)) == (3, 60_000, 0)


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (asked(), "russet.reflect.assert"),
        (asked(Assertion()), "russet.reflect.assert.0"),
        (asked(Assertion(contains="x"), Assertion(contains="")), "russet.reflect.assert.1.contains"),
        (asked(Assertion(lacks="x" * 2000)), "russet.reflect.assert.0.lacks"),
        (asked(Assertion(max_chars=0)), "russet.reflect.assert.0.max_chars"),
        (asked(Assertion(quality=1.5)), "russet.reflect.assert.0.quality"),
        (asked(Assertion(quality=float("nan"))), "russet.reflect.assert.0.quality"),
        (asked(*[Assertion(contains="x")] * 17), "russet.reflect.assert"),
        (asked(Assertion(contains="x"), session_id="s"), "russet.session_id"),
        (asked(Assertion(contains="x"), tools=[Tool(name="t")]), "tools"),
        (asked(Assertion(contains="x"), server_tools=ServerTools(all=True)), "russet.tools"),
        (asked(Assertion(grammar=Grammar(regex="a" * 600_000))), "russet.reflect.assert.0"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(request_: ChatRequest, param: str) -> None:
    with pytest.raises((InvalidArgument, TooLarge)) as caught:
        check_reflect(request_)
    assert caught.value.param == param


@pytest.mark.parametrize("number", [{"attempts": 4}, {"deadline_ms": 600_001}])
def test_numbers_are_bounded(number: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_reflect(ChatRequest(reflect=Reflect(assertions=[Assertion(contains="x")], **number)))
    assert caught.value.param == f"russet.reflect.{next(iter(number))}"


@pytest.mark.parametrize(
    "grammar", [Grammar(regex="("), Grammar(json_schema='{"type": 3}'), Grammar(lark="nonsense"), Grammar()]
)
def test_what_cannot_be_checked_is_refused(grammar: Grammar) -> None:
    with pytest.raises(InvalidArgument):
        check_readable(asked(Assertion(grammar=grammar)))


def test_what_cannot_be_enforced_can_be_checked() -> None:
    check_readable(asked(Assertion(grammar=LIST)))
