"""The files that start a fleet: read by who will read them, and every command in them one that there is."""

import plistlib
import re
import shlex
import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.cli import app
from cluster.config import load

DEPLOY = Path(__file__).parents[2] / "deploy"
CLUSTERS = sorted((DEPLOY / "fleet").glob("*.yaml"))
PLISTS = sorted((DEPLOY / "launchd").glob("*.plist"))
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def check_command(line: str) -> None:
    """Raise where `russet` has no such command, option or setting."""
    words = shlex.split(line.replace("$RAY_HEAD_IP", "10.0.0.10"))
    command: Any = typer.main.get_command(app)
    with command.make_context("russet", words[:1], resilient_parsing=True) as context:
        name, found, _ = command.resolve_command(context, words[:1])
    # What the command would do is not done: its options are read, its settings looked up.
    with found.make_context(name, words[1:]) as inner:
        for setting in inner.params.get("settings") or []:
            key, _, value = setting.partition("=")
            load(None, {key: value}, environ={})


def russet_commands(text: str) -> list[str]:
    return re.findall(r"\.venv/bin/russet ([^\n|&;#]+?)(?:  |\n|$)", text)


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_ray_accepts_a_cluster_file(path: Path) -> None:
    described = yaml.safe_load(path.read_text())
    prepared = prepare_config(described)
    validate_config(prepared)
    workers = prepared["available_node_types"]["local.cluster.node"]
    assert workers["min_workers"] == workers["max_workers"] == len(described["provider"]["worker_ips"]), (
        "every machine is kept in the fleet"
    )
    starts = described["head_start_ray_commands"] + described["worker_start_ray_commands"]
    assert not any("ray start" in line for line in starts), "a plain `ray start` knows nothing of resources and labels"
    for secret in ("cluster.key", "ray.token"):
        assert described["file_mounts"][f"~/.russet/{secret}"] == f"~/.russet/{secret}"


@pytest.mark.parametrize("path", [*CLUSTERS, *UNITS], ids=lambda path: path.name)
def test_its_commands_are_russets(path: Path) -> None:
    commands = russet_commands(path.read_text())
    assert commands
    for line in commands:
        check_command(line)


def test_a_command_that_there_is_not_would_be_seen() -> None:
    for line in ("joyn 10.0.0.10", "up --set gateway.prot=3", "up --blok"):
        with pytest.raises((Exception, SystemExit)):
            check_command(line)


@pytest.mark.parametrize("path", PLISTS, ids=lambda path: path.name)
def test_launchd_can_read_its_files(path: Path) -> None:
    job = plistlib.loads(path.read_bytes())
    assert job["Label"] == path.stem
    program, *words = job["ProgramArguments"]
    assert program.endswith("/.venv/bin/russet")
    check_command(shlex.join(words))
    assert job["RunAtLoad"] is job["KeepAlive"] is True
    assert "--block" in words, "launchd ends a job whose program returns"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_can_read_its_files(path: Path, tmp_path: Path) -> None:
    unit = RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(path.read_text())
    assert unit["Service"]["Restart"] == "always"
    assert "--block" in unit["Service"]["ExecStart"]
    assert unit["Install"]["WantedBy"] == "default.target"
    if analyze := shutil.which("systemd-analyze"):
        # It looks whether the program is there.
        program = tmp_path / "russet"
        program.symlink_to("/bin/true")
        there = tmp_path / path.name
        there.write_text(re.sub(r"%h/russet/\.venv/bin/russet", str(program), path.read_text()))
        ran = subprocess.run([analyze, "verify", "--user", there], capture_output=True, text=True, check=False)
        assert path.name not in ran.stderr, ran.stderr
