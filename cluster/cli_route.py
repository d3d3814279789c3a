"""`russet route`: how a question would be routed now, and why."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cluster.cli_options import AsJson, ConfigFile, Key, Tenant, Url
from cluster.client import Client
from cluster.lifecycle import running_url

app = typer.Typer(name="route", help="Say how a question would be routed now, and why.", no_args_is_help=True)
out = Console()


@app.callback()
def route() -> None:
    """Say how a question would be routed now, and why."""


@app.command()
def explain(
    text: Annotated[str, typer.Argument(help="The question")],
    model: Annotated[
        str, typer.Option(help="As a client asks for it: auto, a model, an alias, or router:NAME")
    ] = "auto",
    session: Annotated[str, typer.Option(help="As a turn of this session")] = "",
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    tenant: Tenant = None,
    config: ConfigFile = None,
) -> None:
    """Show the model and the replica that would answer, what else there was, and what decided. Nothing is run."""
    found = Client(url or running_url(config), key, tenant).explain(text, model, session)
    if as_json:
        out.print_json(json.dumps(found))
        return
    chosen = found["candidates"][0]["replica"]
    alias = f" (by alias {found['alias']})" if found["alias"] else ""
    out.print(f"{found['model']}{alias} on {chosen}, confidence {found['confidence']:.2f}", markup=False, style="bold")
    if found["choice"] is not None:
        by = found["choice"]["router"]
        out.print("chosen by the cost router" if by == "cost" else f"chosen by router {by}", markup=False)
        out.print(_shares(found["choice"]))
        for near in found["choice"]["neighbours"]:
            out.print(f"near {near['similarity']:.2f}: {near['text']} ({near['label']})", markup=False)
    out.print(_candidates(found["candidates"]))
    for sentence in found["explanation"]:
        out.print(f"- {sentence}", markup=False)
    out.print(f"asked and decided in {found['took_ms']:.1f} ms", markup=False, style="dim")


def _shares(choice: dict[str, Any]) -> Table:
    table = Table("model", "probability")
    for share in choice["shares"]:
        table.add_row(share["label"], f"{share['probability']:.2f}")
    return table


def _candidates(candidates: list[dict[str, Any]]) -> Table:
    """Replicas, best first, with the milliseconds that each term adds or takes."""
    terms = [{term["name"]: term["value"] for term in each["terms"]} for each in candidates]
    names = list(dict.fromkeys(name for each in terms for name, value in each.items() if round(value)))
    table = Table("replica", "score, ms", *names)
    for each, values in zip(candidates, terms, strict=True):
        table.add_row(each["replica"], f"{each['score']:.0f}", *(f"{values.get(name, 0):+.0f}" for name in names))
    return table
