"""`russet top`: what runs, live."""

import json
import time
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from actors.base.errors import RussetError
from cluster.cli_options import ConfigFile, Key, Url
from cluster.client import Client
from cluster.lifecycle import running_url
from cluster.view.picture import Picture

out = Console()


def top(
    once: Annotated[
        bool, typer.Option("--once", help="Print it once; so it is where the output is no terminal")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print /status.json, once")] = False,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks")] = 2.0,
    url: Url = None,
    key: Key = None,
    config: ConfigFile = None,
) -> None:
    """Watch nodes, replicas, batches, KV memory, tokens/s, times to first token and what is amiss. Ctrl-C ends it."""
    client = Client(url or running_url(config), key)
    status = client.status()
    if as_json:
        out.print_json(json.dumps(status))
        return
    picture = Picture(client.url, status)
    if once or not out.is_terminal:
        out.print(picture)
        return
    try:
        with Live(picture, console=out, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(every)
                try:
                    picture = Picture(client.url, client.status())
                except RussetError as error:  # it may come back: that is what is watched for
                    live.update(Group(Text(str(error), "bold red"), "", picture), refresh=True)
                else:
                    live.update(picture, refresh=True)
    except KeyboardInterrupt:
        out.print(picture)
