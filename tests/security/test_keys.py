"""Callers without a key, with a wrong one, one that ended, or another's name: refused alike over HTTP and gRPC."""

from datetime import UTC, datetime, timedelta

import grpc
import pytest

from cluster.gateway import api_keys
from protos.gen.inference_pb2 import ChatRequest, ListModelsRequest, Message
from protos.gen.inference_pb2_grpc import InferenceStub

ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "What is the capital of France?"}]}
PATHS = [
    ("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("POST", "/v1/messages"), ("POST", "/v1/responses"),
    ("GET", "/v1/responses/resp_1"), ("POST", "/v1/embeddings"), ("POST", "/v1/feedback"), ("GET", "/v1/models"),
    ("GET", "/v1/russet/sessions"), ("DELETE", "/v1/russet/sessions/s"), ("GET", "/v1/files"), ("POST", "/v1/files"),
    ("GET", "/v1/vector_stores"), ("GET", "/v1/witness"), ("GET", "/v1/russet/aliases"), ("GET", "/v1/russet/tools"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), PATHS, ids=lambda each: each)
async def test_every_path_asks_for_a_key(world, keys, method, path):
    scheduler = await world.replica()
    keys.create("ann")
    await world.start(api_keys_file=keys.path)
    client = world.client()
    for headers in ({}, {"authorization": "Bearer rk-wrong"}, {"x-api-key": "rk-wrong"}):
        refused = await client.request(method, path, json=ASKED, headers=headers)
        assert refused.status_code == 401, refused.text
        assert refused.headers["www-authenticate"] == "Bearer"
        assert "rk-wrong" not in refused.text
    assert not scheduler.requests


async def test_a_key_that_ended_is_refused_from_the_next_request_on(world, keys):
    await world.replica()
    ann = keys.create("ann")
    old = keys.create("old", "admin", datetime.now(UTC) - timedelta(seconds=1))
    await world.start(api_keys_file=keys.path)
    client = world.client()
    assert (await client.get("/v1/models", headers=ann)).status_code == 200
    expired = await client.get("/v1/models", headers=old)
    assert expired.status_code == 401
    assert "expired at" in expired.json()["error"]["message"]
    api_keys.revoke(keys.path, "ann")
    assert (await client.get("/v1/models", headers=ann)).status_code == 401
    async with grpc.aio.insecure_channel(world.gateway.addresses.grpc) as channel:
        for headers in (ann, old):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await InferenceStub(channel).ListModels(ListModelsRequest(), metadata=tuple(headers.items()))
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "value",
    [
        "", "Bearer", "Basic {key}", "{key}", "Bearer {key} {key}", "Bearer {key}x",
        "Bearer {digest}", "Bearer {upper}", "Bearer *", "Bearer ann", "Bearer " + "x" * 60_000,
    ],
)  # fmt: skip
async def test_what_is_no_key_lets_nobody_in(world, keys, value):
    keys.create("ann")
    await world.start(api_keys_file=keys.path)
    key, digest = keys.given["ann"], api_keys.read(keys.path)[0].digest
    shown = value.format(key=key, digest=digest, upper=key.upper())
    refused = await world.client().get("/v1/models", headers={"authorization": shown})
    assert refused.status_code == 401
    assert key not in refused.text


async def test_of_two_authorizations_none_counts(world, keys):
    ann, bob = keys.create("ann"), keys.create("bob")
    await world.start(api_keys_file=keys.path)
    both = [("Authorization", ann["authorization"]), ("authorization", bob["authorization"])]
    assert (await world.client().get("/v1/models", headers=both)).status_code == 401
    async with grpc.aio.insecure_channel(world.gateway.addresses.grpc) as channel:
        metadata = tuple((name.lower(), value) for name, value in both)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await InferenceStub(channel).ListModels(ListModelsRequest(), metadata=metadata)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_a_key_speaks_for_its_own_tenant(world, keys):
    scheduler = await world.replica(answer="Paris")
    ann = keys.create("ann")
    keys.create("bob")
    await world.start(api_keys_file=keys.path)
    client = world.client()
    refused = await client.post("/v1/chat/completions", json=ASKED, headers=ann | {"x-russet-tenant": "bob"})
    assert refused.status_code == 403
    asked = ChatRequest(model="tiny", messages=[Message(role="user", content="Hello")])
    async with grpc.aio.insecure_channel(world.gateway.addresses.grpc) as channel:
        metadata = (*ann.items(), ("x-russet-tenant", "bob"))
        with pytest.raises(grpc.aio.AioRpcError) as denied:
            await InferenceStub(channel).Chat(asked, metadata=metadata)
    assert denied.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert not scheduler.requests
    answer = await client.post("/v1/chat/completions", json=ASKED, headers=ann | {"x-russet-tenant": "ann"})
    assert answer.status_code == 200
    assert [each.tenant for each in scheduler.requests] == ["ann"]


ADMIN = [
    ("PUT", "/v1/russet/aliases/chat", {"models": {"tiny": 1}}), ("DELETE", "/v1/russet/aliases/chat", None),
    ("POST", "/v1/models", {"model": "smollm2-135m-instruct"}), ("DELETE", "/v1/models/tiny", None),
    ("GET", "/v1/witness?all_tenants=true", None), ("GET", "/v1/witness?tenant=ops", None),
    ("GET", "/v1/witness/verify", None),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body"), ADMIN, ids=[f"{method} {path}" for method, path, _ in ADMIN])
async def test_what_is_for_administrators_is_refused_to_users(world, keys, method, path, body):
    await world.replica()
    user, ops = keys.create("ann"), keys.create("ops", "admin")
    await world.start(api_keys_file=keys.path)
    client = world.client()
    refused = await client.request(method, path, json=body, headers=user)
    assert refused.status_code == 403, refused.text
    assert (await client.request(method, path, json=body, headers=ops)).status_code not in (401, 403)
