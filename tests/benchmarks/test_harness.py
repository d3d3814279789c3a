"""The harness: what it orders, what it computes, and that it says when figures are worth nothing."""

import json
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from tests.benchmarks import harness
from tests.benchmarks.harness import (
    Contender,
    Figure,
    Options,
    Part,
    Report,
    Samples,
    Usage,
    cpu_seconds,
    interval,
    missed,
    table,
    take,
)

SPEED = Figure("speed", "tokens/s", 60)
DELAY = Figure("delay", "ms", 5, higher_is_better=False)


def part(*contenders: Contender, ended: list[str] | None = None) -> Part:
    @asynccontextmanager
    async def entered(options: Options) -> AsyncGenerator[list[Contender], None]:
        yield list(contenders)
        if ended is not None:
            ended.append("stopped")

    return Part("part", "A part", entered)


async def nothing() -> Samples:
    return {}


def report(ours: dict[Figure, list[float]], theirs: dict[Figure, list[float]], *, busy: float = 0.0) -> Report:
    made = Report(part(), [Contender("Russet", nothing), Contender("other", nothing, "float32", peer=True)])
    for name, samples in (("Russet", ours), ("other", theirs)):
        for figure, values in samples.items():
            made.samples[figure][name] = values
    made.busy_percent, made.load_average = [busy], [0.5]
    return made


def shown(made: Report) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(table(made))
    return capture.get()


async def test_rounds_are_interleaved_and_begin_with_another_contender_each() -> None:
    order: list[str] = []

    def contender(name: str) -> Contender:
        async def measure() -> Samples:
            order.append(name)
            return {SPEED: [float(len(order))]}

        return Contender(name, measure)

    ended: list[str] = []
    heard: list[str] = []
    made = await take(part(contender("a"), contender("b"), ended=ended), Options(rounds=3), heard.append)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert made.samples[SPEED] == {"a": [1, 4, 5], "b": [2, 3, 6]}
    assert ended == ["stopped"]
    assert heard[-1] == "round 3 of 3: b"


def test_the_interval_holds_the_median_and_narrows_with_samples() -> None:
    few = interval([9.0, 10.0, 11.0])
    many = interval([9.0, 10.0, 11.0] * 30)
    assert few == (9, 11)
    assert many is not None
    assert many[0] <= 10 <= many[1]
    assert many[1] - many[0] < 2
    assert interval([10.0, 10.0]) is None


def test_the_interval_of_a_ratio_comes_from_both_sides() -> None:
    bounds = interval([20.0, 20.0, 20.0], [10.0, 10.0, 20.0])
    assert bounds == (1, 2)
    assert interval([20.0] * 5, [10.0] * 2) is None


def test_a_peer_is_shown_with_how_many_times_better_ours_is() -> None:
    text = shown(report({SPEED: [90.0] * 3, DELAY: [2.0] * 3}, {SPEED: [9.0] * 3, DELAY: [8.0] * 3}))
    assert "ours x 10 [10, 10]" in text
    assert "ours x 4 [4, 4]" in text
    assert "other: float32" in text


def test_figures_taken_on_a_busy_machine_are_marked() -> None:
    assert "Disturbed, no result" in shown(report({SPEED: [90.0]}, {}, busy=35))
    quiet = shown(report({SPEED: [90.0]}, {}, busy=3))
    assert "Disturbed" not in quiet
    assert "load average 0.5" in quiet


def test_the_share_of_others_leaves_ours_out() -> None:
    cores = psutil.cpu_count() or 1
    before, after = Usage(100, 10, 0), Usage(100 + 8 * cores, 10 + 3 * cores, 10)
    assert after.others_percent(before) == pytest.approx(50)
    assert Usage(101, 12, 10).others_percent(before) == 0
    assert before.others_percent(before) == 0


def test_what_misses_its_target_is_named_whichever_way_is_better() -> None:
    assert missed([report({SPEED: [61.0], DELAY: [4.0]}, {SPEED: [1.0]})]) == []
    slow = missed([report({SPEED: [59.0], DELAY: [6.0]}, {})])
    assert [line.split(" is ")[1] for line in slow] == ["59 tokens/s, asked >= 60", "6 ms, asked <= 5"]


def test_what_is_asked_beside_a_peer_is_shown_judged_and_named() -> None:
    faster = Figure("speed", "tokens/s", ratios=(("other", 2.5), ("third", 9.0)))
    sooner = Figure("delay", "ms", higher_is_better=False, ratios=(("other", 2.5),))
    made = report({faster: [90.0] * 3, sooner: [2.0] * 3}, {faster: [45.0] * 3, sooner: [6.0] * 3})
    assert "2.5 x other" in shown(made)
    assert "9 x third" in shown(made)
    assert missed([made]) == ["part, Russet: speed is 2 x other, asked 2.5 x"]


async def test_a_slow_peer_is_measured_in_the_first_round_only() -> None:
    order: list[str] = []

    def contender(name: str, once: bool) -> Contender:
        async def measure() -> Samples:
            order.append(name)
            return {}

        return Contender(name, measure, once=once)

    await take(part(contender("a", False), contender("b", True)), Options(rounds=3), order.append)
    assert [name for name in order if len(name) == 1] == ["a", "b", "a", "a"]


def test_a_child_that_ended_meanwhile_is_not_taken_for_others() -> None:
    this = psutil.Process()
    before = cpu_seconds(this)
    script = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert cpu_seconds(this) - before >= 0.25


def test_every_sample_is_kept_with_where_it_is_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / ".bench")
    path = harness.keep([report({SPEED: [61.0, 62.0, 63.0]}, {SPEED: [1.0]}, busy=40)], Options())
    ours, theirs = map(json.loads, path.read_text().splitlines())
    assert theirs["ratio"] == 62
    assert (ours["figure"]["name"], ours["contender"], ours["median"], ours["met"]) == ("speed", "Russet", 62, True)
    assert ours["interval"] == [61, 63]
    assert ours["samples"] == [61, 62, 63]
    assert (theirs["contender"], theirs["interval"]) == ("other", None)
    assert ours["quiet"] is False
    assert len(ours["machine"]["commit"]) == 40
