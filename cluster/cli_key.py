"""`russet key`: the API keys that callers of the gateway show."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from actors.base.errors import InvalidArgument
from actors.base.quota import Limits
from cluster.cli_options import ConfigFile, Settings, configured
from cluster.gateway import api_keys

app = typer.Typer(name="key", help="API keys of the gateway's callers.", no_args_is_help=True)
out = Console()
UNITS = {"h": 1, "d": 24, "w": 24 * 7}
Name = Annotated[str, typer.Argument(help="Who the key is for: one word; it is also the tenant's name")]
Count = Annotated[int, typer.Option(min=0, max=api_keys.MAX_LIMIT, help="0 is no limit")]


@app.command()
def create(
    name: Name,
    admin: Annotated[bool, typer.Option("--admin", help="May change what is served, and see every tenant's")] = False,
    expires: Annotated[str, typer.Option(help="When it ends: in 12h, 30d, 8w, or at a time in ISO 8601")] = "",
    requests_per_minute: Count = 0,
    tokens_per_minute: Count = 0,
    tokens_per_day: Count = 0,
    concurrent: Count = 0,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Make a key and print it, this once; the file keeps its hash. Running gateways know it at once."""
    limits = Limits(requests_per_minute, tokens_per_minute, tokens_per_day, concurrent)
    path = _path(config, settings)
    key = api_keys.create(path, name, "admin" if admin else "user", _until(expires), limits)
    out.print(key, markup=False, highlight=False, soft_wrap=True)


@app.command("list")
def list_keys(config: ConfigFile = None, settings: Settings = None) -> None:
    """List the keys' names, roles, expiry and limits."""
    table = Table("name", "role", "expires (UTC)", "limits")
    for key in api_keys.read(_path(config, settings)):
        until = f"{key.expires:%Y-%m-%d %H:%M}" if key.expires else "never"
        if key.expires and key.expires < datetime.now(UTC):
            until += " [red]expired[/]"
        limits = [f"{getattr(key.limits, each):,} {each.replace('_', ' ')}" for each in api_keys.LIMITS]
        table.add_row(escape(key.name), key.role, until, ", ".join(each for each in limits if each[:2] != "0 "))
    out.print(table)


@app.command()
def revoke(name: Name, config: ConfigFile = None, settings: Settings = None) -> None:
    """End a key. Running gateways refuse it from their next request on; answers that are being made are finished."""
    api_keys.revoke(_path(config, settings), name)
    out.print(f"The key of {name} is revoked.", markup=False)


def _path(config: Path | None, settings: list[str] | None) -> Path:
    path = configured(config, settings).gateway.api_keys_file
    if path is None:
        raise InvalidArgument(
            "gateway.api_keys_file is not set: set it, e.g. to ~/.russet/api_keys", param="api_keys_file"
        )
    return path


def _until(text: str) -> datetime | None:
    if not text:
        return None
    if span := re.fullmatch(r"(\d{1,5})([hdw])", text):
        return datetime.now(UTC) + timedelta(hours=int(span[1]) * UNITS[span[2]])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(f"expires is {text!r}; accepted: 12h, 30d, 8w, or a time like 2027-01-31") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
