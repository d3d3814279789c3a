"""Each check finds what it is for, says what to do, and is quiet about a healthy machine."""

from dataclasses import replace
from typing import Any

import pytest

from cluster.fleet.checks import Facts, findings
from tests.cluster.fleet.conftest import VERSIONS


def test_a_healthy_fleet_has_nothing_to_mend(head: Facts, mini: Any) -> None:
    worker = mini()
    for node in (head, worker):
        found = findings(node, [head, worker])
        assert {each.level for each in found} == {"ok"}
        assert not any(each.fix for each in found)
    assert {"python", "address", "name", "clock", "network", "ports", "keys", "memory", "wired", "disk", "power"} == {
        each.check for each in findings(worker, [head, worker])
    }


@pytest.mark.parametrize(
    ("change", "check", "level", "fix"),
    [
        ({"installed": replace(VERSIONS, python="3.10.9")}, "python", "fail", "Python 3.11 or newer"),
        ({"installed": None, "python": "3.9.6"}, "python", "fail", "Python 3.11 or newer"),
        ({"installed": None, "python": "3.12.1"}, "python", "warn", "`ray up` installs Russet"),
        ({"installed": replace(VERSIONS, python="3.13.0")}, "python", "fail", "same minor version"),
        ({"installed": replace(VERSIONS, ray="2.59.0")}, "python", "fail", "ray 2.59.0, the head has 2.60.0"),
        ({"installed": replace(VERSIONS, mlx="")}, "python", "fail", "mlx missing"),
        ({"system": "Linux", "compiler": ""}, "compiler", "warn", "install g++"),
        ({"own_addresses": ["192.168.1.7"]}, "address", "fail", "from 192.168.1.7, not from 10.0.0.11"),
        ({"hostname_addresses": ["127.0.0.1"]}, "name", "warn", "`10.0.0.11 mini-1.lan` to its /etc/hosts"),
        ({"hostname_addresses": []}, "name", "warn", "stands for no address"),
        ({"clock_ahead_s": -4.0}, "clock", "fail", "-4.0 s from the head's: sudo sntp"),
        ({"clock_ahead_s": -4.0, "system": "Linux"}, "clock", "fail", "timedatectl"),
        ({"reached": {"10.0.0.10": "EHOSTUNREACH"}}, "network", "fail", "Local Network"),
        ({"reached": {"10.0.0.10": "EHOSTUNREACH"}, "system": "Linux"}, "network", "fail", "firewall"),
        ({"reached": {"10.0.0.10": "timeout"}}, "network", "fail", "firewall"),
        ({"ports_taken": [6379]}, "ports", "fail", "lsof -i :6379"),
        ({"secrets": {"cluster.key": "zz", "ray.token": "bb"}}, "keys", "fail", "copy cluster.key from the head"),
        ({"memory_bytes": 4 << 30, "wired_limit_mb": None}, "memory", "warn", "russet plan"),
        ({"wired_limit_mb": 23_000}, "wired", "fail", "iogpu.wired_limit_mb=20480"),
        ({"disk_free_bytes": 1 << 30}, "disk", "warn", "want 11 GB"),
        ({"power": {"sleep": 10, "autorestart": 0}}, "power", "warn", "pmset -a sleep 0; sudo pmset -a autorestart 1"),
    ],
)
def test_what_is_wrong_is_found_with_what_to_do(
    head: Facts, mini: Any, change: dict[str, Any], check: str, level: str, fix: str
) -> None:
    worker = mini(**change)
    wrong = [each for each in findings(worker, [head, worker]) if each.level != "ok"]
    assert [(each.check, each.level) for each in wrong] == [(check, level)]
    assert fix in wrong[0].fix


def test_ports_that_russet_holds_are_its_own(head: Facts) -> None:
    running = replace(head, ports_taken=[6379, 8000], runs=True)
    assert all(each.level == "ok" for each in findings(running, [running]))


def test_a_clock_within_what_could_be_measured_is_no_finding(head: Facts, mini: Any) -> None:
    far = mini(clock_ahead_s=1.5, clock_error_s=0.6)
    assert all(each.level == "ok" for each in findings(far, [head, far]))


def test_a_machine_alone_is_not_asked_for_its_name(head: Facts) -> None:
    alone = replace(head, reached={}, hostname_addresses=["127.0.0.1"])
    assert "name" not in {each.check for each in findings(alone, [alone])}
