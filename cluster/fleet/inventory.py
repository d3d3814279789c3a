"""Which machines a fleet has: from a cluster file of `ray up`, from the command line, or this one alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from actors.base.errors import InvalidArgument

MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Machine:
    """A machine: its address in the fleet, and how it is logged in to; no user and key are ssh's own defaults."""

    address: str
    head: bool
    user: str = ""
    key_file: str = ""
    local: bool = False
    """Whether it is this one, which is asked without ssh."""

    def command(self, ssh: Sequence[str]) -> list[str]:
        """What stands before a command that is to run there."""
        if self.local:
            return []
        key = ["-i", str(Path(self.key_file).expanduser())] if self.key_file else []
        where = f"{self.user}@{self.address}" if self.user else self.address
        return [*ssh, *key, where]


def this_machine() -> list[Machine]:
    """A fleet of one."""
    return [Machine("127.0.0.1", head=True, local=True)]


def named(nodes: Sequence[str]) -> list[Machine]:
    """Machines written as ADDRESS or USER@ADDRESS, the head first. Raises InvalidArgument for what is neither."""
    machines = []
    for index, node in enumerate(nodes):
        user, _, address = node.rpartition("@")
        _check(address, "--node")
        machines.append(Machine(address, head=index == 0, user=user))
    return _distinct(machines, "--node")


def of_cluster_file(path: Path) -> list[Machine]:
    """The machines of a cluster file whose provider is `local`. Raises InvalidArgument naming what is wrong in it."""
    try:
        with path.open("rb") as file:
            described = yaml.safe_load(file.read(MAX_FILE_BYTES))
    except (OSError, yaml.YAMLError) as error:
        raise InvalidArgument(f"{path} cannot be read as a cluster file: {error}", param="--cluster") from None
    provider = _section(described, "provider", path)
    if provider.get("type") != "local":
        raise InvalidArgument(
            f"{path} has provider.type {provider.get('type')!r}; accepted is 'local', machines of one's own",
            param="--cluster",
        )
    head, workers = provider.get("head_ip"), provider.get("worker_ips") or []
    if not isinstance(head, str) or not isinstance(workers, list):
        raise InvalidArgument(
            f"{path}: provider.head_ip is {head!r} and worker_ips {workers!r}; accepted: an address, a list of them",
            param="--cluster",
        )
    auth = _section(described, "auth", path)
    user, key_file = str(auth.get("ssh_user") or ""), str(auth.get("ssh_private_key") or "")
    for address in (head, *workers):
        _check(address, str(path))
    machines = [Machine(address, address == head, user, key_file) for address in (head, *workers)]
    return _distinct(machines, str(path))


def _section(described: Any, name: str, path: Path) -> dict[str, Any]:
    section = described.get(name) if isinstance(described, dict) else None
    if not isinstance(section, dict):
        raise InvalidArgument(f"{path} has no section {name}; accepted: a cluster file of `ray up`", param="--cluster")
    return section


def _check(address: Any, source: str) -> None:
    # What begins with a dash would be an option of ssh.
    if not isinstance(address, str) or not address or address.startswith("-") or not address.isprintable():
        raise InvalidArgument(f"{source} names {address!r}; accepted is a host name or an address", param=source)


def _distinct(machines: list[Machine], source: str) -> list[Machine]:
    addresses = [machine.address for machine in machines]
    if twice := sorted({address for address in addresses if addresses.count(address) > 1}):
        raise InvalidArgument(f"{source} names {twice[0]} twice; accepted is each machine once", param=source)
    return machines
