"""Log-probabilities at the gateway: entries leave with their text, in both of OpenAI's shapes, and survive failover."""

from itertools import pairwise

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.base.channel import connect
from cluster.gateway.logprobs import LogprobStream, token_text
from cluster.gateway.stream import TextStream
from protos.gen import inference_pb2, worker_pb2
from protos.gen.inference_pb2_grpc import InferenceStub

QUESTION = [{"role": "user", "content": "How?"}]


def client_of(world):
    http = httpx.AsyncClient(trust_env=False)
    world.clients.append(http)
    return openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0, http_client=http)


async def test_chat_tells_of_every_token(world):
    await world.replica(answer="né")
    await world.start()
    asked = {"model": "tiny", "messages": QUESTION, "logprobs": True, "top_logprobs": 2}
    choice = (await client_of(world).chat.completions.create(**asked)).choices[0]
    content = choice.logprobs.content
    assert [entry.token for entry in content] == ["n", "bytes:\\xc3", "bytes:\\xa9"]
    assert bytes(byte for entry in content for byte in entry.bytes).decode() == choice.message.content == "né"
    assert [entry.logprob for entry in content] == [-1, -1, -1]
    assert [(top.token, top.logprob) for top in content[0].top_logprobs] == [("n", -1), ("o", -2)]
    chunks = [chunk async for chunk in await client_of(world).chat.completions.create(**asked, stream=True)]
    parts = [(c.choices[0].delta.content, c.choices[0].logprobs) for c in chunks]
    with_text = [(text, [entry.token for entry in told.content]) for text, told in parts if text]
    assert with_text == [("n", ["n"]), ("é", ["bytes:\\xc3", "bytes:\\xa9"])]
    streamed = [entry for _, told in parts if told for entry in told.content]
    assert streamed == content


async def test_without_asking_nothing_is_told(world):
    scheduler = await world.replica(answer="ab")
    await world.start()
    for more in ({}, {"logprobs": False}, {"logprobs": None, "top_logprobs": 0}):
        answer = await client_of(world).chat.completions.create(model="tiny", messages=QUESTION, extra_body=more)
        assert answer.choices[0].logprobs is None
        assert not scheduler.requests[-1].HasField("logprobs")


async def test_completions_have_their_own_shape(world):
    scheduler = await world.replica(answer="añb")
    await world.start()
    asked = {"model": "tiny", "prompt": "x", "logprobs": 3}
    told = (await client_of(world).completions.create(**asked)).choices[0].logprobs
    assert told.tokens == ["a", "bytes:\\xc3", "bytes:\\xb1", "b"]
    assert told.text_offset == [0, 1, 1, 2]
    assert told.token_logprobs == [-1] * 4
    assert told.top_logprobs[0] == {"a": -1, "b": -2, "c": -3}
    assert scheduler.requests[0].logprobs == 3
    chunks = [chunk async for chunk in await client_of(world).completions.create(**asked, stream=True)]
    pieces = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
    assert [token for piece in pieces for token in piece.tokens] == told.tokens
    assert [offset for piece in pieces for offset in piece.text_offset] == told.text_offset
    alone = (await client_of(world).completions.create(**(asked | {"logprobs": 0}))).choices[0].logprobs
    assert alone.top_logprobs[0] == {"a": -1}


async def test_what_a_stop_text_cuts_away_is_not_told(world):
    await world.replica(answer="one two three")
    await world.start()
    asked = {"model": "tiny", "messages": QUESTION, "logprobs": True, "stop": [" tw"]}
    choice = (await client_of(world).chat.completions.create(**asked)).choices[0]
    assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content == "one"
    chunks = [chunk async for chunk in await client_of(world).chat.completions.create(**asked, stream=True)]
    told = [entry.token for c in chunks if c.choices[0].logprobs for entry in c.choices[0].logprobs.content]
    assert told == list("one")


async def test_another_replica_goes_on_without_gap_or_repetition(world):
    first = await world.replica("tiny-0", answer="Hello, world")
    await world.replica("tiny-1", answer="Hello, world")
    first.break_after = 5
    await world.start()
    asked = {"model": "tiny", "messages": QUESTION, "logprobs": True, "top_logprobs": 1}
    answer = await client_of(world).chat.completions.create(**asked)
    assert answer.russet["failovers"] == 1
    assert [entry.token for entry in answer.choices[0].logprobs.content] == list("Hello, world")


async def test_grpc_tells_the_same(world):
    await world.replica(answer="né!")
    gateway = await world.start()
    stub = InferenceStub(connect(f"tcp:{gateway.addresses.grpc}"))
    request = inference_pb2.ChatRequest(
        messages=[inference_pb2.Message(role="user", content="?")], decoding=inference_pb2.Decoding(logprobs=1)
    )
    answer = await stub.Chat(request)
    assert b"".join(entry.token for entry in answer.logprobs).decode() == answer.text == "né!"
    assert [(top.id, top.logprob) for entry in answer.logprobs for top in entry.top] == [
        (byte, -1) for byte in "né!".encode()
    ]
    chunks = [chunk async for chunk in stub.ChatStream(request)]
    assert [entry for chunk in chunks for entry in chunk.logprobs] == list(answer.logprobs)


@pytest.mark.parametrize(
    ("path", "more", "param"),
    [
        ("chat/completions", {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ("chat/completions", {"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ("chat/completions", {"top_logprobs": 2}, "top_logprobs"),
        ("chat/completions", {"logprobs": 3}, "logprobs"),
        ("completions", {"logprobs": 21}, "logprobs"),
        ("completions", {"logprobs": True}, "logprobs"),
        ("completions", {"top_logprobs": 2}, "top_logprobs"),
    ],
)
async def test_what_is_out_of_range_is_named(world, path, more, param):
    await world.replica()
    await world.start()
    prompt = {"messages": QUESTION} if path.startswith("chat") else {"prompt": "x"}
    reply = await world.client().post(f"/v1/{path}", json={"model": "tiny"} | prompt | more)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


class Pieces:
    def __init__(self, pieces):
        self.pieces = pieces
        self.special_ids = frozenset()

    def token_bytes(self, token):
        return self.pieces[token]


@given(
    st.text(alphabet="ab é東😀", max_size=20),
    st.lists(st.integers(0, 80)),
    st.lists(st.text("ab 東", min_size=1, max_size=3), max_size=2),
)
def test_entries_follow_their_text_however_it_is_cut(text, places, stops):
    data = text.encode()
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    vocabulary = Pieces([data[a:b] for a, b in pairwise(edges)])
    stream, told = TextStream(vocabulary, stops), LogprobStream(vocabulary)
    released, said = [], ""
    for token in range(len(vocabulary.pieces)):
        before = stream.tokens
        said += stream.push([token])
        told.push([token], stream.starts[before:], worker_pb2.Logprobs(chosen=[-token]))
        released += told.release(len(said))
        covered = b"".join(entry.token for entry in released)
        assert covered.startswith(said.encode()) or stream.stopped
    if not stream.stopped:
        said += stream.finish()
    released += [] if stream.stopped else told.finish()
    assert [entry.id for entry in released] == list(range(len(released)))
    covered = b"".join(entry.token for entry in released)
    assert covered.startswith(said.encode())
    assert stream.stopped or covered == data


def test_a_piece_of_a_character_is_written_out():
    assert token_text(b"abc") == "abc"
    assert token_text(b"\xe2\x82") == "bytes:\\xe2\\x82"
