"""`russet models`: what is served, under which names, and how the sides of a split do."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from actors.base.errors import InvalidArgument
from cluster.client import Client
from cluster.lifecycle import running_url
from cluster.report import models_table

app = typer.Typer(name="models", help="The models that answer now, and the names that lead to them.")
out = Console()

Url = Annotated[str | None, typer.Option(help="Base URL \\[default: the running cluster's]")]
Key = Annotated[str | None, typer.Option(envvar="OPENAI_API_KEY", help="API key, where the gateway wants one")]
ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="TOML file \\[default: ~/.russet/russet.toml]")]
AsJson = Annotated[bool, typer.Option("--json", help="As the API answers")]
Name = Annotated[str, typer.Argument(help="The alias")]
MEASURED = (("errors", "error_rate", 100, "%"), ("first token", "ttft_ms", 1, "ms"), ("per token", "tpot_ms", 1, "ms"))
SCORED = (("quality", "quality", 1, ""), ("rating", "rating", 1, ""))


@app.callback(invoke_without_command=True)
def models(context: typer.Context, url: Url = None, key: Key = None, config: ConfigFile = None) -> None:
    """List the models that answer now."""
    if context.invoked_subcommand is None:
        out.print(models_table(_client(url, key, config).models()))


@app.command("list")
def list_models(as_json: AsJson = False, url: Url = None, key: Key = None, config: ConfigFile = None) -> None:
    """List the models that answer now, and the aliases of them."""
    rows = _client(url, key, config).models()
    if as_json:
        out.print_json(json.dumps(rows))
    else:
        out.print(models_table(rows))


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
