"""Models loaded, scaled and unloaded under `russet up`, with the real model, while streams run."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import psutil
import pytest
import pytest_asyncio

from actors.worker.models.catalogue import locate
from cluster.config import Config
from cluster.controller import LoadedFile
from cluster.lifecycle import ClusterState
from tests.conftest import KV_BYTES
from tests.faults.test_ray import TALE, body, pid_of, stream

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.asyncio(loop_scope="module")]
OWN = "smollm2-135m-instruct"
FILE = str(locate(OWN)[1])
SECOND = {"model": FILE, "id": "second", "settings": {"kv_memory_bytes": KV_BYTES, "threads": 1}}


class Fleet:
    """A running cluster, a client of it, and the rows of its models."""

    def __init__(self, config: Config, state: ClusterState, http: httpx.AsyncClient) -> None:
        self.config, self.state, self.http = config, state, http

    async def until(self, name: str, condition: Callable[[Any], bool]) -> Any:
        """The model's row once it is as said; looks again every little while, since the API has no other way."""
        async with asyncio.timeout(120):
            while True:
                reply = await self.http.get("/v1/russet/models")
                if reply.status_code == 200:
                    row = next((row for row in reply.json()["data"] if row["id"] == name), None)
                    if condition(row):
                        return row
                await asyncio.sleep(0.1)

    async def scaled(self, name: str, replicas: int) -> Any:
        """The model's row once it has that many replicas, all ready."""
        reply = await self.http.patch(f"/v1/models/{name}", json={"replicas": replicas})
        assert reply.status_code == 202, reply.text
        return await self.until(name, lambda row: row["state"] == "ready" and len(row["replicas"]) == replicas)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def fleet(on_ray: tuple[Config, ClusterState]) -> AsyncIterator[Fleet]:
    config, state = on_ray
    async with httpx.AsyncClient(base_url=state.http, timeout=120) as http:
        yield Fleet(config, state, http)


async def test_a_model_is_loaded_asked_and_unloaded_while_a_stream_of_it_runs(fleet: Fleet) -> None:
    assert (await fleet.http.post("/v1/models", json=SECOND)).status_code == 202
    row = await fleet.until("second", lambda row: row["state"] != "loading")
    assert (row["state"], row["source"], row["replicas"][0]["reason"]) == ("ready", "api", None)
    row = await fleet.until("second", lambda row: row["replicas"][0]["pid"])
    pid = row["replicas"][0]["pid"]
    assert row["replicas"][0]["resident_bytes"] > 50 << 20
    assert [model.served_name for model in LoadedFile(fleet.config.home).read()] == ["second"]
    again = await fleet.http.post("/v1/models", json=SECOND)
    assert (again.status_code, "served as 'second' already" in again.text) == (409, True)
    expected = await stream(fleet.state.http, body(TALE, 96) | {"model": OWN})

    begun = asyncio.Event()
    streaming = asyncio.create_task(
        stream(fleet.state.http, body(TALE, 96) | {"model": "second"}, at=2, then=begun.set)
    )
    await begun.wait()
    assert (await fleet.http.delete("/v1/models/second")).json()["state"] == "draining"
    refused = await fleet.http.post("/v1/completions", json={"model": "second", "prompt": TALE})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
    assert await streaming == expected
    await fleet.until("second", lambda row: row is None)
    assert not psutil.pid_exists(pid)
    assert LoadedFile(fleet.config.home).read() == []


