"""Named routers over HTTP: what is sent reaches the router under the caller's tenant, and comes back by name."""

from typing import Any

EXAMPLES = {"examples": [{"text": "eat a pear", "label": "fruit"}, {"text": "what?", "label": None}]}


async def test_train_ask_list_and_delete(world: Any) -> None:
    await world.start()
    client, tenant = world.client(), {"X-Russet-Tenant": "t"}
    trained = (await client.put("/v1/routers/shop", json=EXAMPLES, headers=tenant)).json()
    assert (trained["id"], trained["examples"], trained["labels"], trained["changed"]) == ("shop", 2, ["fruit"], 1)
    assert [each.label for each in world.semantic.trained["t"].examples] == ["fruit", ""]
    asked = {"router": "shop", "text": "a pear"}
    told = (await client.post("/v1/router/classify", json=asked, headers=tenant)).json()
    assert told == {
        "id": "route-1",
        "router": "shop",
        "label": "fruit",
        "confidence": 0.75,
        "in_scope": False,
        "scope": {"score": 1.0, "threshold": 2.0},
        "alternatives": [{"label": "other", "confidence": 0.25}],
        "neighbours": [{"text": "a pear", "label": "other", "similarity": 0.5}],
    }
    listed = (await client.get("/v1/routers", headers=tenant)).json()
    assert [row["id"] for row in listed["data"]] == ["shop"]
    assert (await client.delete("/v1/routers/shop", headers=tenant)).json()["deleted"] is True
    assert (await client.delete("/v1/routers/shop", headers=tenant)).json()["deleted"] is False


async def test_adding_and_pruning_name_their_router(world: Any) -> None:
    await world.start()
    client = world.client()
    await client.post("/v1/routers/a%20b/examples", json=EXAMPLES)
    await client.post("/v1/routers/shop/prune", json={"texts": ["x"], "labels": ["fruit"], "merge_above": 0.5})
    added, pruned = world.semantic.asked
    assert (added.router, len(added.examples)) == ("a b", 2)
    assert (pruned.router, pruned.texts, pruned.labels, pruned.merge_above) == ("shop", ["x"], ["fruit"], 0.5)


async def test_what_is_wrong_is_named(world: Any) -> None:
    await world.start()
    client = world.client()
    unknown = await client.post("/v1/router/classify", json={"router": "x", "text": "y"})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "router")
    without = await client.put("/v1/routers/shop", json={"examples": [{"text": "x"}]})
    assert (without.status_code, without.json()["error"]["param"]) == (400, "examples.0.label")
    other = await client.post("/v1/router/classify", json={"router": "x", "text": "y", "k": 3})
    assert (other.status_code, other.json()["error"]["param"]) == (400, "k")


async def test_feedback_on_a_decision_reaches_its_router(world: Any) -> None:
    await world.start()
    client, tenant = world.client(), {"X-Russet-Tenant": "t"}
    told = {"response_id": "route-1", "outcome": "partial", "label": "fruit"}
    answer = await client.post("/v1/feedback", json=told, headers=tenant)
    assert answer.json() == {"found": True, "change": "learned"}
    (outcome,) = world.semantic.outcomes
    assert (outcome.tenant, outcome.id, outcome.outcome, outcome.label) == ("t", "route-1", 0.5, "fruit")
    assert not world.learner.ratings
    missing = await client.post("/v1/feedback", json={"response_id": "route-2", "rating": 1}, headers=tenant)
    assert missing.json() == {"found": False}
    bare = await client.post("/v1/feedback", json={"response_id": "route-1", "comment": "good"}, headers=tenant)
    assert (bare.status_code, bare.json()["error"]["param"]) == (400, "label")
