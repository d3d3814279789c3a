"""A mixture of experts served from a directory: a request in a batch of unlike ones says what it says alone, also where
most experts are on disk.
"""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.local import LocalCluster
from tests.conftest import settings
from tests.oracles import tiny_moe

ROWS: list[dict[str, Any]] = [
    {"prompt": "The keeper of the lighthouse counts the ships. " * 12, "seed": 3, "temperature": 1.0},
    {"prompt": "Once", "temperature": 0},
    {"prompt": "A B C " * 40, "seed": 5, "temperature": 1.3, "top_p": 0.9, "logprobs": 2},
    {"prompt": "In the fog", "seed": 6, "temperature": 0.7, "repetition_penalty": 1.2},
    {
        "prompt": "12 + 30 =",
        "russet": {"grammar": {"regex": "[a-z]{3,12}( [a-z]{1,9}){8}"}},
        "seed": 1,
        "ignore_eos": False,
    },
]


async def said(http: httpx.AsyncClient, row: dict[str, Any]) -> Any:
    reply = await http.post("/v1/completions", json={"model": "moe", "max_tokens": 24, "ignore_eos": True} | row)
    assert reply.status_code == 200, reply.text
    assert reply.json()["usage"]["completion_tokens"] > 3
    return reply.json()["choices"]


async def answers(home: Path, model: Path, **more: object) -> tuple[list[Any], list[Any], str]:
    """What the rows say together and alone, and the metrics after it."""
    async with (
        LocalCluster(settings(home, models__0__model=str(model), **more)) as cluster,
        httpx.AsyncClient(base_url=cluster.http, timeout=120) as http,
    ):
        together = await asyncio.gather(*(said(http, row) for row in ROWS))
        alone = [await said(http, row) for row in ROWS]
        return list(together), alone, (await http.get("/metrics")).text


def metric(text: str, name: str, label: str = "") -> float:
    lines = [line for line in text.splitlines() if line.startswith(name) and label in line]
    return sum(float(line.split()[-1]) for line in lines)


async def test_experts_on_disk_say_what_experts_in_memory_say(home: Path) -> None:
    model = tiny_moe.write_servable(home / "moe", "qwen3_moe")
    together, alone, _ = await answers(home / "a", model)
    budget = tiny_moe.LAYERS * 5 * tiny_moe.EXPERT_BYTES  # of eight experts in each layer, five
    paged, paged_alone, metrics = await answers(home / "b", model, models__0__experts_memory_bytes=budget)
    assert together == alone == paged == paged_alone
    assert metric(metrics, "russet_worker_experts_chosen_total", 'found="miss"') > 0
    assert metric(metrics, "russet_worker_experts_paged_total", 'way="out"') > 0
    assert 0 < metric(metrics, "russet_worker_expert_memory_bytes") <= budget
    assert metric(metrics, "russet_worker_expert_decision_seconds_total") > 0


@pytest.mark.parametrize("family", ["qwen2_moe", "mixtral"])
async def test_a_request_says_alone_what_it_says_in_a_batch(home: Path, family: str) -> None:
    model = tiny_moe.write_servable(home / "moe", family)
    together, alone, _ = await answers(home, model)
    assert together == alone
    assert len({str(choices) for choices in alone}) == len(ROWS)
