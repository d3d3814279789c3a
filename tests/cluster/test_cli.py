"""The command line: help worth reading, JSON that parses, mistakes in one line."""

import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from actors.base.errors import Conflict, InvalidArgument
from cluster import cli
from cluster.gateway import api_keys
from cluster.home import Home
from cluster.lifecycle import ClusterState, check_port, read_state, up
from cluster.ray_process import free_port
from cluster.report import status_table
from cluster.status import Actor, Status
from tests.conftest import settings

COMMANDS = (
    "up", "down", "status", "serve", "chat", "models", "bench", "config", "key", "key create", "key list", "key revoke",
    "certs", "certs init", "certs show", "certs rotate", "certs drop", "kv", "sessions", "sessions list",
    "bench load",
    "models list", "models load", "models scale", "models unload", "models alias", "models unalias",
    "models aliases", "models split",
    "sessions show", "sessions delete", "tools", "top", "witness", "witness list", "witness show", "witness errors",
    "witness slow", "witness stats", "witness verify",
)  # fmt: skip
runner = CliRunner()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    shown = runner.invoke(cli.app, [*command.split(), "--help"])
    assert shown.exit_code == 0
    assert len(shown.output.splitlines()) > 8


def test_config_shows_every_setting_resolved(home: Path) -> None:
    shown = runner.invoke(cli.app, ["config", "--json", "--set", f"home={home}", "--set", "gateway.port=8123"])
    config = json.loads(shown.output)
    assert config["gateway"]["port"] == 8123
    assert config["memory"]["directory"] == str(home.resolve() / "memory")


def test_status_and_down_where_nothing_runs(home: Path) -> None:
    status = runner.invoke(cli.app, ["status", "--json", "--set", f"home={home}"])
    assert status.exit_code == 1
    assert json.loads(status.output) == {"actors": [], "cluster": None}
    assert "Nothing runs" in runner.invoke(cli.app, ["down", "--set", f"home={home}"]).output


def test_a_key_is_shown_once_and_kept_as_a_hash(home: Path) -> None:
    file = home / "keys"
    arguments = ["key", "create", "bob", "--set", f"home={home}", "--set", f"gateway.api_keys_file={file}"]
    key = runner.invoke(cli.app, arguments).output.strip()
    assert api_keys.ApiKeys(file).check(key).name == "bob"
    assert key not in file.read_text()
    again = runner.invoke(cli.app, arguments)
    assert "already" in str(again.exception)


def test_defaults_show_in_help() -> None:
    assert "[default: 8000]" in runner.invoke(cli.app, ["up", "--help"]).output


def test_a_setting_without_value_is_refused() -> None:
    refused = runner.invoke(cli.app, ["config", "--set", "gateway.port"])
    assert refused.exit_code == 2
    assert "NAME=VALUE" in refused.output


def test_errors_are_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["russet", "chat", "hi", "--url", f"http://127.0.0.1:{free_port()}"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "no answer from http://127.0.0.1" in capsys.readouterr().err.replace("\n", " ")


def test_a_taken_port_is_named_before_anything_starts(home: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Conflict, match=f"{port}.*--port"):
            up(settings(home, gateway__port=port), lambda what: None)
        with pytest.raises(Conflict, match="--x"):
            check_port("127.0.0.1", port, "--x")
    check_port("127.0.0.1", 0, "--x")
    assert read_state(Home(home)) is None


def test_a_home_of_another_user_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getuid", lambda: 12345)
    with pytest.raises(InvalidArgument, match="belongs to user"):
        Home(home).create()


def test_a_link_that_another_user_made_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run directory has a name one can guess; what a link there points to may well be ours."""
    run = Home(home).run
    (home / "elsewhere").mkdir()
    run.symlink_to(home / "elsewhere")
    mine = Path.lstat
    try:
        other = type("Stat", (), {"st_uid": os.getuid() + 1})
        monkeypatch.setattr(Path, "lstat", lambda path: other() if path == run else mine(path))
        with pytest.raises(InvalidArgument, match="belongs to user"):
            Home(home).create()
    finally:
        run.unlink()


def test_a_narrow_terminal_shows_whole_addresses() -> None:
    cluster = ClusterState(1, 0, "127.0.0.1:6379", "http://127.0.0.1:8265", "http://127.0.0.1:8000", "127.0.0.1:1", 0)
    actor = Actor("scheduler", "smollm2-135m-instruct-0", "127.0.0.1", 12345, "tcp:127.0.0.1:40193", "serving")
    page = io.StringIO()
    Console(width=80, file=page).print(status_table(Status([actor], cluster)))
    assert "…" not in page.getvalue()
