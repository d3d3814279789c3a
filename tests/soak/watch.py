"""The processes of the cluster under soak: which there are, what memory they hold, and which of them to kill."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil

VICTIMS = ("worker", "scheduler", "router", "memory", "learner")
"""Not the gateway: its clients' connections end with it, wherever their streams could go on."""


@dataclass(frozen=True)
class Process:
    """An actor's process; `ready`: whether it answered that it serves."""

    role: str
    replica: str
    pid: int
    ready: bool


@dataclass(frozen=True)
class Kill:
    """A process that was killed. at_s: on the monotonic clock. spare: whether another replica was ready then."""

    role: str
    at_s: float
    spare: bool


def russet(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the command line on this home."""
    command = [sys.executable, "-c", "from cluster.cli import main; main()", *arguments, "--set", f"home={home}"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def actors(url: str) -> list[Process]:
    """Those that /status.json tells of."""
    told = httpx.get(f"{url}/status.json", timeout=30).json()["services"]
    return [Process(each["role"], each["replica"], each["pid"], each["state"] == "serving") for each in told]


def kill(processes: Sequence[Process], chance: random.Random) -> Kill | None:
    """Kill one at random with SIGKILL; None where none of them can be, or where it was gone already."""
    there = [each for each in processes if each.role in VICTIMS and each.ready]
    if not there:
        return None
    victim = chance.choice(there)
    workers = {each.replica for each in processes if each.role == "worker" and each.ready}
    schedulers = {each.replica for each in processes if each.role == "scheduler" and each.ready}
    try:
        os.kill(victim.pid, signal.SIGKILL)
    except ProcessLookupError:
        return None
    return Kill(victim.role, time.monotonic(), bool((workers & schedulers) - {victim.replica}))


def resident(leader: int) -> dict[str, float]:
    """Bytes that the session's processes hold, each page counted once (USS where the system tells it), by role."""
    held: dict[str, float] = defaultdict(float)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == leader:
                held[_role(process)] += process.memory_full_info().uss
    return dict(held)


def leaked(url: str) -> dict[str, float]:
    """What an idle cluster still holds for requests, by metric; none is as it should be."""
    lines = httpx.get(f"{url}/metrics", timeout=30).text.splitlines()
    names = ("vllm:kv_cache_usage_perc{", "vllm:num_requests_running{", "vllm:num_requests_waiting{")
    return {
        line.split()[0]: float(line.split()[-1])
        for line in lines
        if line.startswith(names) and line.split()[-1] != "0.0"
    }


def growth(samples: Iterable[tuple[float, float]]) -> float:
    """How much of (time, bytes) samples the last third holds more than the middle third, as a share of that.

    The first third is not looked at: caches fill, and slabs are touched for the first time.
    """
    held = np.array([value for _, value in sorted(samples)])
    third = len(held) // 3
    return float(np.median(held[2 * third :]) / np.median(held[third : 2 * third]) - 1)


def pauses(kills: Iterable[Kill], silences: Iterable[tuple[float, float]], within_s: float = 30.0) -> list[float]:
    """Of each kill, the longest silence (end, length) of a stream that began before it and ended within `within_s`."""
    silences = list(silences)
    longest = []
    for each in kills:
        around = [
            lasted
            for ended, lasted in silences
            if ended - lasted <= each.at_s + 0.25 and each.at_s < ended < each.at_s + within_s
        ]
        longest.append(max(around, default=0.0))
    return longest


def _role(process: psutil.Process) -> str:
    title = " ".join(process.cmdline()[:1])
    for name in ("gateway", "router", "memory", "learner", "controller", "Worker", "replica"):
        if title.startswith("ray::") and name in title:
            return name.lower()
    return "Ray"
