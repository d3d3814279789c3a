"""`russet models`: what is served, under which names, and how the sides of a split do."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from actors.base.errors import InvalidArgument
from cluster.cli_options import AsJson, ConfigFile, Key, Url
from cluster.client import Client
from cluster.lifecycle import running_url
from cluster.report import models_table

app = typer.Typer(name="models", help="The models that answer now, and the names that lead to them.")
out = Console()

Name = Annotated[str, typer.Argument(help="The alias")]
Wait = Annotated[bool, typer.Option(help="Wait until it is done")]
LOOK_S = 0.25
MEASURED = (("errors", "error_rate", 100, "%"), ("first token", "ttft_ms", 1, "ms"), ("per token", "tpot_ms", 1, "ms"))
SCORED = (("quality", "quality", 1, ""), ("rating", "rating", 1, ""))


@app.callback(invoke_without_command=True)
def models(context: typer.Context, url: Url = None, key: Key = None, config: ConfigFile = None) -> None:
    """List the models that answer now."""
    if context.invoked_subcommand is None:
        out.print(models_table(_client(url, key, config).models()))


@app.command("list")
def list_models(as_json: AsJson = False, url: Url = None, key: Key = None, config: ConfigFile = None) -> None:
    """List every model with its replicas: ready, loading, draining, or failed and why."""
    _show(_client(url, key, config).served(), as_json)


@app.command()
def load(
    model: Annotated[str, typer.Argument(help="Alias, GGUF file or directory, on the server")],
    name: Annotated[str, typer.Option("--id", help="Id to serve it under \\[default: the alias or file's name]")] = "",
    replicas: Annotated[int, typer.Option(min=1, max=64)] = 1,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", "-s", metavar="NAME=VALUE", help="A setting of the model, e.g. kv_memory_bytes=268435456"
        ),
    ] = None,
    wait: Wait = True,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    config: ConfigFile = None,
) -> None:
    """Load a model beside those that are served, if it fits into memory. It comes back when Russet starts again."""
    client = _client(url, key, config)
    row = client.load_model(model, name, replicas, settings_of(settings or []))
    row = _settled(client, row, "loading", wait)
    _show([row], as_json)
    if row["state"] == "failed":
        raise typer.Exit(1)


@app.command()
def scale(
    name: Annotated[str, typer.Argument(help="The model's id")],
    replicas: Annotated[int, typer.Argument(min=1, max=64)],
    wait: Wait = True,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    config: ConfigFile = None,
) -> None:
    """Give a model another number of replicas; those that leave end their answers first."""
    client = _client(url, key, config)
    row = client.scale_model(name, replicas)
    row = _settled(client, _settled(client, row, "loading", wait), "draining", wait)
    _show([row], as_json)
    if row["state"] == "failed":
        raise typer.Exit(1)


@app.command()
def unload(
    name: Annotated[str, typer.Argument(help="The model's id")],
    timeout: Annotated[float, typer.Option(min=0, max=3600, help="Seconds that running answers get to end")] = 60,
    wait: Wait = True,
    url: Url = None,
    key: Key = None,
    config: ConfigFile = None,
) -> None:
    """Unload a model: new requests for it are refused at once, running answers end first, its memory is given back."""
    client = _client(url, key, config)
    row = _settled(client, client.unload_model(name, timeout), "draining", wait)
    left = "" if wait else f"; {len(row['replicas'])} replicas end their answers"
    out.print(f"{name} is unloaded{left}", markup=False)


@app.command()
def alias(
    name: Name,
    targets: Annotated[list[str], typer.Argument(metavar="MODEL[=WEIGHT]...", help="Models, each with its weight")],
    max_failures: Annotated[
        float | None, typer.Option(help="Share of a model's requests that may fail before others take its place")
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    config: ConfigFile = None,
) -> None:
    """Have a name lead to a model, or split it between several. It takes effect at once, and survives restarts."""
    row = _client(url, key, config).put_alias(name, weights(targets), max_failures)
    if as_json:
        out.print_json(json.dumps(row))
    else:
        out.print(_aliases([row]))


@app.command()
def unalias(name: Name, url: Url = None, key: Key = None, config: ConfigFile = None) -> None:
    """Forget an alias that was made with `russet models alias`."""
    deleted = _client(url, key, config).delete_alias(name)
    out.print(f"alias {name} is deleted" if deleted else f"there was no alias {name}", markup=False)


@app.command()
def aliases(as_json: AsJson = False, url: Url = None, key: Key = None, config: ConfigFile = None) -> None:
    """List the aliases and what they lead to."""
    rows = _client(url, key, config).aliases()
    if as_json:
        out.print_json(json.dumps(rows))
    else:
        out.print(_aliases(rows))


@app.command()
def split(name: Name, as_json: AsJson = False, url: Url = None, key: Key = None, config: ConfigFile = None) -> None:
    """Show how each side of a split does: requests, errors, times, quality and ratings, with 95 % intervals."""
    row = _client(url, key, config).alias(name)
    if as_json:
        out.print_json(json.dumps(row))
    else:
        out.print(split_table(row))


def settings_of(given: list[str]) -> dict[str, Any]:
    """What `NAME=VALUE` says, by name; values are JSON where they can be. Raises InvalidArgument."""
    found: dict[str, Any] = {}
    for setting in given:
        name, equals, value = setting.partition("=")
        if not equals:
            raise InvalidArgument(f"{setting!r}: accepted is NAME=VALUE, e.g. kv_memory_bytes=268435456")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _settled(client: Client, row: dict[str, Any], state: str, wait: bool) -> dict[str, Any]:
    """The model's row once none of its replicas is in `state` any more; as it was last where it is gone then."""
    with Status(f"{row['id']} is {state}", console=Console(stderr=True)):
        while wait and any(replica["state"] == state for replica in row["replicas"]):
            time.sleep(LOOK_S)
            now = next((each for each in client.served() if each["id"] == row["id"]), None)
            if now is None:
                break
            row = now
    return row


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        out.print_json(json.dumps(rows))
        return
    table = Table("model", "replica", "node", "state", "set aside", "resident", "from", "")
    for row in rows:
        for replica in row["replicas"]:
            resident = "" if replica["resident_bytes"] is None else f"{replica['resident_bytes'] / 1e6:,.0f} MB"
            cells = row["id"], replica["id"], replica["node"] or "", f"{replica['state']} {replica['since_s']:.0f} s"
            more = f"{replica['bytes'] / 1e6:,.0f} MB", resident, row["source"], replica["reason"] or ""
            table.add_row(*map(escape, (*cells, *more)))
    out.print(table)


