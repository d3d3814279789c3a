"""`russet sessions`: look at the conversations that memory keeps, and forget them."""

import json
from typing import Annotated

import typer
from rich.console import Console

from actors.base.errors import NotFound
from cluster.cli_options import AsJson, ConfigFile, Key, Tenant, Url
from cluster.client import Client
from cluster.lifecycle import running_url
from cluster.report import session_page, sessions_table

app = typer.Typer(name="sessions", help="List, show and delete the conversations that are kept.", no_args_is_help=True)
out = Console()

Id = Annotated[str, typer.Argument(help="The session's id, as requests name it in russet.session_id")]


@app.command("list")
def list_sessions(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many")] = 100,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    tenant: Tenant = None,
    config: ConfigFile = None,
) -> None:
    """List the caller's sessions, most recent first."""
    rows = Client(url or running_url(config), key, tenant).sessions(limit)
    if as_json:
        out.print_json(json.dumps(rows))
    else:
        out.print(sessions_table(rows))


@app.command()
def show(
    session_id: Id,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    tenant: Tenant = None,
    config: ConfigFile = None,
) -> None:
    """Show one: where its KV is, and what was said."""
    session = Client(url or running_url(config), key, tenant).session(session_id)
    if as_json:
        out.print_json(json.dumps(session))
    else:
        out.print(session_page(session))


@app.command()
def delete(session_id: Id, url: Url = None, key: Key = None, tenant: Tenant = None, config: ConfigFile = None) -> None:
    """Forget one, once the request that it answers has ended."""
    if not Client(url or running_url(config), key, tenant).delete_session(session_id):
        raise NotFound(f"there is no session {session_id!r}", param="session_id")
    out.print(f"Deleted {session_id}.", markup=False, highlight=False)
