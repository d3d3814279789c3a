"""Options that commands of the command line share, one meaning each, and the configuration that they make."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.config import Config, load

Url = Annotated[str | None, typer.Option(help="Base URL \\[default: the running cluster's]")]
Key = Annotated[str | None, typer.Option(envvar="OPENAI_API_KEY", help="API key, where the gateway wants one")]
Tenant = Annotated[str | None, typer.Option(help="Whose, where the gateway asks for no key")]
ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="TOML file \\[default: ~/.russet/russet.toml]")]
AsJson = Annotated[bool, typer.Option("--json", help="As the API answers")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="NAME=VALUE", help="Any setting, e.g. gateway.port=8080")
]


def configured(file: Path | None, settings: list[str] | None, flags: dict[str, Any] | None = None) -> Config:
    """The configuration of `file`, changed by `--set` and a command's own flags; None says nothing."""
    overrides = {name: value for name, value in (flags or {}).items() if value is not None}
    for setting in settings or []:
        name, equals, value = setting.partition("=")
        if not equals:
            raise typer.BadParameter(f"{setting!r}: expected NAME=VALUE, e.g. gateway.port=8080", param_hint="--set")
        overrides[name] = value
    return load(file, overrides)