def weights(targets: list[str]) -> dict[str, float]:
    """What `MODEL[=WEIGHT]` says, by model; without a weight it is 1. Raises InvalidArgument."""
    found: dict[str, float] = {}
    for target in targets:
        # A model's id may have an equals sign of its own: the last one counts, where a number follows.
        model, equals, weight = target.rpartition("=")
        if not equals:
            model, weight = target, "1"
        try:
            number = float(weight)
        except ValueError:
            raise InvalidArgument(f"{target!r}: accepted is MODEL or MODEL=WEIGHT, e.g. small=0.9") from None
        if model in found:
            raise InvalidArgument(f"{model} is named twice; accepted is each model once")
        found[model] = number
    return found


def split_table(row: dict[str, Any]) -> Group:
    """One column a side, and below what tells the others from the first."""
    sides = row["models"].values()
    table = Table("", *map(escape, row["models"]))
    states = ("not ready" if not side["ready"] else "failing" if side["failing"] else "ready" for side in sides)
    table.add_row("state", *states)
    table.add_row("share", *(f"{100 * side['share']:.4g} %" for side in sides))
    table.add_row("requests", *(str(side["requests"]) for side in sides))
    for title, field, scale, unit in (*MEASURED, *SCORED):
        table.add_row(title, *(_interval(side[field], scale, unit) for side in sides))
    return Group(table, *(line for line in compared(row["models"])))


def compared(sides: dict[str, Any]) -> list[str]:
    """For each side after the first, how far its means are from the first's, with 95 % intervals of the difference."""
    (first, base), *others = sides.items()
    lines = []
    for model, side in others:
        for title, field, scale, unit in (*MEASURED[1:], *SCORED):
            one, other = base[field], side[field]
            if one is None or other is None or one["low"] is None or other["low"] is None:
                continue
            # Intervals of independent means add up by their squares.
            half = ((one["high"] - one["mean"]) ** 2 + (other["high"] - other["mean"]) ** 2) ** 0.5
            apart = other["mean"] - one["mean"]
            verdict = "apart" if abs(apart) > half else "not told apart yet"
            low, high = (scale * (apart + side) for side in (-half, half))
            line = f"{title}: {model} - {first} = {scale * apart:+.3g} [{low:+.3g}, {high:+.3g}] {unit}".rstrip()
            lines.append(escape(f"{line}: {verdict}"))
    return lines


def _interval(value: dict[str, Any] | None, scale: float, unit: str) -> str:
    if value is None:
        return ""
    mean = f"{scale * value['mean']:.3g}"
    between = "" if value["low"] is None else f" [{scale * value['low']:.3g}, {scale * value['high']:.3g}]"
    return escape(f"{mean}{between} {unit}".rstrip())


def _aliases(rows: list[dict[str, Any]]) -> Table | str:
    if not rows:
        return "There are no aliases; `russet models alias NAME MODEL` makes one."
    table = Table("alias", "leads to", "requests", "from")
    for row in rows:
        leads = ", ".join(f"{model} {100 * side['share']:.4g} %" for model, side in row["models"].items())
        requests = sum(side["requests"] for side in row["models"].values())
        table.add_row(escape(row["id"]), escape(leads), str(requests), row["source"])
    return table


def _client(url: str | None, key: str | None, config: Path | None) -> Client:
    return Client(url or running_url(config), key)
