"""`russet join`: this machine as one more node of a cluster whose head is elsewhere, and its end.

The head decides what runs here. The machine needs Russet, the files of the models it is to serve, and in the same home
as the head's two secrets of it: Ray's token and the cluster key.
"""

import json
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from actors.base.errors import Conflict, InvalidArgument
from cluster.config import Config
from cluster.home import Home
from cluster.ray_process import (
    address_of,
    end,
    end_on_sigterm,
    free_port,
    holds_token,
    offered,
    same_process,
    session,
    start,
    wait_until,
)

STARTED = "Ray runtime started."
SECRETS = ("ray.token", "cluster.key")


@dataclass(frozen=True)
class Joined:
    """A node of this machine. Times in Unix seconds."""

    ray_pid: int
    ray_started_s: float
    head: str
    address: str

    @property
    def process(self) -> psutil.Process | None:
        """The leader of its processes, while it lives."""
        return same_process(self.ray_pid, self.ray_started_s)


def join(config: Config, head: str, progress: Callable[[str], None]) -> tuple[Joined, subprocess.Popen[bytes]]:
    """Start a node that belongs to the cluster at `head` (HOST or HOST:PORT); returns once it does.

    Raises InvalidArgument where a secret is missing, Conflict where this machine has a node at that address already,
    Unavailable where the head does not take it. Of a failure nothing is left.
    """
    home = Home(config.home).create()
    for name in SECRETS:
        if not (home.home / name).is_file():
            raise InvalidArgument(f"{home.home / name} is missing; copy it from the same place on the head ({head})")
    host, _, port = head.partition(":")
    head = f"{host}:{port or config.ray.port}"
    address = address_of(config.ray, host)
    state_file = _state_file(home, address)
    if (running := _read(state_file)) is not None and running.process is not None:
        raise Conflict(
            f"this machine is a node of {running.head} already (pid {running.ray_pid}); `russet down` ends it"
        )
    progress(f"the head at {head}")
    end_on_sigterm()
    log = f"ray-{address}.log"
    # Of several nodes on one machine none may take what is another's: ports are drawn where they are free.
    ports = {"min-worker-port": 0, "max-worker-port": 0, "dashboard-agent-listen-port": free_port()}
    process = start(home, log, {"address": head} | ports | offered(config.ray, home, address))
    try:
        joined = Joined(process.pid, psutil.Process(process.pid).create_time(), head, address)
        state_file.write_text(json.dumps(asdict(joined)))
        wait_until(
            lambda: STARTED in (home.logs / log).read_text(errors="replace"),
            process,
            home.logs / log,
            config.ray.start_timeout_s,
        )
    except BaseException:
        end(session(process.pid))
        state_file.unlink(missing_ok=True)
        raise
    return joined, process


def stay(home: Home, joined: Joined, process: subprocess.Popen[bytes]) -> int:
    """Wait until the node ends, as where its head is gone, or this process is told to end, which ends the node."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        end(session(process.pid))
        _state_file(home, joined.address).unlink(missing_ok=True)


def leave(home: Home) -> bool:
    """End every node that this machine joined as, and what is left of one that died; whether there was any."""
    found = False
    for state_file in home.run.glob("node-*.json"):
        joined = _read(state_file)
        if joined is not None:
            family = session(joined.ray_pid)
            if joined.process is None:
                family = [process for process in family if holds_token(process, home)]
            found |= bool(family)
            end(family)
        state_file.unlink(missing_ok=True)
    return found


def _state_file(home: Home, address: str) -> Path:
    return home.run / f"node-{address}.json"


def _read(path: Path) -> Joined | None:
    try:
        return Joined(**json.loads(path.read_text()))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return None
