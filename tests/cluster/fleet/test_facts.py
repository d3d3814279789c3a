"""What is read of a Mac's own commands, as they print it, and of this machine."""

import ast
import socket
from pathlib import Path

import pytest

from cluster.fleet import facts

THUNDERBOLT_4 = """
    Thunderbolt/USB4 Bus 0:
      Vendor Name: Apple Inc.
      Device Name: Mac mini
      Port:
          Status: No device connected
          Speed: Up to 40 Gb/s
"""
THUNDERBOLT_5 = THUNDERBOLT_4.replace("Up to 40 Gb/s", "Up to 120 Gb/s").replace("USB4", "Thunderbolt 5")
PMSET = """AC Power:
 womp                 1
 autorestart          0
 powernap             1
 disksleep            10
 sleep                1
 ttyskeepawake        1
"""


def test_a_macs_own_words_are_read() -> None:
    assert (facts.thunderbolt(THUNDERBOLT_4), facts.thunderbolt(THUNDERBOLT_5), facts.thunderbolt("")) == (4, 5, 0)
    assert facts.power(PMSET) == {"autorestart": 0, "sleep": 1}
    assert facts.power("") == {}


def test_it_runs_with_the_python_that_macs_come_with() -> None:
    ast.parse(Path(facts.__file__).read_text(), feature_version=(3, 9))


def test_this_machine_tells_what_it_is(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "cluster.key").write_bytes(b"open sesame")
        asked = {"root": str(Path(facts.__file__).parents[2]), "home": str(tmp_path), "ports": [port], "towards": []}
        told = facts.facts(asked)
    assert told["ports_taken"] == [port]
    assert told["memory_bytes"] > 1 << 28
    assert told["disk_free_bytes"] > 0
    assert told["secrets"]["ray.token"] == ""
    assert len(told["secrets"]["cluster.key"]) == 16
    assert "open sesame" not in str(told)
    assert not told["runs"]


def test_a_place_without_an_environment_says_so(tmp_path: Path) -> None:
    assert facts.installed(str(tmp_path / ".venv/bin/python")) is None


@pytest.mark.parametrize("listens", [True, False])
def test_reaching_tells_what_became_of_it(listens: bool) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert facts.reach([address]) == {address: "open" if listens else "ECONNREFUSED"}
