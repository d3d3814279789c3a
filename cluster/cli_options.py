"""Options that commands of the command line share, one meaning each."""

from pathlib import Path
from typing import Annotated

import typer

Url = Annotated[str | None, typer.Option(help="Base URL \\[default: the running cluster's]")]
Key = Annotated[str | None, typer.Option(envvar="OPENAI_API_KEY", help="API key, where the gateway wants one")]
Tenant = Annotated[str | None, typer.Option(help="Whose, where the gateway asks for no key")]
ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="TOML file \\[default: ~/.russet/russet.toml]")]
AsJson = Annotated[bool, typer.Option("--json", help="As the API answers")]
