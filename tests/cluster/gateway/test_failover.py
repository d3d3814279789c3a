"""Streams that break go on where they were; clients that vanish leave nothing running."""

import asyncio

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from actors.base.errors import Internal, InvalidArgument, NotFound, Unavailable
from actors.base.telemetry import Telemetry

ANSWER = "Hello, wörld of streams"
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 40}


async def text_of(world, **extra):
    reply = await world.client().post("/v1/chat/completions", json=BODY | extra)
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.parametrize("breakage", [Unavailable("gone"), Internal("bug")], ids=["unavailable", "internal"])
@pytest.mark.parametrize("after", [0, 1, 8])
async def test_a_broken_stream_goes_on_at_another_replica(world, breakage, after):
    first, second = await world.replica("tiny-0", answer=ANSWER), await world.replica("tiny-1", answer=ANSWER)
    first.break_after, first.breakage = after, breakage
    await world.start()
    answer = await text_of(world)
    assert answer["choices"][0]["message"]["content"] == ANSWER
    assert answer["usage"]["completion_tokens"] == len(ANSWER.encode())
    assert answer["russet"]["route"]["replica"] == "tiny-1"
    assert answer["russet"]["failovers"] == (1 if after else 0)
    original, resumed = first.requests[0], second.requests[0]
    assert list(resumed.token_ids) == [*original.token_ids, *ANSWER.encode()[:after]]
    assert resumed.prompt_tokens == original.prompt_tokens
    assert resumed.sampling == original.sampling
    assert list(world.router.routed[-1].exclude) == (["tiny-0"] if after else [])


@pytest.mark.parametrize("after", [0, 5])
async def test_a_stream_whose_replica_lost_its_worker_goes_on_at_one_that_is_ready(world, after):
    first, second = await world.replica("tiny-0", answer=ANSWER), await world.replica("tiny-1", answer=ANSWER)
    first.stall_after = after
    await world.start()
    answer = await text_of(world)
    assert answer["choices"][0]["message"]["content"] == ANSWER
    assert answer["russet"]["route"]["replica"] == "tiny-1"
    resumed = second.requests[0]
    assert list(resumed.token_ids) == [*first.requests[0].token_ids, *ANSWER.encode()[:after]]
    assert resumed.losses == 1, "what kills workers is known for it where it goes"
    await asyncio.wait_for(first.cancelled.wait(), 5)


async def test_where_no_other_is_ready_it_stays_until_the_worker_is_back(world):
    first, second = await world.replica("tiny-0", answer=ANSWER), await world.replica("tiny-1", answer=ANSWER)
    world.router.unavailable = {"tiny-1"}
    first.stall_after = 5
    await world.start()
    listed = world.router.listed
    asking = asyncio.create_task(text_of(world))
    await world.until(lambda: first.stall_after is None and world.router.listed >= listed + 3)
    first.recovered.set()
    answer = await asking
    assert answer["choices"][0]["message"]["content"] == ANSWER
    assert (answer["russet"]["failovers"], second.requests, len(first.requests)) == (0, [], 1)


async def test_one_that_becomes_ready_before_the_worker_is_back_takes_it(world):
    first, second = await world.replica("tiny-0", answer=ANSWER), await world.replica("tiny-1", answer=ANSWER)
    world.router.unavailable = {"tiny-1"}
    first.stall_after = 5
    await world.start()
    listed = world.router.listed
    asking = asyncio.create_task(text_of(world))
    await world.until(lambda: first.stall_after is None and world.router.listed >= listed + 3)
    assert second.requests == []
    world.router.unavailable = set()
    answer = await asking
    assert answer["choices"][0]["message"]["content"] == ANSWER
    assert answer["russet"]["failovers"] == 1


