"""Limits of a key at the gateway: who is refused and how it is said, over HTTP and gRPC, with memory and without."""

import asyncio
import json

import grpc
import pytest

from actors.base.quota import Limits
from cluster.gateway import api_keys
from protos.gen.inference_pb2 import ChatRequest, Message
from protos.gen.inference_pb2_grpc import InferenceStub

ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "What is the capital of France?"}]}


@pytest.fixture
def keyed(world, tmp_path):
    """Starts the gateway with a key that has these limits; headers that show it."""

    async def start(**limits):
        path = tmp_path / "keys"
        key = api_keys.create(path, "ann", limits=Limits(**limits))
        await world.start(api_keys_file=path)
        return {"authorization": f"Bearer {key}"}

    return start


async def ask(world, headers, **more):
    return await world.client().post("/v1/chat/completions", json=ASKED | more, headers=headers)


async def test_requests_past_the_limit_are_refused_as_openai_does(world, keyed):
    await world.replica(answer="Paris")
    headers = await keyed(requests_per_minute=2, tokens_per_minute=1000)
    for left in (1, 0):
        answer = await ask(world, headers)
        assert answer.status_code == 200
        assert answer.headers["x-ratelimit-limit-requests"] == "2"
        assert answer.headers["x-ratelimit-remaining-requests"] == str(left)
        assert answer.headers["x-ratelimit-limit-tokens"] == "1000"
    refused = await ask(world, headers)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "30"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-reset-requests"] == "60000ms"
    error = refused.json()["error"]
    assert error["code"] == "rate_limit_exceeded"
    assert error["message"].startswith("the key of ann may use 2 requests a minute, and has")
    world.quotas.now_s += 30
    assert (await ask(world, headers)).status_code == 200


async def test_a_requests_tokens_are_settled_when_it_ends(world, keyed, tmp_path):
    await world.replica(answer="Paris")
    headers = await keyed(tokens_per_day=1_000_000)
    used = 0
    for stream in (False, True):
        answer = await ask(world, headers, stream=stream)
        assert answer.status_code == 200
        await world.until(lambda count=stream + 1: len(world.quotas.settled) == count)
        if not stream:
            used = answer.json()["usage"]["total_tokens"]
    assert [each.tokens for each in world.quotas.settled] == [used, used]
    path = tmp_path / "keys"
    path.write_text(path.read_text().replace("=1000000", f"={2 * used}"))
    refused = await ask(world, headers)
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert (error["code"], error["type"]) == ("insufficient_quota", "insufficient_quota")
    assert int(refused.headers["retry-after"]) <= 86_400


async def test_a_client_that_leaves_gives_its_place_back(world, keyed):
    scheduler = await world.replica(answer="Paris")
    scheduler.hold_after = 1
    headers = await keyed(concurrent=1)
    client = world.client()
    first = asyncio.create_task(client.post("/v1/chat/completions", json=ASKED, headers=headers))
    await world.until(lambda: world.quotas.usage.get("ann") and world.quotas.usage["ann"].running)
    refused = await ask(world, headers)
    assert refused.status_code == 429
    assert "1 requests at a time" in refused.json()["error"]["message"]
    first.cancel()
    await world.until(lambda: bool(world.quotas.settled))
    assert not world.quotas.usage["ann"].running


async def test_grpc_says_resource_exhausted(world, keyed):
    await world.replica(answer="Paris")
    headers = await keyed(requests_per_minute=1)
    asked = ChatRequest(model="tiny", messages=[Message(role="user", content="Hello")])
    async with grpc.aio.insecure_channel(world.gateway.addresses.grpc) as channel:
        stub = InferenceStub(channel)
        call = stub.ChatStream(asked, metadata=tuple(headers.items()))
        assert [chunk async for chunk in call]
        assert ("x-ratelimit-remaining-requests", "0") in tuple(await call.trailing_metadata())
        await world.until(lambda: bool(world.quotas.settled))
        assert world.quotas.settled[0].tokens
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Chat(asked, metadata=tuple(headers.items()))
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "the key of ann may use 1 requests a minute" in refused.value.details()


async def test_a_gateway_counts_alone_while_memory_is_away_and_says_so(world, keyed, caplog):
    await world.replica(answer="Paris")
    headers = await keyed(requests_per_minute=2)
    world.quotas.away = True
    statuses = [(await ask(world, headers)).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert "this gateway counts its own requests" in caplog.text
    metrics = (await world.client().get("/metrics")).text
    assert "russet_gateway_limits_alone 1.0" in metrics
    assert 'russet_gateway_limited_total{limit="requests"} 1.0' in metrics


async def test_keys_without_limits_ask_memory_nothing(world, keyed):
    await world.replica(answer="Paris")
    headers = await keyed()
    answer = await ask(world, headers)
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
    assert not world.quotas.usage


async def test_limits_change_without_a_restart(world, keyed, tmp_path):
    await world.replica(answer="Paris")
    headers = await keyed()
    assert (await ask(world, headers)).status_code == 200
    path = tmp_path / "keys"
    path.write_text(path.read_text().rstrip() + " requests_per_minute=1\n")
    assert [(await ask(world, headers)).status_code for _ in range(2)] == [200, 429]


async def test_an_embeddings_tokens_count_too(world, keyed):
    headers = await keyed(tokens_per_day=1)
    body = {"model": "MiniLM", "input": "hello"}
    client = world.client(headers=headers)
    answer = await client.post("/v1/embeddings", json=body)
    assert answer.status_code == 200, answer.text
    await world.until(lambda: bool(world.quotas.settled))
    assert world.quotas.settled[0].tokens == answer.json()["usage"]["total_tokens"]
    assert json.loads((await client.post("/v1/embeddings", json=body)).text)["error"]["code"] == "insufficient_quota"
