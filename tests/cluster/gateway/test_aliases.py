"""Requests by alias: tokens of the model that answers, one model for one answer, and who may change names."""

from typing import Any

import grpc
import pytest

from actors.base.errors import Internal, Unavailable
from cluster.cli_models import compared, weights
from cluster.gateway import api_keys
from protos.gen import inference_pb2
from protos.gen.inference_pb2_grpc import InferenceStub

BODY = {"model": "chat", "messages": [{"role": "user", "content": "x"}], "max_tokens": 40}
OTHER = "{% for message in messages %}[{{ message['content'] }}]{% endfor %}"


async def alias(world: Any, *models: str, name: str = "chat") -> None:
    targets = [inference_pb2.AliasTarget(model=model, weight=1, ready=True) for model in models]
    world.router.aliases[name] = inference_pb2.Alias(name=name, targets=targets, max_failures=0.5)


async def text_of(world: Any, **extra: Any) -> dict[str, Any]:
    reply = await world.client().post("/v1/chat/completions", json=BODY | extra)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def test_the_answer_says_which_model_it_is_of_and_the_record_keeps_both_names(world: Any) -> None:
    await world.replica(answer="Hi")
    await alias(world, "tiny")
    await world.start()
    answer = await text_of(world)
    assert answer["model"] == "tiny"
    assert (answer["russet"]["route"]["model"], answer["russet"]["route"]["alias"]) == ("tiny", "chat")
    await world.until(lambda: world.memory.entries)
    entry = world.memory.entries[0]
    assert (entry.model, entry.route.model, entry.route.alias) == ("tiny", "tiny", "chat")
    assert "alias" not in (await text_of(world, model="tiny"))["russet"]["route"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/responses", {"input": "x"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9}),
    ],
)
async def test_every_api_resolves_the_same_way(world: Any, path: str, body: dict[str, Any]) -> None:
    await world.replica(answer="Hi")
    await alias(world, "tiny")
    await world.start()
    reply = await world.client().post(path, json=body | {"model": "chat"})
    assert (reply.status_code, reply.json()["model"]) == (200, "tiny")
    assert world.router.routed[-1].model == "chat"


