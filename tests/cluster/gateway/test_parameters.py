"""Every decoding parameter, in every API that has it: what a client asks is what a replica is asked."""

from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from actors.base.channel import connect
from protos.gen import inference_pb2
from protos.gen.inference_pb2_grpc import InferenceStub

SAMPLING: dict[str, Any] = {
    "temperature": 0.25,
    "top_p": 0.75,
    "top_k": 7,
    "min_p": 0.125,
    "repetition_penalty": 1.5,
    "presence_penalty": -1.25,
    "frequency_penalty": 1.75,
    "seed": 12345678901234567890,
    "logit_bias": {"65": 3.5, "66": -100.0},
}
LIMITS: dict[str, Any] = {"max_tokens": 9, "min_tokens": 3, "ignore_eos": True}
FEWER = ("temperature", "top_p", "top_k")
"""What Anthropic's API has of them; OpenAI's responses lack top_k too."""


async def asked(world: Any, path: str, body: dict[str, Any]) -> None:
    reply = await world.client().post(path, json={"model": "tiny"} | body)
    assert reply.status_code == 200, reply.text


async def called(world: Any, method: str, request: Any) -> None:
    channel = connect(f"tcp:{world.gateway.addresses.grpc}")
    world.channels.append(channel)
    reply = getattr(InferenceStub(channel), method)(request)
    if method.endswith("Stream"):
        assert [chunk async for chunk in reply]
    else:
        await reply


def sampling_of(world: Any) -> dict[str, Any]:
    """What the replica was asked last."""
    sampling = world.scheduler.requests[-1].sampling
    given = MessageToDict(sampling, preserving_proto_field_name=True)
    return given | {"seed": sampling.seed, "logit_bias": dict(sampling.logit_bias)}


EVERY = SAMPLING | {"logit_bias": {65: 3.5, 66: -100.0}}
DEFAULTS = {
    "temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1, "presence_penalty": 0,
    "frequency_penalty": 0, "logit_bias": {},
}  # fmt: skip
OVER_HTTP = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/completions": {"prompt": "x"},
}


@pytest.fixture
async def served(world: Any) -> Any:
    world.scheduler = await world.replica()
    await world.start()
    return world


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", OVER_HTTP)
async def test_over_http(served: Any, path: str, stream: bool) -> None:
    await asked(served, path, OVER_HTTP[path] | SAMPLING | LIMITS | {"stream": stream})
    assert sampling_of(served) == EVERY
    request = served.scheduler.requests[-1]
    assert {name: getattr(request, name) for name in LIMITS} == LIMITS


@pytest.mark.parametrize("method", ["Chat", "ChatStream", "Complete", "CompleteStream"])
async def test_over_grpc(served: Any, method: str) -> None:
    decoding = {**LIMITS, "sampling": SAMPLING, "stop_token_ids": [70, 71]}
    if method.startswith("Chat"):
        body = OVER_HTTP["/v1/chat/completions"] | {"decoding": decoding}
        request: Any = ParseDict(body, inference_pb2.ChatRequest())
    else:
        request = ParseDict({"text": "x", "decoding": decoding}, inference_pb2.CompleteRequest())
    await called(served, method, request)
    assert sampling_of(served) == EVERY
    sent = served.scheduler.requests[-1]
    assert {name: getattr(sent, name) for name in LIMITS} == LIMITS
    assert list(sent.stop_token_ids) == [70, 71]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", OVER_HTTP["/v1/chat/completions"] | {name: SAMPLING[name] for name in FEWER}),
        ("/v1/responses", {"input": "x"} | {name: SAMPLING[name] for name in FEWER[:2]}),
    ],
)
async def test_the_other_apis_pass_on_what_they_have(served: Any, path: str, body: dict[str, Any]) -> None:
    limit = {"max_output_tokens" if "responses" in path else "max_tokens": 5}
    await asked(served, path, body | limit | {"russet": {"stop_token_ids": [70]}})
    sampling = sampling_of(served)
    assert sampling.pop("seed")
    assert sampling == DEFAULTS | {name: SAMPLING[name] for name in FEWER if name in body}
    assert served.scheduler.requests[-1].max_tokens == 5
    assert list(served.scheduler.requests[-1].stop_token_ids) == [70]


async def test_what_is_not_said_has_its_default_and_a_seed_of_its_own(served: Any) -> None:
    for path, body in OVER_HTTP.items():
        await asked(served, path, body)
        sampling = sampling_of(served)
        assert sampling.pop("seed")
        assert sampling == DEFAULTS
    assert len({request.sampling.seed for request in served.scheduler.requests}) == 2


@pytest.mark.parametrize("path", OVER_HTTP)
async def test_stop_texts_are_found_across_tokens(served: Any, path: str) -> None:
    """Each token of this model is a byte."""
    reply = await served.client().post(path, json=OVER_HTTP[path] | {"model": "tiny", "stop": ["nobody", "o, w"]})
    choice = reply.json()["choices"][0]
    assert (choice.get("text") or choice["message"]["content"], choice["finish_reason"]) == ("Hell", "stop")


@pytest.mark.parametrize("method", ["ChatStream", "CompleteStream"])
async def test_stop_texts_over_grpc_too(served: Any, method: str) -> None:
    channel = connect(f"tcp:{served.gateway.addresses.grpc}")
    served.channels.append(channel)
    decoding = inference_pb2.Decoding(stop=["o, w"])
    requests = {
        "ChatStream": inference_pb2.ChatRequest(
            messages=[inference_pb2.Message(role="user", content="x")], decoding=decoding
        ),
        "CompleteStream": inference_pb2.CompleteRequest(text="x", decoding=decoding),
    }
    chunks = [chunk async for chunk in getattr(InferenceStub(channel), method)(requests[method])]
    assert "".join(chunk.delta for chunk in chunks) == "Hell"
    assert chunks[-1].finish_reason == inference_pb2.FINISH_STOP
