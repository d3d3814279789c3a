"""Figures taken in interleaved rounds: medians with 95 % bootstrap intervals, ratios, and the machine they are from."""

import json
import os
import platform
import subprocess
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / ".bench"
RESAMPLES = 4000
QUIET_PERCENT = 10
"""Share of the CPUs that others may use; figures taken beside more are marked."""


@dataclass(frozen=True)
class Figure:
    """What is measured, and what is asked of it."""

    name: str
    unit: str
    target: float | None = None
    higher_is_better: bool = True
    ratios: tuple[tuple[str, float], ...] = ()
    """(peer, how many times better ours has to be than its)."""
    streams: int | None = None
    """Rows or clients at once, where it is a point of a curve over them."""

    def met(self, value: float) -> bool | None:
        """Whether `value` meets the target; None without one."""
        if self.target is None:
            return None
        return value >= self.target if self.higher_is_better else value <= self.target

    def met_beside(self, peer: str, ratio: float) -> bool | None:
        """Whether ours is as many times better than `peer` as asked; None where nothing is."""
        least = dict(self.ratios).get(peer)
        return None if least is None else ratio >= least

    @property
    def asked(self) -> str:
        """The targets as text, a line each."""
        lines = [] if self.target is None else [f"{'>=' if self.higher_is_better else '<='} {self.target:g}"]
        return "\n".join([*lines, *(f"{times:g} x {peer}" for peer, times in self.ratios)])


Samples = Mapping[Figure, Sequence[float]]


@dataclass(frozen=True)
class Contender:
    """One column: what is measured, and how a round of it goes. `note` is printed below the table."""

    name: str
    measure: Callable[[], Awaitable[Samples]]
    note: str = ""
    peer: bool = False
    """Another program, which ours (the first column) is held against."""
    once: bool = False
    """Too slow for more than the first round."""


@dataclass(frozen=True)
class Part:
    """A benchmark: entering `contenders` starts what it needs, leaving it stops that. The first one is never a peer."""

    name: str
    title: str
    contenders: Callable[["Options"], AbstractAsyncContextManager[Sequence[Contender]]]


@dataclass(frozen=True)
class Options:
    """What the command line chose."""

    rounds: int = 3
    quick: bool = False
    url: str | None = None
    llama: str = str(ROOT / ".peers" / "llama.cpp")
    """Where llama.cpp's programs lie."""


@dataclass
class Report:
    """A part's samples by figure and contender, and what share of the CPUs others used in each round, percent."""

    part: Part
    contenders: Sequence[Contender]
    samples: dict[Figure, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(dict))
    busy_percent: list[float] = field(default_factory=list)
    load_average: list[float] = field(default_factory=list)

    @property
    def quiet(self) -> bool:
        """Whether the figures are worth keeping."""
        return max(self.busy_percent, default=0) <= QUIET_PERCENT


async def take(part: Part, options: Options, progress: Callable[[str], None]) -> Report:
    """Run a part: its contenders in turn, round by round, each round beginning with another."""
    progress("starting")
    async with part.contenders(options) as contenders:
        report = Report(part, contenders)
        for number in range(options.rounds):
            shift = number % len(contenders)
            for contender in (*contenders[shift:], *contenders[:shift]):
                if contender.once and number:
                    continue
                progress(f"round {number + 1} of {options.rounds}: {contender.name}")
                report.load_average.append(os.getloadavg()[0])
                before = Usage.now()
                samples = await contender.measure()
                report.busy_percent.append(Usage.now().others_percent(before))
                for figure, values in samples.items():
                    report.samples[figure].setdefault(contender.name, []).extend(values)
    return report


@dataclass(frozen=True)
class Usage:
    """CPU seconds that the machine and this benchmark's processes have used so far, and when."""

    machine_s: float
    ours_s: float
    at_s: float

    @classmethod
    def now(cls) -> "Usage":
        """Read it. Time that a hypervisor gave to another machine counts as used."""
        times = psutil.cpu_times()
        used = ("user", "nice", "system", "irq", "softirq", "steal")
        this = psutil.Process()
        return cls(
            sum(getattr(times, name, 0.0) for name in used),
            sum(cpu_seconds(process) for process in (this, *this.children(recursive=True))),
            time.monotonic(),
        )

    def others_percent(self, before: "Usage") -> float:
        """Share of all CPUs that others used since `before`."""
        others_s = (self.machine_s - before.machine_s) - (self.ours_s - before.ours_s)
        passed_s = (self.at_s - before.at_s) * (psutil.cpu_count() or 1)
        return max(0.0, 100 * others_s / passed_s) if passed_s else 0.0


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a process and of its children that ended; 0 where it just went."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system + times.children_user + times.children_system


def interval(values: Sequence[float], other: Sequence[float] | None = None) -> tuple[float, float] | None:
    """95 % bootstrap interval of the median, or of the ratio of two medians; None of fewer than three samples."""
    if len(values) < 3 or (other is not None and len(other) < 3):
        return None
    medians = _resampled_medians(values, 1)
    if other is not None:
        medians = medians / _resampled_medians(other, 2)
    low, high = np.percentile(medians, (2.5, 97.5))
    return float(low), float(high)


def times_better(
    figure: Figure, ours: Sequence[float], theirs: Sequence[float]
) -> tuple[float, tuple[float, float] | None]:
    """The ratio of the medians, above 1 where ours is better, and its interval."""
    better, worse = (ours, theirs) if figure.higher_is_better else (theirs, ours)
    return float(np.median(better) / np.median(worse)), interval(better, worse)


