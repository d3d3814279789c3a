"""Pictures of kept figures: tokens per second by batch size, and how many times better than others ours is.

    python -m tests.benchmarks.picture .bench/20261121-140304.jsonl

draws them anew. A whisker is a 95 % interval; a single sample has none.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator

from tests.benchmarks import llama, peers

Line = dict[str, Any]
"""One line of a kept file (harness.lines)."""

OURS, THEIRS, OTHERS, MISSED, ASKED = "#1f5fa8", "#d9731a", "#7a7a7a", "#c0262d", "#222222"


PEERS = (llama.NAME, peers.STOCK, peers.WITH_OPENBLAS)


class Curve(NamedTuple):
    """One line over batch sizes: whose figures of which part, and how they are drawn."""

    part: str
    contender: str
    label: str
    colour: str
    style: str
    marker: str


CURVES = (
    Curve("kernels", "Russet", "Russet, decoder alone", OURS, "-", "o"),
    Curve("engine", "Russet", "Russet, engine in process", OURS, "--", "s"),
    Curve("serving", "Russet", "Russet over HTTP, prompts included", OURS, ":", "^"),
    Curve("kernels", llama.NAME, "llama-batched-bench", THEIRS, "-", "o"),
    Curve("serving", llama.NAME, "llama-server over HTTP, prompts included", THEIRS, ":", "^"),
    Curve("serving", peers.WITH_OPENBLAS, "mlx-lm's server with OpenBLAS", OTHERS, ":", "v"),
    Curve("serving", peers.STOCK, "mlx-lm's server", OTHERS, ":", "x"),
)


def draw(kept: Path) -> list[Path]:
    """Write what can be drawn of a kept file beside it, as PNG and SVG; their paths, none where there is nothing."""
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    parts = {curve.part for curve in CURVES}
    rates = [line for line in lines if line["part"] in parts and line["figure"]["streams"]]
    ratios = [line for line in lines if line["contender"] in PEERS and "ratio" in line]
    rows = len(ratios) + len({line["part"] for line in ratios})
    paths: list[Path] = []
    for name, panel, chosen, size_in in (
        ("speed", _rates, rates, (9.6, 4.8)),
        ("ratios", _ratios, ratios, (9.0, 1.7 + 0.24 * rows)),
    ):
        if chosen:
            canvas = Canvas(size_in, layout="constrained")
            panel(canvas.subplots(), chosen)
            canvas.supxlabel(_conditions(chosen), fontsize=7, color="#555555")
            paths += [kept.with_name(f"{kept.stem}-{name}.{kind}") for kind in ("png", "svg")]
            with rc_context({"svg.fonttype": "none"}):  # text stays text: small, searchable
                for path in paths[-2:]:
                    canvas.savefig(path, dpi=130)
    return paths


def _rates(axes: Axes, lines: Sequence[Line]) -> None:
    """Tokens per second over rows or clients."""
    batches = sorted({line["figure"]["streams"] for line in lines})
    for curve in CURVES:
        points = sorted(
            (line for line in lines if (line["part"], line["contender"]) == (curve.part, curve.contender)),
            key=lambda line: line["figure"]["streams"],
        )
        if points:
            axes.errorbar(
                [batches.index(line["figure"]["streams"]) for line in points],
                [line["median"] for line in points],
                yerr=_whiskers([line["median"] for line in points], [line["interval"] for line in points]),
                label=curve.label, color=curve.colour, linestyle=curve.style, marker=curve.marker, capsize=2,
            )  # fmt: skip
    axes.set_xticks(range(len(batches)), [str(batch) for batch in batches])
    axes.set_xlabel("rows of the batch, or clients at once")
    axes.set_ylabel("output tokens/s, all rows together")
    axes.set_ylim(bottom=0)
    axes.set_xlim(-0.3, len(batches) - 0.7)
    axes.set_title("Tokens per second by batch size", loc="left", fontweight="bold")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.spines[["top", "right"]].set_visible(False)


def _ratios(axes: Axes, lines: Sequence[Line]) -> None:
    """A row per figure and peer under its part's title; how many times better ours is, beside what was asked."""
    at, ticks, labels = 0, [], []
    for index, line in enumerate(lines):
        if not index or line["part"] != lines[index - 1]["part"]:
            ticks.append(at)
            labels.append(line["title"])
            at += 1
        peer = line["contender"]
        asked = dict(map(tuple, line["figure"]["ratios"])).get(peer)
        colour = OURS if line["ratio_met"] else MISSED if asked is not None else OTHERS
        whisker = _whiskers([line["ratio"]], [line["ratio_interval"]])
        axes.errorbar(line["ratio"], at, xerr=whisker, fmt="o", markersize=5, color=colour, capsize=2)
        if asked is not None:
            axes.plot(asked, at, marker="|", markersize=13, markeredgewidth=2, color=ASKED)
        axes.text(1.01, at, f"{line['ratio']:.3g}x", transform=axes.get_yaxis_transform(), fontsize=8, va="center")
        ticks.append(at)
        labels.append(f"{line['figure']['name'].strip()} vs {peer}")
        at += 1
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.minorticks_off()
    axes.set_xlim(left=min(0.9, 0.9 * min(line["ratio"] for line in lines)))
    axes.axvline(1, color=ASKED, linewidth=0.8)
    axes.set_yticks(ticks, labels, fontsize=8)
    for label, text in zip(axes.get_yticklabels(), labels, strict=True):
        if " vs " not in text:
            label.set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(at - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)
    axes.set_title("How many times better Russet is", loc="left", fontweight="bold")
    axes.spines[["top", "right", "left"]].set_visible(False)
    shown = [
        ("asked for", {"marker": "|", "color": ASKED, "markersize": 11, "markeredgewidth": 2}),
        ("reached", {"marker": "o", "color": OURS}),
        ("missed", {"marker": "o", "color": MISSED}),
        ("nothing asked", {"marker": "o", "color": OTHERS}),
    ]
    handles = [Line2D([], [], linestyle="none", label=label, **style) for label, style in shown]
    axes.legend(
        handles=handles, fontsize=8, ncols=4, frameon=False, loc="upper left", bbox_to_anchor=(0, 0), borderaxespad=2.2
    )


def _whiskers(values: Sequence[float], bounds: Sequence[Sequence[float] | None]) -> list[list[float]]:
    """Lengths below and above each value, 0 without an interval."""
    pairs = [(value - (bound or (value, value))[0], (bound or (value, value))[1] - value)
             for value, bound in zip(values, bounds, strict=True)]  # fmt: skip
    return [[max(0.0, low) for low, _ in pairs], [max(0.0, high) for _, high in pairs]]


def _conditions(lines: Sequence[Line]) -> str:
    """When, where and of what the figures are, and whether other work disturbed them."""
    machine = lines[0]["machine"]
    disturbed = sorted({line["part"] for line in lines if not line["quiet"]})
    samples = sorted({len(line["samples"]) for line in lines})
    how_many = " to ".join(map(str, dict.fromkeys((samples[0], samples[-1]))))
    words = [
        machine["time"][:10],
        f"{machine['cores']} cores of {machine['cpu']}",
        f"commit {machine['commit'][:8]}{' with changes' if machine['changed'] else ''}",
        f"medians of {how_many} samples, whiskers 95 %" if samples[-1] > 1 else "single samples",
    ]
    if disturbed:
        words.append(f"DISTURBED by other work: {', '.join(disturbed)}")
    return ", ".join(words)


def main() -> None:
    """Draw the files named on the command line."""
    for name in sys.argv[1:]:
        print(*draw(Path(name)), sep="\n")


if __name__ == "__main__":
    main()
