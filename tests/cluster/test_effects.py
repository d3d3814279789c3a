"""Penalties, bias and min_tokens do to the real model's answers what they say: in chat, in completions, over gRPC."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio
from google.protobuf.json_format import ParseDict

from actors.base.channel import connect
from actors.base.vocabulary import Vocabulary
from cluster.local import LocalCluster
from protos.gen import inference_pb2, scheduler_pb2
from protos.gen.inference_pb2_grpc import InferenceStub
from protos.gen.scheduler_pb2_grpc import SchedulerStub

pytestmark = pytest.mark.asyncio(loop_scope="module")
QUESTION = "The sea is"
Ask = Callable[..., Awaitable[tuple[str, int]]]
"""Decoding and sampling parameters as gRPC calls them -> the text, and how many tokens it took."""


@pytest_asyncio.fixture(loop_scope="module", params=["completions", "chat", "grpc chat", "grpc complete"])
async def ask(request: Any, local: LocalCluster) -> AsyncIterator[Ask]:
    """One of the APIs."""
    channel = connect(f"tcp:{local.grpc}")
    stub, chatting = InferenceStub(channel), {"messages": [{"role": "user", "content": QUESTION}]}

    async def over_grpc(sampling: dict[str, Any], decoding: dict[str, Any]) -> tuple[str, int]:
        body = {"decoding": {"max_tokens": 40, **decoding, "sampling": {"temperature": 0} | sampling}}
        if "chat" in request.param:
            answer = await stub.Chat(ParseDict(body | chatting, inference_pb2.ChatRequest()))
        else:
            answer = await stub.Complete(ParseDict(body | {"text": QUESTION}, inference_pb2.CompleteRequest()))
        return answer.text, answer.usage.completion_tokens

    async def over_http(sampling: dict[str, Any], decoding: dict[str, Any]) -> tuple[str, int]:
        asked = {"temperature": 0, "max_tokens": 40} | sampling | decoding
        path, more = (
            ("chat/completions", chatting) if request.param == "chat" else ("completions", {"prompt": QUESTION})
        )
        async with httpx.AsyncClient(base_url=local.http, timeout=60) as http:
            answer = (await http.post(f"/v1/{path}", json=asked | more)).json()
        choice = answer["choices"][0]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        return text, answer["usage"]["completion_tokens"]

    async def asked(sampling: dict[str, Any], **decoding: Any) -> tuple[str, int]:
        return await (over_grpc if "grpc" in request.param else over_http)(sampling, decoding)

    yield asked
    await channel.close()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def vocabulary(local: LocalCluster) -> Vocabulary:
    scheduler = SchedulerStub(connect(local.directory.find("scheduler-smollm2-135m-instruct-0")))
    return Vocabulary.from_message((await scheduler.Describe(scheduler_pb2.DescribeRequest())).vocabulary)


def repeated(text: str) -> int:
    words = text.split()
    return len(words) - len(set(words))


@pytest.mark.parametrize("penalty", [{"frequency_penalty": 2}, {"presence_penalty": 2}, {"repetition_penalty": 2}])
async def test_a_penalty_makes_the_model_repeat_itself_less(ask: Ask, penalty: dict[str, float]) -> None:
    whole = {"ignore_eos": True, "max_tokens": 60}
    (plain, _), (penalised, _) = await ask({}, **whole), await ask(penalty, **whole)
    assert repeated(penalised) < repeated(plain)


async def test_a_bias_forces_and_forbids(ask: Ask, vocabulary: Vocabulary) -> None:
    (fox,) = vocabulary.encode(" fox")
    assert (await ask({"logit_bias": {str(fox): 100}}, max_tokens=5))[0] == " fox" * 5
    plain, _ = await ask({}, max_tokens=5, ignore_eos=True)
    forbidden = {str(token): -100 for token in vocabulary.encode(plain)}
    without, _ = await ask({"logit_bias": forbidden}, max_tokens=5, ignore_eos=True)
    assert not set(map(str, vocabulary.encode(without))) & set(forbidden)


async def test_min_tokens_keeps_the_end_off(ask: Ask, vocabulary: Vocabulary) -> None:
    ends = {"logit_bias": {str(token): 100 for token in vocabulary.eos_ids}}
    assert (await ask(ends))[1] <= 1
    assert (await ask(ends, min_tokens=7))[1] in (7, 8), "the token that ends it may count"
