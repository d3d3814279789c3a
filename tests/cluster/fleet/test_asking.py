"""Machines are asked through a command that stands for ssh: it runs what it is given here (a named test instrument)."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from actors.base.errors import InvalidArgument
from cluster.cli_fleet import app
from cluster.fleet.asking import Wanted, ask
from cluster.fleet.checks import Unreachable
from cluster.fleet.inventory import Machine, named, of_cluster_file, this_machine

INSTRUMENT = """#!{python}
import os, sys
*_, where, command = sys.argv[1:]
if where.endswith("127.0.0.9"):
    sys.exit("ssh: connect to host 127.0.0.9 port 22: Connection refused")
os.execvp("sh", ["sh", "-c", command])
"""
CLUSTER = """
cluster_name: closet
provider: {type: local, head_ip: 127.0.0.2, worker_ips: [127.0.0.3]}
auth: {ssh_user: russet, ssh_private_key: ~/.ssh/fleet}
"""


@pytest.fixture
def ssh(tmp_path: Path) -> str:
    program = tmp_path / "ssh"
    program.write_text(INSTRUMENT.format(python=sys.executable))
    program.chmod(0o755)
    return str(program)


@pytest.fixture
def wanted(tmp_path: Path) -> Wanted:
    return Wanted(str(tmp_path / "russet"), str(tmp_path / "home"), [], [])


async def test_every_machine_tells_its_facts_and_reaches_the_others(ssh: str, wanted: Wanted) -> None:
    told, silent = await ask(named(["127.0.0.2", "anna@127.0.0.3"]), wanted, [ssh])
    assert silent == []
    assert [(each.node, each.head, each.reached) for each in told] == [
        ("127.0.0.2", True, {"127.0.0.3": "open"}),
        ("127.0.0.3", False, {"127.0.0.2": "open"}),
    ]
    assert all(abs(each.clock_ahead_s) <= each.clock_error_s + 0.001 for each in told)
    assert all(each.installed is None for each in told)


async def test_one_that_does_not_answer_is_named_with_the_reason(ssh: str, wanted: Wanted) -> None:
    told, silent = await ask(named(["127.0.0.2", "127.0.0.9"]), wanted, [ssh])
    assert silent == [Unreachable("127.0.0.9", "ssh: connect to host 127.0.0.9 port 22: Connection refused")]
    assert told[0].reached == {}


async def test_without_ssh_that_is_said(wanted: Wanted) -> None:
    told, silent = await ask(named(["127.0.0.2"]), wanted, ["/nowhere/ssh"])
    assert told == []
    assert "/nowhere/ssh cannot be started" in silent[0].reason


def test_a_cluster_file_names_machines_user_and_key(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(CLUSTER)
    head, worker = of_cluster_file(file)
    assert head == Machine("127.0.0.2", True, "russet", "~/.ssh/fleet")
    assert not worker.head
    assert worker.command(["ssh"]) == ["ssh", "-i", str(Path("~/.ssh/fleet").expanduser()), "russet@127.0.0.3"]
    assert this_machine()[0].command(["ssh"]) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "has no section provider"),
        ("provider: {type: aws}", "accepted is 'local'"),
        ("provider: {type: local, head_ip: 3}", "head_ip is 3"),
        ("provider: {type: local, head_ip: -oProxyCommand=x}\nauth: {}", "'-oProxyCommand=x'"),
        ("provider: {type: local, head_ip: a, worker_ips: [a]}\nauth: {}", "names a twice"),
        ("provider: {type: local, head_ip: a, worker_ips: []}", "has no section auth"),
        ("{", "cannot be read"),
    ],
)
def test_a_cluster_file_that_is_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(text)
    with pytest.raises(InvalidArgument, match=re.escape(said)):
        of_cluster_file(file)


def check(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["check", *arguments])


def test_the_command_prints_a_table_and_what_to_do(ssh: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUSSET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "140")
    file = tmp_path / "fleet.yaml"
    file.write_text(CLUSTER)
    result = check("--cluster", str(file), "--ssh", ssh, "--root", str(tmp_path))
    assert "127.0.0.2 (head)" in result.output
    assert "1 reached" in result.output
    # Every address of loopback is this machine's, which speaks from the first.
    assert "127.0.0.3 address: it would speak to the others from 127.0.0.1" in result.output
    assert result.exit_code == 1
    as_json = check("--node", "127.0.0.2", "--node", "127.0.0.9", "--ssh", ssh, "--json")
    told = json.loads(as_json.output)
    assert [each["node"] for each in told["nodes"]] == ["127.0.0.2"]
    assert told["silent"][0]["node"] == "127.0.0.9"
    assert as_json.exit_code == 1


def test_this_machine_alone_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUSSET_HOME", str(tmp_path / "home"))
    for name in ("RAY__PORT", "RAY__DASHBOARD_PORT", "GATEWAY__PORT", "GATEWAY__GRPC_PORT"):
        monkeypatch.setenv(f"RUSSET_{name}", "0")
    result = check()
    assert result.exit_code == 0, result.output
    assert "Russet" in result.output


def test_the_keys_that_all_nodes_share_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("RUSSET_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "200")
    made = CliRunner().invoke(app, ["keys"])
    assert made.output.count("made") == 2
    secrets = {name: (home / name).read_bytes() for name in ("cluster.key", "ray.token")}
    assert all((home / name).stat().st_mode & 0o077 == 0 for name in secrets)
    again = CliRunner().invoke(app, ["keys"])
    assert again.output.count("there already") == 2
    assert secrets == {name: (home / name).read_bytes() for name in secrets}
    assert not any(value.decode().strip() in made.output for value in secrets.values())
