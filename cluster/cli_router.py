"""`russet router`: train named routers and the cost router, look at them, and ask them."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from actors.base.errors import InvalidArgument
from cluster.cli_cost import read_rows, say_scores, say_verdict
from cluster.cli_options import AsJson, ConfigFile, Key, Tenant, Url
from cluster.cli_simulate import simulate
from cluster.client import Client
from cluster.jsonl import read
from cluster.lifecycle import running_url

app = typer.Typer(
    name="router",
    help="Train, list, ask and delete routers: named ones, and the one that tells how large a model is needed.",
    no_args_is_help=True,
)
app.command()(simulate)
out = Console()

Name = Annotated[str, typer.Argument(help="The router's name")]


@app.command()
def train(
    data: Annotated[
        Path,
        typer.Option(
            help="JSONL of {text, label}; label null: out of the router's scope. With --cost of {prompt, weak_correct, "
            "strong_correct}"
        ),
    ],
    name: Annotated[str | None, typer.Argument(help="The router's name")] = None,
    add: Annotated[bool, typer.Option(help="Add to the examples there are")] = False,
    cost: Annotated[
        bool, typer.Option("--cost", help="Train the cost router instead; it serves only if it beats what serves now")
    ] = False,
    margin: Annotated[
        float, typer.Option(help="With --cost: by how much it must, as a share of the gap; below 0 it may be worse")
    ] = 0.0,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    tenant: Tenant = None,
    config: ConfigFile = None,
) -> None:
    """Train a router on the examples of a file, and say how it does on examples held out in turn."""
    if cost == (name is not None) or (cost and add) or (margin and not cost):
        raise InvalidArgument(
            "accepted is a router's NAME, or --cost without one; --add is for NAME, --margin for --cost"
        )
    if name is None:
        told = Client(url or running_url(config), key, tenant).train_cost(read_rows(data), margin)
        if as_json:
            out.print_json(json.dumps(told))
        else:
            say_verdict(out, told)
        if not told["served"]:
            raise typer.Exit(1)
        return
    examples = read_examples(data)
    trained = Client(url or running_url(config), key, tenant).train_router(name, examples, add=add)
    if as_json:
        out.print_json(json.dumps(trained))
    else:
        out.print(_table([trained]))


@app.command("list")
def list_routers(
    as_json: AsJson = False, url: Url = None, key: Key = None, tenant: Tenant = None, config: ConfigFile = None
) -> None:
    """List the caller's routers and those that come with Russet."""
    rows = Client(url or running_url(config), key, tenant).routers()
    if as_json:
        out.print_json(json.dumps(rows))
    else:
        out.print(_table(rows))


@app.command()
def classify(
    name: Name,
    text: Annotated[str, typer.Argument(help="The text to label")],
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    tenant: Tenant = None,
    config: ConfigFile = None,
) -> None:
    """Ask a router which label a text belongs to."""
    found = Client(url or running_url(config), key, tenant).classify(name, text)
    if as_json:
        out.print_json(json.dumps(found))
        return
    scope = "" if found["in_scope"] else " (out of scope)"
    out.print(f"{found['label']} {found['confidence']:.2f}{scope}", markup=False)
    for near in found["neighbours"]:
        out.print(f"  near {near['similarity']:.2f}: {near['text']} ({near['label']})", markup=False)


@app.command()
def score(
    prompts: Annotated[list[str], typer.Argument(help="The prompts")],
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    tenant: Tenant = None,
    config: ConfigFile = None,
) -> None:
    """Ask the cost router how likely a small model is enough for a prompt."""
    found = Client(url or running_url(config), key, tenant).score(prompts)
    if as_json:
        out.print_json(json.dumps(found))
    else:
        say_scores(out, prompts, found)


@app.command()
def delete(name: Name, url: Url = None, key: Key = None, tenant: Tenant = None, config: ConfigFile = None) -> None:
    """Forget a router."""
    deleted = Client(url or running_url(config), key, tenant).delete_router(name)
    out.print(f"router {name} is deleted" if deleted else f"there was no router {name}", markup=False)


def read_examples(path: Path) -> list[dict[str, str | None]]:
    """The rows of a JSONL file of {text, label}. Raises InvalidArgument naming the line that is something else."""
    examples = []
    for number, line, row in read(path):
        try:
            text, label = row["text"], row["label"]
            if not isinstance(text, str) or not isinstance(label, str | None):
                raise TypeError
        except (KeyError, TypeError):
            raise InvalidArgument(
                f'line {number} of {path} is {line[:80]!r}; accepted is {{"text": ..., "label": ...}}', param="data"
            ) from None
        examples.append({"text": text, "label": label})
    return examples


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("router", "examples", "labels", "held-out accuracy", "calibration error", "from")
    for row in rows:
        held = row["held_out"]
        cells = str(row["examples"]), str(len(row["labels"])), f"{held['accuracy']:.3f}"
        origin = "Russet" if row["shipped"] else "you"
        table.add_row(row["id"], *cells, f"{held['calibration_error']:.3f}", origin)
    return table
