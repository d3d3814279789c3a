"""What tests of several packages share: private homes, and the clusters that are started once for many tests."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest
import pytest_asyncio

from cluster.config import Config, load
from cluster.home import Home
from cluster.lifecycle import ClusterState, read_state
from cluster.local import LocalCluster
from cluster.ray_process import free_port

# The same examples on each run, and no limit on an example's time, which on a busy machine says nothing.
hypothesis.settings.register_profile("russet", deadline=None, derandomize=True)
hypothesis.settings.load_profile("russet")

KV_BYTES = 128 << 20
"""Enough for some 5,000 tokens of the default model, little enough for several clusters beside each other."""


@pytest.fixture(autouse=True, scope="session")
def _no_settings_from_outside() -> Iterator[None]:
    """Tests configure what they start; a developer's RUSSET_* variables must not."""
    saved = {
        name: os.environ.pop(name) for name in list(os.environ) if name.startswith("RUSSET_") and name != "RUSSET_DATA"
    }
    yield
    os.environ.update(saved)


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory of the test's own, with a path short enough for unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
    yield path
    shutil.rmtree(Home(path.resolve()).run, ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)


def settings(home: Path, **more: object) -> Config:
    """A cluster's configuration for tests: private home, free ports, a small KV slab, deterministic."""
    chosen = {
        "home": home,
        "deterministic": True,
        "gateway.port": 0,
        "gateway.grpc_port": 0,
        "models.0.kv_memory_bytes": KV_BYTES,
    }
    return load(None, chosen | {name.replace("__", "."): value for name, value in more.items()}, environ={})


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def local() -> AsyncIterator[LocalCluster]:
    """Every service in this process, serving the real default model."""
    path = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
    async with LocalCluster(settings(path)) as cluster:
        yield cluster
    shutil.rmtree(path, ignore_errors=True)


def russet(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, as a user runs it."""
    command = [sys.executable, "-c", "from cluster.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="session")
def on_ray() -> Iterator[tuple[Config, ClusterState]]:
    """The whole system as `russet up` starts it, once per session: give every test of it xdist_group("ray").

    From the command line, because Ray keeps the first cluster's token for as long as a process lives.
    """
    path = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
    chosen = {
        "home": path,
        "deterministic": True,
        "models.0.kv_memory_bytes": KV_BYTES,
        "gateway.port": free_port(),
        "gateway.grpc_port": free_port(),
        "ray.port": 0,
        "ray.dashboard_port": 0,
        "ray.metrics_port": 0,
        "tls.actors": "on",
        "scaling.queue_delay_s": 0.3,
        "scaling.up_after_s": 1,
        "scaling.down_after_s": 4,
    }
    config = load(None, chosen, environ={})
    started = russet(
        "up", "--ask", "", *(part for name, value in chosen.items() for part in ("--set", f"{name}={value}"))
    )
    assert started.returncode == 0, started.stderr
    assert "waiting for Ray" in started.stderr
    state = read_state(Home(config.home))
    assert state is not None
    yield config, state
    family = psutil.Process(state.ray_pid).children(recursive=True)
    assert "Stopped" in russet("down", "--set", f"home={path}").stdout
    left = [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert not left, f"processes outlived `russet down`: {left}"
    shutil.rmtree(Home(config.home).run, ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)
