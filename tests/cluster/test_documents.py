"""Documents with everything real behind them: put in, searched and deleted from the command line."""

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from cluster.local import LocalCluster

pytestmark = pytest.mark.asyncio(loop_scope="module")

FACTS = """The lighthouse at Cape Orsa was painted red in 1911.

Bread rises because yeast makes carbon dioxide out of sugar.

Tides are caused by the pull of the moon and of the sun on the seas.
"""


async def russet(local: LocalCluster, *words: str) -> str:
    """What the command prints."""
    told = await asyncio.to_thread(CliRunner().invoke, app, [*words, "--url", local.http], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    return told.output


async def test_from_the_command_line(local: LocalCluster, tmp_path: Path) -> None:
    path = tmp_path / "facts.md"
    path.write_text(FACTS)
    added = await russet(local, "documents", "add", str(path), "--max-tokens", "20", "--overlap", "0")
    assert "facts.md: 3 chunks, file-" in added
    found = await russet(local, "documents", "search", "Why does dough grow?", "--limit", "1")
    assert "facts.md 54-114" in found
    assert "yeast makes carbon dioxide" in found
    listed = json.loads(await russet(local, "documents", "list", "--json"))
    assert [(row["name"], row["file_counts"]["completed"]) for row in listed["vector_stores"]] == [("documents", 1)]
    assert FACTS[54:114].startswith("Bread")
    file = listed["files"][0]["id"]
    assert f"Deleted {file}" in await russet(local, "documents", "delete", file)
    assert await russet(local, "documents", "search", "dough") == ""
    await russet(local, "documents", "delete", "documents")
    assert json.loads(await russet(local, "documents", "list", "--json")) == {"vector_stores": [], "files": []}
