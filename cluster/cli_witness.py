"""`russet witness`: what happened to each request, and whether anybody changed the record of it."""

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from actors.base.errors import Conflict, NotFound
from cluster.cli_options import AsJson, ConfigFile, Key, Url
from cluster.client import Client
from cluster.config import load
from cluster.lifecycle import running_url

app = typer.Typer(name="witness", help="Read the witness log, and verify its hash chain.", no_args_is_help=True)
out = Console()
PERCENTILES = ("p50", "p90", "p95", "p99")

From = Annotated[
    str | None,
    typer.Option("--from", metavar="WHEN", help="1h, 7d, Unix seconds or an ISO date; reaches into the archive"),
]
To = Annotated[str | None, typer.Option("--to", metavar="WHEN", help="As --from")]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="At most so many")]
Tenant = Annotated[str | None, typer.Option(help="Whose entries; another's is for operators")]
AllTenants = Annotated[bool, typer.Option("--all-tenants", "-a", help="Of every tenant; for operators")]


@app.command("list")
def list_entries(
    begin: From = None,
    to: To = None,
    model: Annotated[str | None, typer.Option(help="Of this model")] = None,
    session: Annotated[str | None, typer.Option(help="Of this session")] = None,
    errors: Annotated[bool, typer.Option("--errors", help="Failed ones")] = False,
    quality_below: Annotated[float | None, typer.Option(min=0, max=1, help="Of a quality below this")] = None,
    slower_than: Annotated[float | None, typer.Option(min=0, metavar="MS", help="Slower than this in total")] = None,
    limit: Limit = 30,
    tenant: Tenant = None,
    all_tenants: AllTenants = False,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    config: ConfigFile = None,
) -> None:
    """List entries, newest first."""
    asked: dict[str, Any] = {"model": model, "session": session, "quality_below": quality_below, "limit": limit}
    asked |= {"errors": errors and "true", "slower_than_ms": slower_than}
    asked |= _scope(begin, to, tenant, all_tenants)
    found = _client(url, key, config).witness("", **asked)
    _show(found, as_json, lambda: _entries(found["data"]))


@app.command()
def show(
    entry: Annotated[str, typer.Argument(help="The entry's id: that of the response")],
    begin: From = None,
    to: To = None,
    tenant: Tenant = None,
    all_tenants: AllTenants = False,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    config: ConfigFile = None,
) -> None:
    """Show one entry whole; an archived one where --from reaches it."""
    path = f"/{entry}" if "/" not in entry else ""
    if not path:
        raise NotFound(f"there is no witness entry {entry!r}", param="id")
    found = _client(url, key, config).witness(path, **_scope(begin, to, tenant, all_tenants))
    _show(found, as_json, lambda: _page(found))


@app.command()
def errors(
    text: Annotated[str | None, typer.Argument(help="An error's message, or a question \\[default: all]")] = None,
    like: Annotated[str | None, typer.Option(metavar="ID", help="Like this entry")] = None,
    begin: From = None,
    to: To = None,
    limit: Limit = 10,
    tenant: Tenant = None,
    all_tenants: AllTenants = False,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    config: ConfigFile = None,
) -> None:
    """Failed requests: those most like a text or an entry, by their errors and by what was asked; or the newest."""
    asked: dict[str, Any] = {"limit": limit} | _scope(begin, to, tenant, all_tenants)
    client = _client(url, key, config)
    if text is None and like is None:
        found = client.witness("", errors="true", **asked)
    else:
        found = client.witness("/similar", text=text, id=like, **asked)
    _show(found, as_json, lambda: _entries(found["data"], ("similarity", "matched", "error")))


@app.command()
def slow(
    factor: Annotated[float, typer.Option(min=1, help="Times the median of the entry's model")] = 3.0,
    begin: From = "1d",
    to: To = None,
    limit: Limit = 30,
    tenant: Tenant = None,
    all_tenants: AllTenants = False,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    config: ConfigFile = None,
) -> None:
    """Latency spikes: entries that took many times the median of their model, in the last day unless told."""
    asked = _scope(begin, to, tenant, all_tenants)
    found = _client(url, key, config).witness("/slow", factor=factor, limit=limit, **asked)
    _show(found, as_json, lambda: _entries(found["data"], ("ratio", "median_ms", "queue_ms", "prefill_ms")))


@app.command()
def stats(
    by: Annotated[str, typer.Option(help="Group by model, replica, tenant, finish, or several with commas")] = "model",
    begin: From = "1d",
    to: To = None,
    tenant: Tenant = None,
    all_tenants: AllTenants = False,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    config: ConfigFile = None,
) -> None:
    """Counts, errors, tokens, mean quality and latency percentiles, of the last day unless told."""
    found = _client(url, key, config).witness("/stats", by=by, **_scope(begin, to, tenant, all_tenants))
    _show(found, as_json, lambda: _groups(by, found["data"]))


@app.command()
def verify(as_json: AsJson = False, url: Url = None, key: Key = None, config: ConfigFile = None) -> None:
    """Walk the hash chain, archive included, and name the first entry that was changed, removed or moved.

    Asks the memory actor where one runs, and reads its directory where none does. Exit code 1 where it does not hold.
    """
    found = Client(url, key).witness("/verify") if url else _verified(key, config)
    _show(found, as_json, lambda: _verdict(found))
    if not found["sound"]:
        raise typer.Exit(1)


