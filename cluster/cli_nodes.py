"""`russet join` and `russet plan`: the machines of a cluster, and what of it runs where."""

import asyncio
import json
import platform
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from cluster.cli_options import AsJson, ConfigFile, Settings, configured
from cluster.config import Config
from cluster.home import Home
from protos.gen import control_pb2

out = Console()
err = Console(stderr=True)


def join(
    head: Annotated[str, typer.Argument(metavar="HEAD", help="Address of the head: HOST, or HOST:PORT")],
    address: Annotated[str, typer.Option(help="This machine's own, for the others \\[default: found]")] = "",
    memory: Annotated[int, typer.Option(min=0, help="Bytes for replicas \\[default: what is free now]")] = 0,
    block: Annotated[bool, typer.Option("--block", help="Stay until Ctrl-C or SIGTERM, which end the node")] = False,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Make this machine a node of the cluster whose head runs `russet up`. `russet down` ends it."""
    from cluster.join import join as start
    from cluster.join import stay

    flags = {"ray.address": address, "ray.memory_bytes": memory}
    chosen = configured(config, settings, {name: value for name, value in flags.items() if value})
    home = Home(chosen.home)
    with err.status(f"Joining {head}"):
        joined, process = start(chosen, head, lambda what: None)
    err.print(f"[green]Joined[/green] {joined.head} as {joined.address}", highlight=False)
    if block:
        raise typer.Exit(stay(home, joined, process))
    err.print("[dim]`russet down` on this machine ends its node.[/dim]")


def plan(config: ConfigFile = None, settings: Settings = None, as_json: AsJson = False) -> None:
    """Show which replica runs, or would run, on which machine, and why.

    Of a cluster that runs its nodes as they are; else of this machine, and where a replica of the configuration does
    not fit, the numbers and exit code 1.
    """
    told = _plan(configured(config, settings))
    if as_json:
        out.print_json(json.dumps(MessageToDict(told, preserving_proto_field_name=True)))
    else:
        out.print(_shown(told))


def _plan(config: Config) -> control_pb2.PlanReply:
    from cluster.fleet_plan import initial, told
    from cluster.lifecycle import connected, here, read_state
    from cluster.ray_process import ray_environment

    home = Home(config.home)
    state = read_state(home)
    if state is None:
        node = here(config, platform.node())
        return told(initial(config, [node]), [node], {})
    with connected(state.ray_address, ray_environment(home)):
        from cluster.ray_app import RayDirectory

        return asyncio.run(_asked(RayDirectory(config)))


async def _asked(directory: Any) -> control_pb2.PlanReply:
    from actors.base.channel import connect
    from protos.gen.control_pb2_grpc import ControlStub

    channel = connect(directory.find("controller"))
    try:
        return await ControlStub(channel).Plan(control_pb2.PlanRequest())
    finally:
        await channel.close()


def _shown(told: control_pb2.PlanReply) -> Group:
    nodes = Table("node", "cores", "for replicas", "set aside", "free", "labels", "")
    for node in told.nodes:
        labels = " ".join(f"{name}={value}" for name, value in sorted(node.labels.items()))
        sizes = (f"{each / 1e9:.2f} GB" for each in (node.memory_bytes, node.aside_bytes, node.free_bytes))
        nodes.add_row(*map(escape, (node.name, str(node.cores), *sizes, labels, node.unfit)))
    replicas = Table("replica", "node", "state", "memory", "KV", "threads", "why")
    for each in told.replicas:
        sizes = (f"{size / 1e9:.2f} GB" if size else "" for size in (each.bytes, each.kv_bytes))
        threads = str(each.threads) if each.threads else ""
        replicas.add_row(*map(escape, (each.id, each.node, each.state, *sizes, threads, each.reason or each.because)))
    return Group(nodes, replicas)
