"""`russet top`: what a terminal of 80 or 140 columns shows."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from actors.base.errors import Unavailable
from cluster import cli, cli_top
from cluster.view.picture import BLOCKS, Picture, spark
from cluster.view.status import status
from tests.cluster.view.test_status import AWAY, at, service, table, watched


def told() -> dict[str, Any]:
    """A fleet of which one worker is away."""
    looks = [at(5 * number, 100 * number**2) for number in range(60)]
    return status(watched(*looks, at(300, 400_000, service("worker-tiny-1", problem=AWAY))), table())


def shown(width: int, row: dict[str, Any]) -> list[str]:
    console = Console(file=io.StringIO(), width=width, no_color=True)
    console.print(Picture("http://127.0.0.1:8000", row))
    return console.file.getvalue().splitlines()  # type: ignore[union-attr]


@pytest.mark.parametrize("width", [80, 140])
def test_a_line_fits_and_every_replica_and_node_is_there(width: int) -> None:
    row = told()
    lines = shown(width, row)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for word in ("degraded", "4 running", "2 waiting", "tiny-0", "tiny-1", "worker away", "10.0.0.2", "2/64", "15%"):
        assert word in text, word
    assert f"{row['totals']['tokens_per_s']:,.1f} tokens/s" in text
    assert "replica tiny-1: Its worker does not answer" in " ".join(text.split())
    assert ("p95" in text) == (width == 140), "the wide one tells more"
    line = next(line for line in lines if "top" in line)
    assert "█" in line
    assert "5 min" in line


def test_a_fleet_without_replicas_is_said_to_have_none() -> None:
    empty = status(watched(at(0, 0)), table())
    assert "No replicas." in "\n".join(shown(80, empty | {"replicas": []}))


def test_a_spark_is_as_high_as_its_value() -> None:
    assert spark([]) == ""
    assert spark([0, 0]) == "  "
    assert spark([0, 1, 50, 100]) == f" {BLOCKS[1]}{BLOCKS[4]}{BLOCKS[8]}"


class FakeClient:
    def __init__(self, url: str, key: str | None = None) -> None:
        self.url, self.key = url, key
        asked.append(self)

    def status(self) -> dict[str, Any]:
        return told()


asked: list[FakeClient] = []


def test_top_prints_once_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_top, "Client", FakeClient)
    once = CliRunner().invoke(cli.app, ["top", "--url", "http://x:1", "--key", "k"])
    assert once.exit_code == 0
    assert "tiny-1" in once.output
    assert (asked[-1].url, asked[-1].key) == ("http://x:1", "k")
    machine = CliRunner().invoke(cli.app, ["top", "--json", "--url", "http://x:1"])
    assert json.loads(machine.output)["object"] == "status"


def test_a_gateway_that_is_not_there_is_named(home: Path) -> None:
    lost = CliRunner().invoke(cli.app, ["top", "--once", "--url", "http://127.0.0.1:9"])
    assert "no answer from http://127.0.0.1:9" in str(lost.exception)


def test_a_live_view_outlives_a_gateway_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    class Restarting(FakeClient):
        answers = iter(("up", "away", "up", "stop"))

        def status(self) -> dict[str, Any]:
            match next(self.answers):
                case "away":
                    raise Unavailable("no answer from http://x:1")
                case "stop":
                    raise KeyboardInterrupt
            return told()

    text = io.StringIO()
    monkeypatch.setattr(cli_top, "Client", Restarting)
    monkeypatch.setattr(cli_top, "out", Console(file=text, width=100, height=40, force_terminal=True))
    monkeypatch.setattr(cli_top.time, "sleep", lambda seconds: None)
    assert CliRunner().invoke(cli.app, ["top", "--url", "http://x:1"]).exit_code == 0
    away = text.getvalue().index("no answer from http://x:1")
    assert "tiny-1" in text.getvalue()[away:], "what was last seen stays"
    assert list(Restarting.answers) == [], "and it asked again"