def _verified(key: str | None, config: Path | None) -> dict[str, Any]:
    from actors.memory.embedder import Embedder
    from actors.memory.ownership import Ownership
    from actors.memory.witness_log.offline import verify_stopped
    from cluster.gateway.witness import verdict

    settings = load(config).memory
    assert settings.directory is not None
    try:
        if settings.directory.exists():
            Ownership(settings.directory).release()
    except Conflict:
        return Client(running_url(config), key).witness("/verify")
    embedder = Embedder(settings.embedder)
    try:
        return verdict(verify_stopped(settings, embedder.width, embedder.model))
    finally:
        embedder.close()


def _client(url: str | None, key: str | None, config: Path | None) -> Client:
    return Client(url or running_url(config), key)


def _scope(begin: str | None, to: str | None, tenant: str | None, all_tenants: bool) -> dict[str, Any]:
    return {"from": begin, "to": to, "tenant": tenant, "all_tenants": all_tenants and "true"}


def _show(found: dict[str, Any], as_json: bool, table: Any) -> None:
    if as_json:
        out.print_json(json.dumps(found))
    else:
        out.print(table())


def _entries(rows: list[dict[str, Any]], more: tuple[str, ...] = ()) -> Table | str:
    if not rows:
        return "There are no such entries."
    shown = [name for name in more if any(name in row or name in row["latency"] for row in rows)]
    several = [name for name in ("tenant", "model") if len({row[name] for row in rows}) > 1]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("no.", "time", "id", *several, "finish", "tokens", "ms", "quality", *shown):
        left = name in ("time", "id", "finish", "matched", "error", *several)
        title, justify = name.replace("_", " "), "left" if left else "right"
        table.add_column(title, justify=justify, overflow="fold", no_wrap=name in ("id", "time"))
    for row in rows:
        usage, latency = row["usage"], row["latency"]
        ended = f"{row['action']} {row['subject']}" if row.get("action") else row["finish"]
        finish = f"[red]{escape(ended)}[/]" if row["error"] else escape(ended)
        tokens = f"{usage['prompt_tokens']}+{usage['completion_tokens']}"
        number = f"[dim]{row['sequence']}[/]" if row["archived"] else str(row["sequence"])
        cells = [number, _short(row["time_ms"]), escape(row["id"]), *(escape(row[name]) for name in several)]
        cells += [finish, tokens, f"{latency['total_ms']:,.0f}", _quality(row["quality"])]
        table.add_row(*cells, *(_cell(row.get(name, latency.get(name, ""))) for name in shown))
    if any(row["archived"] for row in rows):
        table.caption = "numbers in grey: archived"
    return table


def _page(row: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in row.items():
        if name == "time_ms":
            value = _moment(value)
        text = ", ".join(f"{part} {_cell(each)}" for part, each in value.items()) if isinstance(value, dict) else value
        if isinstance(value, list):
            text = "\n".join(json.dumps(each, ensure_ascii=False) for each in value)
        table.add_row(f"[bold]{name}[/bold]", escape(text if isinstance(text, str) else _cell(text)))
    return table


def _groups(by: str, rows: list[dict[str, Any]]) -> Group | str:
    if not rows:
        return "There are no such entries."
    keys = [name for name in by.split(",") if name]
    counts, latency = (Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)) for _ in range(2))
    for table, names in ((counts, ("entries", "errors", "tokens", "quality")), (latency, ("ms", *PERCENTILES))):
        for name in (*keys, *names):
            table.add_column(name, justify="left" if name in (*keys, "ms") else "right", overflow="fold")
    for row in rows:
        names = [escape(row[name]) for name in keys]
        tokens = f"{row['prompt_tokens']:,}+{row['completion_tokens']:,}"
        counts.add_row(*names, f"{row['entries']:,}", f"{row['errors']:,}", tokens, _quality(row["mean_quality"]))
        for part, values in row["latency_ms"].items():
            if values["p99"]:
                latency.add_row(*names, part, *(_cell(float(values[each])) for each in PERCENTILES))
                names = [""] * len(keys)
    return Group(counts, latency)


def _verdict(found: dict[str, Any]) -> str:
    if not found["sound"]:
        broken = found["broken"]
        name = f" ({broken['id']})" if broken["id"] else ""
        return f"[red]Broken[/red] at entry {broken['sequence']}{escape(name)}: {escape(broken['problem'])}"
    walked = found["entries"] - found["first"]
    where = f", {found['archived']:,} of them archived" if found["archived"] else ""
    before = f"; the {found['first']:,} before were removed, as the checkpoint says" if found["first"] else ""
    return (
        f"[green]Sound[/green]: {walked:,} entries{where}, held against {found['signed_heads']:,} signed heads{before}."
        f"\nHead {found['head']}"
    )


def _quality(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return escape(str(value))


def _moment(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _short(time_ms: int) -> str:
    """The time alone where it was today."""
    day, _, time = _moment(time_ms).partition(" ")
    return time if day == datetime.now().astimezone().strftime("%Y-%m-%d") else f"{day} {time}"
