"""Tables for the terminal."""

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from cluster.config import Config
from cluster.status import Status


def status_table(status: Status) -> Table | str:
    """One row an actor."""
    if status.cluster is None:
        return "Nothing runs here; `russet up` starts it."
    table = Table(caption=f"HTTP {status.cluster.http}   gRPC {status.cluster.grpc}   Ray {status.cluster.dashboard}")
    for column in ("role", "replica", "node", "pid", "address", "state"):
        table.add_column(column, justify="right" if column == "pid" else "left", overflow="fold")
    for actor in status.actors:
        colour = "green" if actor.state == "serving" else "red"
        cells = (actor.role, actor.replica, actor.node, str(actor.pid), actor.address, f"[{colour}]{actor.state}[/]")
        table.add_row(*cells)
    return table


def models_table(rows: list[dict[str, Any]]) -> Table:
    """One row a model of /v1/models."""
    table = Table()
    for column in ("id", "kind", "context", "replicas", "since"):
        table.add_column(column)
    for row in rows:
        more = row.get("russet", {})
        since = datetime.fromtimestamp(row["created"], UTC).astimezone().strftime("%Y-%m-%d %H:%M")
        cells = (row["id"], more.get("kind", ""), more.get("context_length", ""), more.get("replicas", ""), since)
        table.add_row(*(str(cell) for cell in cells))
    return table


def sessions_table(rows: list[dict[str, Any]]) -> Table | str:
    """One row a session of /v1/russet/sessions."""
    if not rows:
        return "There are no sessions; a chat with russet.session_id begins one."
    table = Table()
    for column in ("id", "turns", "kv", "replica", "last active"):
        table.add_column(column, justify="right" if column == "turns" else "left", overflow="fold")
    for row in rows:
        kv = row["kv"]
        place = " ".join(filter(None, (f"{kv['tokens']:,}", kv["format"], kv["tier"])))
        minute = _moment(row["last_active"])[:16]
        cells = (row["id"], str(row["turns"]), place, row["replica"], minute)
        table.add_row(*map(escape, cells))
    return table


def tools_table(listed: dict[str, Any]) -> Group | str:
    """Where server-side tools come from, and the tools of /v1/russet/tools."""
    if not listed["enabled"]:
        return "The tool runtime is off; tools.enabled = true turns it on."
    if not listed["servers"]:
        return "There are no tool servers; tools.servers names them."
    servers = Table("server", "kind", "state", "problem")
    for row in listed["servers"]:
        problem = "; ".join(filter(None, (row["problem"], *row["left_out"])))
        colour = {"ready": "green", "down": "red"}.get(row["state"], "yellow")
        servers.add_row(escape(row["name"]), row["kind"], f"[{colour}]{row['state']}[/]", escape(problem))
    tools = Table("tool", "server", "results reused", "description")
    for row in listed["data"]:
        description = row["description"].strip().partition("\n")[0]
        tools.add_row(*map(escape, (row["name"], row["server"], row["reuse"], description)))
    return Group(servers, tools)


def session_page(session: dict[str, Any]) -> Group:
    """A session and its messages."""
    kv = session["kv"]
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("Session", session["id"]),
        ("Model", session["model"]),
        ("Replica", session["replica"]),
        ("Began", _moment(session["created"])),
        ("Last active", _moment(session["last_active"])),
        ("Turns", str(session["turns"])),
        ("KV", " ".join(filter(None, (f"{kv['tokens']:,} tokens", kv["format"], kv["tier"] and f"in {kv['tier']}")))),
    ):
        facts.add_row(f"[bold]{name}[/bold]", escape(value))
    said = Table.grid(padding=(0, 2))
    for message in session["messages"]:
        said.add_row(f"[dim]{message['role']}[/dim]", escape(message["content"]))
    return Group(facts, "", said)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def config_table(config: Config) -> Table:
    """Every setting: dotted name, value, meaning."""
    table = Table("setting", "value", "meaning")
    for name, value, meaning in _settings("", config):
        table.add_row(name, str(value), meaning)
    return table


def _settings(prefix: str, section: BaseModel) -> list[tuple[str, Any, str]]:
    rows: list[tuple[str, Any, str]] = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            rows += _settings(f"{prefix}{name}.", value)
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            for index, item in enumerate(value):
                rows += _settings(f"{prefix}{name}.{index}.", item)
        else:
            rows.append((f"{prefix}{name}", value, field.description or ""))
    return rows
