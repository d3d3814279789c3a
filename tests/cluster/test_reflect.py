"""Reflection with the real model: more answers hold to what was asked, and the first attempt is what it always was."""

import asyncio
import json
from typing import Any

import httpx
import jsonschema
import pytest

from cluster.local import LocalCluster

pytestmark = pytest.mark.asyncio(loop_scope="module")
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 24}, "country": {"type": "string", "maxLength": 24}},
    "required": ["city", "country"],
    "additionalProperties": False,
}
TASKS: list[tuple[str, dict[str, Any]]] = [
    ('Name a city in Europe as JSON with the keys "city" and "country".', {"json_schema": CITY}),
    ("Name one day of the week, one word only.", {"regex": "(Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"}),
    ("Write one sentence about the sea that has the word salt in it.", {"contains": "salt"}),
    ("Describe a rose, but never write the word red.", {"lacks": "red"}),
    ("What is gravity? At most 80 characters.", {"max_chars": 80}),
]


async def ask(local: LocalCluster, prompt: str, **more: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 48} | more
    async with httpx.AsyncClient(base_url=local.http, timeout=240) as client:
        return (await client.post("/v1/chat/completions", json=body)).raise_for_status().json()


def text_of(answer: dict[str, Any]) -> str:
    return answer["choices"][0]["message"]["content"]


def holds(text: str, assertion: dict[str, Any]) -> bool:
    """By other means than the gateway's, where there are any."""
    ((kind, value),) = assertion.items()
    if kind == "json_schema":
        try:
            return jsonschema.Draft202012Validator(value).is_valid(json.loads(text))
        except ValueError:
            return False
    if kind == "regex":
        return text.endswith("day") and text.isalpha()
    return {"contains": value in text, "lacks": value not in text}[kind] if kind != "max_chars" else len(text) <= value


async def test_more_answers_hold_to_what_was_asked(local: LocalCluster) -> None:
    rows = [(prompt, assertion, seed) for prompt, assertion in TASKS for seed in range(3)]
    plain = await asyncio.gather(*(ask(local, prompt, seed=seed) for prompt, _, seed in rows))
    reflected = await asyncio.gather(
        *(
            ask(local, prompt, seed=seed, russet={"reflect": {"assert": [assertion], "deadline_ms": 600_000}})
            for prompt, assertion, seed in rows
        )
    )
    before = [holds(text_of(answer), assertion) for answer, (_, assertion, _) in zip(plain, rows, strict=True)]
    after = [holds(text_of(answer), assertion) for answer, (_, assertion, _) in zip(reflected, rows, strict=True)]
    assert all(now or not then for then, now in zip(before, after, strict=True)), "none that passed is lost"
    assert sum(before) <= len(rows) // 2
    assert sum(after) >= 0.9 * len(rows), [row for row, held in zip(rows, after, strict=True) if not held]
    for answer, then, now in zip(reflected, before, after, strict=True):
        told = answer["russet"]["reflect"]
        assert told["passed"] == now
        assert (told["attempts"][0]["met"] == 1) == then, "the first attempt is what it always was"
        assert (told["confidence"] == 1) == then
        assert 0 < told["confidence"] <= 1


async def test_off_changes_nothing_and_on_only_what_does_not_pass(local: LocalCluster) -> None:
    prompt = "Write one sentence about the sea."
    for more in ({"temperature": 0}, {"seed": 11}, {"seed": 11, "top_p": 0.8, "presence_penalty": 1.0}):
        tells = {"logprobs": True, **more}
        plain = await ask(local, prompt, **tells)
        passing = await ask(local, prompt, russet={"reflect": {"assert": [{"max_chars": 10_000}]}}, **tells)
        assert plain["choices"] == passing["choices"], "the same tokens, with the same probabilities"
        assert plain["usage"]["completion_tokens"] == passing["usage"]["completion_tokens"]
        assert "reflect" not in plain["russet"]
