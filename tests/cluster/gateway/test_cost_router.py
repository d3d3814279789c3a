"""The cost router over HTTP: what is sent reaches it under the caller's tenant, and comes back by name."""

from typing import Any

import pytest

ROW = {"prompt": "2 + 2?", "weak_correct": True, "strong_correct": False}


async def test_scores_come_back_in_order(world: Any) -> None:
    await world.start()
    answer = await world.client().post(
        "/v1/router/score", json={"prompts": ["abc", "a"]}, headers={"X-Russet-Tenant": "t"}
    )
    assert answer.json() == {"p": [0.25, 0.5], "router": "cost", "version": 2, "embedded": True}
    assert world.cost.asked[0].tenant == "t"


async def test_training_tells_the_verdict_and_what_serves(world: Any) -> None:
    await world.start()
    client, tenant = world.client(), {"X-Russet-Tenant": "t"}
    body = {"rows": [ROW, {**ROW, "tokens": 40, "temperature": 0.0}], "margin": -0.5}
    told = (await client.put("/v1/router/cost", json=body, headers=tenant)).json()
    assert (told["served"], told["reasons"]) == (True, ["so"])
    assert told["over_current"] == {"value": 0.5, "low": 0.25, "high": 0.75}
    assert (told["serving"]["version"], told["serving"]["shipped"], told["serving"]["rows"]) == (3, False, 400)
    plain, known = world.cost.asked[0].rows
    assert (plain.weak_correct, plain.strong_correct, plain.HasField("temperature")) == (True, False, False)
    assert (known.tokens, known.HasField("temperature"), known.HasField("top_p")) == (40, True, False)
    refused = (await client.put("/v1/router/cost", json={"rows": [ROW]}, headers=tenant)).json()
    assert refused["served"] is False
    assert (await client.get("/v1/router/cost")).json()["shipped"] is True


@pytest.mark.parametrize(
    ("method", "path", "body", "param"),
    [
        ("POST", "score", {"prompts": []}, "prompts"),
        ("POST", "score", {"prompts": "abc"}, "prompts"),
        ("POST", "score", {"prompts": ["x"], "model": "y"}, "model"),
        ("PUT", "cost", {"rows": [{"prompt": "x", "weak_correct": 1, "strong_correct": True}]}, "rows.0.weak_correct"),
        ("PUT", "cost", {"rows": [{**ROW, "tokens": -1}]}, "rows.0.tokens"),
        ("PUT", "cost", {"rows": [ROW], "margin": 2}, "margin"),
        ("PUT", "cost", {"rows": [{**ROW, "source": "mmlu"}]}, "rows.0.source"),
    ],
)
async def test_what_is_wrong_is_named(world: Any, method: str, path: str, body: dict, param: str) -> None:
    await world.start()
    answer = await world.client().request(method, f"/v1/router/{path}", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
