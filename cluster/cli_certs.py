"""`russet certs`: the cluster's certificate authority, and the certificates of its nodes."""

from datetime import UTC, datetime

import typer
from rich.console import Console
from rich.table import Table

from cluster.certificates import authority_of, nobody, renew_here
from cluster.cli_options import ConfigFile
from cluster.config import Config, load
from cluster.home import Home

app = typer.Typer(
    name="certs", help="The certificates by which actors of a fleet know each other.", no_args_is_help=True
)
out = Console()


@app.command()
def init(config: ConfigFile = None) -> None:
    """Make the certificate authority, on the head node. `russet up` does it by itself where ray.bind is node."""
    home = Home(load(config).home).create().home
    made = authority_of(home).create()
    place = home / "tls" / "authority"
    said = f"Made a certificate authority in {place}." if made else f"There is one already in {place}."
    out.print(f"{said} Its keys (mode 0600) belong on this machine alone.", markup=False, soft_wrap=True)


@app.command()
def show(config: ConfigFile = None) -> None:
    """List the authorities that are trusted and the nodes' certificates, with their expiry."""
    authority = authority_of(load(config).home)
    table = Table("kind", "name", "expires (UTC)", "")
    trusted = authority.authorities()
    for name, certificate in trusted:
        use = "signs" if name == trusted[-1][0] else "trusted until `russet certs drop`"
        table.add_row("authority", name, _minute(certificate.not_valid_after_utc), use)
    for leaf in authority.issued():
        expired = " [red]expired[/]" if leaf.expires < datetime.now(UTC) else ""
        table.add_row("node", leaf.node, _minute(leaf.expires), f"of authority {leaf.authority}{expired}")
    out.print(table if trusted else "There is no certificate authority here; `russet certs init` makes one.")


@app.command()
def rotate(
    ca: bool = typer.Option(False, "--ca", help="A new authority first; the old one stays trusted until `drop`"),
    config: ConfigFile = None,
) -> None:
    """Give every node a new certificate. Actors that run take it up at once; nothing restarts, no connection is cut."""
    settings = load(config)
    authority = authority_of(settings.home)
    if ca:
        out.print(f"Authority {authority.rotate()} signs from now on.", markup=False)
    renewed = _renew(settings)
    table = Table("node", "new certificate")
    for node, problem in renewed:
        table.add_row(node, problem or "yes")
    out.print(table if renewed else "No node has a certificate yet.")
    if any(problem for _, problem in renewed):
        raise typer.Exit(1)


@app.command()
def drop(config: ConfigFile = None) -> None:
    """Trust the newest authority alone, once no certificate of an older one is good any more."""
    settings = load(config)
    authority = authority_of(settings.home)
    names = authority.drop()
    if names:
        _renew(settings)
    out.print(f"No longer trusted: {', '.join(names)}." if names else "There is one authority only.", markup=False)


def _renew(config: Config) -> list[tuple[str, str]]:
    """Nodes of the running cluster, else those whose certificates lie on this machine."""
    from cluster.lifecycle import connected, read_state
    from cluster.ray_process import ray_environment

    home = Home(config.home)
    if (state := read_state(home)) is not None:
        with connected(state.ray_address, ray_environment(home)):
            from cluster.ray_certificates import renew_everywhere

            return renew_everywhere(home.home, config.tls.leaf_hours)
    return [(name, "") for name in renew_here(home.home, config.tls.leaf_hours, nobody)]


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"
