"""russet.context: prompts that are too long are packed instead of refused, and what was taken is told."""

from typing import Any

import pytest

from protos.gen import memory_pb2
from tests.cluster.gateway.recall.test_retrieve import LINES, read


def said(turns: int, length: int = 40) -> list[dict[str, str]]:
    """So many turns with their answers, then a question; about `length` characters each."""
    messages = [{"role": "system", "content": "Be brief."}]
    for at in range(turns):
        messages += [
            {"role": "user", "content": f"question {at} ".ljust(length, "x")},
            {"role": "assistant", "content": f"answer {at} ".ljust(length, "y")},
        ]
    return [*messages, {"role": "user", "content": "question 0 again"}]


async def ask(world: Any, messages: list[dict[str, str]], headers: dict[str, str] | None = None, **russet: Any) -> Any:
    body = {"messages": messages, "max_tokens": 16, "russet": russet}
    return await world.client(headers=headers).post("/v1/chat/completions", json=body)


async def test_what_is_too_long_is_packed_where_that_is_asked_for(world: Any) -> None:
    scheduler = await world.replica()
    await world.start()
    messages = said(8)
    refused = await ask(world, messages)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
    reply = await ask(world, messages, context={})
    told = reply.json()["russet"]["retrieval"]["context"]
    prompt = read(scheduler)
    assert told["budget_tokens"] == 512 - 16
    assert told["prompt_tokens"] == len(scheduler.requests[-1].token_ids) <= 496
    assert reply.json()["usage"]["prompt_tokens"] == told["prompt_tokens"]
    assert [item["id"] for item in told["items"]] == [str(at) for at in range(8)]
    taken = [int(item["id"]) for item in told["items"] if item["taken"]]
    assert taken
    assert len(taken) < 8
    assert "Be brief." in prompt
    assert prompt.endswith("question 0 again<|im_end|>\n<|im_start|>assistant\n")
    for at in range(8):
        assert (f"question {at} x" in prompt, f"answer {at} y" in prompt) == (at in taken, at in taken)
    places = [prompt.index(f"question {at} x") for at in taken]
    assert places == sorted(places)
    again = await ask(world, messages, context={})
    assert again.json()["russet"]["retrieval"]["context"] == told


async def test_a_budget_is_kept_and_one_that_is_too_small_refused(world: Any) -> None:
    scheduler = await world.replica()
    await world.start()
    reply = await ask(world, said(3), context={"budget_tokens": 200})
    assert len(scheduler.requests[-1].token_ids) <= 200
    assert sum(item["taken"] for item in reply.json()["russet"]["retrieval"]["context"]["items"]) in (1, 2)
    refused = await ask(world, said(3), context={"budget_tokens": 20})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "russet.context.budget_tokens"
    assert "the last turn alone have" in refused.json()["error"]["message"]


async def test_a_session_is_packed_and_keeps_all_its_turns(world: Any) -> None:
    scheduler = await world.replica()
    scheduler.answer_ids = list(b"y" * 16)
    await world.start()
    for at in range(12):
        reply = await ask(world, [{"role": "user", "content": f"{at}:" + "x" * 30}], context={}, session_id="s")
        assert reply.status_code == 200, reply.text
        assert len(scheduler.requests[-1].token_ids) <= 496
    items = reply.json()["russet"]["retrieval"]["context"]["items"]
    assert len(items) == 11
    assert not all(item["taken"] for item in items)
    shown = (await world.client().get("/v1/russet/sessions/s")).json()
    assert len(shown["messages"]) == 24


async def test_earlier_sessions_of_the_tenant_are_told_and_no_others(world: Any) -> None:
    scheduler = await world.replica()
    await world.start()
    for tenant, name in (("a", "one"), ("a", "two"), ("b", "other")):
        message = [{"role": "user", "content": f"my {name}"}]
        await ask(world, message, {"X-Russet-Tenant": tenant}, session_id=name)
    await world.until(lambda: len(world.memory.sessions) == 3)
    mine, asked = {"X-Russet-Tenant": "a"}, [{"role": "user", "content": "and now?"}]
    reply = await ask(world, asked, mine, context={"kinds": ["episodic"]}, session_id="two")
    items = reply.json()["russet"]["retrieval"]["context"]["items"]
    assert [(item["kind"], item["id"], item["taken"]) for item in items] == [("episodic", "one", True)]
    assert "From earlier conversations:\n\nuser: my one\nassistant: Hello, world" in read(scheduler)
    assert "other" not in read(scheduler)
    assert "my two" not in read(scheduler)
    world.memory.away = True
    refused = await ask(world, asked, mine, context={"kinds": ["episodic"]})
    assert refused.status_code == 503
    assert "russet.context cannot be done now" in refused.json()["error"]["message"]


