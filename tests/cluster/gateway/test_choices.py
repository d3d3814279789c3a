"""Several answers to one request: interleaved, counted as one, ended together."""

import asyncio

import httpx
import openai
import pytest

from actors.base.channel import connect
from actors.base.errors import InvalidArgument
from cluster.gateway.choices import derived_seed
from protos.gen import inference_pb2
from protos.gen.inference_pb2_grpc import InferenceStub

QUESTION = [{"role": "user", "content": "How?"}]
CHAT = {"model": "tiny", "messages": QUESTION}


def client_of(world):
    http = httpx.AsyncClient(trust_env=False)
    world.clients.append(http)
    return openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0, http_client=http)


async def test_n_answers_have_indices_seeds_of_their_own_and_one_usage(world):
    scheduler = await world.replica(answer="Paris")
    scheduler.cached_tokens = 4
    await world.start()
    answer = await client_of(world).chat.completions.create(**CHAT, n=3, seed=7, max_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [choice.message.content for choice in answer.choices] == ["Pari"] * 3
    assert [choice.finish_reason for choice in answer.choices] == ["length"] * 3
    prompt = scheduler.requests[0].prompt_tokens
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (prompt, 12)
    assert answer.usage.prompt_tokens_details.cached_tokens == 4
    assert [request.sampling.seed for request in scheduler.requests] == [7, derived_seed(7, 1), derived_seed(7, 2)]
    assert len({request.request_id for request in scheduler.requests}) == 3
    assert answer.id == scheduler.requests[0].request_id


async def test_without_a_seed_every_choice_draws_one(world):
    scheduler = await world.replica()
    await world.start()
    await client_of(world).completions.create(model="tiny", prompt="a", n=4)
    assert len({request.sampling.seed for request in scheduler.requests}) == 4


@pytest.mark.parametrize("logprobs", [False, True])
async def test_streams_interleave_and_each_choice_ends_by_itself(world, logprobs):
    await world.replica(answer="né!")
    await world.start()
    stream = await client_of(world).chat.completions.create(
        **CHAT, n=2, stream=True, stream_options={"include_usage": True}, logprobs=logprobs
    )
    chunks = [chunk async for chunk in stream]
    assert len({chunk.id for chunk in chunks}) == 1
    texts, told, ends = {0: "", 1: ""}, {0: [], 1: []}, []
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            told[choice.index] += [entry.token for entry in choice.logprobs.content] if choice.logprobs else []
            ends += [(choice.index, choice.finish_reason)] if choice.finish_reason else []
    assert texts == {0: "né!", 1: "né!"}
    assert sorted(ends) == [(0, "stop"), (1, "stop")]
    tokens = ["n", "bytes:\\xc3", "bytes:\\xa9", "!"] if logprobs else []
    assert told == {0: tokens, 1: tokens}
    roles = [c.choices[0].index for c in chunks if c.choices and c.choices[0].delta.role]
    assert roles == [0, 1]
    order = [c.choices[0].index for c in chunks if c.choices and c.choices[0].delta.content]
    assert order != sorted(order), "one choice was held back for the other"
    assert chunks[-1].usage.completion_tokens == 8


async def test_best_of_gives_the_likeliest(world):
    scheduler = await world.replica(answer="abcdef")
    await world.start()
    # Every token of these is told -1, so the candidates are alike but for what is told: the first ones stay first.
    answer = await client_of(world).completions.create(model="tiny", prompt="x", best_of=3, n=2, max_tokens=3)
    assert [choice.text for choice in answer.choices] == ["abc", "abc"]
    assert all(choice.logprobs is None for choice in answer.choices)
    assert answer.usage.completion_tokens == 9
    assert all(request.logprobs == 0 and request.HasField("logprobs") for request in scheduler.requests)


async def test_best_of_compares_the_mean_of_what_is_told(world):
    scheduler = await world.replica(answer="abc")
    scheduler.values = {derived_seed(5, 1): -0.5, derived_seed(5, 2): -0.25}
    scheduler.answers = {derived_seed(5, 1): "better", derived_seed(5, 2): "best"}
    await world.start()
    asked = {"model": "tiny", "prompt": "x", "best_of": 3, "n": 2, "seed": 5}
    answer = await client_of(world).completions.create(**asked)
    assert [choice.text for choice in answer.choices] == ["best", "better"]


async def test_one_that_fails_ends_all(world):
    scheduler = await world.replica(answer="Hello")
    scheduler.fail_seed, scheduler.hold_after = derived_seed(7, 1), 2
    await world.start(failover_attempts=1)
    reply = await world.client().post("/v1/chat/completions", json=CHAT | {"n": 2, "seed": 7})
    assert reply.status_code == 500
    await asyncio.wait_for(scheduler.cancelled.wait(), 5)


async def test_a_client_that_leaves_ends_all(world):
    scheduler = await world.replica(answer="Hello")
    scheduler.hold_after = 2
    await world.start()
    async with world.client().stream("POST", "/v1/chat/completions", json=CHAT | {"n": 3, "stream": True}) as reply:
        async for line in reply.aiter_lines():
            if '"content":"e"' in line:
                break
    async with asyncio.timeout(5):
        while scheduler.cancellations < 3:
            await asyncio.sleep(0)


async def test_grpc_has_the_same(world):
    await world.replica(answer="Hi")
    gateway = await world.start()
    stub = InferenceStub(connect(f"tcp:{gateway.addresses.grpc}"))
    decoding = inference_pb2.Decoding(n=2, logprobs=0)
    request = inference_pb2.ChatRequest(messages=[inference_pb2.Message(role="user", content="?")], decoding=decoding)
    answer = await stub.Chat(request)
    assert [answer.text, *(each.text for each in answer.others)] == ["Hi", "Hi"]
    assert answer.usage.completion_tokens == 4
    assert len(answer.logprobs) == len(answer.others[0].logprobs) == 2
    chunks = [chunk async for chunk in stub.ChatStream(request)]
    assert ["".join(c.delta for c in chunks if c.index == index) for index in (0, 1)] == ["Hi", "Hi"]
    assert [c.usage.completion_tokens for c in chunks if c.HasField("usage")] == [4]
    assert sorted(c.index for c in chunks if c.finish_reason) == [0, 1]
    decoding.best_of = 3
    with pytest.raises(InvalidArgument, match="best_of"):
        await stub.Chat(inference_pb2.ChatRequest(messages=request.messages, decoding=decoding))
    complete = inference_pb2.CompleteRequest(text="x", decoding=decoding)
    with pytest.raises(InvalidArgument, match="best_of"):
        await anext(aiter(stub.CompleteStream(complete)))
    assert len((await stub.Complete(complete)).others) == 1


async def test_stop_token_ids_reach_the_replica(world):
    scheduler = await world.replica()
    await world.start()
    await client_of(world).chat.completions.create(**CHAT, extra_body={"russet": {"stop_token_ids": [5, 9]}})
    assert list(scheduler.requests[-1].stop_token_ids) == [5, 9]


def test_derived_seeds_are_split_mix_64():
    # The generator's published first outputs for the seed 1234567.
    assert [derived_seed(1234567, index) for index in (1, 2, 3)] == [
        6457827717110365317, 3203168211198807973, 9817491932198370423,
    ]  # fmt: skip
