"""What is wrong with a fleet's machines: pure decisions over what each told of itself, with what to do about each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["ok", "warn", "fail"]
LEVELS: tuple[Level, ...] = ("ok", "warn", "fail")
LEAST_PYTHON = (3, 11)
MOST_CLOCK_S = 1.0
"""Tokens, certificates and the witness log's times are compared between nodes."""
LEAST_DISK_BYTES = 10 << 30
LEAST_MEMORY_BYTES = 8 << 30
WIRED_SHARE = 0.75
"""Of a Mac's memory, what the system lets the GPU hold unless it is told otherwise."""
PRIVACY_ERRORS = ("EHOSTUNREACH",)


@dataclass(frozen=True)
class Installed:
    """Versions in Russet's environment on a node; empty for what is not there."""

    python: str = ""
    russet: str = ""
    ray: str = ""
    mlx: str = ""
    grpcio: str = ""
    numpy: str = ""


@dataclass(frozen=True)
class Facts:
    """A node: where it is in the fleet, and what facts.py told there."""

    node: str
    """Its address in the fleet."""
    head: bool
    system: str
    release: str
    machine: str
    chip: str
    cores: int
    memory_bytes: int
    disk_free_bytes: int
    hostname: str
    hostname_addresses: Sequence[str]
    own_addresses: Sequence[str]
    python: str
    installed: Installed | None
    compiler: str
    secrets: dict[str, str]
    ports_taken: Sequence[int]
    runs: bool
    """Whether `russet up` of this home runs there, and so may hold its ports."""
    wired_limit_mb: int | None
    thunderbolt: int
    power: dict[str, int]
    clock_ahead_s: float
    """Its clock less this machine's."""
    clock_error_s: float
    """Half of the round trip in which that was measured."""
    reached: dict[str, str] = field(default_factory=dict)
    """Of every other node's address: `open`, or the error that connecting ended with."""

    @property
    def is_mac(self) -> bool:
        """Whether macOS runs there."""
        return self.system == "Darwin"


@dataclass(frozen=True)
class Finding:
    """One check of one node."""

    check: str
    level: Level
    said: str
    """What was found, short enough for a table."""
    fix: str = ""
    """What to do; empty where nothing is."""


@dataclass(frozen=True)
class Unreachable:
    """A node that told nothing."""

    node: str
    reason: str


def findings(node: Facts, fleet: Sequence[Facts]) -> list[Finding]:
    """Every check of a node beside the others, in the order of CHECKS."""
    head = next((each for each in fleet if each.head), node)
    return [each for check in CHECKS for each in check(node, head)]


def _versions(node: Facts, head: Facts) -> list[Finding]:
    python = node.installed.python if node.installed else node.python
    said = python if node.installed else f"{python}, not installed"
    if tuple(map(int, python.split(".")[:2])) < LEAST_PYTHON:
        wanted = ".".join(map(str, LEAST_PYTHON))
        fix = f"install Python {wanted} or newer there (brew install python@3.12), and set PYTHON= for make"
        return [Finding("python", "fail", said, fix)]
    if node.installed is None:
        return [Finding("python", "warn", said, "`ray up` installs Russet there, or `make` in its directory")]
    if head.installed is None:
        return [Finding("python", "ok", said)]
    if python.split(".")[:2] != head.installed.python.split(".")[:2]:
        fix = f"the head has Python {head.installed.python}: install Russet with the same minor version there"
        return [Finding("python", "fail", said, fix)]
    different = [
        f"{name} {getattr(node.installed, name) or 'missing'}, the head has {getattr(head.installed, name)}"
        for name in ("russet", "ray", "mlx", "grpcio", "numpy")
        if getattr(node.installed, name) != getattr(head.installed, name)
    ]
    if different:
        return [Finding("python", "fail", said, f"{'; '.join(different)}: install the same Russet on both")]
    return [Finding("python", "ok", f"{said}, Russet {node.installed.russet}, Ray {node.installed.ray}")]


def _compiler(node: Facts, head: Facts) -> list[Finding]:
    if node.compiler or node.is_mac:
        return []
    fix = "install g++ or clang++ there: without it no kernels are built, and answers take many times as long"
    return [Finding("compiler", "warn", "none", fix)]


def _clock(node: Facts, head: Facts) -> list[Finding]:
    ahead = node.clock_ahead_s - head.clock_ahead_s
    error = node.clock_error_s + head.clock_error_s
    said = f"{ahead:+.2f} s (±{error:.2f})"
    if abs(ahead) - error > MOST_CLOCK_S:
        how = "sudo sntp -sS time.apple.com" if node.is_mac else "sudo timedatectl set-ntp true"
        return [Finding("clock", "fail", said, f"its clock is {ahead:+.1f} s from the head's: {how}")]
    return [Finding("clock", "ok", said)]