async def test_embeddings_of_a_chat_models_name_are_refused(world: Any) -> None:
    await world.replica()
    await alias(world, "tiny")
    await world.start()
    reply = await world.client().post("/v1/embeddings", json={"model": "chat", "input": "x"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")


async def test_prompts_are_made_for_the_model_that_is_drawn_though_another_was_last(
    world: Any, make_vocabulary: Any
) -> None:
    tiny = await world.replica("tiny-0", "tiny", answer="one")
    other = await world.replica("other-0", "other", answer="two")
    other.vocabulary = make_vocabulary(OTHER)
    await world.start()
    for models, scheduler, prompt in (
        (("tiny", "other"), tiny, b"user\nx"),
        (("other", "tiny"), other, b"[x]"),
        (("tiny", "other"), tiny, b"user\nx"),
    ):
        await alias(world, *models)
        answer = await text_of(world)
        assert answer["model"] == models[0]
        read = bytes(token for token in scheduler.requests[-1].token_ids if token < 256)
        assert prompt in read, read
        assert scheduler.requests[-1].prompt_tokens == len(scheduler.requests[-1].token_ids)


async def test_a_session_that_comes_to_another_model_is_read_by_its_own_tokens(
    world: Any, make_vocabulary: Any
) -> None:
    await world.replica("tiny-0", "tiny", answer="one")
    other = await world.replica("other-0", "other", answer="two")
    other.vocabulary = make_vocabulary(OTHER)
    await world.start()
    session = {"russet": {"session_id": "s"}}
    await alias(world, "tiny", "other")
    await text_of(world, **session)
    await alias(world, "other", "tiny")
    assert (await text_of(world, **session))["model"] == "other"
    assert bytes(other.requests[-1].token_ids) == b"[x][one][x]"
    assert not other.requests[-1].kv_source


async def test_a_stream_that_has_begun_goes_on_with_its_own_model(world: Any) -> None:
    first, second = await world.replica("tiny-0", answer="Hello"), await world.replica("tiny-1", answer="Hello")
    other = await world.replica("other-0", "other", answer="Never")
    await alias(world, "tiny", "other")
    first.break_after = 2
    await world.start()
    answer = await text_of(world)
    assert (answer["model"], answer["choices"][0]["message"]["content"]) == ("tiny", "Hello")
    assert (world.router.routed[-1].settled, world.router.routed[-1].begun) == ("tiny", True)
    assert bytes(second.requests[0].token_ids[-2:]) == b"He"
    assert not other.requests


async def test_before_the_first_token_another_model_may_take_it_with_a_prompt_of_its_own(
    world: Any, make_vocabulary: Any
) -> None:
    tiny = await world.replica("tiny-0", "tiny")
    other = await world.replica("other-0", "other", answer="two")
    other.vocabulary = make_vocabulary(OTHER)
    await alias(world, "tiny", "other")
    await world.start()
    await text_of(world)
    tiny.refuse = Unavailable("gone")

    def refuse(request: Any) -> None:
        """As the router does where tiny has failed: the other target, though the request was settled."""
        if request.exclude and not request.begun:
            world.router.aliases["chat"].targets[0].model = "other"
            request.settled = ""

    world.router.refuse = refuse
    answer = await text_of(world)
    assert (answer["model"], answer["choices"][0]["message"]["content"]) == ("other", "two")
    assert bytes(other.requests[-1].token_ids) == b"[x]"


async def test_all_choices_of_a_request_are_of_one_key(world: Any) -> None:
    await world.replica(answer="Hi")
    await alias(world, "tiny")
    await world.start()
    await text_of(world, n=3)
    keys = {request.route_key for request in world.router.routed}
    assert len(keys) == 1
    await text_of(world)
    assert world.router.routed[-1].route_key not in keys


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", BODY | {"user": "ann"}),
        ("/v1/chat/completions", BODY | {"safety_identifier": "ann"}),
        ("/v1/completions", {"model": "chat", "prompt": "x", "user": "ann"}),
        ("/v1/responses", {"model": "chat", "input": "x", "user": "ann", "store": False}),
        ("/v1/messages", {**BODY, "metadata": {"user_id": "ann"}}),
    ],
)
async def test_a_user_stays_with_a_model(world: Any, path: str, body: dict[str, Any]) -> None:
    await world.replica(answer="Hi")
    await alias(world, "tiny")
    await world.start()
    assert (await world.client().post(path, json=body)).status_code == 200
    assert world.router.routed[-1].route_key == "ann"


async def test_what_becomes_of_requests_by_alias_is_told_to_the_router(world: Any) -> None:
    scheduler = await world.replica(answer="Hi there")
    await alias(world, "tiny")
    await world.start(quality_share=1, failover_attempts=1, failover_wait_s=0.2)
    answer = await text_of(world)
    await world.until(lambda: any(each.HasField("quality") for each in world.router.outcomes))
    rating = {"response_id": answer["id"], "rating": -1}
    assert (await world.client().post("/v1/feedback", json=rating)).status_code == 200
    await world.until(lambda: any(each.HasField("rating") for each in world.router.outcomes))
    ended, scored, rated = world.router.outcomes
    assert {(each.alias, each.model) for each in world.router.outcomes} == {("chat", "tiny")}
    assert ended.succeeded
    assert ended.ttft_ms > 0
    assert ended.tpot_ms > 0
    assert (round(scored.quality * 1024), rated.rating) == (8, -1)
    scheduler.refuse = Internal("broken")
    assert (await world.client().post("/v1/chat/completions", json=BODY)).status_code == 500
    await world.until(lambda: len(world.router.outcomes) == 4)
    assert world.router.outcomes[-1].HasField("succeeded")
    assert not world.router.outcomes[-1].succeeded
    # What is the client's own fault counts for nothing, nor do requests by a model's own name.
    assert (await world.client().post("/v1/chat/completions", json=BODY | {"max_tokens": 9999})).status_code == 400
    scheduler.refuse = None
    await text_of(world, model="tiny")
    await world.gateway._outcomes.stop()
    assert len(world.router.outcomes) == 4


async def test_aliases_are_listed_with_the_models(world: Any) -> None:
    await world.replica()
    await alias(world, "tiny", "other")
    await alias(world, "nobody", name="idle")
    await world.start()
    rows = (await world.client().get("/v1/models")).json()["data"]
    assert [row["id"] for row in rows] == ["tiny", "chat", "MiniLM"]
    assert rows[1]["russet"]["kind"] == "alias"
    assert rows[1]["russet"]["models"] == {"tiny": 0.5, "other": 0.5}
    assert (await world.client().get("/v1/models/chat")).status_code == 200


