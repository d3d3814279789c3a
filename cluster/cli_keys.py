"""`russet keys`: the cluster key, changed for a new one."""

from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from actors.base.errors import Conflict, NotFound
from actors.base.keys import Keyring, add_key, drop_old_keys, key_ids
from cluster.cli_options import ConfigFile
from cluster.config import Config, load

app = typer.Typer(
    name="keys", help="Change the cluster key that seals sessions, documents and KV.", no_args_is_help=True
)
out = Console()


@app.command("list")
def list_keys(config: ConfigFile = None) -> None:
    """List the keys of the key file by their ids: which one seals, and which memory still needs."""
    from actors.memory.ownership import proven

    settings = load(config)
    ids, held = key_ids(_key_file(settings)), proven(_directory(settings))
    table = Table("key", "")
    for place, each in enumerate(ids):
        table.add_row(each, _use(ids, held, place))
    out.print(table)


@app.command()
def rotate(config: ConfigFile = None) -> None:
    """Add a new key, and seal with it everything that memory keeps and the gateway spooled. Nothing may run meanwhile.

    Run it again where it broke off. KV on disk is not sealed anew: it goes on opening until the old keys are dropped,
    and is then computed again.
    """
    from actors.memory.embedder import Embedder
    from actors.memory.ownership import Ownership
    from actors.memory.resealing import reseal, reseal_files
    from cluster.gateway import spool

    settings = load(config)
    directory, key_file = _directory(settings), _key_file(settings)
    if not (directory / "key.proof").exists():
        raise NotFound(f"there is no memory in {directory}; accepted: the memory.directory of a Russet that ran")
    held = Ownership(directory)
    try:
        add_key(key_file)
        embedder = Embedder(settings.memory.embedder)
        try:
            done = reseal(settings.memory, embedder.width, embedder.model)
        finally:
            embedder.close()
        keyring = Keyring.load(key_file)
        assert settings.gateway.spool_directory is not None
        waiting = settings.gateway.spool_directory.glob(f"*/*{spool.SUFFIX}")
        done["spooled batches"] = reseal_files(waiting, keyring, spool.CONTEXT)
    finally:
        held.release()
    table = Table("what", "sealed anew")
    for what, count in done.items():
        table.add_row(what, f"{count:,}")
    out.print(table)
    out.print(f"Key {keyring.newest} seals from now on. `russet keys drop` forgets the older ones.", markup=False)


@app.command()
def drop(config: ConfigFile = None) -> None:
    """Forget all keys but the newest, once memory keeps nothing under them."""
    from actors.memory.ownership import proven

    settings = load(config)
    key_file = _key_file(settings)
    newest, held = key_ids(key_file)[-1], proven(_directory(settings))
    if held not in ("", newest):
        raise Conflict(f"memory keeps things that key {held} sealed; `russet keys rotate` seals them anew")
    out.print(f"Forgot {drop_old_keys(key_file)} keys; {newest} is left.", markup=False, highlight=False)


def _use(ids: list[str], held: str, place: int) -> str:
    if place == len(ids) - 1:
        return "seals and opens"
    return "opens; memory may need it" if held in ids and place >= ids.index(held) else "opens KV at most"


def _key_file(config: Config) -> Path:
    path = config.memory.key_file
    assert path is not None
    if not path.exists():
        raise NotFound(f"there is no key file {path}; the first start makes it")
    return path


def _directory(config: Config) -> Path:
    assert config.memory.directory is not None
    return config.memory.directory
