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
    """What is measured, and what issue or plan asks of it."""

    name: str
    unit: str
    target: float | None = None
    higher_is_better: bool = True

    def met(self, value: float) -> bool | None:
        """Whether `value` meets the target; None without one."""
        if self.target is None:
            return None
        return value >= self.target if self.higher_is_better else value <= self.target

    @property
    def asked(self) -> str:
        """The target as text."""
        if self.target is None:
            return ""
        return f"{'>=' if self.higher_is_better else '<='} {self.target:g}"


Samples = Mapping[Figure, Sequence[float]]


@dataclass(frozen=True)
class Contender:
    """One column: what is measured, and how a round of it goes. `note` is printed below the table."""

    name: str
    measure: Callable[[], Awaitable[Samples]]
    note: str = ""
    peer: bool = False
    """Another program, which ours (the first column) is held against."""


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
        ours = [process.cpu_times() for process in (this, *this.children(recursive=True))]
        return cls(
            sum(getattr(times, name, 0.0) for name in used),
            sum(each.user + each.system for each in ours),
            time.monotonic(),
        )

    def others_percent(self, before: "Usage") -> float:
        """Share of all CPUs that others used since `before`."""
        others_s = (self.machine_s - before.machine_s) - (self.ours_s - before.ours_s)
        passed_s = (self.at_s - before.at_s) * (psutil.cpu_count() or 1)
        return max(0.0, 100 * others_s / passed_s) if passed_s else 0.0


def interval(values: Sequence[float], other: Sequence[float] | None = None) -> tuple[float, float] | None:
    """95 % bootstrap interval of the median, or of the ratio of two medians; None of fewer than three samples."""
    if len(values) < 3 or (other is not None and len(other) < 3):
        return None
    medians = _resampled_medians(values, 1)
    if other is not None:
        medians = medians / _resampled_medians(other, 2)
    low, high = np.percentile(medians, (2.5, 97.5))
    return float(low), float(high)


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
        cells = [_cell(figure, columns.get(one.name, ()), ours, one.peer) for one in report.contenders]
        result.add_row(f"{figure.name}, {figure.unit}", figure.asked, *cells)
    return result


def _cell(figure: Figure, values: Sequence[float], ours: Sequence[float], peer: bool) -> str:
    if not values:
        return "-"
    median = float(np.median(values))
    if not peer:
        colour = {True: "green", False: "red", None: "bold"}[figure.met(median)]
        return f"[{colour}]{_number(median)}[/{colour}]{_span(interval(values))}"
    cell = f"{_number(median)}{_span(interval(values))}"
    if not ours:
        return cell
    better, worse = (ours, values) if figure.higher_is_better else (values, ours)
    ratio = float(np.median(better) / np.median(worse))
    return f"{cell}\n[dim]ours x {_number(ratio)}{_span(interval(better, worse))}[/dim]"


def _span(bounds: tuple[float, float] | None) -> str:
    return f" [dim]\\[{_number(bounds[0])}, {_number(bounds[1])}][/dim]" if bounds else ""


def _number(value: float) -> str:
    """Three digits that matter."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def keep(reports: Sequence[Report], options: Options) -> Path:
    """Write one JSON line per figure and contender into a new file of .bench/."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / time.strftime("%Y%m%d-%H%M%S.jsonl")
    machine = _machine()
    with path.open("w") as file:
        for report in reports:
            for figure, columns in report.samples.items():
                for name, values in columns.items():
                    median = float(np.median(values))
                    line = {
                        "part": report.part.name,
                        "figure": asdict(figure),
                        "contender": name,
                        "median": median,
                        "interval": interval(values),
                        "met": figure.met(median),
                        "samples": [round(value, 6) for value in values],
                        "quiet": report.quiet,
                        "busy_percent": report.busy_percent,
                        "load_average": report.load_average,
                        "options": asdict(options),
                        "machine": machine,
                    }
                    file.write(json.dumps(line) + "\n")
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
    """Our figures that do not meet what is asked of them."""
    lines = []
    for report in reports:
        for contender in report.contenders:
            for figure, columns in report.samples.items():
                values = columns.get(contender.name, ())
                if contender.peer or not values or figure.met(median := float(np.median(values))) is not False:
                    continue
                where = f"{report.part.name}, {contender.name}: {figure.name}"
                lines.append(f"{where} is {_number(median)} {figure.unit}, asked {figure.asked}")
    return lines


def show(report: Report, console: Console) -> None:
    """Print a part's table."""
    console.print(table(report))
    console.print()
