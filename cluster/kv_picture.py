"""KV pools as a terminal shows them."""

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cluster.kv import POLICIES, TIERS, Pool, applied

BAR = 40
"""Characters of a bar that is as long as the budget."""
LIVE, CACHED, FREE = ("█", "green"), ("▒", "cyan"), ("·", "bright_black")


def picture(pools: Sequence[Pool], before: Sequence[Pool] = ()) -> RenderableType:
    """A panel for each replica. `before`: the same some seconds ago, to tell what happens now."""
    if not pools:
        return "No replica tells of its KV memory yet."
    earlier = {pool.replica: pool for pool in before}
    return Group(*(_panel(pool, earlier.get(pool.replica)) for pool in pools))


def _panel(pool: Pool, before: Pool | None) -> Panel:
    bars = Table.grid(padding=(0, 2))
    for _ in range(2):
        bars.add_column()
    for _ in range(2):
        bars.add_column(justify="right")
    if pool.budget_bytes or pool.used_bytes:
        bars.add_row("", _key(), "[dim]live[/dim]", "[dim]cached[/dim]")
    scale = pool.budget_bytes or pool.used_bytes
    for tier in TIERS:
        live, cached = pool.live_bytes.get(tier, 0), pool.cached_bytes.get(tier, 0)
        if live or cached or (tier == "f16" and pool.budget_bytes):
            bars.add_row(tier, bar(live, cached, scale), _bytes(live), _bytes(cached))
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(pool, before):
        facts.add_row(f"[bold]{name}[/bold]", value)
    of = f"{_bytes(pool.used_bytes)} of {_bytes(pool.budget_bytes)}" if pool.budget_bytes else "no budget told"
    return Panel(Group(bars, "", facts), title=f"{pool.replica}   {of}", title_align="left", width=79)


def bar(live: float, cached: float, budget: float) -> Text:
    """BAR characters: live, cached, and what else the budget has. What is there at all is seen."""
    lengths = [_length(live, budget), _length(cached, budget)]
    lengths[1] = min(lengths[1], BAR - lengths[0])
    text = Text()
    for length, (character, style) in zip((*lengths, BAR - sum(lengths)), (LIVE, CACHED, FREE), strict=True):
        text.append(character * length, style)
    return text


def _length(part: float, whole: float) -> int:
    return min(BAR, max(1, round(BAR * part / whole))) if part > 0 and whole > 0 else 0


def _key() -> Text:
    text = Text()
    for (character, style), name in ((LIVE, "live"), (CACHED, "cached"), (FREE, "budget")):
        text.append(character, style).append(f" {name}   ", "dim")
    return text


def _facts(pool: Pool, before: Pool | None) -> list[tuple[str, str]]:
    hits = "none asked for yet"
    if pool.hit_ratio is not None:
        hits = f"{pool.hit_ratio:.1%} of {pool.queried_tokens:,.0f} prompt tokens"
    restored = "none"
    if pool.restores.count:
        bound = pool.restores.bound_s(0.95)
        slow = "over the last bound" if math.isinf(bound) else f"within {_seconds(bound)}"
        restored = (
            f"{pool.restored_tokens:,.0f} tokens of {_counted(pool.restores.count, 'prompt')}: "
            f"mean {_seconds(pool.restores.mean_s)}, 95 % {slow}"
        )
    kinds = f" ({_listed(pool.preempted)})" if pool.preemptions else ""
    pressure = _listed({policy: pool.pressure.get(policy, 0) for policy in POLICIES}) or "none so far"
    if before and (now := applied(pool, before)):
        pressure += f"   [yellow]now: {', '.join(now)}[/yellow]"
    return [
        ("Found in cache", hits),
        ("Evicted", _counted(pool.evicted_pages, "page")),
        ("Demoted", f"{_listed(pool.demoted_tokens)} tokens" if any(pool.demoted_tokens.values()) else "none"),
        ("Preempted", _counted(pool.preemptions, "row") + kinds),
        ("On disk", f"{pool.kept_tokens:,.0f} tokens"),
        ("Restored", restored),
        ("Short of memory", pressure),
    ]


def _listed(counts: dict[str, float]) -> str:
    return ", ".join(f"{name} {count:,.0f}" for name, count in counts.items() if count)


def _counted(count: float, what: str) -> str:
    return f"{count:,.0f} {what}{'' if count == 1 else 's'}"


def _bytes(count: float) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.2f} GB"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f} ms" if seconds < 1 else f"{seconds:,.1f} s"
