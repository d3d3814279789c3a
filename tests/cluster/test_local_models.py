"""Models loaded beside those that are served, with the real model: ready, asked, scaled, drained, gone, and back."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import pytest_asyncio

from actors.base.errors import InvalidArgument
from actors.worker.models.catalogue import locate
from cluster import capacity
from cluster.config import ModelConfig
from cluster.controller import LoadedFile
from cluster.local import LocalCluster
from tests.conftest import KV_BYTES, settings

FILE = str(locate("smollm2-135m-instruct")[1])
SECOND = {"model": FILE, "id": "second", "settings": {"kv_memory_bytes": KV_BYTES, "threads": 1}}
QUESTION = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Fleet:
    """A cluster, a client of it, and the rows of its models."""

    def __init__(self, cluster: LocalCluster, http: httpx.AsyncClient) -> None:
        self.cluster, self.http = cluster, http

    async def row(self, name: str) -> dict[str, Any] | None:
        rows = (await self.http.get("/v1/russet/models")).json()["data"]
        return next((row for row in rows if row["id"] == name), None)

    async def until(self, name: str, condition: Callable[[Any], bool]) -> Any:
        """The model's row once it is as said; looks again every little while, since the API has no other way."""
        async with asyncio.timeout(90):
            while not condition(row := await self.row(name)):
                await asyncio.sleep(0.05)
        return row

    async def load(self, **more: Any) -> dict[str, Any]:
        body = SECOND | more
        reply = await self.http.post("/v1/models", json=body)
        assert reply.status_code == 202, reply.text
        return await self.until(str(body["id"]), lambda row: row["state"] != "loading")

    async def ask(self, model: str, **more: Any) -> httpx.Response:
        return await self.http.post("/v1/chat/completions", json=QUESTION | {"model": model, "max_tokens": 12} | more)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def fleet() -> AsyncIterator[Fleet]:
    path = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
    async with LocalCluster(settings(path)) as cluster, httpx.AsyncClient(base_url=cluster.http, timeout=90) as http:
        yield Fleet(cluster, http)
        children = psutil.Process().children()
        run = cluster.directory.run
    assert not [each for each in children if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert not run.exists()
    shutil.rmtree(path, ignore_errors=True)


async def test_a_model_is_loaded_asked_scaled_and_unloaded_while_another_answers(fleet: Fleet) -> None:
    row = await fleet.load()
    assert (row["state"], row["source"], len(row["replicas"])) == ("ready", "api", 1)
    pid = row["replicas"][0]["pid"]
    assert pid not in (None, os.getpid())
    assert row["replicas"][0]["resident_bytes"] > 50 << 20
    own, second = await fleet.ask("smollm2-135m-instruct"), await fleet.ask("second")
    assert second.json()["model"] == "second"
    assert second.json()["choices"][0]["message"] == own.json()["choices"][0]["message"]
    assert [card["id"] for card in (await fleet.http.get("/v1/models")).json()["data"]][:2] == [
        "smollm2-135m-instruct", "second",
    ]  # fmt: skip
    again = await fleet.http.post("/v1/models", json=SECOND)
    assert (again.status_code, "served as 'second' already" in again.text) == (409, True)

    # A stream that runs when its model is unloaded ends as it would have; who comes then is refused at once.
    begun = asyncio.Event()

    async def stream() -> str:
        body = QUESTION | {"model": "second", "max_tokens": 60, "ignore_eos": True, "stream": True}
        lines = []
        async with fleet.http.stream("POST", "/v1/chat/completions", json=body) as reply:
            async for line in reply.aiter_lines():
                begun.set()
                lines.append(line)
        return "".join(lines)

    streaming = asyncio.create_task(stream())
    await begun.wait()
    assert (await fleet.http.delete("/v1/models/second")).json()["state"] == "draining"
    await fleet.until("second", lambda row: row is None)
    told = await streaming
    assert '"finish_reason":"length"' in told
    assert "error" not in told
    assert not psutil.pid_exists(pid)
    refused = await fleet.ask("second")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
    assert "was unloaded" in refused.text or "is not served here" in refused.text
    assert LoadedFile(fleet.cluster.config.home).read() == []
    assert (await fleet.ask("smollm2-135m-instruct")).status_code == 200


async def test_more_replicas_of_a_model_of_the_configuration_and_fewer_again(fleet: Fleet) -> None:
    name = "smollm2-135m-instruct"
    assert (await fleet.http.patch(f"/v1/models/{name}", json={"replicas": 2})).status_code == 202
    row = await fleet.until(name, lambda row: row["state"] == "ready")
    assert [replica["id"] for replica in row["replicas"]] == [f"{name}-0", f"{name}-1"]
    pid = row["replicas"][1]["pid"]
    answers = await asyncio.gather(*(fleet.ask(name, user=str(each)) for each in range(8)))
    assert all(answer.status_code == 200 for answer in answers)
    # A process that dies is followed by another, of the same name.
    os.kill(pid, signal.SIGKILL)
    await fleet.until(name, lambda row: row["replicas"][1]["state"] == "ready" and row["replicas"][1]["pid"] != pid)
    assert (await fleet.ask(name)).status_code == 200
    assert (await fleet.http.patch(f"/v1/models/{name}", json={"replicas": 1})).status_code == 202
    row = await fleet.until(name, lambda row: len(row["replicas"]) == 1)
    assert (row["replicas"][0]["id"], row["state"]) == (f"{name}-0", "ready")


async def test_a_model_that_cannot_be_loaded_says_why_and_leaves_nothing(fleet: Fleet, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(64))
    before = len(psutil.Process().children())
    row = await fleet.load(model=str(broken), id="broken")
    assert (row["state"], row["replicas"][0]["bytes"], row["replicas"][0]["pid"]) == ("failed", 0, None)
    assert "GGUF version 0" in row["replicas"][0]["reason"]
    assert len(psutil.Process().children()) == before
    assert LoadedFile(fleet.cluster.config.home).read() == []
    assert (await fleet.ask("broken")).status_code == 404
    assert (await fleet.http.delete("/v1/models/broken")).status_code == 200
    assert await fleet.until("broken", lambda row: row is None) is None
    nowhere = await fleet.http.post("/v1/models", json={"model": "/nowhere.gguf"})
    assert (nowhere.status_code, "no model at /nowhere.gguf" in nowhere.text) == (404, True)


async def test_what_does_not_fit_is_refused_with_the_numbers(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was set aside for others and is not taken yet is not free, though the system says so."""
    loaded = fleet.cluster.loaded
    monkeypatch.setattr(capacity, "available_memory", lambda: 1 << 30)
    monkeypatch.setattr(loaded, "_promised", lambda: 900 << 20)
    refused = await fleet.http.post("/v1/models", json=SECOND)
    said = refused.json()["error"]["message"]
    assert refused.status_code == 400
    assert "second needs 0.26 GB (0.13 GB weights + 0.13 GB KV), but local: 0.13 GB free" in said
    assert "unload a model" in said
    assert await fleet.row("second") is None


async def test_sides_of_a_split_of_two_loaded_models(fleet: Fleet) -> None:
    await fleet.load()
    body = {"models": {"smollm2-135m-instruct": 1, "second": 1}}
    assert (await fleet.http.put("/v1/russet/aliases/chat", json=body)).status_code == 200
    went = {user: (await fleet.ask("chat", user=user)).json()["model"] for user in map(str, range(12))}
    assert set(went.values()) == {"smollm2-135m-instruct", "second"}
    # Unloaded, its share goes to the other, and the decision says so.
    await fleet.http.delete("/v1/models/second")
    await fleet.until("second", lambda row: row is None)
    user = next(user for user, model in went.items() if model == "second")
    answer = (await fleet.ask("chat", user=user)).json()
    assert answer["model"] == "smollm2-135m-instruct"
    assert any("takes its place" in each for each in answer["russet"]["route"]["explanation"])


async def test_what_was_loaded_by_hand_is_loaded_again_after_a_restart() -> None:
    path = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
    broken = ModelConfig(model="/nowhere.gguf", model_id="gone")
    second = ModelConfig.model_validate(SECOND["settings"] | {"model": FILE, "model_id": "second"})  # type: ignore
    LoadedFile(path).write([second, broken])
    async with LocalCluster(settings(path)) as cluster, httpx.AsyncClient(base_url=cluster.http, timeout=90) as http:
        fleet = Fleet(cluster, http)
        await fleet.until("second", lambda row: row["state"] == "ready")
        assert (await fleet.ask("second")).status_code == 200
        gone = await fleet.row("gone")
        assert gone is not None
        assert (gone["state"], "no model at /nowhere.gguf" in gone["replicas"][0]["reason"]) == ("failed", True)
    assert LoadedFile(path).read()[0].served_name == "second"
    shutil.rmtree(path, ignore_errors=True)


async def test_a_file_that_is_none_of_ours_is_said(tmp_path: Path) -> None:
    (tmp_path / "loaded.json").write_text('{"a": 1}')
    with pytest.raises(InvalidArgument, match=r"loaded\.json does not tell"):
        LoadedFile(tmp_path).read()
