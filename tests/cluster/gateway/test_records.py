"""What is kept of a request: after the answer, complete, and never an obstacle."""

import asyncio

import pytest

from actors.base.errors import InvalidArgument
from cluster.gateway.finished import Finished, options_of, witness_entry
from cluster.gateway.outbox import Outbox
from cluster.gateway.records import is_drawn
from protos.gen import inference_pb2, memory_pb2, router_pb2, scheduler_pb2

BODY = {
    "model": "tiny",
    "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "question"}],
    "russet": {"session_id": "s1"},
}


async def test_a_finished_request_reaches_memory_learner_and_router(world):
    scheduler = await world.replica(answer="fine")
    scheduler.cached_tokens = 2
    await world.start()
    client = world.client()
    replies = [(await client.post("/v1/chat/completions", json=BODY)).json() for _ in range(2)]
    await world.until(
        lambda: len(world.router.reports) == len(world.learner.trajectories) == len(world.memory.entries) == 2
    )
    await world.until(lambda: [len(session.turns) for session in world.memory.sessions.values()] == [5])
    entry, trajectory, session = world.memory.entries[0], world.learner.trajectories[0], world.memory.sessions["", "s1"]
    assert entry.id == trajectory.id == replies[0]["id"]
    assert (entry.query_text, entry.response_text, entry.finish, entry.error) == ("question", "fine", "stop", "")
    assert (entry.usage.completion_tokens, entry.usage.cached_tokens) == (4, 2)
    assert entry.route.replica == entry.replica_id == "tiny-0"
    assert entry.model_revision == "r1" * 8
    assert (entry.latency.queue_ms, entry.latency.prefill_ms, entry.latency.decode_ms) == (1, 2, 3)
    latency = entry.latency
    assert latency.total_ms >= latency.ttft_ms > 0
    assert latency.retrieval_ms > 0
    assert latency.embedding_ms > 0
    assert [(each.model, each.replica, each.probability) for each in entry.options] == [("tiny", "tiny-0", 1)]
    assert entry.kv_format == "f16"
    assert list(entry.query_embedding) == list(trajectory.query_embedding) == [len("question"), 1]
    assert list(trajectory.prompt_ids) == list(scheduler.requests[0].token_ids)
    assert bytes(trajectory.answer_ids) == b"fine"
    assert [t.follows for t in world.learner.trajectories] == ["", replies[0]["id"]]
    assert [(turn.role, turn.content) for turn in session.turns] == [
        ("system", "s"), ("user", "question"), ("assistant", "fine"), ("user", "question"), ("assistant", "fine"),
    ]  # fmt: skip
    assert list(session.embedding) == [len("question"), 1]
    report = world.router.reports[0]
    assert (report.succeeded, report.session_id) == (True, "s1")
    (routed,) = (each for each in world.router.routed if each.request_id == report.request_id and each.prompt_tokens)
    assert list(report.prefix_hashes) == list(routed.prefix_hashes)
    assert len(report.prefix_hashes) == scheduler.requests[0].prompt_tokens // 16


async def test_an_answer_is_scored_with_its_question_and_what_it_was_asked_to_be(world):
    scheduler = await world.replica(answer='{"a": 1}')
    gateway = await world.start()
    client = world.client()
    free = (await client.post("/v1/chat/completions", json=BODY)).json()
    schema = {"name": "s", "schema": {"type": "object"}}
    formed = BODY | {"response_format": {"type": "json_schema", "json_schema": schema}}
    await gateway._records.flush()
    held = (await client.post("/v1/chat/completions", json=formed)).json()
    await world.until(lambda: len(world.memory.entries) == len(world.learner.trajectories) == 2)
    assert [each.id for each in world.memory.answered] == [free["id"], held["id"]]
    assert [each.text for each in world.memory.answered] == ['{"a": 1}'] * 2
    assert list(world.memory.answered[0].query_embedding) == [len("question"), 1]
    assert [len(each.demands) for each in world.memory.answered] == [0, 1]
    (demand,) = world.memory.answered[1].demands
    assert (demand.text, demand.grammar) == ('{"a": 1}', scheduler.requests[1].grammar)
    for entry, trajectory in zip(world.memory.entries, world.learner.trajectories, strict=True):
        assert entry.quality == entry.scores.total == trajectory.quality == len('{"a": 1}') / 1024


