"""An answer that the client predicts: where it goes, and what is refused."""

import httpx
import pytest

from actors.base.channel import connect
from protos.gen import inference_pb2
from protos.gen.inference_pb2_grpc import InferenceStub

QUESTION = [{"role": "user", "content": "How?"}]


async def post(world, **body):
    http = httpx.AsyncClient(trust_env=False)
    world.clients.append(http)
    return await http.post(f"{world.url}/v1/chat/completions", json={"messages": QUESTION, **body})


@pytest.mark.parametrize("content", ["no way", [{"type": "text", "text": "no"}, {"type": "text", "text": " way"}]])
async def test_it_reaches_the_replica_as_tokens(world, content):
    scheduler = await world.replica(answer="no")
    await world.start()
    answer = await post(world, prediction={"type": "content", "content": content})
    assert answer.status_code == 200
    assert bytes(scheduler.requests[-1].prediction).decode() == "no way"
    assert (await post(world)).status_code == 200
    assert not scheduler.requests[-1].prediction


async def test_over_grpc_too_and_no_more_than_the_context_holds(world):
    scheduler = await world.replica(answer="no")
    gateway = await world.start()
    decoding = inference_pb2.Decoding(prediction="x" * 100_000)
    stub = InferenceStub(connect(f"tcp:{gateway.addresses.grpc}"))
    await stub.Complete(inference_pb2.CompleteRequest(text="a", decoding=decoding))
    assert bytes(scheduler.requests[-1].prediction) == b"x" * scheduler.model.context_length


@pytest.mark.parametrize(
    ("prediction", "param"),
    [
        ("text", "prediction"),
        ({"type": "content"}, "prediction.content"),
        ({"type": "image", "content": "x"}, "prediction.type"),
        ({"type": "content", "content": 7}, "prediction.content"),
        ({"type": "content", "content": "x", "more": 1}, "prediction.more"),
    ],
)
async def test_what_is_wrong_is_named(world, prediction, param):
    await world.replica(answer="no")
    await world.start()
    answer = await post(world, prediction=prediction)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