async def test_names_are_put_shown_and_deleted_over_http(world: Any) -> None:
    await world.start()
    client = world.client()
    body = {"models": {"tiny": 0.9, "a/b": 0.1}, "max_failures": 0.25}
    row = (await client.put("/v1/russet/aliases/gpt%2F4o", json=body)).json()
    assert (row["id"], row["max_failures"], row["models"]["a/b"]["share"]) == ("gpt/4o", 0.25, 0.1)
    assert (await client.get("/v1/russet/aliases/gpt%2F4o")).json() == row
    assert (await client.get("/v1/russet/aliases")).json()["data"] == [row]
    unknown = await client.get("/v1/russet/aliases/nope")
    assert (unknown.status_code, "there are: gpt/4o" in unknown.json()["error"]["message"]) == (404, True)
    for deleted in (True, False):
        assert (await client.delete("/v1/russet/aliases/gpt%2F4o")).json()["deleted"] is deleted


async def test_outcomes_are_told_with_intervals(world: Any) -> None:
    await world.start()
    outcomes = inference_pb2.Outcomes(
        requests=10, errors=1, ttft_ms=inference_pb2.Moments(count=4, mean=100, variance=400),
        rating=inference_pb2.Moments(count=1, mean=1),
    )  # fmt: skip
    target = inference_pb2.AliasTarget(model="tiny", weight=1, outcomes=outcomes)
    world.router.aliases["chat"] = inference_pb2.Alias(name="chat", targets=[target])
    told = (await world.client().get("/v1/russet/aliases/chat")).json()["models"]["tiny"]
    assert told["ttft_ms"] == pytest.approx({"count": 4, "mean": 100, "low": 80.4, "high": 119.6}, abs=0.01)
    # Wilson's interval of 1 in 10.
    assert told["error_rate"] == pytest.approx({"mean": 0.1, "low": 0.0179, "high": 0.4042}, abs=1e-4)
    assert told["rating"] == {"count": 1, "mean": 1, "low": None, "high": None}
    assert told["quality"] is None


async def test_only_administrators_change_names(world: Any, tmp_path: Any) -> None:
    keys = tmp_path / "keys"
    ann, bob = api_keys.create(keys, "ann", "admin"), api_keys.create(keys, "bob")
    await world.start(api_keys_file=keys)
    for key, status in ((ann, 200), (bob, 403)):
        client = world.client(headers={"Authorization": f"Bearer {key}"})
        body = {"models": {"tiny": 1}}
        assert (await client.put("/v1/russet/aliases/x", json=body)).status_code == status
        assert (await client.get("/v1/russet/aliases")).status_code == status
        assert (await client.delete("/v1/russet/aliases/x")).status_code == status
    async with grpc.aio.insecure_channel(world.gateway.addresses.grpc) as channel:
        stub: Any = InferenceStub(channel)
        request = inference_pb2.PutAliasRequest(alias=inference_pb2.Alias(name="x"))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.PutAlias(request, metadata=(("authorization", f"Bearer {bob}"),))
        assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
        assert (await stub.PutAlias(request, metadata=(("authorization", f"Bearer {ann}"),))).name == "x"


async def test_an_open_gateway_that_others_reach_has_no_administrators(world: Any) -> None:
    await world.start(host="0.0.0.0")
    port = world.url.rpartition(":")[2]
    reply = await world.client().get(f"http://127.0.0.1:{port}/v1/russet/aliases")
    assert reply.status_code == 403


def test_weights_are_read_from_the_command_line() -> None:
    assert weights(["small=0.9", "a=b=0.1"]) == {"small": 0.9, "a=b": 0.1}
    assert weights(["small"]) == {"small": 1.0}


def test_two_sides_are_told_apart_where_their_difference_is_beyond_chance() -> None:
    def side(mean: float, half: float) -> dict[str, Any]:
        value = {"count": 9, "mean": mean, "low": mean - half, "high": mean + half}
        return {"ttft_ms": value, "tpot_ms": None, "quality": value, "rating": None}

    first, quality = compared({"a": side(1.0, 0.3), "b": side(1.45, 0.4)})
    assert first.endswith("not told apart yet")
    assert "b - a = +0.45" in quality
    assert compared({"a": side(1.0, 0.3), "b": side(1.55, 0.4)})[1].endswith(": apart")
