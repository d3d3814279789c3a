"""`russet tools`: the tools that the gateway itself can run, where they come from, and whether that is there."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster.client import Client
from cluster.lifecycle import running_url
from cluster.report import tools_table

out = Console()


def tools(
    as_json: Annotated[bool, typer.Option("--json", help="As the API answers")] = False,
    url: Annotated[str | None, typer.Option(help="Base URL \\[default: the running cluster's]")] = None,
    key: Annotated[
        str | None, typer.Option(envvar="OPENAI_API_KEY", help="API key, where the gateway wants one")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="TOML file \\[default: ~/.russet/russet.toml]")
    ] = None,
) -> None:
    """List the server-side tools: whose they are, whether their server is there, whether results are used again."""
    listed = Client(url or running_url(config), key).tools()
    if as_json:
        out.print_json(json.dumps(listed))
    else:
        out.print(tools_table(listed))