@pytest.mark.parametrize("why", ["refused", "share", "cancelled"])
async def test_an_answer_that_is_not_scored_is_recorded_without_quality(world, why):
    scheduler = await world.replica()
    await world.start(quality_share=0 if why == "share" else 1)
    if why == "refused":
        world.memory.refuse_scores = InvalidArgument("no")
    if why == "cancelled":
        scheduler.hold_after = 3
        asking = asyncio.create_task(world.client().post("/v1/chat/completions", json=BODY))
        await asyncio.wait_for(scheduler.holding.wait(), 5)
        asking.cancel()
    else:
        await world.client().post("/v1/chat/completions", json=BODY)
    await world.until(lambda: world.memory.entries and world.learner.trajectories)
    assert not world.memory.entries[0].HasField("quality")
    assert not world.memory.entries[0].HasField("scores")
    assert not world.learner.trajectories[0].HasField("quality")
    assert len(world.memory.answered) == (why == "refused")


async def test_where_too_many_wait_records_go_on_without_quality(world):
    await world.replica()
    gateway = await world.start(record_queue=8, record_batch=1, record_delay_s=0, quality_share=1)
    world.memory.hold_scores = asyncio.Event()
    client = world.client()
    answers = [await client.post("/v1/chat/completions", json=BODY | {"russet": {}}) for _ in range(8)]
    await world.until(lambda: len(world.router.reports) == 8)
    world.memory.hold_scores.set()
    await gateway._records.flush()
    ids = [answer.json()["id"] for answer in answers]
    assert [entry.id for entry in world.memory.entries] == ids
    # The first was under way; then six and five waited behind the next.
    assert [entry.HasField("quality") for entry in world.memory.entries] == [True] + [False] * 2 + [True] * 5


@pytest.mark.parametrize(("share", "scored"), [(0.0, 0), (0.5, 5), (1.0, 8)])
async def test_while_answers_are_made_a_share_of_those_that_ended_is_scored(world, share, scored):
    scheduler = await world.replica()
    gateway = await world.start(quality_share=share)
    records = gateway._records
    scheduler.hold_after = 3
    asking = asyncio.create_task(world.client().post("/v1/chat/completions", json=BODY))
    await asyncio.wait_for(scheduler.holding.wait(), 5)
    assert records.answering == 1
    for at in range(8):
        records.put(ended(f"r{at}"))
    await records.flush()
    assert [entry.HasField("quality") for entry in world.memory.entries] == [
        is_drawn(f"r{at}", share) for at in range(8)
    ]
    assert len(world.memory.answered) == scored
    asking.cancel()
    await world.until(lambda: len(world.memory.entries) == 9)
    assert records.answering == 0
    records.put(ended("at rest"))
    await records.flush()
    assert world.memory.entries[-1].HasField("quality") == (share > 0)


def ended(name: str) -> Finished:
    """A request that ended, as records take it."""
    return Finished(
        id=name, tenant="", session_id="", time_ms=0, route=inference_pb2.Route(), revision="", question="q",
        session=None, text="answer", prompt_ids=[], answer_ids=[], prefix_hashes=[], usage=inference_pb2.Usage(),
        timings=scheduler_pb2.Timings(), finish="stop", error="", routing_ms=0, ttft_ms=0, tpot_ms=0, total_ms=0,
    )  # fmt: skip


def test_the_same_share_of_answers_is_scored_each_time():
    ids = [f"chatcmpl-{at}" for at in range(2000)]
    drawn = [is_drawn(each, 0.25) for each in ids]
    assert drawn == [is_drawn(each, 0.25) for each in ids]
    assert 400 < sum(drawn) < 600
    assert not any(is_drawn(each, 0.0) for each in ids)
    assert all(is_drawn(each, 1.0) for each in ids)


async def test_memory_away_delays_nobody_and_gets_it_later(world):
    await world.replica()
    await world.start()
    world.memory.away = True
    client = world.client()
    alone = {name: value for name, value in BODY.items() if name != "russet"}
    assert (await client.post("/v1/chat/completions", json=alone)).status_code == 200
    await world.until(lambda: world.learner.trajectories)
    world.memory.away = False
    await world.until(lambda: world.memory.entries)


