"""`russet fleet`: is every machine of a fleet ready, what to do where one is not, and the keys that all share."""

import asyncio
import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from actors.base.keys import Keyring
from cluster.cli_options import ConfigFile
from cluster.config import load
from cluster.fleet.asking import SSH, Wanted, ask
from cluster.fleet.checks import LEVELS, Facts, Finding, Unreachable, findings
from cluster.fleet.inventory import named, of_cluster_file, this_machine
from cluster.home import Home
from cluster.ray_process import ray_environment

app = typer.Typer(name="fleet", help="The machines of a fleet.", no_args_is_help=True)
out = Console()
MARKS = {"ok": "[green]✓[/]", "warn": "[yellow]![/]", "fail": "[red]✗[/]"}


@app.command()
def check(
    cluster: Annotated[Path | None, typer.Option(help="Cluster file of `ray up`: its machines, user and key")] = None,
    node: Annotated[
        list[str] | None, typer.Option(help="A machine, [USER@]ADDRESS; the first one is the head. Several times")
    ] = None,
    root: Annotated[str, typer.Option(help="Where Russet is, or shall be, on every machine")] = "~/russet",
    ssh: Annotated[str, typer.Option(help="The ssh command with its options")] = shlex.join(SSH),
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Facts and findings as JSON")] = False,
) -> None:
    """Ask every machine over SSH (this one alone where none is named) and print what is wrong and how to mend it.

    Nothing needs to be installed there but Python 3.9, which macOS has. Ends with 1 where something is wrong.
    """
    if cluster is not None and node:
        raise typer.BadParameter("--cluster and --node both name the machines; accepted is one of them")
    settings = load(config)
    machines = of_cluster_file(cluster) if cluster else named(node) if node else this_machine()
    ray, gateway = settings.ray, settings.gateway
    head_ports = [port for port in (ray.port, ray.dashboard_port, gateway.port, gateway.grpc_port) if port]
    home = "~/.russet" if settings.home == Path("~/.russet").expanduser() else str(settings.home)
    if machines[0].local:
        root = str(Path(__file__).resolve().parents[1])
    told, silent = asyncio.run(ask(machines, Wanted(root, home, head_ports, []), shlex.split(ssh)))
    found = {each.node: findings(each, told) for each in told}
    if as_json:
        nodes = [asdict(each) | {"findings": [asdict(finding) for finding in found[each.node]]} for each in told]
        out.print_json(json.dumps({"nodes": nodes, "silent": [asdict(each) for each in silent]}))
    else:
        out.print(table_of(told, found))
        for line in fixes_of(found, silent):
            out.print(line, soft_wrap=True)
    if silent or any(finding.level == "fail" for of_node in found.values() for finding in of_node):
        raise typer.Exit(1)


@app.command()
def keys(config: ConfigFile = None) -> None:
    """Make the keys that every node of a fleet has, where there are none: the cluster key and Ray's token.

    `ray up` copies them (file_mounts in the cluster file). Whoever has them is a node.
    """
    settings = load(config)
    home = Home(settings.home).create()
    assert settings.memory.key_file is not None
    for path, what in ((settings.memory.key_file, "cluster key"), (home.home / "ray.token", "Ray's token")):
        there = path.exists()
        if path == settings.memory.key_file:
            Keyring.load_or_create(path)
        else:
            ray_environment(home)
        out.print(f"{path}: {what}, {'there already' if there else 'made'}", soft_wrap=True, highlight=False)


def table_of(told: list[Facts], found: dict[str, list[Finding]]) -> Table:
    """A column a machine, a row a check."""
    table = Table("")
    for each in told:
        table.add_column(escape(f"{each.node}{' (head)' if each.head else ''}\n{each.chip}"), overflow="fold")
    names = list(dict.fromkeys(finding.check for of_node in found.values() for finding in of_node))
    for name in names:
        row = []
        for each in told:
            finding = next((one for one in found[each.node] if one.check == name), None)
            row.append(f"{MARKS[finding.level]} {escape(finding.said)}" if finding else "")
        table.add_row(name, *row)
    return table


def fixes_of(found: dict[str, list[Finding]], silent: list[Unreachable]) -> list[str]:
    """What to do, the worst first; a line each."""
    lines = [
        f"{MARKS['fail']} [bold]{escape(each.node)}[/] does not answer: {escape(each.reason)}. "
        "Turn on Remote Login there, and let this user's key in (ssh-copy-id)"
        for each in silent
    ]
    for level in reversed(LEVELS[1:]):
        for node, of_node in found.items():
            lines += [
                f"{MARKS[level]} [bold]{escape(node)}[/] {finding.check}: {escape(finding.fix)}"
                for finding in of_node
                if finding.level == level
            ]
    return lines or ["Every machine is ready."]
