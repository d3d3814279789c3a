"""Nodes that join, are lost and come again, simulated on this machine: what runs where and what moves."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.config import Config
from cluster.home import Home
from cluster.lifecycle import ClusterState
from tests.conftest import russet
from tests.faults.test_ray import TALE, body, stream
from tests.faults.test_ray_models import SECOND, Fleet, fleet

__all__ = ["fleet"]
pytestmark = [
    pytest.mark.ray,
    pytest.mark.xdist_group("ray"),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux answers at all of 127.0.0.0/8"),
]
OTHER = "127.0.0.2"
APART = SECOND | {"settings": SECOND["settings"] | {"per_node": 1}}


class Other:
    """A second node, at an address of its own on this machine."""

    def __init__(self, config: Config, state: ClusterState) -> None:
        self.home = config.home
        arguments = ["join", state.ray_address, "--block", f"--address={OTHER}", "--memory=900000000"]
        arguments += [f"--set=home={config.home}", "--set=ray.metrics_port=0", "--set=ray.labels.room=attic"]
        command = [sys.executable, "-c", "from cluster.cli import main; main()", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        said = ""
        for line in self.process.stderr:
            said += line
            if "Joined" in line:
                break
        assert f"as {OTHER}" in said, said
        self.leader = json.loads(self.state_file.read_text())["ray_pid"]

    @property
    def state_file(self) -> Path:
        return Home(self.home).run / f"node-{OTHER}.json"

    def members(self) -> list[psutil.Process]:
        """What of it lives."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.leader and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        return found

    def lose(self) -> None:
        """All of it at once, as when a machine loses its power."""
        for process in self.members():
            process.kill()
        self.process.communicate(timeout=60)

    def leave(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=60)
        assert self.members() == []
        assert not self.state_file.exists()


@pytest.fixture(scope="module")
def others() -> Iterator[list[Other]]:
    joined: list[Other] = []
    yield joined
    for other in joined:
        if other.process.poll() is None:
            other.leave()


def plan(config: Config) -> dict[str, Any]:
    told = russet("plan", "--json", "--set", f"home={config.home}")
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


async def test_what_needs_a_node_is_refused_until_one_joins(fleet: Fleet, others: list[Other]) -> None:
    refused = await fleet.http.post("/v1/models", json=APART | {"replicas": 2})
    assert (refused.status_code, "replica 2 of 2 of second needs 0.26 GB" in refused.text) == (400, True)
    assert "has 1 of it, and models.per_node is 1" in refused.text
    others.append(await asyncio.to_thread(Other, fleet.config, fleet.state))
    async with asyncio.timeout(60):
        while (reply := await fleet.http.post("/v1/models", json=APART | {"replicas": 2})).status_code != 202:
            assert reply.status_code == 400, reply.text
    row = await fleet.until("second", lambda row: row["state"] != "loading")
    assert row["state"] == "ready", row
    assert {replica["node"] for replica in row["replicas"]} == {OTHER, row["replicas"][0]["node"]}
    told = await asyncio.to_thread(plan, fleet.config)
    [other] = [node for node in told["nodes"] if node["name"] == OTHER]
    assert (int(other["memory_bytes"]), other["labels"]["room"]) == (900_000_000, "attic")
    [there] = [each for each in told["replicas"] if each["node"] == OTHER]
    assert int(other["aside_bytes"]) == int(there["bytes"])
    assert "free, the most; takes 0.26 GB" in there["because"]
    row = await fleet.until("second", lambda row: all(replica["pid"] for replica in row["replicas"]))
    members = {process.pid for process in others[0].members()}
    assert {replica["pid"] for replica in row["replicas"] if replica["node"] == OTHER} <= members


async def test_a_lost_node_costs_no_stream_and_its_replica_waits_for_the_next(
    fleet: Fleet, others: list[Other]
) -> None:
    request = body(TALE, 160) | {"model": "second"}
    expected = await stream(fleet.state.http, request)
    row = await fleet.until("second", lambda row: all(replica["pid"] for replica in row["replicas"]))
    [stays] = [replica for replica in row["replicas"] if replica["node"] != OTHER]
    begun = [asyncio.Event() for _ in range(6)]
    streams = [
        asyncio.create_task(stream(fleet.state.http, request | {"user": str(each)}, at=3, then=event.set))
        for each, event in enumerate(begun)
    ]
    await asyncio.gather(*(event.wait() for event in begun))
    await asyncio.to_thread(others[0].lose)
    assert await asyncio.gather(*streams) == [expected] * 6

    def waits(row: Any) -> bool:
        return any("models.per_node is 1" in (replica["reason"] or "") for replica in row["replicas"])

    row = await fleet.until("second", waits)
    assert [replica["pid"] for replica in row["replicas"] if replica["state"] == "ready"] == [stays["pid"]]
    others.append(await asyncio.to_thread(Other, fleet.config, fleet.state))
    row = await fleet.until("second", lambda row: row["state"] == "ready")
    assert len(row["replicas"]) == 2
    assert stays["pid"] in {replica["pid"] for replica in row["replicas"]}
    await fleet.http.delete("/v1/models/second")
    await fleet.until("second", lambda row: row is None)
    await asyncio.to_thread(others[-1].leave)


async def test_without_the_secrets_of_the_head_nobody_joins(fleet: Fleet, home: Path) -> None:
    refused = await asyncio.to_thread(russet, "join", fleet.state.ray_address, "--set", f"home={home}")
    assert refused.returncode == 1
    assert f"{home}/ray.token is missing; copy it" in refused.stderr
