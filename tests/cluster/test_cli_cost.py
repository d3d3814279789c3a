"""The cost router from the command line, in a cluster as it is installed."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from actors.base.errors import InvalidArgument
from cluster.cli_cost import read_rows
from cluster.local import LocalCluster
from tests.conftest import russet

ROW = {"prompt": "2 + 2?", "weak_correct": True, "strong_correct": False}


def test_rows_are_read_with_what_is_known_of_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [{**ROW, "source": "sums"}, {**ROW, "prompt": "a\u2028b", "tokens": 7}]
    path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n\n")
    assert read_rows(path) == [ROW, {**ROW, "prompt": "a\u2028b", "tokens": 7}]


@pytest.mark.parametrize(
    "bad", ["nonsense", "[]", "{}", json.dumps({**ROW, "weak_correct": 1}), json.dumps({**ROW, "wrong": 1})]
)
def test_a_line_that_is_something_else_is_named(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + bad + "\n")
    with pytest.raises(InvalidArgument, match="line 2 of"):
        read_rows(path)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_fresh_install_scores_and_refuses_what_is_too_little(local: LocalCluster, tmp_path: Path) -> None:
    def run(*arguments: str) -> Any:
        return russet("router", *arguments, "--url", local.http)

    scored = await asyncio.to_thread(run, "score", "What is the capital of France?", "Why?", "--json")
    found = json.loads(scored.stdout)
    assert (len(found["p"]), found["version"], found["embedded"]) == (2, 0, True)
    told = await asyncio.to_thread(run, "score", "Why?")
    assert f"{found['p'][1]:.2f}  Why?" in told.stdout
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW))
    few = await asyncio.to_thread(run, "train", "--cost", "--data", str(path))
    assert few.returncode
    assert "1 rows; accepted are 200" in few.stdout + few.stderr
    both = await asyncio.to_thread(run, "train", "shop", "--cost", "--data", str(path))
    assert both.returncode
    assert "--cost without one" in " ".join((both.stdout + both.stderr).split())
