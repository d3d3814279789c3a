"""What a machine needs to join a cluster, what it says of itself, and how what it started is found again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from actors.base.errors import Conflict, InvalidArgument
from cluster import ray_process
from cluster.home import Home
from cluster.join import join, leave
from cluster.ray_process import address_of, labels_of
from tests.conftest import settings

SLEEPS = "import subprocess, sys; subprocess.Popen(['sleep', '600']); print('up', flush=True); sys.stdin.read()"


def joined(home: Path, *, token: Path) -> subprocess.Popen[str]:
    """A node that is not Ray's, with the file that `russet join` leaves."""
    run = Home(home.resolve()).create().run
    node = subprocess.Popen(
        [sys.executable, "-c", SLEEPS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"RAY_AUTH_TOKEN_PATH": str(token)},
    )
    assert node.stdout is not None
    assert node.stdout.readline() == "up\n"
    began = psutil.Process(node.pid).create_time()
    told = {"ray_pid": node.pid, "ray_started_s": began, "head": "10.0.0.1:6379", "address": "10.0.0.2"}
    (run / "node-10.0.0.2.json").write_text(json.dumps(told))
    return node


@pytest.mark.parametrize("missing", ["ray.token", "cluster.key"])
def test_both_secrets_of_the_head_are_needed(home: Path, missing: str) -> None:
    for name in {"ray.token", "cluster.key"} - {missing}:
        (home / name).write_text("secret")
    with pytest.raises(InvalidArgument, match=rf"{missing} is missing; copy it .* head \(10\.0\.0\.1\)"):
        join(settings(home), "10.0.0.1", lambda what: None)


def test_a_machine_joins_once_by_each_address_and_leaves_with_all_it_started(home: Path) -> None:
    for name in ("ray.token", "cluster.key"):
        (home / name).write_text("secret")
    node = joined(home, token=home.resolve() / "ray.token")
    with pytest.raises(Conflict, match=r"a node of 10\.0\.0\.1:6379 already"):
        join(settings(home, ray__address="10.0.0.2"), "10.0.0.1", lambda what: None)
    [child] = psutil.Process(node.pid).children()
    # Its leader alone died: what it had begun is found, and ended.
    node.kill()
    node.wait()
    assert leave(Home(home.resolve()))
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert not leave(Home(home.resolve()))


def test_a_session_that_only_has_the_number_is_spared(home: Path) -> None:
    node = joined(home, token=Path("/another/ray.token"))
    [child] = psutil.Process(node.pid).children()
    node.kill()
    node.wait()
    assert not leave(Home(home.resolve()))
    assert child.is_running()
    child.kill()


def test_the_address_is_the_one_towards_the_head_or_the_one_that_is_set(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = {"10.0.0.1": "10.0.0.2", ray_process.OUTSIDE: "192.168.1.2"}
    monkeypatch.setattr(ray_process, "local_address", lambda towards: ways.get(towards, ""))
    config = settings(home).ray
    assert address_of(config) == "127.0.0.1"
    assert address_of(config, "10.0.0.1") == "10.0.0.2"
    assert address_of(config.model_copy(update={"bind": "node"})) == "192.168.1.2"
    assert address_of(config.model_copy(update={"address": "10.9.9.9"}), "10.0.0.1") == "10.9.9.9"
    with pytest.raises(InvalidArgument, match=r"no way to 10\.7\.7\.7.*ray\.address"):
        address_of(config, "10.7.7.7")


def test_a_machine_tells_its_chip_its_links_and_what_is_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_process, "chip", lambda: "Apple M4 Pro (12)")
    monkeypatch.setattr(ray_process, "thunderbolt", lambda told: 5)
    config = settings(home, ray__labels={"room": "attic"}).ray
    assert labels_of(config) == {"chip": "Apple-M4-Pro-12", "links": "thunderbolt5", "room": "attic"}
    with pytest.raises(InvalidArgument, match=r"ray\.labels\.room"):
        settings(home, ray__labels={"room": "the attic"})
