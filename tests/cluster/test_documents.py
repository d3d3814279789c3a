"""Documents with everything real behind them: put in, searched and deleted from the command line."""

import asyncio
import json
from pathlib import Path

import openai
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


async def test_an_answer_cites_and_its_next_prompt_finds_the_passages_cached(local: LocalCluster) -> None:
    async with openai.AsyncOpenAI(base_url=f"{local.http}/v1", api_key="none", max_retries=0) as client:
        store = await client.vector_stores.create(name="cited")
        chunking = {"type": "static", "static": {"max_chunk_size_tokens": 20, "chunk_overlap_tokens": 0}}
        file = await client.vector_stores.files.upload_and_poll(
            vector_store_id=store.id, file=("facts.md", FACTS.encode()), chunking_strategy=chunking
        )
        retrieve = {"retrieve": {"vector_store_ids": [store.id], "max_num_results": 3}}

        async def ask(question: str):
            return await client.chat.completions.create(
                model="auto",
                messages=[{"role": "user", "content": question}],
                max_tokens=4,
                extra_body={"russet": retrieve},
            )

        first = await ask("Why does bread rise, rather than the tides at a lighthouse?")
        citations = first.model_extra["russet"]["retrieval"]["citations"]
        assert [(each["file_id"], FACTS[each["start"] : each["end"]]) for each in citations] == [
            (file.id, fact) for fact in FACTS.strip().split("\n\n")
        ]
        # Another question with the same passages: they are not computed again.
        second = await ask("Which of the three is red: bread, the tides, the lighthouse?")
        assert second.usage.prompt_tokens_details.cached_tokens >= 64
        assert second.usage.prompt_tokens - second.usage.prompt_tokens_details.cached_tokens < 40
        await client.vector_stores.delete(store.id)
        await client.files.delete(file.id)
