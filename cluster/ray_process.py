"""Ray's own processes on one machine: how they are started, found again, and ended with everything below them."""

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from actors.base.errors import InvalidArgument, Unavailable
from actors.worker.slab import available_memory
from cluster.capacity import cores
from cluster.config import RayConfig
from cluster.fleet.facts import chip, local_address, output, thunderbolt
from cluster.home import Home

STOP_TIMEOUT_S = 20.0
OUTSIDE = "192.0.2.1"
"""An address that nobody has: the way there is the way out."""


def start(home: Home, log: str, options: Mapping[str, object]) -> subprocess.Popen[bytes]:
    """`ray start` with these options, in a session of its own, writing to this log of the home."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    command += [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
    with (home.logs / log).open("wb") as file:
        return subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
            env=os.environ | ray_environment(home) | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )


def offered(config: RayConfig, home: Home, address: str) -> dict[str, object]:
    """Options of `ray start` that say what this machine has for Russet."""
    return {
        "node-ip-address": address,
        "metrics-export-port": config.metrics_port or free_port(),
        "temp-dir": home.run / "ray",
        "object-store-memory": config.object_store_bytes,
        "num-cpus": cores(),
        "memory": memory_of(config),
        "labels": ",".join(f"{name}={value}" for name, value in labels_of(config).items()),
    }


def address_of(config: RayConfig, towards: str = OUTSIDE) -> str:
    """Where other nodes reach this machine. Raises InvalidArgument where it does not know."""
    if config.bind == "loopback" and towards == OUTSIDE:
        return "127.0.0.1"
    if address := config.address or local_address(towards):
        return address
    raise InvalidArgument(
        f"this machine has no way to {towards}, so its own address is not known; set ray.address to the one that other "
        "nodes reach",
        param="ray.address",
    )


def memory_of(config: RayConfig) -> int:
    """Bytes that this machine offers to replicas."""
    return config.memory_bytes or available_memory()


def labels_of(config: RayConfig) -> dict[str, str]:
    """What is said of this machine: chip, links, and what the configuration adds. Ray allows few characters."""
    generation = thunderbolt(output(["system_profiler", "SPThunderboltDataType"]))
    found = {"chip": chip(), "links": f"thunderbolt{generation}" if generation else ""}
    plain = {name: re.sub(r"[^A-Za-z0-9._-]+", "-", value)[:63].strip("-._") for name, value in found.items()}
    return {name: value for name, value in plain.items() if value} | config.labels


def free_port() -> int:
    """A TCP port that was free a moment ago.

    Drawn from between the ports that Ray gives its workers (below 20,000) and those that systems give outgoing
    connections (from 32,768), so that only another listener could take it before it is used.
    """
    while True:
        port = secrets.choice(range(20_000, 32_768))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def ray_environment(home: Home) -> dict[str, str]:
    """Environment of every Ray process of this cluster; its token is made once and readable by the owner only."""
    token_file = home.home / "ray.token"
    if not token_file.exists():
        descriptor = os.open(token_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
        "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL": "minor",
        "RAY_DEDUP_LOGS": "0",
        "RAY_SERVE_LOG_TO_STDERR": "0",
    }


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, timeout_s: float) -> None:
    """Return once `ready` says so. Raises Unavailable where the process ends, or the time is up."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Unavailable(f"Ray ended with code {process.returncode}: {tail(log)}")
        if ready():
            return
        time.sleep(0.05)
    raise Unavailable(f"Ray is not there after {timeout_s:.0f} s; see {log}")


def same_process(pid: int, started_s: float) -> psutil.Process | None:
    """The process of this number that began then, while it lives."""
    try:
        process = psutil.Process(pid)
        return process if abs(process.create_time() - started_s) < 1 and process.status() != "zombie" else None
    except psutil.NoSuchProcess:
        return None


def end_on_sigterm() -> None:
    """SIGTERM ends this process as Ctrl-C does, with all it started. Said again after ray.init, which takes it over."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def holds_token(process: psutil.Process, home: Home) -> bool:
    """Whether it was started with this home's token."""
    try:
        return process.environ().get("RAY_AUTH_TOKEN_PATH") == str(home.home / "ray.token")
    except psutil.Error:
        return False  # gone, or another user's


def session(leader: int) -> list[psutil.Process]:
    """Every process of the session that `leader` began: Ray's own, the actors, theirs, and orphans among them."""
    family = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == leader:
                family.append(process)
    return family


def end(family: list[psutil.Process]) -> None:
    """Ask the session's leader to end, which ends the others; kill what is left of it after STOP_TIMEOUT_S."""
    if not family:
        return
    leader = os.getsid(family[0].pid)
    for process in family:
        if process.pid == leader:
            process.terminate()
    psutil.wait_procs(family, timeout=STOP_TIMEOUT_S if any(process.pid == leader for process in family) else 0)
    alive = session(leader)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5)


def tail(path: Path) -> str:
    """The last line of a log."""
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"nothing was logged in {path}"
