"""`russet kv`: the KV memory of every replica as it is, or as it goes."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from cluster.client import Client
from cluster.kv import Pool, pools
from cluster.kv_picture import picture
from cluster.lifecycle import running_url

out = Console()


def kv(
    once: Annotated[
        bool, typer.Option("--once", help="Print it once; so it is where the output is no terminal")
    ] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks")] = 2.0,
    url: Annotated[str | None, typer.Option(help="Base URL \\[default: the running cluster's]")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="TOML file \\[default: ~/.russet/russet.toml]")
    ] = None,
) -> None:
    """Watch the KV memory: bytes by form, hits, evictions, preemptions, what lies on disk. Ctrl-C ends it."""
    client = Client(url or running_url(config))
    seen = pools(client.metrics())
    if once or not out.is_terminal:
        out.print(picture(seen))
        return
    before: list[Pool] = []
    try:
        with Live(picture(seen), console=out, screen=True) as live:
            while True:
                time.sleep(every)
                before, seen = seen, pools(client.metrics())
                live.update(picture(seen, before), refresh=True)
    except KeyboardInterrupt:
        out.print(picture(seen, before))