async def test_a_trace_tells_of_the_break_and_where_it_went_on(world):
    exporter = InMemorySpanExporter()
    world.telemetry = Telemetry("gateway", spans=[SimpleSpanProcessor(exporter)])
    first, _ = await world.replica("tiny-0", answer=ANSWER), await world.replica("tiny-1", answer=ANSWER)
    first.break_after, first.breakage = 8, Unavailable("gone")
    await world.start()
    await text_of(world)
    (chat,) = (span for span in exporter.get_finished_spans() if span.name == "chat tiny")
    broke, went_on = chat.events
    assert (broke.name, went_on.name) == ("attempt failed", "failover")
    assert dict(broke.attributes) == {
        "russet.replica": "tiny-0", "russet.tokens": 8, "exception.message": "gone", "error.type": "Unavailable",
    }  # fmt: skip
    assert dict(went_on.attributes) == {"russet.replica": "tiny-1", "russet.tokens": 8}
    assert chat.attributes["russet.failovers"] == 1
    assert chat.status.is_unset, "the request itself did not fail"


async def test_the_only_replica_is_waited_for(world):
    scheduler = await world.replica(answer=ANSWER)
    scheduler.break_after = 5
    await world.start()

    refusals = []

    def refuse(request):
        if scheduler.break_after is not None or len(refusals) == 3:
            return None
        refusals.append(request)
        world.router.replicas["tiny-0"] = ("tiny", addresses if len(refusals) == 3 else ["inproc:nobody"])
        return Unavailable("restarting")

    addresses = world.router.replicas["tiny-0"][1]
    world.router.refuse = refuse
    assert (await text_of(world))["choices"][0]["message"]["content"] == ANSWER
    assert list(scheduler.requests[-1].token_ids)[-5:] == list(ANSWER.encode()[:5])
    assert refusals


async def test_a_stopped_server_breaks_its_streams_and_they_go_on(world):
    first, _ = await world.replica("tiny-0", answer=ANSWER), await world.replica("tiny-1", answer=ANSWER)
    first.hold_after = 4
    await world.start()
    asking = asyncio.create_task(text_of(world))
    await asyncio.wait_for(first.holding.wait(), 5)
    await world.servers["tiny-0"].stop(0)
    assert (await asking)["choices"][0]["message"]["content"] == ANSWER


async def test_a_stream_over_http_shows_no_seam(world):
    first, _ = await world.replica("tiny-0", answer=ANSWER), await world.replica("tiny-1", answer=ANSWER)
    first.break_after = 8  # in the middle of the two bytes of ö
    await world.start()
    reply = await world.client().post("/v1/chat/completions", json=BODY | {"stream": True})
    assert "error" not in reply.text
    contents = [part.split('"', 1)[0] for part in reply.text.split('"content":"')[2:]]
    assert "".join(contents).encode().decode("unicode_escape") == ANSWER


async def test_waiting_ends_and_mid_stream_errors_are_events(world):
    scheduler = await world.replica(answer=ANSWER)
    scheduler.break_after = 5
    await world.start(failover_wait_s=0.2)

    def refuse(request):
        if scheduler.break_after is None:
            world.router.replicas.clear()

    world.router.refuse = refuse
    reply = await world.client().post("/v1/chat/completions", json=BODY | {"stream": True})
    assert reply.status_code == 200
    assert "event: error\ndata: " in reply.text
    assert '"code":"unavailable"' in reply.text
    assert "[DONE]" not in reply.text


async def test_refusals_are_not_tried_again(world):
    first, second = await world.replica("tiny-0"), await world.replica("tiny-1")
    first.refuse = InvalidArgument("no such thing", param="min_tokens")
    await world.start()
    reply = await world.client().post("/v1/chat/completions", json=BODY)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "min_tokens")
    assert not second.requests


async def test_internal_errors_without_progress_end(world):
    scheduler = await world.replica()
    scheduler.refuse = Internal("always")
    await world.start(failover_attempts=3)
    reply = await world.client().post("/v1/chat/completions", json=BODY)
    assert reply.status_code == 500
    assert len(scheduler.requests) <= 6


async def test_a_spent_answer_that_lost_its_end_is_whole(world):
    scheduler = await world.replica(answer=ANSWER)
    scheduler.answer_ids = list(ANSWER.encode())
    scheduler.break_after = 5
    await world.start()
    answer = await text_of(world, max_tokens=5)
    assert answer["choices"][0] | {"message": None} == {
        "index": 0, "message": None, "logprobs": None, "finish_reason": "length",
    }  # fmt: skip
    assert answer["choices"][0]["message"]["content"] == ANSWER[:5]


