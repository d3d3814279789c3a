"""The soak's own arithmetic: it would see what it is to see."""

import json
from typing import Any

import pytest

from tests.soak.__main__ import verdict
from tests.soak.streams import answer_of
from tests.soak.watch import Kill, growth, pauses

SOUND: dict[str, Any] = {"failed": 0, "left": {}, "orphans": 0, "memory_growth": 0.0}


def chunk(**choice: Any) -> dict[str, Any]:
    return {"choices": [{"finish_reason": None, **choice}]}


def test_what_events_say_is_put_together() -> None:
    calls = [{"index": 0, "function": {"name": "f", "arguments": ""}}, {"index": 0, "function": {"arguments": "{}"}}]
    logprobs = {"content": [{"token": "a", "logprob": -1.0, "top_logprobs": [{"token": "b", "logprob": -2.0}]}]}
    events = [
        chunk(text="on"),
        chunk(delta={"content": "ce"}, logprobs=logprobs),
        *(chunk(delta={"tool_calls": [call]}) for call in calls),
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    ]
    assert json.loads(answer_of(events)) == {
        "text": "once",
        "calls": [[0, ["f", "{}"]]],
        "logprobs": [["a", ["b"]]],
        "finish": "stop",
    }


@pytest.mark.parametrize(
    ("events", "said"), [([chunk(text="a")], "without a reason"), ([{"error": {"message": "gone"}}], "gone")]
)
def test_a_stream_that_broke_is_no_answer(events: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        answer_of(events)


def test_growth_is_that_of_the_last_third_over_the_middle_one() -> None:
    filling = [(at, 100.0 * at) for at in range(10)]
    steady = [(at, 1000.0) for at in range(10, 20)]
    leaking = [(at, 1050.0) for at in range(20, 30)]
    assert growth(filling + steady + leaking) == pytest.approx(0.05)
    assert growth(filling + steady + [(at, 1000.0) for at in range(20, 30)]) == 0


def test_a_kills_pause_is_the_longest_silence_that_it_fell_into() -> None:
    kills = [Kill("worker", 100.0, True), Kill("router", 200.0, True)]
    silences = [(101.5, 1.6), (100.4, 0.5), (150.0, 9.0), (199.0, 5.0)]
    assert pauses(kills, silences) == [1.6, 0.0]


@pytest.mark.parametrize(
    "change",
    [{"failed": 1}, {"left": {"vllm:num_requests_running{}": 1.0}}, {"orphans": 2}, {"memory_growth": 0.021}],
)
def test_the_verdict_names_what_is_wrong(change: dict[str, Any]) -> None:
    assert verdict(SOUND) == []
    assert len(verdict(SOUND | change)) == 1
