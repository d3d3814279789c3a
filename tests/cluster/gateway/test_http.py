"""The HTTP face against a real port: OpenAI's own client, and raw requests for what that would not send."""

import asyncio
import json
import socket

import httpx
import openai
import pytest

from actors.base.errors import Conflict, NotFound, QueueFull, Unavailable
from cluster.gateway import api_keys

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def client_of(world, key="none"):
    http = httpx.AsyncClient(trust_env=False)
    world.clients.append(http)
    return openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key=key, max_retries=0, http_client=http)


async def test_openai_client_gets_a_whole_answer(world):
    scheduler = await world.replica(answer="Paris")
    scheduler.cached_tokens = 3
    await world.start()
    answer = await client_of(world).chat.completions.create(
        model="tiny", messages=QUESTION, temperature=0, seed=7, extra_body={"top_k": 5, "min_tokens": 1}
    )
    choice = answer.choices[0]
    assert (choice.message.content, choice.message.role, choice.finish_reason) == ("Paris", "assistant", "stop")
    request = scheduler.requests[0]
    assert answer.usage.completion_tokens == 5
    assert answer.usage.prompt_tokens == request.prompt_tokens == len(request.token_ids)
    assert answer.usage.prompt_tokens_details.cached_tokens == 3
    assert answer.system_fingerprint.startswith("fp_")
    assert answer.russet["route"] == {
        "model": "tiny", "replica": "tiny-0", "confidence": 0.75, "explanation": ["it was the first"],
    }  # fmt: skip
    assert (request.sampling.seed, request.sampling.top_k, request.sampling.temperature) == (7, 5, 0)
    assert all(request.sampling.HasField(f) for f in ("top_p", "min_p", "repetition_penalty", "presence_penalty"))
    assert request.min_tokens == 1


async def test_openai_client_streams_with_usage(world):
    await world.replica(answer="Grüße, 東京")
    await world.start()
    stream = await client_of(world).chat.completions.create(
        model="tiny", messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].russet["route"]["replica"] == "tiny-0"
    deltas = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert deltas == list("Grüße, 東京")
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == len("Grüße, 東京".encode())
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_stream_is_server_sent_events_that_end_in_done(world):
    await world.replica(answer="ab")
    await world.start()
    body = {"model": "tiny", "messages": QUESTION, "stream": True}
    reply = await world.client().post("/v1/chat/completions", json=body)
    assert reply.headers["content-type"] == "text/event-stream"
    events = reply.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: {") for event in events[:-2])
    assert "usage" not in reply.text
    assert reply.headers["x-request-id"] == json.loads(events[0][6:])["id"]


async def test_completions_take_text_or_token_ids(world):
    scheduler = await world.replica(answer="def")
    await world.start()
    client = client_of(world)
    for prompt in ("abc", [97, 98, 99], ["abc"], [[97, 98, 99]]):
        answer = await client.completions.create(model="tiny", prompt=prompt, max_tokens=2)
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("de", "length")
        assert list(scheduler.requests[-1].token_ids) == [97, 98, 99]
    chunks = [c async for c in await client.completions.create(model="tiny", prompt="abc", stream=True)]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "def"


async def test_stop_string_ends_text_and_usage_and_the_generation(world):
    scheduler = await world.replica(answer="one two three")
    scheduler.hold_after = 8
    await world.start()
    answer = await client_of(world).chat.completions.create(model="tiny", messages=QUESTION, stop=[" tw", "zzz"])
    assert answer.choices[0].message.content == "one"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == len("one tw")
    await asyncio.wait_for(scheduler.cancelled.wait(), 5)


async def test_model_auto_is_the_default_and_every_request_has_a_seed(world):
    scheduler = await world.replica()
    await world.start()
    client = client_of(world)
    for model in ("auto", "auto"):
        answer = await client.chat.completions.create(model=model, messages=QUESTION)
        assert answer.model == "tiny"
    first, second = (request.sampling.seed for request in scheduler.requests)
    assert first != second


async def test_content_parts_and_developer_role(world):
    scheduler = await world.replica()
    await world.start()
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}]
    await client_of(world).chat.completions.create(model="tiny", messages=messages)
    ids = scheduler.requests[0].token_ids
    text = bytes(token for token in ids if token < 256).decode()
    assert text == "system\nbe brief\nuser\nab\nassistant\n"
    assert list(ids).count(257) == 3


