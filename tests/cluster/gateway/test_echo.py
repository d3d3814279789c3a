"""A prompt echoed: its text first, told of like the answer's, and nothing asked of a replica that is not wanted."""

import httpx
import openai
import pytest

from actors.base.channel import connect
from cluster.gateway.echo import Echo, spell
from protos.gen import inference_pb2, worker_pb2
from protos.gen.inference_pb2_grpc import InferenceStub

ASKED = {"model": "tiny", "prompt": "né ", "echo": True}


def client_of(world):
    http = httpx.AsyncClient(trust_env=False)
    world.clients.append(http)
    return openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0, http_client=http)


async def test_the_prompt_comes_first_and_is_not_counted_as_an_answer(world):
    scheduler = await world.replica(answer="abc")
    await world.start()
    for prompt in ("né ", list("né ".encode())):
        answer = await client_of(world).completions.create(**(ASKED | {"prompt": prompt}))
        assert answer.choices[0].text == "né abc"
        assert answer.choices[0].logprobs is None
        assert answer.usage.completion_tokens == 3
        assert scheduler.requests[-1].score_from == 0
    chunks = [chunk async for chunk in await client_of(world).completions.create(**ASKED, stream=True)]
    texts = [chunk.choices[0].text for chunk in chunks if chunk.choices[0].text]
    assert texts == ["né ", "a", "b", "c"]
    await world.until(lambda: len(world.learner.trajectories) == 3)
    assert all(len(each.answer_ids) == 3 for each in world.learner.trajectories)


async def test_with_logprobs_every_token_of_the_prompt_is_told(world):
    scheduler = await world.replica(answer="ab")
    scheduler.per_score = 2
    await world.start()
    answer = await client_of(world).completions.create(**ASKED, logprobs=1)
    told = answer.choices[0].logprobs
    assert told.tokens == ["n", "bytes:\\xc3", "bytes:\\xa9", " ", "a", "b"]
    assert told.text_offset == [0, 1, 1, 2, 3, 4]
    assert told.token_logprobs == [None, -1, -1, -1, -1, -1]
    assert told.top_logprobs[0] is None
    assert told.top_logprobs[3] == {" ": -1}
    assert scheduler.requests[0].score_from == 1
    chunks = [chunk async for chunk in await client_of(world).completions.create(**ASKED, logprobs=1, stream=True)]
    pieces = [chunk.choices[0] for chunk in chunks if chunk.choices[0].logprobs]
    assert (pieces[0].text, pieces[0].logprobs.tokens) == ("né ", told.tokens[:4])
    assert [token for piece in pieces for token in piece.logprobs.tokens] == told.tokens


async def test_no_new_token_at_all(world):
    scheduler = await world.replica(answer="ab")
    await world.start()
    for more in ({}, {"logprobs": 2}):
        answer = await client_of(world).completions.create(**ASKED, max_tokens=0, **more)
        choice = answer.choices[0]
        assert (choice.text, choice.finish_reason) == ("né ", "length")
        assert answer.usage.completion_tokens == 0
        assert scheduler.requests[-1].max_tokens == 1
    assert len(choice.logprobs.tokens) == 4


async def test_another_replica_goes_on_with_the_prompt_where_the_first_was(world):
    first = await world.replica("tiny-0", answer="ab")
    second = await world.replica("tiny-1", answer="ab")
    first.per_score, first.break_scoring = 2, True
    await world.start()
    answer = await client_of(world).completions.create(**ASKED, logprobs=0)
    assert answer.choices[0].logprobs.tokens == ["n", "bytes:\\xc3", "bytes:\\xa9", " ", "a", "b"]
    assert second.requests[0].score_from == 3


async def test_best_of_compares_answers_not_the_prompt(world):
    scheduler = await world.replica(answer="ab")
    await world.start()
    answer = await client_of(world).completions.create(**ASKED, best_of=2)
    assert answer.choices[0].text == "né ab"
    assert answer.choices[0].logprobs is None
    assert len(scheduler.requests) == 2


async def test_grpc_has_the_same(world):
    await world.replica(answer="ab")
    gateway = await world.start()
    stub = InferenceStub(connect(f"tcp:{gateway.addresses.grpc}"))
    decoding = inference_pb2.Decoding(logprobs=0, max_tokens=0)
    answer = await stub.Complete(inference_pb2.CompleteRequest(text="xyz", decoding=decoding, echo=True))
    assert answer.text == "xyz"
    assert [entry.HasField("logprob") for entry in answer.logprobs] == [False, True, True]


@pytest.mark.parametrize(
    "more", [{"echo": False, "max_tokens": 0}, {"max_tokens": -1}, {"echo": True, "max_tokens": -1}]
)
async def test_without_echo_an_answer_has_a_token(world, more):
    await world.replica()
    await world.start()
    reply = await world.client().post("/v1/completions", json={"model": "tiny", "prompt": "x"} | more)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "max_tokens"


def test_offsets_are_those_of_the_text_that_was_sent(tiny):
    # The beginning of text that the tokenizer puts there is a token without text.
    echo = Echo(tiny, [256, *b"ab"], "ab", tells=True)
    echo.push(worker_pb2.Logprobs(chosen=[-1, -2]))
    assert echo.complete
    assert [entry.text_offset for entry in echo.entries] == [0, 0, 1]
    assert spell(tiny, [258, *"é".encode(), 0xC3]) == ("<|im_end|>é\ufffd", [0, 10, 10, 11])
