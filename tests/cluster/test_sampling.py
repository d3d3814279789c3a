"""Every sampling option on the real model: in a mixed batch as alone, streamed as whole."""

import asyncio
import math
from typing import Any

import openai
import pytest

from actors.base.channel import connect
from actors.base.vocabulary import Vocabulary
from cluster.gateway.choices import derived_seed
from cluster.local import LocalCluster
from protos.gen import scheduler_pb2
from protos.gen.scheduler_pb2_grpc import SchedulerStub
from tests.conftest import settings

pytestmark = pytest.mark.asyncio(loop_scope="module")
MODEL = "smollm2-135m-instruct"
PROMPT = "Once upon a time there was a fox who"


def client(local: LocalCluster) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{local.http}/v1", api_key="none", max_retries=0)


async def complete(local: LocalCluster, **more: Any) -> Any:
    asked = {"model": MODEL, "prompt": PROMPT, "max_tokens": 16, "seed": 5, "extra_body": {"ignore_eos": True}}
    return await client(local).completions.create(**(asked | more))


OPTIONS: list[dict[str, Any]] = [
    {"logprobs": 5},
    {"logprobs": 0, "temperature": 0},
    {"logprobs": 20, "temperature": 1.4},
    {"logprobs": 3, "frequency_penalty": 1.0, "presence_penalty": 0.5},
    {"logprobs": 2, "logit_bias": {"260": 8}},
    {"logprobs": 1, "extra_body": {"top_k": 5, "min_tokens": 4, "repetition_penalty": 1.3}},
    {"temperature": 0.3, "stop": ["the", ". "]},
    {"extra_body": {"min_p": 0.1, "ignore_eos": True}},
    {"logprobs": 2, "extra_body": {"russet": {"grammar": {"regex": "[a-z ]{60}"}}}},
    {"logprobs": 1, "echo": True, "max_tokens": 4},
    {"logprobs": 1, "extra_body": {"russet": {"token_healing": True}}},
]


async def test_each_option_is_the_same_alone_and_in_a_mixed_batch_of_16(local: LocalCluster) -> None:
    asked = [option | {"seed": seed} for seed in (1, 2) for option in OPTIONS][:16]
    together = await asyncio.gather(*(complete(local, **each) for each in asked))
    for each, mixed in zip(asked, together, strict=True):
        alone = await complete(local, **each)
        assert (alone.choices[0].text, alone.choices[0].logprobs) == (mixed.choices[0].text, mixed.choices[0].logprobs)
        assert ("logprobs" in each) == (mixed.choices[0].logprobs is not None)


async def test_logprobs_are_probabilities_of_the_text(local: LocalCluster) -> None:
    choice = (await complete(local, logprobs=20)).choices[0]
    told = choice.logprobs
    assert "".join(told.tokens) == choice.text
    assert all(value <= 0 for value in told.token_logprobs)
    assert all(sum(map(math.exp, top.values())) <= 1 + 1e-4 for top in told.top_logprobs)
    assert all(
        top[token] == value
        for token, value, top in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True)
    )
    assert [choice.text[at:].startswith(token) for token, at in zip(told.tokens, told.text_offset, strict=True)] == [
        True
    ] * 16


async def test_streamed_logprobs_are_those_of_the_whole(local: LocalCluster) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Name three colours and an emoji."}],
        "seed": 3,
        "max_tokens": 40,
        "logprobs": True,
        "top_logprobs": 2,
    }
    whole = (await client(local).chat.completions.create(**asked)).choices[0]
    stream = await client(local).chat.completions.create(**asked, stream=True)
    chunks = [choice async for chunk in stream for choice in chunk.choices]
    assert [entry for choice in chunks if choice.logprobs for entry in choice.logprobs.content] == (
        whole.logprobs.content
    )
    data = bytes(byte for entry in whole.logprobs.content for byte in entry.bytes)
    assert data.decode("utf-8", "replace") == whole.message.content