@pytest.mark.parametrize("router", [True, False], ids=["by the router", "by the table"])
async def test_a_broken_stream_asks_for_the_isa_class_it_ran_on(world, router):
    """Tokens are promised to be equal within one class only."""
    replicas = {name: await world.replica(name, answer=ANSWER) for name in ("tiny-0", "tiny-1", "tiny-2")}
    world.router.isa_classes = {"tiny-0": "arm64-neon", "tiny-1": "x86-avx2", "tiny-2": "arm64-neon"}
    replicas["tiny-0"].break_after = 5
    await world.start()
    assert (await world.client().get("/ready")).status_code == 200  # the table is read
    if not router:
        # Away from the moment at which the first replica breaks.
        world.router.refuse = lambda request: Unavailable("router is away") if request.isa_class else None
    answer = await text_of(world)
    assert answer["choices"][0]["message"]["content"] == ANSWER
    *before, again = [request.isa_class for request in world.router.routed]
    assert (set(before), again) == ({""}, "arm64-neon")
    if not router:
        assert answer["russet"]["route"]["replica"] == "tiny-2"


async def test_the_router_may_be_away(world):
    await world.replica(answer=ANSWER)
    await world.start()
    await text_of(world)
    world.router.refuse = lambda request: Unavailable("router is away")
    answer = await text_of(world)
    assert answer["choices"][0]["message"]["content"] == ANSWER
    assert "last table" in answer["russet"]["route"]["explanation"][0]


async def test_a_restarted_router_that_knows_nothing_yet_loses_no_request(world):
    await world.replica(answer=ANSWER)
    await world.start()
    await text_of(world)
    seen = []

    def refuse(request):
        seen.append(request)
        return NotFound("no such model") if len(seen) < 3 else None

    world.router.refuse = refuse
    assert (await text_of(world))["choices"][0]["message"]["content"] == ANSWER


async def test_a_replica_with_other_weights_gets_the_prompt_made_anew(world, make_vocabulary):
    scheduler = await world.replica()
    await world.start()
    await text_of(world)
    other = await world.replica("tiny-9", answer="new")
    other.model.revision = "r2" * 8
    other.vocabulary = make_vocabulary("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    del world.router.replicas["tiny-0"]
    assert (await text_of(world))["choices"][0]["message"]["content"] == "new"
    assert bytes(other.requests[0].token_ids) == b"[x]"
    assert len(scheduler.requests) == 1


async def test_a_vocabulary_is_sent_once_whoever_has_it_and_however_often_they_restart(world):
    """It is megabytes long; a replica that comes back or a second one of the model is a small call."""
    first, second = await world.replica("tiny-0", answer=ANSWER), await world.replica("tiny-1", answer=ANSWER)
    await world.start()
    await text_of(world)
    world.router.epoch = 2
    await text_of(world)
    del world.router.replicas["tiny-0"]
    assert (await text_of(world))["choices"][0]["message"]["content"] == ANSWER
    assert (first.describes, second.describes) == (2, 1)
    assert (first.vocabularies_sent, second.vocabularies_sent) == (1, 0)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("after", [0, 3])
async def test_a_client_that_leaves_cancels_its_generation(world, stream, after):
    scheduler = await world.replica(answer=ANSWER)
    scheduler.hold_after = after
    await world.start()
    client = world.client()
    asking = asyncio.create_task(client.post("/v1/chat/completions", json=BODY | {"stream": stream}))
    await asyncio.wait_for(scheduler.holding.wait(), 5)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await asyncio.wait_for(scheduler.cancelled.wait(), 5)


async def test_a_client_that_leaves_while_waiting_for_a_replica_stops_the_search(world):
    await world.start(failover_wait_s=60)
    client = world.client()
    asking = asyncio.create_task(client.post("/v1/chat/completions", json=BODY))
    await world.until(lambda: world.router.routed)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    async with asyncio.timeout(5):
        count = -1
        while count != len(world.router.routed):
            count = len(world.router.routed)
            await asyncio.sleep(0.7)  # longer than the longest pause between two tries
