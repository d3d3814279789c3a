"""Loading over HTTP and gRPC: what is asked reaches the controller, what is wrong is named, and not everybody may."""

from typing import Any

import grpc
import pytest

from actors.base.errors import NotFound
from cluster.gateway import api_keys
from protos.gen import inference_pb2
from protos.gen.inference_pb2_grpc import InferenceStub

BODY = {"model": "/models/a.gguf", "id": "org/a", "replicas": 2, "settings": {"threads": 3}}


async def test_load_list_scale_and_unload(world: Any) -> None:
    await world.start()
    client = world.client()
    loaded = await client.post("/v1/models", json=BODY)
    row = loaded.json()
    assert (loaded.status_code, row["id"], row["model"], row["state"]) == (202, "org/a", "/models/a.gguf", "loading")
    assert [replica["bytes"] for replica in row["replicas"]] == [3, 3]
    assert (await client.get("/v1/russet/models")).json()["data"] == [row]
    again = await client.post("/v1/models", json=BODY)
    assert (again.status_code, "already" in again.json()["error"]["message"]) == (409, True)
    scaled = await client.patch("/v1/models/org%2Fa", json={"replicas": 1})
    assert (scaled.status_code, len(scaled.json()["replicas"])) == (202, 1)
    assert (await client.delete("/v1/models/org%2Fa?timeout_s=5")).json()["deleted"] is True
    gone = await client.delete("/v1/models/org%2Fa")
    assert (gone.status_code, gone.json()["error"]["message"]) == (404, "no model 'org/a' is loaded; there are: none")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": "a", "replicas": 0}, "replicas"),
        ({"model": "a", "settings": {"thread": 1}}, "thread"),
        ({"model": "a", "settings": {"model_id": "b"}}, "settings"),
        ({"model": "a", "settings": {"page_size": 0}}, "page_size"),
        ({"model": "a", "device": "gpu"}, "device"),
    ],
)
async def test_what_is_wrong_is_named(world: Any, body: dict[str, Any], param: str) -> None:
    await world.start()
    refused = await world.client().post("/v1/models", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert not world.controller.models


@pytest.mark.parametrize("timeout", ["-1", "x", "nan", "3601"])
async def test_a_timeout_is_a_number_of_seconds(world: Any, timeout: str) -> None:
    await world.start()
    refused = await world.client().delete(f"/v1/models/a?timeout_s={timeout}")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "timeout_s")


async def test_over_grpc_it_is_the_same_and_for_administrators(world: Any, tmp_path: Any) -> None:
    keys = tmp_path / "keys"
    ann, bob = api_keys.create(keys, "ann", "admin"), api_keys.create(keys, "bob")
    await world.start(api_keys_file=keys)
    refused = await world.client(headers={"Authorization": f"Bearer {bob}"}).post("/v1/models", json=BODY)
    assert refused.status_code == 403
    async with grpc.aio.insecure_channel(world.gateway.addresses.grpc) as channel:
        stub: Any = InferenceStub(channel)
        as_ann, as_bob = ((("authorization", f"Bearer {key}"),) for key in (ann, bob))
        request = inference_pb2.LoadModelRequest(model="/models/a.gguf", id="a")
        with pytest.raises(grpc.aio.AioRpcError) as denied:
            await stub.LoadModel(request, metadata=as_bob)
        assert denied.value.code() == grpc.StatusCode.PERMISSION_DENIED
        assert (await stub.LoadModel(request, metadata=as_ann)).state == "loading"
        scaled = await stub.ScaleModel(inference_pb2.ScaleModelRequest(id="a", replicas=1), metadata=as_ann)
        assert len(scaled.replicas) == 1
        listed = await stub.ListServed(inference_pb2.ListServedRequest(), metadata=as_ann)
        assert [model.id for model in listed.models] == ["a"]
        assert (await stub.UnloadModel(inference_pb2.UnloadModelRequest(id="a"), metadata=as_ann)).id == "a"


async def test_an_unloaded_model_is_refused_at_once_though_it_was_there_a_moment_ago(world: Any) -> None:
    """Of a model that answered lately a gateway thinks that it is coming back: not where it was unloaded."""
    await world.replica()
    await world.start(failover_wait_s=60)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
    assert (await world.client().post("/v1/chat/completions", json=body)).status_code == 200
    world.router.refuse = lambda request: NotFound("model 'tiny' was unloaded", param="model")
    world.router.retired = ["tiny"]
    refused = await world.client().post("/v1/chat/completions", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