async def test_what_worked_for_the_tenant_is_repeated_credited_listed_and_deleted(world: Any) -> None:
    scheduler = await world.replica()
    await world.start()
    for tenant, name, rating in (("a", "r1", 0.5), ("a", "r2", 1.0), ("b", "r3", 1.0)):
        world.memory.procedures.append(
            memory_pb2.Procedure(
                id=name, tenant=tenant, question=f"Why {name}?", answer="z" * 150, source="rated", rating=rating
            )
        )
    mine, asked = {"X-Russet-Tenant": "a"}, [{"role": "user", "content": "Why?"}]
    plain = await ask(world, asked, mine, context={})
    assert "Why r" not in read(scheduler)
    assert plain.json()["russet"]["retrieval"]["context"]["items"] == []
    reply = await ask(world, asked, mine, context={"kinds": ["procedural"], "budget_tokens": 400})
    told = reply.json()["russet"]["retrieval"]["context"]
    assert told["prompt_tokens"] == len(scheduler.requests[-1].token_ids) <= 400
    # Both would not fit: the one rated better does.
    assert [(item["kind"], item["id"], item["taken"]) for item in told["items"]] == [
        ("procedural", "r1", False),
        ("procedural", "r2", True),
    ]
    assert f"answers that proved right:\n\nquestion: Why r2?\nanswer: {'z' * 150}" in read(scheduler)
    assert "r3" not in read(scheduler)
    await world.until(lambda: len(world.learner.trajectories) == 2)
    assert [list(each.procedures) for each in world.learner.trajectories] == [[], ["r2"]]
    assert [(each.question, each.answer) for each in world.learner.trajectories] == [("Why?", "Hello, world")] * 2

    client = world.client(headers=mine)
    rows = (await client.get("/v1/russet/procedures")).json()["data"]
    assert [(row["id"], row["question"], row["rating"], row["last_used"]) for row in rows] == [
        ("r1", "Why r1?", 0.5, None),
        ("r2", "Why r2?", 1.0, None),
    ]
    assert (await client.get("/v1/russet/procedures?limit=0")).json()["error"]["param"] == "limit"
    assert (await client.get("/v1/russet/procedures?last=1")).json()["error"]["param"] == "last"
    assert (await client.delete("/v1/russet/procedures/r3")).json()["deleted"] is False
    assert (await client.delete("/v1/russet/procedures/r2")).json()["deleted"] is True
    await ask(world, asked, mine, context={"kinds": ["procedural"]})
    assert "Why r2?" not in read(scheduler)
    world.memory.away = True
    refused = await ask(world, asked, mine, context={"kinds": ["procedural"]})
    assert refused.status_code == 503


async def test_passages_that_do_not_fit_are_not_cited(world: Any) -> None:
    scheduler = await world.replica()
    await world.start()
    await world.client().post("/v1/files", files={"file": ("a.txt", f"{LINES}\n{'z' * 300}".encode())})
    await world.client().post("/v1/vector_stores", json={"file_ids": ["file-0"]})
    retrieve = {"vector_store_ids": ["vs_0"], "max_num_results": 4}
    asked = [{"role": "user", "content": "Why?"}]
    reply = await ask(world, asked, context={"budget_tokens": 250}, retrieve=retrieve)
    told = reply.json()["russet"]["retrieval"]
    assert [each["chunk_index"] for each in told["citations"]] == [0, 1, 2]
    assert [(item["id"], item["taken"]) for item in told["context"]["items"]] == [
        ("file-0#0", True),
        ("file-0#1", True),
        ("file-0#2", True),
        ("file-0#3", False),
    ]
    assert "[3] a.txt\nSalt." in read(scheduler)
    assert "zzz" not in read(scheduler)


@pytest.mark.parametrize(
    ("russet", "param"),
    [
        ({"context": {"budget_tokens": 0}}, "russet.context.budget_tokens"),
        ({"context": {"kinds": ["habitual"]}}, "russet.context.kinds.0"),
        ({"context": {"kinds": ["semantic"]}}, "russet.context.kinds"),
        ({"context": {"kinds": ["working"]}, "retrieve": {"vector_store_ids": ["x"]}}, "russet.context.kinds"),
        ({"context": {"kinds": []}}, "russet.context.kinds"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(world: Any, russet: dict[str, Any], param: str) -> None:
    await world.replica()
    await world.start()
    reply = await ask(world, said(1), **russet)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
