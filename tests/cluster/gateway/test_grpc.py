"""The gRPC face over real TCP: the same path, the same errors."""

import asyncio

import pytest

from actors.base.channel import connect
from actors.base.errors import InvalidArgument, TooLarge, Unauthenticated
from cluster.gateway import api_keys
from protos.gen import inference_pb2 as pb
from protos.gen.inference_pb2_grpc import InferenceStub

CHAT = pb.ChatRequest(model="tiny", messages=[pb.Message(role="user", content="x")])


@pytest.fixture
async def stub(world):
    async def make():
        channel = connect(f"tcp:{world.gateway.addresses.grpc}")
        world.channels.append(channel)
        return InferenceStub(channel)

    return make


async def test_chat_whole_and_streamed(world, stub):
    await world.replica(answer="Grüß")
    await world.start()
    client = await stub()
    answer = await client.Chat(CHAT)
    assert (answer.text, answer.finish_reason, answer.route.replica) == ("Grüß", pb.FINISH_STOP, "tiny-0")
    chunks = [chunk async for chunk in client.ChatStream(CHAT)]
    assert [chunk.delta for chunk in chunks] == ["G", "r", "ü", "ß", ""]
    assert [chunk.HasField("route") for chunk in chunks] == [True, False, False, False, False]
    assert (chunks[-1].finish_reason, chunks[-1].usage.completion_tokens) == (pb.FINISH_STOP, 6)


async def test_complete_takes_text_and_tokens(world, stub):
    scheduler = await world.replica()
    await world.start()
    client = await stub()
    decoding = pb.Decoding(max_tokens=3, sampling=pb.Sampling(temperature=0))
    text = await client.Complete(pb.CompleteRequest(model="tiny", text="ab", decoding=decoding))
    chunks = client.CompleteStream(
        pb.CompleteRequest(model="tiny", tokens=pb.TokenIds(ids=[97, 98]), decoding=decoding)
    )
    assert text.text == "".join([chunk.delta async for chunk in chunks]) == "Hel"
    assert text.finish_reason == pb.FINISH_LENGTH
    first, second = scheduler.requests
    assert list(first.token_ids) == list(second.token_ids) == [97, 98]


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (pb.ChatRequest(model="tiny"), "messages"),
        (pb.ChatRequest(messages=[pb.Message(role="robot", content="x")]), "messages[0].role"),
        (pb.ChatRequest(messages=CHAT.messages, decoding=pb.Decoding(stop=["a"] * 5)), "stop"),
        (pb.ChatRequest(messages=CHAT.messages, decoding=pb.Decoding(max_tokens=0)), "max_tokens"),
        (
            pb.ChatRequest(
                messages=CHAT.messages, decoding=pb.Decoding(sampling=pb.Sampling(temperature=float("nan")))
            ),
            "temperature",
        ),
    ],
)
async def test_bad_requests_name_the_parameter(world, stub, request_, param):
    await world.replica()
    await world.start()
    client = await stub()
    with pytest.raises(InvalidArgument) as caught:
        await client.Chat(request_)
    assert caught.value.param == param


async def test_keys_travel_as_metadata(world, stub, tmp_path):
    await world.replica()
    key = api_keys.create(tmp_path / "keys", "alice")
    await world.start(api_keys_file=tmp_path / "keys")
    client = await stub()
    with pytest.raises(Unauthenticated):
        await client.Chat(CHAT)
    with pytest.raises(Unauthenticated):
        await client.ListModels(pb.ListModelsRequest())
    answer = await client.Chat(CHAT, metadata=(("authorization", f"Bearer {key}"),))
    assert answer.text


async def test_a_client_that_leaves_cancels(world, stub):
    scheduler = await world.replica()
    scheduler.hold_after = 2
    await world.start()
    call = (await stub()).ChatStream(CHAT)
    assert (await anext(call)).delta == "H"
    await asyncio.wait_for(scheduler.holding.wait(), 5)
    call.cancel()
    await asyncio.wait_for(scheduler.cancelled.wait(), 5)


async def test_models_embeddings_feedback_and_size(world, stub):
    await world.replica()
    await world.start(max_body_bytes=2000)
    client = await stub()
    models = (await client.ListModels(pb.ListModelsRequest())).models
    assert [(card.id, card.kind) for card in models] == [("tiny", "chat"), ("MiniLM", "embedding")]
    reply = await client.Embed(pb.EmbedRequest(texts=["abc"]))
    assert list(reply.vectors[0].values) == [3, 1]
    answer = await client.Chat(CHAT)
    assert (await client.Feedback(pb.FeedbackRequest(response_id=answer.id, rating=1))).found
    with pytest.raises(TooLarge):
        await client.Complete(pb.CompleteRequest(text="x" * 3000))
