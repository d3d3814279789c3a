"""What a seed promises: the same answer after preemption, at another replica, and where the engine died meanwhile."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx

from actors.base.channel import connect
from cluster.local import LocalCluster
from protos.gen import scheduler_pb2
from protos.gen.scheduler_pb2_grpc import SchedulerStub
from tests.cluster.test_recovery import break_engine
from tests.conftest import settings

MODEL = "smollm2-135m-instruct"
ROWS: list[dict[str, Any]] = [
    {"temperature": 1.1, "ignore_eos": True},
    {"top_k": 30, "top_p": 0.9, "min_p": 0.02, "ignore_eos": True},
    {"frequency_penalty": 1.0, "presence_penalty": 0.4, "repetition_penalty": 1.2, "logprobs": 2, "ignore_eos": True},
    {"logit_bias": {"260": 4, "28": -100}, "min_tokens": 40},
    {"russet": {"grammar": {"regex": "[A-Z][a-z]{2,9}( [a-z]{1,9}){40}"}}, "logprobs": 1},
    {"stop": ["zebra"], "logprobs": 0, "ignore_eos": True},
]


async def said(http: httpx.AsyncClient, seed: int, row: dict[str, Any], **more: Any) -> Any:
    """The choice, which has no trace of where it was computed, and the replica."""
    asked = {"model": MODEL, "prompt": f"Chapter {seed}. " * 28, "max_tokens": 90, "seed": seed}
    reply = await http.post("/v1/completions", json=asked | row | more)
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    return answer["choices"], answer["russet"]["route"]["replica"]


async def every(http: httpx.AsyncClient, **more: Any) -> list[Any]:
    """The choices of all rows at once."""
    answers = await asyncio.gather(*(said(http, seed, row, **more) for seed, row in enumerate(ROWS, 1)))
    return [choices for choices, _ in answers]


async def metric(http: httpx.AsyncClient, name: str) -> float:
    lines = (await http.get("/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{"))


async def test_the_engine_dies_and_the_answers_are_what_they_were(home: Path) -> None:
    async with (
        LocalCluster(settings(home)) as cluster,
        httpx.AsyncClient(base_url=cluster.http, timeout=120) as http,
    ):
        expected = await every(http)
        first = cluster.service(f"worker-{MODEL}-0")
        begun = asyncio.Event()

        async def streams() -> None:
            """A stream that says when its answer has begun; the other rows began before it."""
            asked = {"model": MODEL, "prompt": "A", "max_tokens": 60, "ignore_eos": True, "stream": True}
            async with http.stream("POST", "/v1/completions", json=asked) as response:
                chunks = 0
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        chunks += bool(json.loads(line[6:])["choices"])
                        if chunks == 15:
                            begun.set()

        rows = asyncio.create_task(every(http))
        streaming = asyncio.create_task(streams())
        await begun.wait()
        assert not rows.done()
        break_engine(first)
        assert await rows == expected
        await streaming
        assert cluster.service(f"worker-{MODEL}-0") is not first


async def test_preempted_rows_say_what_they_say_alone(home: Path) -> None:
    # 40 pages of 16 tokens: each of six rows needs 13 at its end.
    tight = settings(home, models__0__kv_memory_bytes=40 * 16 * 23040)
    async with LocalCluster(tight) as cluster, httpx.AsyncClient(base_url=cluster.http, timeout=120) as http:
        alone = [(await said(http, seed, row))[0] for seed, row in enumerate(ROWS, 1)]
        assert await every(http) == alone
        assert await metric(http, "vllm:num_preemptions_total") > 0


async def test_another_replica_says_the_same(home: Path) -> None:
    async with (
        LocalCluster(settings(home, models__0__replicas=2)) as cluster,
        httpx.AsyncClient(base_url=cluster.http, timeout=120) as http,
    ):
        here = {seed: await said(http, seed, row) for seed, row in enumerate(ROWS, 1)}
        served = here[1][1]
        stub = SchedulerStub(connect(cluster.directory.find(f"scheduler-{served}")))
        await stub.Drain(scheduler_pb2.DrainRequest(timeout_s=5))
        for seed, row in enumerate(ROWS, 1):
            choices, replica = await said(http, seed, row)
            assert replica != served
            assert choices == here[seed][0], "perhaps it was there before; the first was not"
