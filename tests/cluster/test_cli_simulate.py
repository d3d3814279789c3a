"""`russet router simulate`: what it prints, and what it refuses."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from actors.base.errors import InvalidArgument
from cluster.cli_router import app
from cluster.cli_simulate import read_fleet

MACHINE = {
    "name": "a",
    "chip": "arm64",
    "prefill_tokens_per_s": 2000,
    "step_ms": 10,
    "row_ms": 1,
    "max_rows": 8,
    "pages": 1000,
}


def write(path: Path, rows: list[dict]) -> Path:
    """JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_it_tells_what_each_way_of_choosing_does(tmp_path):
    fleet = write(tmp_path / "fleet.jsonl", [MACHINE, MACHINE | {"name": "b", "prefill_tokens_per_s": 200}])
    rows = [{"time_s": number, "prompt_tokens": 400, "output_tokens": 9} for number in range(30)]
    trace = write(tmp_path / "trace.jsonl", rows)
    told = CliRunner().invoke(app, ["simulate", "--trace", str(trace), "--fleet", str(fleet), "--json"])
    assert told.exit_code == 0
    shown = json.loads(told.stdout)
    assert set(shown) == {"Russet", "round-robin", "random", "least-loaded", "two choices"}
    assert shown["round-robin"]["share_b"] == 0.5
    assert shown["Russet"]["ttft_mean_ms"] < shown["round-robin"]["ttft_mean_ms"]
    table = CliRunner().invoke(app, ["simulate", "--trace", str(trace), "--fleet", str(fleet)])
    assert "Russet" in table.stdout


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [MACHINE, MACHINE],
        [MACHINE | {"pages": 0}],
        [MACHINE | {"speed": 3}],
        [{"name": "a"}],
        [[1]],
    ],
)
def test_a_fleet_that_is_none_is_refused_with_what_would_be_accepted(tmp_path, rows):
    with pytest.raises(InvalidArgument, match="accepted"):
        read_fleet(write(tmp_path / "fleet.jsonl", rows))