async def test_preempted_requests_are_told_the_same(home: Any) -> None:
    # 40 pages of 16 tokens: four of these requests do not fit together.
    async with LocalCluster(settings(home, models__0__kv_memory_bytes=40 * 16 * 23040)) as tight:

        async def told(index: int) -> Any:
            prompt = f"Chapter {index}. " * 30
            return (await complete(tight, prompt=prompt, temperature=0, max_tokens=80, logprobs=2)).choices[0].logprobs

        alone = [await told(index) for index in range(4)]
        together = await asyncio.gather(*map(told, range(4)))
        metrics = (await client(tight)._client.get(f"{tight.http}/metrics")).text
        preemptions = [line for line in metrics.splitlines() if line.startswith("vllm:num_preemptions_total{")]
        assert sum(float(line.split()[-1]) for line in preemptions) > 0
        assert together == alone
        assert all(len(each.tokens) == 80 for each in together)


async def test_choice_0_is_what_the_request_alone_gives_and_the_prompt_is_computed_once(local: LocalCluster) -> None:
    prompt = "A list of things that a shared prompt of some length is good for. " * 12
    asked = {"prompt": prompt, "seed": 21, "temperature": 1.0, "logprobs": 1}
    many = await complete(local, **asked, n=4)
    alone = await complete(local, **asked)
    assert (many.choices[0].text, many.choices[0].logprobs) == (alone.choices[0].text, alone.choices[0].logprobs)
    assert len({choice.text for choice in many.choices}) > 1
    assert many.usage.prompt_tokens == alone.usage.prompt_tokens
    assert many.usage.completion_tokens == 4 * 16
    for index in (1, 3):
        seed = derived_seed(21, index)
        assert (await complete(local, **(asked | {"seed": seed}))).choices[0].text == many.choices[index].text
    stream = await complete(local, **asked, n=4, stream=True)
    texts = [""] * 4
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in many.choices]


async def test_choices_share_one_prefill(local: LocalCluster) -> None:
    async def prefilled() -> float:
        text = (await client(local)._client.get(f"{local.http}/metrics")).text
        lines = [line for line in text.splitlines() if line.startswith("russet_worker_tokens_total{")]
        return sum(float(line.split()[-1]) for line in lines if 'kind="prefill"' in line)

    before = await prefilled()
    answer = await complete(local, prompt="Nobody has asked this before, and it is long. " * 20, n=8, max_tokens=4)
    computed = await prefilled() - before
    # Whole pages are shared; each choice computes what is left over of the last one.
    assert computed < answer.usage.prompt_tokens + 8 * 16
    assert answer.usage.prompt_tokens > 200


async def test_best_of_gives_the_likeliest_of_its_candidates(local: LocalCluster) -> None:
    asked = {"seed": 4, "temperature": 1.5, "logprobs": 0}
    candidates = [(await complete(local, **asked | {"seed": seed})).choices[0] for seed in seeds(4, 4)]
    means = {choice.text: sum(choice.logprobs.token_logprobs) / 16 for choice in candidates}
    best = await complete(local, **asked, best_of=4, n=2)
    assert [choice.text for choice in best.choices] == sorted(means, key=means.__getitem__, reverse=True)[:2]
    assert best.usage.completion_tokens == 64


def seeds(seed: int, count: int) -> list[int]:
    return [seed, *(derived_seed(seed, index) for index in range(1, count))]


async def test_a_stop_token_id_ends_the_answer_and_is_no_part_of_it(local: LocalCluster) -> None:
    whole = await complete(local, temperature=0, logprobs=0)
    text = whole.choices[0].logprobs.tokens
    service = local.directory.find(f"scheduler-{MODEL}-0")
    described = await SchedulerStub(connect(service)).Describe(scheduler_pb2.DescribeRequest())
    vocabulary = Vocabulary.from_message(described.vocabulary)
    stop = next(token for token in range(vocabulary.size) if vocabulary.token_bytes(token) == text[5].encode())
    first = text.index(text[5])
    extra = {"ignore_eos": True, "russet": {"stop_token_ids": [stop]}}
    ended = await complete(local, temperature=0, extra_body=extra)
    assert (ended.choices[0].text, ended.choices[0].finish_reason) == ("".join(text[:first]), "stop")
    later = await complete(local, temperature=0, extra_body=extra | {"min_tokens": 16})
    assert later.usage.completion_tokens == 16