async def test_a_cancelled_request_is_recorded_as_such(world):
    scheduler = await world.replica()
    scheduler.hold_after = 3
    await world.start()
    asking = asyncio.create_task(world.client().post("/v1/chat/completions", json=BODY))
    await asyncio.wait_for(scheduler.holding.wait(), 5)
    asking.cancel()
    await world.until(lambda: world.memory.entries)
    assert (world.memory.entries[0].finish, world.memory.entries[0].response_text) == ("cancelled", "Hel")


async def test_stop_sends_what_waits(world):
    await world.replica()
    gateway = await world.start(record_delay_s=30)
    await world.client().post("/v1/chat/completions", json=BODY)
    assert not world.memory.entries
    await gateway.stop()
    world.gateway = None
    assert len(world.memory.entries) == len(world.learner.trajectories) == len(world.router.reports) == 1


async def test_feedback_finds_an_answer_at_once(world):
    await world.replica()
    await world.start(record_delay_s=30)
    client = world.client()
    answer = (await client.post("/v1/chat/completions", json=BODY)).json()
    rated = await client.post("/v1/feedback", json={"response_id": answer["id"], "rating": 1})
    assert rated.json() == {"found": True}
    assert (await client.post("/v1/feedback", json={"response_id": "no", "rating": 1})).json() == {"found": False}
    bad = await client.post("/v1/feedback", json={"response_id": "no", "rating": 2})
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "rating")
    nothing = await client.post("/v1/feedback", json={"response_id": answer["id"]})
    assert (nothing.status_code, nothing.json()["error"]["message"][:26]) == (400, "the feedback tells nothing")
    told = {"response_id": answer["id"], "outcome": "failure", "correction": "Paris", "label": "geography"}
    assert (await client.post("/v1/feedback", json=told)).json() == {"found": True}
    newest = world.learner.ratings[-1]
    assert (newest.outcome, newest.correction, newest.label) == ("failure", "Paris", "geography")
    assert not newest.HasField("rating")


async def test_a_full_outbox_drops_its_oldest_and_counts():
    sent, lost = [], []

    async def send(batch):
        sent.extend(batch)

    box = Outbox("x", send, lost.append, limit=3, batch=2, delay_s=0)
    for item in range(5):
        box.put(item)
    box.start()
    await box.flush()
    assert (sent, sum(lost)) == ([2, 3, 4], 2)
    await box.stop()


async def test_a_batch_that_can_never_go_is_counted_lost():
    lost = []

    async def send(batch):
        raise ValueError("no")

    box = Outbox("x", send, lost.append, limit=10, batch=2, delay_s=0)
    box.put(1)
    box.start()
    await asyncio.wait_for(box.flush(), 5)
    assert lost == [1]
    await box.stop()


@pytest.mark.parametrize("delay", [0.0, 30.0])
async def test_a_full_batch_does_not_wait(delay):
    sent = asyncio.Queue()
    box = Outbox("x", sent.put, lambda count: None, limit=10, batch=2, delay_s=delay)
    box.start()
    box.put(1)
    box.put(2)
    assert await asyncio.wait_for(sent.get(), 5) == [1, 2]
    await box.stop()


def test_a_decision_is_kept_with_probabilities_of_which_the_chosen_one_is_first():
    candidates = [router_pb2.Candidate(replica_id=f"r{at}", score=-10.0 * at) for at in range(3)]
    decision = router_pb2.RouteReply(model="m", candidates=candidates, confidence=0.75)
    options = options_of(decision, "r1")
    assert [option.replica for option in options] == ["r1", "r0", "r2"]
    assert sum(option.probability for option in options) == pytest.approx(1)
    by_replica = {option.replica: option.probability for option in options}
    assert by_replica["r0"] == 0.75
    assert by_replica["r1"] > by_replica["r2"] > 0
    assert options_of(router_pb2.RouteReply(model="m"), "r1") == []


def test_retrieved_documents_are_in_the_entry():
    finished = ended("r0")
    finished.documents = [memory_pb2.WitnessDocument(id="file-1", store="vs-1", chunk=3, score=0.5)]
    assert list(witness_entry(finished).documents) == finished.documents
