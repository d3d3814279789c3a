"""The prefix cache on the real model: it saves work and changes no token."""

import asyncio
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion

from actors.base.channel import connect
from cluster.local import LocalCluster
from protos.gen import scheduler_pb2
from protos.gen.scheduler_pb2_grpc import SchedulerStub
from tests.conftest import settings

pytestmark = pytest.mark.asyncio(loop_scope="module")
MODEL = "smollm2-135m-instruct"
PAGE = 16
SYSTEM = "You are the keeper of a lighthouse on a small island, and you answer in short sentences. " * 3
QUESTIONS = ("What did you see last night?", "And what did you do then?", "Will it happen again?")


async def converse(cluster: LocalCluster, name: str, **sampling: Any) -> list[ChatCompletion]:
    """A conversation of three turns; each answer is 40 tokens long."""
    client = openai.AsyncOpenAI(base_url=f"{cluster.http}/v1", api_key="none", max_retries=0)
    messages: list[Any] = [{"role": "system", "content": SYSTEM}]
    answers = []
    for question in QUESTIONS:
        messages.append({"role": "user", "content": f"{question} Ask {name}."})
        answer = await client.chat.completions.create(
            model=MODEL, messages=messages, max_tokens=40, extra_body={"ignore_eos": True}, **sampling
        )
        messages.append({"role": "assistant", "content": answer.choices[0].message.content})
        answers.append(answer)
    return answers


def texts(answers: list[ChatCompletion]) -> list[str | None]:
    return [answer.choices[0].message.content for answer in answers]


def found(answer: ChatCompletion) -> int:
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    return answer.usage.prompt_tokens_details.cached_tokens or 0


async def metric(cluster: LocalCluster, name: str) -> float:
    """The sum over a metric's samples."""
    async with httpx.AsyncClient() as http:
        lines = (await http.get(f"{cluster.http}/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{"))


async def test_each_turn_finds_what_was_read_and_said_before(local: LocalCluster) -> None:
    queries, hits = [await metric(local, f"vllm:prefix_cache_{name}_total") for name in ("queries", "hits")]
    first, second, third = await converse(local, "Ann", temperature=0)
    for before, answer in ((first, second), (second, third)):
        assert before.usage is not None
        assert answer.usage is not None
        known = before.usage.prompt_tokens + before.usage.completion_tokens - 1
        assert found(answer) % PAGE == 0
        assert before.usage.prompt_tokens < found(answer) <= known, "its answer too, up to a page"
    again = await converse(local, "Ann", temperature=0)
    assert texts(again) == texts([first, second, third])
    assert again[0].usage is not None
    assert found(again[0]) >= (again[0].usage.prompt_tokens - 1) // PAGE * PAGE
    usages = [answer.usage for answer in (first, second, third, *again)]
    assert await metric(local, "vllm:prefix_cache_queries_total") - queries == sum(
        usage.prompt_tokens for usage in usages if usage
    )
    assert await metric(local, "vllm:prefix_cache_hits_total") - hits == sum(
        found(answer) for answer in (first, second, third, *again)
    )


async def test_the_tokens_are_the_same_without_it_also_after_preemption(home: Any) -> None:
    """Greedy and drawn, computed in one piece or found in pages of any origin, where four do not fit together."""
    samplings: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 1.0, "seed": 5},
        {"temperature": 0.8, "seed": 6, "frequency_penalty": 0.5},
        {"temperature": 1.2, "seed": 7, "top_p": 0.9},
    ]
    config = settings(home, scheduler__prefix_cache=False)
    async with LocalCluster(config) as without:
        alone = [texts(await converse(without, f"{index}", **sampling)) for index, sampling in enumerate(samplings)]
        assert await metric(without, "vllm:prefix_cache_hits_total") == 0
    # 32 pages of 16 tokens, of which each conversation needs 18 at its end, and leases too short to reserve them.
    tight = settings(home, models__0__kv_memory_bytes=32 * PAGE * 23040, scheduler__lease_tokens=4)
    async with LocalCluster(tight) as cluster:
        together = await asyncio.gather(
            *(converse(cluster, f"{index}", **sampling) for index, sampling in enumerate(samplings))
        )
        assert [texts(answers) for answers in together] == alone
        assert await metric(cluster, "vllm:prefix_cache_hits_total") > 0
        assert await metric(cluster, "russet_prefix_cache_evictions_total") > 0
        assert await metric(cluster, "vllm:num_preemptions_total") > 0
        check = await SchedulerStub(connect(cluster.directory.find(f"scheduler-{MODEL}-0"))).Check(
            scheduler_pb2.CheckRequest()
        )
        assert list(check.problems) == []
