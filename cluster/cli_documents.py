"""`russet documents`: put texts into vector stores, search them, and forget them."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from actors.base.errors import InvalidArgument, NotFound, RussetError
from cluster.cli_options import AsJson, ConfigFile, Key, Tenant, Url
from cluster.client import Client
from cluster.lifecycle import running_url

app = typer.Typer(name="documents", help="Add, search, list and delete documents.", no_args_is_help=True)
out = Console()
POLL_S = 0.2
DEFAULT_STORE = "documents"

Store = Annotated[str, typer.Option(help="The vector store: its id or its name")]


@app.command()
def add(
    paths: Annotated[list[Path], typer.Argument(help="Text, Markdown or JSON files")],
    store: Store = DEFAULT_STORE,
    max_tokens: Annotated[int | None, typer.Option(min=16, help="Most tokens of a chunk \\[default: 200]")] = None,
    overlap: Annotated[
        int | None, typer.Option(min=0, help="Most tokens a chunk repeats \\[default: a fifth of max-tokens]")
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    tenant: Tenant = None,
    config: ConfigFile = None,
) -> None:
    """Put files into a vector store, which is made where there is none of this name, and wait until they are found."""
    client = Client(url or running_url(config), key, tenant)
    contents = [(path, _read(path)) for path in paths]
    rows = client.vector_stores()
    chosen = _named(rows, store) or client.create_vector_store(store)
    done = []
    for path, content in contents:
        file = client.upload(path.name, content)
        card = client.attach(chosen["id"], file["id"], _chunking(max_tokens, overlap))
        while card["status"] == "in_progress":
            time.sleep(POLL_S)
            card = client.attached(chosen["id"], file["id"])
        if card["status"] == "failed":
            raise RussetError(f"{path} could not be added: {card['last_error']['message']}")
        done.append(card)
        if not as_json:
            chunks = card["russet"]["chunks"]
            out.print(f"{path.name}: {chunks} chunks, {file['id']} in {chosen['id']}", markup=False, highlight=False)
    if as_json:
        out.print_json(json.dumps(done))


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="What to look for")],
    store: Store = DEFAULT_STORE,
    limit: Annotated[int, typer.Option(min=1, max=50, help="At most so many")] = 5,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    tenant: Tenant = None,
    config: ConfigFile = None,
) -> None:
    """Show the passages nearest to a text."""
    client = Client(url or running_url(config), key, tenant)
    chosen = _there(client.vector_stores(), store)
    rows = client.search(chosen["id"], query, limit)
    if as_json:
        out.print_json(json.dumps(rows))
        return
    for row in rows:
        where = row["russet"]
        out.print(
            f"{row['score']:.3f}  {row['filename']} {where['start']}-{where['end']}", markup=False, highlight=False
        )
        out.print("       " + " ".join(row["content"][0]["text"].split()), markup=False, highlight=False)


@app.command("list")
def list_documents(
    as_json: AsJson = False, url: Url = None, key: Key = None, tenant: Tenant = None, config: ConfigFile = None
) -> None:
    """List the caller's vector stores and files."""
    client = Client(url or running_url(config), key, tenant)
    stores, files = client.vector_stores(), client.files()
    if as_json:
        out.print_json(json.dumps({"vector_stores": stores, "files": files}))
        return
    table = Table("vector store", "name", "files", "in progress", "failed", "bytes")
    for row in stores:
        counts = row["file_counts"]
        cells = [counts["total"], counts["in_progress"], counts["failed"], row["usage_bytes"]]
        table.add_row(row["id"], row["name"], *map(str, cells))
    out.print(table)
    table = Table("file", "name", "bytes")
    for row in files:
        table.add_row(row["id"], row["filename"], str(row["bytes"]))
    out.print(table)


@app.command()
def delete(
    id: Annotated[str, typer.Argument(help="A file's id, or a vector store's id or name")],
    url: Url = None,
    key: Key = None,
    tenant: Tenant = None,
    config: ConfigFile = None,
) -> None:
    """Forget a file everywhere, or a vector store without its files."""
    client = Client(url or running_url(config), key, tenant)
    if id.startswith("file-"):
        client.delete_file(id)
    else:
        client.delete_vector_store(_there(client.vector_stores(), id)["id"])
    out.print(f"Deleted {id}.", markup=False, highlight=False)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror}", param="paths") from None


def _chunking(max_tokens: int | None, overlap: int | None) -> dict[str, Any]:
    if max_tokens is None and overlap is None:
        return {"type": "auto"}
    most = max_tokens or 200
    repeated = most // 5 if overlap is None else overlap
    return {"type": "static", "static": {"max_chunk_size_tokens": most, "chunk_overlap_tokens": repeated}}


def _named(rows: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """The store with this id, or the newest with this name."""
    return next((row for row in rows if row["id"] == name), next((row for row in rows if row["name"] == name), None))


def _there(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    if (row := _named(rows, name)) is not None:
        return row
    names = ", ".join(sorted({row["name"] or row["id"] for row in rows})) or "none"
    raise NotFound(f"there is no vector store {name!r}; there are: {names}", param="store")
