"""The status as a terminal shows it: `russet top`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

Row = dict[str, Any]
WIDE = 110
"""Columns from which on nodes and replicas tell more."""
STATES = {"ok": "green", "ready": "green", "serving": "green", "down": "red", "away": "red", "worker away": "red"}
"""State -> colour; yellow for all others."""
BLOCKS = " ▁▂▃▄▅▆▇█"
BAR = 10


class Picture:
    """The whole status, as wide as the terminal."""

    def __init__(self, url: str, status: Row) -> None:
        self._url = url
        self._status = status

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What rich draws."""
        status, width = self._status, options.max_width
        parts: list[RenderableType] = [_head(self._url, status, width), _totals(status["totals"], width)]
        if status["history"]:
            parts.append(_line(status["history"], width))
        for each in status["degraded"]:
            parts.append(Text.assemble((f"{each['what']}: ", "bold yellow"), (each["means"], "yellow")))
        parts += ["", _replicas(status["replicas"], width), "", _nodes(status["nodes"], width)]
        yield Group(*parts)


def _head(url: str, status: Row, width: int) -> Table:
    grid = Table.grid(expand=True)
    grid.add_column()
    grid.add_column(justify="right")
    when = datetime.fromtimestamp(status["time"]).strftime("%H:%M:%S")
    state = Text(status["state"], f"bold {_colour(status['state'])}")
    left = Text.assemble(("Russet ", "bold"), status["version"], " at ", url, "   ", state)
    grid.add_row(left, Text(when, "dim"))
    grid.width = width
    return grid


def _totals(totals: Row, width: int) -> Text:
    failed, refused = totals["failed_last_minute"], totals["refused_last_minute"]
    return Text.assemble(
        (f"{totals['tokens_per_s']:,.1f} tokens/s", "bold"),
        f"   {totals['running']} running   {totals['waiting']} waiting   ",
        f"first token {_times(totals['ttft_ms'], width >= WIDE)}   ",
        (f"{failed} failed", "bold red" if failed else "none"),
        f", {refused} refused",
        " in the last minute" if width >= WIDE else "",
    )


def _line(history: Sequence[Row], width: int) -> Text:
    """Tokens a second over the last minutes, the newest at the right."""
    rates = [point["tokens_per_s"] for point in history][-max(10, width - 22) :]
    since_s = history[-len(rates)]["age_s"]
    span = f"{since_s / 60:.0f} min" if since_s >= 60 else f"{since_s:.0f} s"
    return Text.assemble((spark(rates), "cyan"), (f"  {span}, top {max(rates):,.0f}", "dim"))


def spark(values: Sequence[float]) -> str:
    """A character each, as high as the value beside the greatest; what is above 0 at all is seen."""
    top = max(values, default=0)
    return "".join(BLOCKS[max(1, round(8 * value / top)) if value > 0 else 0] for value in values)


def _replicas(rows: Sequence[Row], width: int) -> RenderableType:
    if not rows:
        return Text("No replicas.", "yellow")
    wide = width >= WIDE
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    table.add_column("replica", overflow="fold", min_width=12)
    if wide:
        table.add_column("node", overflow="fold")
    table.add_column("state")
    for name in ("run", "wait"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("KV", no_wrap=True)
    for name in ("tok/s", "TTFT", *(("p95", "prompt/s", "cached", "lost") if wide else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        kv, ttft = row["kv"], row["ttft_ms"]
        more = ()
        if wide:
            hits = row["prefix_hit_ratio"]
            more = (
                _ms(ttft["p95"]),
                f"{row['prompt_tokens_per_s']:,.0f}",
                "-" if hits is None else f"{hits:.0%}",
                str(row["worker_losses"]),
            )
        table.add_row(
            escape(row["id"]),
            *((escape(row["node"]),) if wide else ()),
            Text(row["state"], _colour(row["state"])),
            f"{row['running']}/{row['running_limit']}" if row["running_limit"] else str(row["running"]),
            str(row["waiting"]),
            _kv(kv["live_bytes"], kv["cached_bytes"], kv["budget_bytes"]),
            f"{row['tokens_per_s']:,.1f}",
            _ms(ttft["p50"]),
            *more,
        )
    return table


def _kv(live: int, cached: int, budget: int) -> Text:
    """Live, cached, and what else the budget has; then the share in use."""
    if not budget:
        return Text("-")
    lengths = [min(BAR, max(1, round(BAR * part / budget))) if part else 0 for part in (live, cached)]
    lengths[1] = min(lengths[1], BAR - lengths[0])
    text = Text()
    for length, (character, style) in zip(
        (*lengths, BAR - sum(lengths)), (("█", "green"), ("▒", "cyan"), ("·", "bright_black")), strict=True
    ):
        text.append(character * length, style)
    return text.append(f" {(live + cached) / budget:4.0%}")


def _nodes(rows: Sequence[Row], width: int) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    table.add_column("node", overflow="fold", min_width=12)
    for name in ("replicas", "run", "tok/s", "services", *(("Russet's memory",) if width >= WIDE else ()), "free"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("away", overflow="fold")
    for row in rows:
        free = f"{_gb(row['available_bytes'])} of {_gb(row['memory_bytes'])}" if row["memory_bytes"] else "-"
        table.add_row(
            escape(row["node"]),
            str(row["replicas"]),
            str(row["running"]),
            f"{row['tokens_per_s']:,.1f}",
            str(row["services"]),
            *((_gb(row["resident_bytes"]),) if width >= WIDE else ()),
            free,
            Text(", ".join(row["away"]), "red"),
        )
    return table


def _colour(state: str) -> str:
    return STATES.get(state, "yellow")


def _times(ttft: Row, both: bool) -> str:
    if ttft["p50"] is None or not both:
        return _ms(ttft["p50"])
    return f"{_ms(ttft['p50'])} (p95 {_ms(ttft['p95'])})"


def _ms(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "-"
    return f"{milliseconds:,.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1e3:,.1f} s"


def _gb(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
