"""`russet witness` against a running cluster, and against the directory of one that stopped."""

import asyncio
import json
from typing import Any

import httpx
from typer.testing import CliRunner

from actors.memory.chain import point_id
from actors.memory.config import MemoryConfig
from actors.memory.edge import EdgeStore
from actors.memory.stores import schemas
from cluster import cli
from cluster.local import LocalCluster
from tests.conftest import settings

ASKED = {"messages": [{"role": "user", "content": "Say one word."}], "max_tokens": 3}


async def test_reading_and_verifying(home: Any, monkeypatch) -> None:
    (home / "russet.toml").write_text(f'home = "{home}"\n')
    monkeypatch.setenv("COLUMNS", "100")

    async def russet(*arguments: str) -> Any:
        return await asyncio.to_thread(CliRunner().invoke, cli.app, ["witness", *arguments])

    async with LocalCluster(settings(home)) as local:
        async with httpx.AsyncClient(base_url=local.http, timeout=120) as client:
            answers = [(await client.post("/v1/chat/completions", json=ASKED)).json() for _ in range(3)]
        records = local.service("gateway-0").service._records
        await records.flush()
        await records._spool.flush()
        await local.service("memory").service.witness.flush()
        url = ("--url", local.http)
        rows = json.loads((await russet("list", "--json", "--from", "1h", *url)).output)["data"]
        assert [row["id"] for row in rows] == [answer["id"] for answer in reversed(answers)]
        assert answers[0]["id"] in (await russet("list", *url)).output
        shown = (await russet("show", answers[1]["id"], *url)).output
        assert "prefill_ms" in shown
        assert "sha256:" in shown
        (group,) = json.loads((await russet("stats", "--json", *url)).output)["data"]
        assert group["entries"] == 3
        assert group["completion_tokens"] == sum(answer["usage"]["completion_tokens"] for answer in answers) > 0
        assert "p99" in (await russet("stats", "--by", "model,finish", *url)).output
        assert "no such entries" in (await russet("errors", "the connection was lost", *url)).output
        assert "no such entries" in (await russet("slow", *url)).output
        verdict = await russet("verify", *url)
        assert verdict.exit_code == 0
        assert "Sound: 3 entries" in verdict.output
        assert (await russet("show", "nothing", *url)).exit_code == 1
    stopped = ("verify", "--config", str(home / "russet.toml"))
    assert "Sound: 3 entries" in (await russet(*stopped)).output
    remove(MemoryConfig(directory=home / "memory"), answers[1]["id"])
    broken = await russet(*stopped)
    assert broken.exit_code == 1
    said = " ".join(broken.output.split())
    assert f"entry 1: entry 1 is missing; 2 follows (it came after {answers[0]['id']}" in said


def remove(config: MemoryConfig, entry: str) -> None:
    """Take an entry from the store behind the log's back."""
    assert config.directory
    identity = json.loads((config.directory / "witness" / "identity.json").read_text())
    collection = EdgeStore(config.directory).collection(schemas(identity["width"], identity["embedder"]).witness)
    collection.delete([point_id(entry)])
    collection.close()
