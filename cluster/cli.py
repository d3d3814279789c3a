"""The `russet` command: thin commands over the rest of `cluster`."""

import asyncio
import json
import platform
import signal
import time
from typing import Annotated

import typer
import uvloop
from rich.console import Console
from rich.table import Table

from actors.base.errors import RussetError
from cluster import (
    cli_bench,
    cli_certs,
    cli_documents,
    cli_fleet,
    cli_key,
    cli_keys,
    cli_kv,
    cli_memory,
    cli_models,
    cli_nodes,
    cli_route,
    cli_router,
    cli_sessions,
    cli_tools,
    cli_top,
    cli_witness,
)
from cluster.cli_options import ConfigFile, Key, Settings, Url, configured
from cluster.client import Client
from cluster.config import Config
from cluster.home import Home
from cluster.lifecycle import running_url
from cluster.report import config_table, status_table
from cluster.status import Status, gather

app = typer.Typer(
    name="russet",
    help="Serve language models on small machines, and get better from the traffic.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(cli_bench.app)
app.add_typer(cli_sessions.app)
app.add_typer(cli_models.app)
app.add_typer(cli_memory.app)
app.add_typer(cli_documents.app)
app.add_typer(cli_router.app)
app.add_typer(cli_witness.app)
app.add_typer(cli_key.app)
app.add_typer(cli_keys.app)
app.add_typer(cli_certs.app)
app.add_typer(cli_route.app)
app.add_typer(cli_fleet.app)
app.command()(cli_kv.kv)
app.command()(cli_nodes.join)
app.command()(cli_nodes.plan)
app.command()(cli_tools.tools)
app.command()(cli_top.top)
out = Console()
err = Console(stderr=True)

QUESTION = "What is the capital of France?"


@app.command()
def up(
    config: ConfigFile = None,
    settings: Settings = None,
    port: Annotated[int | None, typer.Option(help="HTTP port \\[default: 8000]")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="gRPC port \\[default: 50051]")] = None,
    model: Annotated[str | None, typer.Option(help="GGUF file, MLX directory, or alias")] = None,
    ask: Annotated[str, typer.Option(help="First question, to show that it answers; empty asks none")] = QUESTION,
    block: Annotated[bool, typer.Option("--block", help="Stay until Ctrl-C or SIGTERM, which stop everything")] = False,
) -> None:
    """Start Ray and every actor in the background, ask the model one question, and print where everything is."""
    from cluster.lifecycle import stay
    from cluster.lifecycle import up as start

    chosen = configured(
        config, settings, {"gateway.port": port, "gateway.grpc_port": grpc_port, "models.0.model": model}
    )
    Home(chosen.home).create().log_to("up.log", chosen.telemetry.logs)
    began = time.monotonic()
    with err.status("Starting Ray") as spinner:
        said: list[str] = []

        def progress(what: str) -> None:
            spinner.update(f"Waiting for {what}  [dim]{time.monotonic() - began:.0f} s[/dim]")
            if not err.is_terminal and said[-1:] != [what]:
                err.print(f"{time.monotonic() - began:4.0f} s  waiting for {what}", highlight=False, soft_wrap=True)
            said.append(what)

        state = start(chosen, progress)
    err.print(f"[green]Ready[/green] after {time.monotonic() - began:.1f} s\n")
    _warn_where_slow()
    key = _first_key(chosen)
    if ask and chosen.gateway.tls:
        err.print("Not asked: the gateway's certificate names clients' way to it, which may not be this machine's.")
    elif ask and chosen.gateway.api_keys_file and not key:
        err.print("Not asked: the gateway wants an API key, and OPENAI_API_KEY is not set.")
    elif ask:
        out.print(f"[bold]> {ask}[/bold]")
        _stream(
            Client(state.http, key),
            [{"role": "user", "content": ask}],
            model=None,
            max_tokens=64,
            temperature=0,
        )
    table = Table.grid(padding=(0, 2))
    for name, value in (
        ("HTTP", f"{state.http}/v1"),
        ("gRPC", state.grpc),
        ("Ray dashboard", f"{state.dashboard}  [dim](token: {chosen.home / 'ray.token'})[/dim]"),
        ("Metrics", f"{state.http}/metrics"),
        ("Stop", "russet down  [dim](or make down)[/dim]"),
    ):
        table.add_row(f"[bold]{name}[/bold]", value)
    out.print()
    out.print(table)
    if block:
        raise typer.Exit(stay(Home(chosen.home), state))


@app.command()
def down(config: ConfigFile = None, settings: Settings = None) -> None:
    """Stop every actor, then Ray; nothing is left running."""
    from cluster.lifecycle import down as stop

    home = Home(configured(config, settings).home)
    with err.status("Stopping") as spinner:
        ran = stop(home, lambda what: spinner.update(f"Stopping {what}"))
    out.print("Stopped." if ran else f"Nothing runs for {home.home}.")