def _resampled_medians(values: Sequence[float], seed: int) -> Any:
    data = np.asarray(values, np.float64)
    picks = np.random.default_rng(seed).integers(0, len(data), (RESAMPLES, len(data)))
    return np.median(data[picks], axis=1)


def table(report: Report) -> Table:
    """A row per figure, a column per contender; beside a peer's median how many times better ours is."""
    notes = [f"{contender.name}: {contender.note}" for contender in report.contenders if contender.note]
    busiest = max(report.busy_percent, default=0)
    conditions = (
        f"load average {min(report.load_average):.1f} to {max(report.load_average):.1f}; "
        f"others used up to {busiest:.0f} % of the CPUs"
    )
    if not report.quiet:
        conditions = f"[bold yellow]Disturbed, no result: {conditions}[/bold yellow]"
    result = Table(
        title=report.part.title, title_justify="left", caption="\n".join([*notes, conditions]), caption_justify="left"
    )
    result.add_column("median \\[95 %]")
    result.add_column("asked", justify="right")
    for contender in report.contenders:
        result.add_column(contender.name, justify="right")
    for figure, columns in report.samples.items():
        ours = columns.get(report.contenders[0].name, ())
        cells = [
            _cell(figure, columns.get(one.name, ()), ours, one.name if one.peer else None) for one in report.contenders
        ]
        result.add_row(", ".join(filter(None, (figure.name, figure.unit))), figure.asked, *cells)
    return result


def _cell(figure: Figure, values: Sequence[float], ours: Sequence[float], peer: str | None) -> str:
    if not values:
        return "-"
    median = float(np.median(values))
    if peer is None:
        colour = {True: "green", False: "red", None: "bold"}[figure.met(median)]
        return f"[{colour}]{_number(median)}[/{colour}]{_span(interval(values))}"
    cell = f"{_number(median)}{_span(interval(values))}"
    if not ours:
        return cell
    ratio, bounds = times_better(figure, ours, values)
    colour = {True: "green", False: "red", None: "dim"}[figure.met_beside(peer, ratio)]
    return f"{cell}\n[{colour}]ours x {_number(ratio)}[/{colour}]{_span(bounds)}"


def _span(bounds: tuple[float, float] | None) -> str:
    return f" [dim]\\[{_number(bounds[0])}, {_number(bounds[1])}][/dim]" if bounds else ""


def _number(value: float) -> str:
    """Three digits that matter."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def lines(report: Report, options: Options) -> list[dict[str, Any]]:
    """What is kept of a report: every sample, with a figure's medians, intervals and ratios to ours, and conditions."""
    kept, machine = [], _machine()
    for figure, columns in report.samples.items():
        ours = columns.get(report.contenders[0].name, ())
        for contender in report.contenders:
            values = columns.get(contender.name, ())
            if not values:
                continue
            median = float(np.median(values))
            line = {
                "part": report.part.name,
                "title": report.part.title,
                "figure": asdict(figure),
                "contender": contender.name,
                "note": contender.note,
                "median": median,
                "interval": interval(values),
                "met": None if contender.peer else figure.met(median),
            }
            if contender.peer and ours:
                ratio, bounds = times_better(figure, ours, values)
                met = figure.met_beside(contender.name, ratio)
                line |= {"ratio": ratio, "ratio_interval": bounds, "ratio_met": met}
            line |= {
                "samples": [round(value, 6) for value in values],
                "quiet": report.quiet,
                "busy_percent": report.busy_percent,
                "load_average": report.load_average,
                "options": asdict(options),
                "machine": machine,
            }
            kept.append(line)
    return kept


def keep(reports: Sequence[Report], options: Options) -> Path:
    """Write one JSON line per figure and contender into a new file of .bench/."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / time.strftime("%Y%m%d-%H%M%S.jsonl")
    path.write_text("".join(json.dumps(line) + "\n" for report in reports for line in lines(report, options)))
    return path


def _machine() -> dict[str, Any]:
    """Where and of what the figures are."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    models = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": git("rev-parse", "HEAD"),
        "changed": bool(git("status", "--porcelain", "--untracked-files=no")),
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def missed(reports: Sequence[Report]) -> list[str]:
    """Our figures that do not meet what is asked of them, by themselves or beside a peer."""
    found = []
    for report in reports:
        for figure, columns in report.samples.items():
            for contender in report.contenders:
                values = columns.get(contender.name, ())
                if not values:
                    continue
                median = float(np.median(values))
                where = f"{report.part.name}, {report.contenders[0].name if contender.peer else contender.name}"
                if not contender.peer and figure.met(median) is False:
                    asked = f"{'>=' if figure.higher_is_better else '<='} {figure.target:g}"
                    found.append(f"{where}: {figure.name} is {_number(median)} {figure.unit}, asked {asked}")
                elif contender.peer and (ours := columns.get(report.contenders[0].name)):
                    ratio, _ = times_better(figure, ours, values)
                    if figure.met_beside(contender.name, ratio) is False:
                        asked = f"{dict(figure.ratios)[contender.name]:g} x"
                        found.append(f"{where}: {figure.name} is {_number(ratio)} x {contender.name}, asked {asked}")
    return found


def show(report: Report, console: Console) -> None:
    """Print a part's table."""
    console.print(table(report))
    console.print()
