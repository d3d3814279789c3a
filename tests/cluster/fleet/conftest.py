"""Facts of machines that there need not be."""

from typing import Any

import pytest

from cluster.fleet.checks import Facts, Installed

VERSIONS = Installed(python="3.12.4", russet="0.1.0", ray="2.60.0", mlx="0.32.0", grpcio="1.85.1", numpy="2.2.0")
MINI: dict[str, Any] = {
    "node": "10.0.0.11",
    "head": False,
    "system": "Darwin",
    "release": "15.5",
    "machine": "arm64",
    "chip": "Apple M4 Pro",
    "cores": 14,
    "memory_bytes": 24 << 30,
    "disk_free_bytes": 200 << 30,
    "hostname": "mini-1.lan",
    "hostname_addresses": ["10.0.0.11"],
    "own_addresses": ["10.0.0.11"],
    "python": "3.9.6",
    "installed": VERSIONS,
    "compiler": "/usr/bin/c++",
    "secrets": {"cluster.key": "aa", "ray.token": "bb"},
    "runs": False,
    "ports_taken": [],
    "wired_limit_mb": 0,
    "thunderbolt": 5,
    "power": {"sleep": 0, "autorestart": 1},
    "clock_ahead_s": 0.0,
    "clock_error_s": 0.01,
    "reached": {"10.0.0.10": "open"},
}


@pytest.fixture
def head() -> Facts:
    """A healthy Mac mini that is the head."""
    return Facts(**(MINI | {"node": "10.0.0.10", "head": True, "own_addresses": ["10.0.0.10"]}))


@pytest.fixture
def mini() -> Any:
    """Makes a healthy worker, but for what is given."""
    return lambda **change: Facts(**(MINI | change))
