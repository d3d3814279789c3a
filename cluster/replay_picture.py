"""A replay's outcome for readers: a table, and pictures where matplotlib is installed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from actors.base.errors import InvalidArgument
from cluster.load_stream import PERCENTILES
from cluster.replay import Report, Sent

BLUE, RED = "#3b6ea5", "#b3261e"
SIZE_INCHES = (11, 7.5)
TIMES = (("first token", "ttft_ms"), ("per output token", "time_per_output_token_ms"), ("whole request", "total_ms"))


def table(report: Report) -> Group:
    """The figures."""
    told = report.as_dict()
    title = (
        f"{told['model']} at {told['url']}: {told['requests']} requests, {told['offered_per_s'] or 0:.2f} a second"
        + (f" (the trace {told['speed']:g} times as fast)" if told["speed"] != 1 else "")
    )
    times = Table("milliseconds", *("mean", *PERCENTILES))
    for column in times.columns[1:]:
        column.justify = "right"
    for label, name in TIMES:
        figures = told[name]
        cells = (figures[each] for each in ("mean", *PERCENTILES))
        times.add_row(label, *("-" if cell is None else f"{cell:,.1f}" for cell in cells))
    rates = Text.assemble(
        (f"{told['output_tokens_per_s']:,.1f} output tokens/s", "bold"),
        f", {told['requests_per_s']:.2f} requests/s: {told['answered']} answered in {told['wall_s']:.1f} s, "
        f"up to {told['most_at_once']} at once",
    )
    notes = [_slo(told["slo"])] if told["slo"]["ttft_ms"] or told["slo"]["tpot_ms"] else []
    notes += [Text(f"{count} failed: {error}", "red") for error, count in told["errors"].items()]
    if (late := told["late_ms"]["p99"] or 0) > 50:
        notes.append(Text(f"this client sent 1 % of requests more than {late:,.0f} ms late: it is too slow", "yellow"))
    return Group(title, times, rates, *notes)


def _slo(slo: dict[str, Any]) -> Text:
    asked = [f"{name} {slo[key]:,.0f} ms" for name, key in (("TTFT", "ttft_ms"), ("TPOT", "tpot_ms")) if slo[key]]
    missed = ", ".join(f"{count} {name}" for name, count in slo["missed"].items())
    return Text.assemble(
        (f"goodput {slo['goodput_per_s']:.2f} requests/s", "bold"),
        f": {slo['share']:.1%} within {' and '.join(asked)}" + (f" (missed: {missed})" if missed else ""),
    )


def write_pictures(report: Report, path: Path) -> None:
    """Four pictures in one PNG: waits and times per token by share of requests, waits and load over the time.

    Raises InvalidArgument where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InvalidArgument(
            f"--plot {path}: matplotlib is not installed; `pip install russet[plots]` brings it",
            param="plot",
        ) from None
    good = [each for each in report.sent if not each.stream.error and each.stream.arrivals]
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    told = report.as_dict()
    rate = told["offered_per_s"] or 0
    figure.suptitle(f"{told['model']}: {told['requests']} requests, {rate:.2f} a second", fontsize=11)
    axes = figure.subplots(2, 2)
    slo = report.replay.slo
    _shares(axes[0][0], "Time to first token", [each.stream.arrivals[0] for each in good], slo.ttft_s)
    each_s = [seconds for each in good if (seconds := each.stream.time_per_output_token_s) is not None]
    _shares(axes[0][1], "Time per output token", each_s, slo.tpot_s)
    _over_time(axes[1][0], report, good)
    _load(axes[1][1], report)
    figure.savefig(path, dpi=110)


def _shares(axes: Any, title: str, seconds: Sequence[float], limit_s: float | None) -> None:
    ordered = sorted(1e3 * each for each in seconds)
    axes.set_title(title)
    axes.set_xlabel("milliseconds")
    axes.set_ylabel("share of requests")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    if ordered:
        axes.step(ordered, [(index + 1) / len(ordered) for index in range(len(ordered))], where="post", color=BLUE)
    if limit_s is not None:
        axes.axvline(1e3 * limit_s, color=RED, linestyle="--", label="SLO")
        axes.legend()


def _over_time(axes: Any, report: Report, good: Sequence[Sent]) -> None:
    axes.set_title("Time to first token over the run")
    axes.set_xlabel("seconds")
    axes.set_ylabel("milliseconds")
    axes.grid(alpha=0.3)
    axes.scatter([each.sent_s for each in good], [1e3 * each.stream.arrivals[0] for each in good], s=8, color=BLUE)
    failed = [each.sent_s for each in report.sent if each.stream.error]
    if failed:
        axes.scatter(failed, [0] * len(failed), marker="x", color=RED, label="failed")
        axes.legend()


def _load(axes: Any, report: Report) -> None:
    axes.set_title("Requests that run or wait")
    axes.set_xlabel("seconds")
    axes.set_ylabel("requests")
    axes.grid(alpha=0.3)
    levels = report.levels()
    axes.step([at for at, _ in levels], [n for _, n in levels], where="post", color=BLUE)