MINIMAL = {"model": "tiny", "messages": QUESTION}
BAD_CHAT = [
    ({"model": "tiny"}, "messages", "invalid_value"),
    (MINIMAL | {"messages": []}, "messages", "invalid_value"),
    (MINIMAL | {"messages": "hi"}, "messages", "invalid_value"),
    (MINIMAL | {"messages": ["hi"]}, "messages.0", "invalid_value"),
    (MINIMAL | {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_value"),
    (MINIMAL | {"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role", "invalid_value"),
    (MINIMAL | {"messages": [{"role": "user"}]}, "messages[0].content", "invalid_value"),
    (MINIMAL | {"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_value"),
    (MINIMAL | {"messages": [{"role": "user", "content": "x", "zip": 1}]}, "messages[0].zip", "unknown_parameter"),
    (
        MINIMAL | {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0].type",
        "unsupported_parameter",
    ),
    (MINIMAL | {"temperature": "hot"}, "temperature", "invalid_value"),
    (MINIMAL | {"temperature": True}, "temperature", "invalid_value"),
    (MINIMAL | {"temperature": 2.1}, "temperature", "invalid_value"),
    (MINIMAL | {"top_p": 0}, "top_p", "invalid_value"),
    (MINIMAL | {"top_p": 1e-60}, "top_p", "invalid_value"),
    (MINIMAL | {"top_k": -1}, "top_k", "invalid_value"),
    (MINIMAL | {"min_p": 1}, "min_p", "invalid_value"),
    (MINIMAL | {"max_tokens": -5}, "max_tokens", "invalid_value"),
    (MINIMAL | {"max_tokens": 0}, "max_tokens", "invalid_value"),
    (MINIMAL | {"max_tokens": 10**30}, "max_tokens", "invalid_value"),
    (MINIMAL | {"max_tokens": 1.5}, "max_tokens", "invalid_value"),
    (MINIMAL | {"max_completion_tokens": -1}, "max_completion_tokens", "invalid_value"),
    (MINIMAL | {"max_tokens": 100_000}, "max_tokens", "context_length_exceeded"),
    (MINIMAL | {"min_tokens": 9, "max_tokens": 5}, "min_tokens", "invalid_value"),
    (MINIMAL | {"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
    (MINIMAL | {"presence_penalty": 3}, "presence_penalty", "invalid_value"),
    (MINIMAL | {"seed": 2**64}, "seed", "invalid_value"),
    (MINIMAL | {"stop": ["a"] * 5}, "stop", "invalid_value"),
    (MINIMAL | {"stop": [""]}, "stop", "invalid_value"),
    (MINIMAL | {"stop": 3}, "stop", "invalid_value"),
    (MINIMAL | {"logit_bias": {"x": 1}}, "logit_bias", "invalid_value"),
    (MINIMAL | {"logit_bias": {"5": 101}}, "logit_bias.5", "invalid_value"),
    (MINIMAL | {"logit_bias": {"99999": 1}}, "logit_bias", "invalid_value"),
    (MINIMAL | {"frequency": 1}, "frequency", "unknown_parameter"),
    (MINIMAL | {"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    (MINIMAL | {"russet": {"priority": "urgent"}}, "russet.priority", "invalid_value"),
    (MINIMAL | {"russet": {"session_id": "s" * 300}}, "session_id", "invalid_value"),
    (MINIMAL | {"russet": {"kv_format": "q2"}}, "russet.kv_format", "invalid_value"),
    (MINIMAL | {"russet": {"kv_format": 8}}, "russet.kv_format", "invalid_value"),
    (MINIMAL | {"tools": [{"type": "function"}]}, "tools.0.function", "invalid_value"),
    (MINIMAL | {"tool_choice": "required"}, "tool_choice", "invalid_value"),
    (MINIMAL | {"n": 0}, "n", "invalid_value"),
    (MINIMAL | {"n": 33}, "n", "invalid_value"),
    (MINIMAL | {"n": True}, "n", "invalid_value"),
    (MINIMAL | {"n": 2, "russet": {"session_id": "s"}}, "n", "invalid_value"),
    (MINIMAL | {"best_of": 2}, "best_of", "unknown_parameter"),
    (MINIMAL | {"russet": {"stop_token_ids": [-1]}}, "russet.stop_token_ids", "invalid_value"),
    (MINIMAL | {"russet": {"stop_token_ids": [1] * 33}}, "stop_token_ids", "invalid_value"),
    (MINIMAL | {"russet": {"stop_token_ids": [259]}}, "stop_token_ids", "invalid_value"),
    (MINIMAL | {"messages": [{"role": "user", "content": "x" * 600}]}, "messages", "context_length_exceeded"),
]


@pytest.mark.parametrize(("body", "param", "code"), BAD_CHAT, ids=lambda value: str(value)[-60:])
async def test_bad_chat_request_is_named(world, body, param, code):
    scheduler = await world.replica()
    await world.start()
    reply = await world.client().post("/v1/chat/completions", json=body)
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["code"], error["param"]) == (
        400, "invalid_request_error", code, param,
    )  # fmt: skip
    assert error["message"]
    assert not scheduler.requests


HARMLESS = {
    "n": 1, "logprobs": False, "tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "user": "u",
    "metadata": {"a": "b"}, "store": False, "parallel_tool_calls": True, "top_logprobs": None, "stop": None,
    "service_tier": "auto",
}  # fmt: skip


async def test_defaults_of_unsupported_parameters_are_harmless(world):
    await world.replica()
    await world.start()
    client = world.client()
    assert (await client.post("/v1/chat/completions", json=MINIMAL | HARMLESS)).status_code == 200
    body = {"model": "tiny", "prompt": "a", "n": 1, "best_of": 1, "echo": False, "suffix": None, "logprobs": None}
    assert (await client.post("/v1/completions", json=body)).status_code == 200


@pytest.mark.parametrize(
    ("extra", "param", "code"),
    [
        ({"best_of": 33}, "best_of", "invalid_value"),
        ({"best_of": 2, "n": 3}, "best_of", "invalid_value"),
        ({"best_of": 3, "n": 2, "stream": True}, "best_of", "invalid_value"),
        ({"suffix": "x"}, "suffix", "unsupported_parameter"),
        ({"prompt": ["a", "b"]}, "prompt", "unsupported_parameter"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": {"a": 1}}, "prompt", "invalid_value"),
        ({"prompt": [1, -2]}, "prompt", "invalid_value"),
        ({"prompt": [True]}, "prompt", "invalid_value"),
        ({"prompt": [10**6]}, "prompt", "invalid_value"),
    ],
)
async def test_bad_completion_request_is_named(world, extra, param, code):
    await world.replica()
    await world.start()
    reply = await world.client().post("/v1/completions", json={"model": "tiny", "prompt": "a"} | extra)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, code, param)


@pytest.mark.parametrize(
    "body", [b"{", b"", b"[1]", b"null", b'{"a": NaN}', b"\xff\xfe", b"[" * 100_000, b'{"model": "\\ud800"}']
)
async def test_malformed_json_is_400(world, body):
    await world.replica()
    await world.start()
    reply = await world.client().post("/v1/chat/completions", content=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"


async def test_unknown_model_is_404(world):
    await world.replica()
    world.router.refuse = lambda request: NotFound("no model x") if request.model == "x" else None
    await world.start()
    reply = await world.client().post("/v1/chat/completions", json=MINIMAL | {"model": "x"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")


async def test_unknown_path_and_method_have_the_error_shape(world):
    await world.start()
    client = world.client()
    missing, wrong = await client.get("/v1/nothing"), await client.get("/v1/chat/completions")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")


async def test_oversized_bodies_are_413_announced_or_chunked(world):
    await world.replica()
    await world.start(max_body_bytes=2000)
    client = world.client()
    big = json.dumps(MINIMAL | {"user": "x" * 3000}).encode()

    async def chunks():
        for start in range(0, len(big), 100):
            yield big[start : start + 100]

    for content in (big, chunks()):
        reply = await client.post("/v1/chat/completions", content=content)
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "too_large")


async def test_slow_body_is_given_up(world):
    await world.start(body_timeout_s=0.05)
    host, port = world.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n"), 5)
    assert b"400" in head
    assert b"did not arrive" in await asyncio.wait_for(reader.read(), 5)
    writer.close()


async def test_queue_full_is_429_with_retry_after(world):
    first, second = await world.replica("tiny-0"), await world.replica("tiny-1")
    first.refuse = second.refuse = QueueFull("256 wait", retry_after_s=2.5)
    await world.start()
    reply = await world.client().post("/v1/chat/completions", json=MINIMAL)
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "3")
    assert (len(first.requests), len(second.requests)) == (1, 1)


async def test_full_replica_passes_to_the_next(world):
    first, second = await world.replica("tiny-0"), await world.replica("tiny-1", answer="second")
    first.refuse = QueueFull("full")
    await world.start()
    reply = await world.client().post("/v1/chat/completions", json=MINIMAL)
    assert reply.json()["choices"][0]["message"]["content"] == "second"
    assert len(second.requests) == 1


async def test_no_replica_is_503_with_retry_after(world):
    await world.start(failover_wait_s=0.1)
    reply = await world.client().post("/v1/chat/completions", json=MINIMAL)
    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) >= 1


async def test_keys(world, tmp_path):
    scheduler = await world.replica()
    key = api_keys.create(tmp_path / "keys", "alice")
    await world.start(api_keys_file=tmp_path / "keys")
    client = world.client()
    for headers in ({}, {"Authorization": "Bearer rk-wrong"}, {"Authorization": f"Basic {key}"}):
        reply = await client.post("/v1/chat/completions", json=MINIMAL, headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
    right = {"Authorization": f"Bearer {key}"}
    assert (await client.post("/v1/chat/completions", json=MINIMAL, headers=right)).status_code == 200
    assert scheduler.requests[0].tenant == "alice"
    other = right | {"X-Russet-Tenant": "bob"}
    assert (await client.post("/v1/chat/completions", json=MINIMAL, headers=other)).status_code == 403
    assert (await client.get("/version")).status_code == 200


async def test_cors_only_where_configured(world):
    await world.start()
    reply = await world.client().get("/version", headers={"Origin": "https://a.example"})
    assert "access-control-allow-origin" not in reply.headers


async def test_cors_configured(world):
    await world.start(cors_origins=("https://a.example",))
    client = world.client()
    allowed = await client.get("/version", headers={"Origin": "https://a.example"})
    assert allowed.headers["access-control-allow-origin"] == "https://a.example"
    assert (
        "access-control-allow-origin"
        not in (await client.get("/version", headers={"Origin": "https://b.example"})).headers
    )


async def test_headers_carry_session_priority_and_tenant(world):
    scheduler = await world.replica()
    await world.start()
    headers = {"X-Russet-Session": "s1", "X-Russet-Priority": "high", "X-Russet-Tenant": "t"}
    client = world.client()
    await client.post("/v1/chat/completions", json=MINIMAL, headers=headers)
    request = scheduler.requests[0]
    assert (request.session_id, request.priority, request.tenant) == ("s1", 2, "t")
    bad = await client.post("/v1/chat/completions", json=MINIMAL, headers={"X-Russet-Priority": "now"})
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "X-Russet-Priority")


async def test_models(world):
    await world.replica("alpha-0", model="alpha")
    await world.replica("tiny-0")
    await world.replica("tiny-1")
    await world.start()
    client = client_of(world)
    rows = (await client.models.list()).data
    assert [(row.id, row.russet["kind"], row.russet["replicas"]) for row in rows] == [
        ("tiny", "chat", 2), ("alpha", "chat", 1), ("MiniLM", "embedding", 1),
    ]  # fmt: skip
    assert (await client.models.retrieve("alpha")).russet["context_length"] == 512
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("beta")


async def test_embeddings(world):
    await world.start()
    client = client_of(world)
    reply = await client.embeddings.create(model="MiniLM", input=["a", "bcd"])  # base64 on the wire
    assert [row.embedding for row in reply.data] == [[1.0, 1.0], [3.0, 1.0]]
    assert reply.usage.prompt_tokens == 6
    plain = await client.embeddings.create(model="minilm", input="ab", encoding_format="float", dimensions=2)
    assert plain.data[0].embedding == [2.0, 1.0]
    for extra, param in (
        ({"input": []}, "input"),
        ({"input": [1, 2]}, "input"),
        ({"input": ""}, "input[0]"),
        ({"dimensions": 8}, "dimensions"),
    ):
        bad = await world.client().post("/v1/embeddings", json={"model": "MiniLM", "input": "a"} | extra)
        assert bad.status_code == 400
        assert bad.json()["error"]["param"] in (param, "input")
    missing = await world.client().post("/v1/embeddings", json={"model": "other", "input": "a"})
    assert missing.status_code == 404


async def test_health_runs_a_token_and_keeps_the_answer(world):
    scheduler = await world.replica()
    await world.start(health_ttl_s=30)
    client = world.client()
    assert (await client.get("/health")).status_code == 200
    assert (await client.get("/health")).status_code == 200
    assert [request.max_tokens for request in scheduler.requests] == [1]


async def test_health_says_why_it_is_bad(world):
    scheduler = await world.replica()
    scheduler.hold_after = 0
    await world.start(health_timeout_s=0.1, health_ttl_s=0)
    client = world.client()
    stuck = await client.get("/health")
    assert (stuck.status_code, "longer than 0.1 s" in stuck.text) == (503, True)
    scheduler.hold_after, scheduler.refuse = None, Unavailable("no worker")
    assert "no worker" in (await client.get("/health")).text
    scheduler.refuse = None
    assert (await client.get("/health")).status_code == 200


async def test_ready_version_metrics(world):
    await world.start()
    client = world.client()
    assert (await client.get("/ready")).status_code == 503
    await world.replica()
    assert (await client.get("/ready")).json() == {"status": "ready", "replicas": 1}
    assert (await client.get("/version")).json()["version"]
    metrics = (await client.get("/metrics")).text
    assert 'russet_gateway_requests_total{endpoint="/ready",status="503"} 1.0' in metrics


async def test_busy_ports_name_the_flag(world):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Conflict, match=f"{port}.*--port"):
            await world.start(port=port)
        world.gateway = None


async def test_busy_grpc_port_names_the_flag(world):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Conflict, match=f"{port}.*--grpc-port"):
            await world.start(grpc_port=port)
        world.gateway = None


async def test_what_runs_longer_than_the_grace_at_stop_is_told_so(world, caplog):
    scheduler = await world.replica(answer="one two three")
    scheduler.hold_after = 4
    await world.start(shutdown_grace_s=0)
    body = {"model": "tiny", "messages": QUESTION}
    whole = asyncio.create_task(world.client().post("/v1/chat/completions", json=body))
    await scheduler.holding.wait()
    async with world.client().stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as streamed:
        lines = streamed.aiter_lines()
        assert (await anext(lines)).startswith("data: ")
        stopping = asyncio.create_task(world.gateway.stop())
        rest = [line async for line in lines if line]
    assert rest[-2] == "event: error"
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "unavailable"
    refused = await whole
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    await stopping
    world.gateway = None
    assert not [record for record in caplog.records if record.exc_info]
