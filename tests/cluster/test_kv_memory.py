"""KV memory on the real model: tiers, pressure, swaps and the disk change where KV lies, never who is answered."""

import asyncio
import itertools
from pathlib import Path
from typing import Any

import openai
import pytest

from actors.base.channel import connect
from cluster.local import LocalCluster
from protos.gen import scheduler_pb2
from protos.gen.scheduler_pb2_grpc import SchedulerStub
from tests.cluster.test_prefix_cache import metric
from tests.conftest import settings

pytestmark = pytest.mark.asyncio(loop_scope="module")
MODEL = "smollm2-135m-instruct"
PAGE, PAGE_BYTES = 16, 16 * 23040
STORY = "The keeper of the lighthouse counts the ships that pass the rock in the fog of the night. "


def client(cluster: LocalCluster) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{cluster.http}/v1", api_key="none", max_retries=0, timeout=240)


async def ask(cluster: LocalCluster, text: str, tokens: int = 24, form: str = "f16", **more: Any) -> str:
    completion = await client(cluster).completions.create(
        model=MODEL,
        prompt=text,
        max_tokens=tokens,
        extra_body={"ignore_eos": True, "russet": {"kv_format": form}},
        **{"temperature": 0, **more},
    )
    assert completion.usage is not None
    assert completion.usage.completion_tokens == tokens
    return completion.choices[0].text


async def sound(cluster: LocalCluster) -> None:
    stub = SchedulerStub(connect(cluster.directory.find(f"scheduler-{MODEL}-0")))
    check = await stub.Check(scheduler_pb2.CheckRequest())
    assert list(check.problems) == []


async def test_200_requests_with_room_for_20_are_all_answered_as_alone(home: Path) -> None:
    """Each needs 3 pages at its end; 60 there are. Rows give way, wait, and come back."""
    tight = settings(home, models__0__kv_memory_bytes=60 * PAGE_BYTES, scheduler__lease_tokens=4)
    async with LocalCluster(tight) as cluster:
        texts = [f"Number {index} of the ships that the keeper saw was called" for index in range(200)]
        alone = [await ask(cluster, text, 28) for text in texts[::25]]
        together = await asyncio.gather(*(ask(cluster, text, 28) for text in texts))
        assert together[::25] == alone
        assert await metric(cluster, "vllm:num_preemptions_total") > 0
        await sound(cluster)


async def test_formats_mix_in_one_batch_and_f16_stays_exact(home: Path) -> None:
    config = settings(
        home, deterministic=False, scheduler__kv_tail_tokens=64, models__0__kv_memory_bytes=600 * PAGE_BYTES
    )
    samplings: list[dict[str, Any]] = [
        {},
        {"temperature": 1.0, "seed": 5},
        {"temperature": 0.8, "seed": 6, "frequency_penalty": 0.5},
    ]
    text = STORY * 20
    async with LocalCluster(config) as cluster:
        alone = [await ask(cluster, f"{index} {text}", 40, **sampling) for index, sampling in enumerate(samplings)]
        exact = [ask(cluster, f"{index} {text}", 40, **sampling) for index, sampling in enumerate(samplings)]
        others = [ask(cluster, f"{index + 9} {text}", 40, form) for index, form in enumerate(("q8", "q4", "auto"))]
        answers = await asyncio.gather(*exact, *others)
        assert answers[:3] == alone
        assert await metric(cluster, "russet_kv_demoted_tokens_total") > 2 * 192
        again = await asyncio.gather(
            *(ask(cluster, f"{i + 9} {text}", 40, form) for i, form in enumerate(("q8", "q4")))
        )
        assert all(len(answer) > 40 for answer in again), "blocks that are found again are read as they are"
        await sound(cluster)


async def test_a_restart_loses_no_session(home: Path) -> None:
    """After it, the conversation is read from disk, and answered as if nothing had happened."""
    session: dict[str, Any] = {"ignore_eos": True, "russet": {"session_id": "s"}}

    async def say(cluster: LocalCluster, text: str) -> Any:
        return await client(cluster).chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": text}],
            max_tokens=24,
            temperature=0,
            extra_body=session,
        )

    lines = [STORY * 12, "And what then?", "Why?"]
    async with LocalCluster(settings(home / "a")) as cluster:
        expected = [(await say(cluster, line)).choices[0].message.content for line in lines]
    answers = []
    for line in lines:
        async with LocalCluster(settings(home / "b")) as cluster:
            answers.append(await say(cluster, line))
    assert [answer.choices[0].message.content for answer in answers] == expected
    for before, answer in itertools.pairwise(answers):
        known = before.usage.prompt_tokens + before.usage.completion_tokens - 1
        assert answer.russet["kv"]["restored_tokens"] == known // PAGE * PAGE


async def test_a_budget_that_is_short_quantizes_those_who_allow_it(home: Path) -> None:
    config = settings(
        home, deterministic=False, scheduler__kv_tail_tokens=64, models__0__kv_memory_bytes=100 * PAGE_BYTES
    )
    text = STORY * 25
    async with LocalCluster(config) as cluster:
        await asyncio.gather(*(ask(cluster, f"{index} {text}", 60, "auto") for index in range(3)))
        assert await metric(cluster, "russet_kv_demoted_tokens_total") > 0
        await sound(cluster)
