"""A mixture of experts served from a directory: a request in a batch of unlike ones says what it says alone."""

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


@pytest.mark.parametrize("family", ["qwen2_moe", "mixtral"])
async def test_a_request_says_alone_what_it_says_in_a_batch(home: Path, family: str) -> None:
    model = tiny_moe.write_servable(home / "moe", family)
    async with (
        LocalCluster(settings(home, models__0__model=str(model))) as cluster,
        httpx.AsyncClient(base_url=cluster.http, timeout=120) as http,
    ):
        together = await asyncio.gather(*(said(http, row) for row in ROWS))
        alone = [await said(http, row) for row in ROWS]
        chat = {"model": "moe", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
        answer = (await http.post("/v1/chat/completions", json=chat)).json()
    assert together == alone
    assert len({str(choices) for choices in alone}) == len(ROWS)
    assert answer["usage"]["completion_tokens"] > 0