@app.command()
def status(
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: Annotated[
        bool, typer.Option("--json", help='{"actors": [{role, replica, node, pid, address, state}]}')
    ] = False,
) -> None:
    """Show every actor: where it runs and whether it answers."""
    report = _gather(configured(config, settings))
    if as_json:
        out.print_json(json.dumps(report.as_dict()))
    else:
        out.print(status_table(report))
    if not report.healthy:
        raise typer.Exit(1)


@app.command()
def serve(
    config: ConfigFile = None,
    settings: Settings = None,
    port: Annotated[int | None, typer.Option(help="HTTP port \\[default: 8000]")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="gRPC port \\[default: 50051]")] = None,
    model: Annotated[str | None, typer.Option(help="GGUF file, MLX directory, or alias")] = None,
) -> None:
    """Serve from this one process, without Ray, until Ctrl-C."""
    chosen = configured(
        config, settings, {"gateway.port": port, "gateway.grpc_port": grpc_port, "models.0.model": model}
    )
    uvloop.run(_serve(chosen))


async def _serve(config: Config) -> None:
    from cluster.local import LocalCluster

    Home(config.home).create().log_to("serve.log", config.telemetry.logs)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    began = time.monotonic()
    async with LocalCluster(config) as cluster:
        err.print(
            f"[green]Ready[/green] after {time.monotonic() - began:.1f} s: {cluster.http}/v1, gRPC {cluster.grpc}"
        )
        err.print("[dim]Ctrl-C stops it.[/dim]")
        await stopped.wait()
        err.print("Stopping; streams that run may end first.")


@app.command()
def chat(
    question: Annotated[str | None, typer.Argument(help="One question; without it, a conversation")] = None,
    url: Url = None,
    model: Annotated[str | None, typer.Option(help="Model id \\[default: the cluster's]")] = None,
    system: Annotated[str | None, typer.Option(help="System prompt")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2)] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    key: Key = None,
    config: ConfigFile = None,
) -> None:
    """Ask one question, or hold a conversation, in the terminal."""
    client = Client(url or running_url(config), key)
    messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    if question is not None:
        _stream(client, [*messages, {"role": "user", "content": question}], model, max_tokens, temperature)
        return
    err.print("[dim]Empty line or Ctrl-D ends the conversation.[/dim]")
    while True:
        try:
            text = out.input("[bold]> [/bold]").strip()
        except (EOFError, KeyboardInterrupt):
            break
        if not text:
            break
        messages.append({"role": "user", "content": text})
        messages.append({"role": "assistant", "content": _stream(client, messages, model, max_tokens, temperature)})


@app.command("config")
def showconfigured(
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Print every setting: its value as resolved, and what it means."""
    chosen = configured(config, settings)
    if as_json:
        out.print_json(chosen.model_dump_json())
    else:
        out.print(config_table(chosen))


def _gather(config: Config) -> Status:
    from cluster.lifecycle import connected, read_state
    from cluster.ray_process import ray_environment

    home = Home(config.home)
    state = read_state(home)
    if state is None:
        return Status([], None)
    with connected(state.ray_address, ray_environment(home)):
        from cluster.ray_app import RayDirectory

        return asyncio.run(gather(RayDirectory(config), state))


def _warn_where_slow() -> None:
    """Say it where the compiled kernels are missing: the model answers, but at a tenth of its speed or less."""
    from kernels import cpu

    if platform.system() != "Darwin" and not cpu.available():
        err.print(f"[bold red]Slow:[/bold red] {cpu.reason()}\n", highlight=False)


def _first_key(config: Config) -> str | None:
    """The key with which `russet up` asks its question: none where keys are off, else from OPENAI_API_KEY."""
    import os

    return os.environ.get("OPENAI_API_KEY") if config.gateway.api_keys_file else None


def _stream(
    client: Client,
    messages: list[dict[str, str]],
    model: str | None,
    max_tokens: int | None = None,
    temperature: float | None = None,
) -> str:
    """Print the answer as it comes; return it whole."""
    parts: list[str] = []
    for delta in client.chat(messages, model=model, max_tokens=max_tokens, temperature=temperature):
        parts.append(delta)
        out.print(delta, end="", markup=False, highlight=False, soft_wrap=True)
    out.print()
    return "".join(parts)


def main() -> None:
    """Entry point: an error of ours is one line on stderr and exit code 1."""
    try:
        app()
    except RussetError as error:
        err.print("[red]russet:[/red]", end=" ")
        err.print(str(error), highlight=False, markup=False, soft_wrap=True)
        raise SystemExit(1) from None