async def test_streams_go_on_while_their_model_is_scaled_up_and_down(fleet: Fleet) -> None:
    expected = await stream(fleet.state.http, body(TALE, 200))
    row = await fleet.scaled(OWN, 2)
    assert [replica["id"] for replica in row["replicas"]] == [f"{OWN}-0", f"{OWN}-1"]
    begun = [asyncio.Event() for _ in range(8)]
    streams = [
        asyncio.create_task(stream(fleet.state.http, body(TALE, 200) | {"user": str(each)}, at=2, then=event.set))
        for each, event in enumerate(begun)
    ]
    await asyncio.gather(*(event.wait() for event in begun))
    on_second = (await fleet.http.get("/metrics")).text
    row = await fleet.scaled(OWN, 1)
    assert row["replicas"][0]["id"] == f"{OWN}-0"
    assert await asyncio.gather(*streams) == [expected] * 8
    # Some of them ran on the replica that went, or the test shows nothing.
    lines = [line for line in on_second.splitlines() if line.startswith("vllm:num_requests_running{")]
    assert any(f"scheduler-{OWN}-1" in line and float(line.split()[-1]) > 0 for line in lines), lines


async def test_a_model_that_cannot_be_loaded_says_why(fleet: Fleet) -> None:
    broken = fleet.config.home / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(64))
    reply = await fleet.http.post("/v1/models", json={"model": str(broken)})
    assert reply.status_code == 202, reply.text
    row = await fleet.until("broken", lambda row: row["state"] != "loading")
    assert (row["state"], row["replicas"][0]["bytes"], row["replicas"][0]["pid"]) == ("failed", 0, None)
    assert "GGUF version 0" in row["replicas"][0]["reason"]
    assert (await fleet.http.delete("/v1/models/broken")).status_code == 200
    await fleet.until("broken", lambda row: row is None)
    nowhere = await fleet.http.post("/v1/models", json={"model": "/nowhere.gguf"})
    assert (nowhere.status_code, "no model at /nowhere.gguf" in nowhere.text) == (404, True)
    huge = {"model": FILE, "id": "huge", "settings": {"kv_memory_bytes": 1 << 50}}
    refused = await fleet.http.post("/v1/models", json=huge)
    assert (refused.status_code, "huge needs 1125" in refused.text, "GB free" in refused.text) == (400, True, True)


async def test_a_controller_that_is_killed_comes_back_with_what_it_knew(fleet: Fleet) -> None:
    before = await fleet.until(OWN, lambda row: row["state"] == "ready")
    victim = await asyncio.to_thread(pid_of, fleet.config, "controller")
    os.kill(victim, signal.SIGKILL)
    answer = await fleet.http.post("/v1/completions", json=body(TALE, 4) | {"stream": False})
    assert answer.status_code == 200
    after = await fleet.until(OWN, lambda row: row["state"] == "ready")
    assert await asyncio.to_thread(pid_of, fleet.config, "controller") != victim
    assert [(r["id"], r["pid"]) for r in after["replicas"]] == [(r["id"], r["pid"]) for r in before["replicas"]]


async def test_replicas_follow_the_load_up_and_down_while_streams_run(fleet: Fleet) -> None:
    """Two rows for eight streams: a second replica comes, and goes again while a client has not read its answer."""
    follows = SECOND["settings"] | {"max_replicas": 2, "max_rows": 2}
    assert (await fleet.http.post("/v1/models", json=SECOND | {"settings": follows})).status_code == 202
    await fleet.until("second", lambda row: row["state"] == "ready")
    request = body(TALE, 240) | {"model": "second"}
    expected = await stream(fleet.state.http, request)
    streams = [asyncio.create_task(stream(fleet.state.http, request | {"user": str(each)})) for each in range(8)]
    await fleet.until("second", lambda row: [each["state"] for each in row["replicas"]] == ["ready", "ready"])
    async with fleet.http.stream("POST", "/v1/completions", json=request) as idle:
        lines = idle.aiter_lines()
        told = [await anext(lines)]
        assert await asyncio.gather(*streams) == [expected] * 8
        row = await fleet.until("second", lambda row: [each["state"] for each in row["replicas"]] == ["ready"])
        assert row["replicas"][0]["id"] == "second-0"
        told += [line async for line in lines]
    events = [json.loads(line[6:]) for line in told if line.startswith("data: {")]
    assert "".join(choice["text"] for event in events for choice in event["choices"]) == expected
    await fleet.http.delete("/v1/models/second")
    await fleet.until("second", lambda row: row is None)
