"""Guessing tokens changes nothing that a client is told, beside how many passes it took."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio

from cluster.local import LocalCluster
from tests.conftest import settings

pytestmark = pytest.mark.asyncio(loop_scope="module")
TEXT = "The harbour was built in 1874. Ships from the north brought timber and dried fish, and left with grain."
SCHEMA = {
    "type": "object",
    "properties": {"population_in_thousands": {"type": "integer"}, "is_a_capital": {"type": "boolean"}},
    "required": ["population_in_thousands", "is_a_capital"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "town", "schema": SCHEMA, "strict": True}}
ASKED: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0, "prediction": {"type": "content", "content": TEXT}},
    {"temperature": 1, "seed": 4, "logprobs": True, "top_logprobs": 3},
    {"temperature": 0.7, "seed": 9, "frequency_penalty": 0.8, "extra_body": {"repetition_penalty": 1.1}},
    {"temperature": 1, "seed": 5, "response_format": FORM},
    {"temperature": 1, "seed": 6, "response_format": FORM, "logprobs": True},
    {"temperature": 0, "stop": ["timber"]},
    {"temperature": 0.5, "seed": 3, "n": 3},
    {"temperature": 0, "extra_body": {"russet": {"kv_format": "f16"}}},
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def plain() -> AsyncIterator[LocalCluster]:
    """The same without guesses."""
    path = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
    async with LocalCluster(settings(path, models__0__speculation="off")) as cluster:
        yield cluster
    shutil.rmtree(path, ignore_errors=True)


async def ask(cluster: LocalCluster, **options: Any) -> Any:
    async with openai.AsyncOpenAI(base_url=f"{cluster.http}/v1", api_key="none", max_retries=0) as client:
        question = [{"role": "user", "content": f"Repeat this text exactly: {TEXT}"}]
        return await client.chat.completions.create(
            model="smollm2-135m-instruct", messages=question, max_tokens=48, **options
        )


def said(answer: Any) -> list[Any]:
    return [(choice.message.content, choice.finish_reason, choice.logprobs) for choice in answer.choices]


async def test_every_option_says_the_same_with_and_without(local: LocalCluster, plain: LocalCluster) -> None:
    guessed = await asyncio.gather(*(ask(local, **options) for options in ASKED))
    for options, answer in zip(ASKED, guessed, strict=True):
        assert said(answer) == said(await ask(plain, **options)), options


async def test_forced_tokens_take_no_pass(plain: LocalCluster) -> None:
    """What a schema leaves no choice about is taken together even where nothing is guessed, and usage says so."""
    answer = await ask(plain, temperature=1, seed=5, response_format=FORM)
    assert set(json.loads(answer.choices[0].message.content)) == set(SCHEMA["required"])
    details = answer.usage.completion_tokens_details
    assert details.accepted_prediction_tokens > 8
    assert details.rejected_prediction_tokens == 0
    free = (await ask(plain, temperature=0)).usage
    assert free.completion_tokens_details.accepted_prediction_tokens == 0