def _hostname(node: Facts, head: Facts) -> list[Finding]:
    if not node.reached:
        return []  # Alone, its name may stand for loopback.
    loopback = [address for address in node.hostname_addresses if address.startswith("127.") or address == "::1"]
    if not node.hostname_addresses:
        fix = f"{node.hostname} stands for no address there: add `{node.node} {node.hostname}` to its /etc/hosts"
        return [Finding("name", "warn", node.hostname, fix)]
    if len(loopback) == len(node.hostname_addresses):
        # Russet names addresses everywhere; Ray's own tools may still look the name up.
        fix = (
            f"{node.hostname} stands for {loopback[0]} there: add `{node.node} {node.hostname}` to its /etc/hosts, "
            "before the line that says so"
        )
        return [Finding("name", "warn", f"{node.hostname} -> {loopback[0]}", fix)]
    return [Finding("name", "ok", node.hostname)]


def _address(node: Facts, head: Facts) -> list[Finding]:
    if not node.own_addresses or node.node in node.own_addresses:
        return [Finding("address", "ok", node.node)]
    used = ", ".join(node.own_addresses)
    fix = (
        f"it would speak to the others from {used}, not from {node.node}: name that address in the cluster file, or "
        "put the fleet's interface first (System Settings, Network, Set Service Order)"
    )
    return [Finding("address", "fail", used, fix)]


def _ports(node: Facts, head: Facts) -> list[Finding]:
    if not node.ports_taken:
        return [Finding("ports", "ok", "free")]
    taken = ", ".join(map(str, node.ports_taken))
    if node.runs:
        return [Finding("ports", "ok", "held by Russet")]
    fix = f"something listens on {taken} there (lsof -i :{node.ports_taken[0]}): end it, or set other ports"
    return [Finding("ports", "fail", taken, fix)]


def _reached(node: Facts, head: Facts) -> list[Finding]:
    failed = {address: result for address, result in node.reached.items() if result != "open"}
    if not failed:
        return [Finding("network", "ok", f"{len(node.reached)} reached")] if node.reached else []
    said = ", ".join(f"{address}: {result}" for address, result in sorted(failed.items()))
    if node.is_mac and set(failed.values()) <= set(PRIVACY_ERRORS):
        fix = (
            "macOS forbids it the local network: System Settings, Privacy & Security, Local Network, allow it for what "
            "starts Russet (over SSH: sshd-keygen-wrapper); for launchd start it once from Terminal and say yes"
        )
    else:
        fix = "let the fleet's machines connect to each other on all TCP ports above 1024 (firewall, switch, VLAN)"
    return [Finding("network", "fail", said, fix)]


def _disk(node: Facts, head: Facts) -> list[Finding]:
    said = f"{node.disk_free_bytes / 1e9:.0f} GB free"
    if node.disk_free_bytes >= LEAST_DISK_BYTES:
        return [Finding("disk", "ok", said)]
    fix = f"free some: models, KV and logs want {LEAST_DISK_BYTES / 1e9:.0f} GB or more"
    return [Finding("disk", "warn", said, fix)]


def _memory(node: Facts, head: Facts) -> list[Finding]:
    said = f"{node.memory_bytes / 1e9:.0f} GB"
    if node.memory_bytes >= LEAST_MEMORY_BYTES:
        return [Finding("memory", "ok", said)]
    return [Finding("memory", "warn", said, "it holds small models only; `russet plan` says which")]


def _wired(node: Facts, head: Facts) -> list[Finding]:
    if not node.is_mac or node.wired_limit_mb is None:
        return []
    if node.wired_limit_mb == 0:
        return [Finding("wired", "ok", f"system's, {WIRED_SHARE * node.memory_bytes / 1e9:.0f} GB")]
    said = f"{node.wired_limit_mb * 1e6 / 1e9:.0f} GB"
    most = node.memory_bytes - (4 << 30)
    if node.wired_limit_mb << 20 > most:
        fix = (
            f"it leaves the system less than 4 GB, which freezes the machine: "
            f"sudo sysctl iogpu.wired_limit_mb={max(0, most) >> 20}, or 0 for the system's own"
        )
        return [Finding("wired", "fail", said, fix)]
    return [Finding("wired", "ok", said)]


def _power(node: Facts, head: Facts) -> list[Finding]:
    if not node.is_mac or "sleep" not in node.power:
        return []
    wrong, fixes = [], []
    if node.power["sleep"]:
        wrong.append(f"sleeps after {node.power['sleep']} min")
        fixes.append("sudo pmset -a sleep 0")
    if node.power.get("autorestart") == 0:
        wrong.append("stays off after a power cut")
        fixes.append("sudo pmset -a autorestart 1")
    return [Finding("power", "warn" if wrong else "ok", ", ".join(wrong) or "stays on", "; ".join(fixes))]


def _secrets(node: Facts, head: Facts) -> list[Finding]:
    if node is head:
        return []
    different = [
        name for name, digest in head.secrets.items() if digest and digest != node.secrets.get(name) and node.installed
    ]
    if not different:
        return [Finding("keys", "ok", "as the head's" if any(node.secrets.values()) else "none yet")]
    names = " and ".join(different)
    fix = f"copy {names} from the head's home to this node's (mode 0600); the cluster file's file_mounts do"
    return [Finding("keys", "fail", f"another {names}", fix)]


CHECKS: tuple[Callable[[Facts, Facts], list[Finding]], ...] = (
    _versions,
    _compiler,
    _address,
    _hostname,
    _clock,
    _reached,
    _ports,
    _secrets,
    _memory,
    _wired,
    _disk,
    _power,
)
