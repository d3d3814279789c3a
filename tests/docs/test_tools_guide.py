"""The guide to server-side tools does what it says: its program, configuration and request, run as they stand."""

import json
import os
import re
import sys
from pathlib import Path

import httpx
import pytest

from cluster.config import load
from cluster.gateway.extension import ServerToolsBody
from cluster.local import LocalCluster
from cluster.tool_runtime.config import ServerConfig
from tests.conftest import KV_BYTES
from tests.docs.test_docs import Block, blocks

GUIDE = Path(__file__).parents[2] / "docs" / "tools.md"


def shown(language: str) -> list[Block]:
    return [block for block in blocks(GUIDE) if block.language == language]


async def test_the_guides_tool_is_called(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, file = home / "library.py", home / "russet.toml"
    program.write_text(shown("python")[0].text)
    file.write_text(shown("toml")[0].text.replace("/srv/tools/library.py", str(program)))
    # `python` is the one that has the SDK.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    chosen = {"home": home, "gateway.port": 0, "gateway.grpc_port": 0, "models.0.kv_memory_bytes": KV_BYTES}
    async with LocalCluster(load(file, chosen, environ={})) as cluster, httpx.AsyncClient(timeout=120) as http:
        response = await http.post(f"{cluster.http}/v1/chat/completions", content=shown("json")[0].text)
    assert response.status_code == 200, response.text
    runs = response.json()["russet"]["tool_runs"]
    told = json.loads(shown("json")[1].text)["tool_runs"]
    assert runs[-1] == told[0] | {"ms": runs[-1]["ms"]}


def test_the_guide_names_every_option() -> None:
    named = set(re.findall(r"`([a-z_]+)`", GUIDE.read_text()))
    assert named >= set(ServerToolsBody.model_fields)
    tables = {*re.findall(r"^([a-z_]+) = ", GUIDE.read_text(), re.MULTILINE), *named}
    assert tables >= set(ServerConfig.model_fields)
