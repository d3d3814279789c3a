"""`russet memory`: what memory keeps, moved from one store to another."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from cluster.config import load

app = typer.Typer(name="memory", help="Move what memory keeps from one store to another.", no_args_is_help=True)
out = Console()


@app.callback()
def memory() -> None:
    """Keeps `migrate` a subcommand while it is the only one."""


@app.command()
def migrate(
    to: Annotated[Literal["embedded", "server"], typer.Option(help="The store to move to, from the other one")],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="TOML file \\[default: ~/.russet/russet.toml]")
    ] = None,
) -> None:
    """Copy every session, witness entry and policy, and show that all are there. Run it again where it broke off.

    Nothing may run on memory.directory meanwhile. The source keeps what it has; set memory.store afterwards.
    """
    from actors.memory.embedder import Embedder
    from actors.memory.migration import move

    settings = load(config).memory
    embedder = Embedder(settings.embedder)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    try:
        with Progress(*columns, console=out, transient=True) as progress:
            tasks: dict[str, TaskID] = {}

            def hear(name: str, done: int, total: int) -> None:
                if name not in tasks:
                    tasks[name] = progress.add_task(name, total=total)
                progress.update(tasks[name], completed=done)

            moved = move(settings, to, embedder.width, embedder.model, hear)
    finally:
        embedder.close()
    table = Table("collection", "entries", "written now", "SHA-256 of all", title=f"In {moved.target}")
    for each in moved.collections:
        table.add_row(each.name, f"{each.entries:,}", f"{each.written:,}", each.digest[:16])
    out.print(table)
    out.print(f'{moved.source} still has them. Set memory.store = "{to}" to use the new ones.', markup=False)
