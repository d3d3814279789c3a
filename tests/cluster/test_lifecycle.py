"""Start and stop of what `russet up` runs: nothing it began is ever out of reach of `russet down`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cluster import lifecycle
from cluster.home import Home
from cluster.lifecycle import down, read_state, stay

HEAD = "import subprocess, sys; subprocess.Popen(['sleep', '600']); print('up', flush=True); sys.stdin.read()"
"""A head with a child, as Ray's; it ends with its stdin."""


def start_head(home: Path) -> subprocess.Popen[str]:
    """The state that `russet up` leaves, with a head that is not Ray."""
    Home(home).create()
    head = subprocess.Popen(
        [sys.executable, "-c", HEAD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"RAY_AUTH_TOKEN_PATH": str(Home(home).home / "ray.token")},
    )
    assert head.stdout is not None
    assert head.stdout.readline() == "up\n"
    state = {
        "ray_pid": head.pid,
        "ray_started_s": psutil.Process(head.pid).create_time(),
        "ray_address": "127.0.0.1:1",
        "dashboard": "",
        "http": "",
        "grpc": "",
        "started_s": time.time(),
    }
    Home(home).state_file.write_text(json.dumps(state))
    return head


def members(session: int) -> list[psutil.Process]:
    """Living processes of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            continue
    return found


def test_down_ends_what_a_dead_head_left(home: Path) -> None:
    head = start_head(home)
    assert head.stdin is not None
    head.stdin.close()
    head.wait(10)
    assert read_state(Home(home)) is None
    assert [process.name() for process in members(head.pid)] == ["sleep"]
    assert down(Home(home), lambda what: None)
    assert members(head.pid) == []
    assert not down(Home(home), lambda what: None)


def test_down_spares_a_session_that_only_has_the_number(home: Path) -> None:
    head = start_head(home)
    assert head.stdin is not None
    head.stdin.close()
    head.wait(10)
    state = json.loads(Home(home).state_file.read_text())
    other = home / "other"
    Home(other).create().state_file.write_text(json.dumps(state))
    assert not down(Home(other), lambda what: None)
    assert len(members(head.pid)) == 1
    down(Home(home), lambda what: None)


@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_start_leaves_nothing_that_down_does_not_find(home: Path, ended_by: signal.Signals) -> None:
    flags = [f"home={home}"]
    flags += [f"{port}=0" for port in ("gateway.port", "gateway.grpc_port", "ray.port")]
    flags += [f"{port}=0" for port in ("ray.dashboard_port", "ray.metrics_port")]
    program = "from cluster.cli import main; main()"
    command = [sys.executable, "-c", program, "up", *(f"--set={flag}" for flag in flags)]
    starting = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert starting.stderr is not None
    for line in starting.stderr:
        if "waiting for the actors" in line:
            break
    state = read_state(Home(home))
    assert state is not None
    assert state.http.rpartition(":")[2] != "0"
    starting.send_signal(ended_by)
    starting.communicate(timeout=60)
    if ended_by == signal.SIGKILL:
        assert down(Home(home), lambda what: None)
    assert members(state.ray_pid) == []
    assert read_state(Home(home)) is None


def test_staying_ends_with_the_head_and_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "end_on_sigterm", lambda: None)  # The tests' own process keeps its signals.
    head = start_head(home)
    state = read_state(Home(home))
    assert state is not None
    head.kill()
    head.wait()
    assert members(head.pid), "its child goes on"
    assert stay(Home(home), state) == 1, "so that systemd or launchd starts it again"
    assert members(head.pid) == []


STAYING = """
import sys
from pathlib import Path
from cluster import lifecycle
from cluster.home import Home
lifecycle.down = lambda home, progress: print("down", flush=True)
state = lifecycle.read_state(Home(Path(sys.argv[1])))
found = lifecycle.same_process
lifecycle.same_process = lambda *told: (print("staying", flush=True), found(*told))[1]
sys.exit(lifecycle.stay(Home(Path(sys.argv[1])), state))
"""


def test_staying_ends_when_told_to_and_takes_the_cluster_down(home: Path) -> None:
    head = start_head(home)
    staying = subprocess.Popen([sys.executable, "-c", STAYING, str(home)], stdout=subprocess.PIPE, text=True)
    assert staying.stdout is not None
    assert staying.stdout.readline() == "staying\n"
    staying.terminate()
    assert staying.stdout.readline() == "down\n"
    assert staying.wait() == 0
    head.kill()
    head.wait()
    down(Home(home), lambda what: None)
    assert members(head.pid) == []