async def test_an_echoed_prompt_is_told_like_the_answer_that_it_was(local: LocalCluster) -> None:
    """Prompt and answer sent back as a prompt: every token has the log-probability that it was drawn with."""
    asked = {"temperature": 0.8, "seed": 9, "logprobs": 2}
    drawn = (await complete(local, **asked, echo=True)).choices[0]
    assert drawn.text.startswith(PROMPT)
    assert "".join(drawn.logprobs.tokens) == drawn.text
    described = await SchedulerStub(connect(local.directory.find(f"scheduler-{MODEL}-0"))).Describe(
        scheduler_pb2.DescribeRequest()
    )
    vocabulary = Vocabulary.from_message(described.vocabulary)
    ids = {vocabulary.token_bytes(token): token for token in range(vocabulary.size)}
    again = await complete(
        local, prompt=[ids[token.encode()] for token in drawn.logprobs.tokens], echo=True, max_tokens=0, logprobs=2
    )
    assert again.choices[0].text == drawn.text
    assert again.choices[0].logprobs == drawn.logprobs
    assert again.choices[0].logprobs.token_logprobs[0] is None
    assert again.usage.completion_tokens == 0


async def test_echo_in_a_mixed_batch_is_echo_alone_and_finds_nothing_cached(local: LocalCluster) -> None:
    prompt = "The mill stood by the river, and the river ran on past the mill. " * 30
    asked = {"prompt": prompt, "logprobs": 1, "max_tokens": 3, "temperature": 0}
    alone = await complete(local, **asked, echo=True)
    together = await asyncio.gather(
        *(complete(local, **asked, echo=True) for _ in range(2)),
        *(complete(local, **option) for option in OPTIONS),
        *(complete(local, **asked) for _ in range(2)),
    )
    for each in together[:2]:
        assert each.choices[0].logprobs == alone.choices[0].logprobs
        assert each.usage.prompt_tokens_details is None or not each.usage.prompt_tokens_details.cached_tokens
    for each in together[-2:]:
        assert each.choices[0].logprobs.tokens == alone.choices[0].logprobs.tokens[-3:]
        assert each.choices[0].logprobs.token_logprobs == alone.choices[0].logprobs.token_logprobs[-3:]


async def test_a_preempted_echo_is_told_whole(home: Any) -> None:
    async with LocalCluster(settings(home, models__0__kv_memory_bytes=40 * 16 * 23040)) as tight:

        async def told(index: int) -> Any:
            asked = {"prompt": f"Chapter {index}. " * 30, "temperature": 0, "max_tokens": 80, "logprobs": 1}
            return (await complete(tight, **asked, echo=True)).choices[0].logprobs

        alone = [await told(index) for index in range(4)]
        assert await asyncio.gather(*map(told, range(4))) == alone


async def test_a_healed_prompt_goes_on_as_the_model_would_write_it(local: LocalCluster) -> None:
    """The prompt ends within a word: the answer ends the word, and together they are what one token longer would be."""
    whole = "The capital of France is Par"
    extra = {"extra_body": {"russet": {"token_healing": True}}}
    healed = await complete(local, prompt=whole, temperature=0, max_tokens=4, **extra)
    text = healed.choices[0].text
    assert text.startswith("is")
    alone, *mixed = await asyncio.gather(
        complete(local, prompt=whole, seed=3, max_tokens=8, logprobs=1, **extra),
        *(complete(local, prompt=whole, seed=3, max_tokens=8, logprobs=1, **extra) for _ in range(3)),
        *(complete(local, **option) for option in OPTIONS),
    )
    assert all(each.choices[0] == alone.choices[0] for each in mixed[:3])
    tokens = alone.choices[0].logprobs.tokens
    assert "".join(tokens).endswith(alone.choices[0].text)
    assert len("".join(tokens)) > len(alone.choices[0].text)
