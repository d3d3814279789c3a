"""Pictures are drawn of what was kept, whatever was left out of it, and say what they show."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.benchmarks import decoding, harness, plan
from tests.benchmarks.harness import Contender, Figure, Options, Part, Report, Samples
from tests.benchmarks.picture import draw


async def nothing() -> Samples:
    return {}


def report(part: Part, ours: Samples, theirs: Samples) -> Report:
    made = Report(part, [Contender("Russet", nothing), Contender("llama.cpp", nothing, peer=True)])
    for name, samples in (("Russet", ours), ("llama.cpp", theirs)):
        for figure, values in samples.items():
            made.samples[figure][name] = list(values)
    return made


def drawn(reports: list[Report], folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The text in each picture."""
    monkeypatch.setattr(harness, "RESULTS", folder)
    paths = draw(harness.keep(reports, Options()))
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths[::2])
    roots = {path.stem.rpartition("-")[2]: ElementTree.parse(path).getroot() for path in paths[1::2]}
    return {name: " ".join("".join(root.itertext()).split()) for name, root in roots.items()}


def test_both_pictures_say_what_they_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {figure: [100.0 * rows] * 3 for rows, figure in decoding.DECODE.items()}
    theirs = {figure: [40.0 * rows] * 3 for rows, figure in decoding.DECODE.items()}
    text = drawn([report(decoding.KERNELS, ours, theirs)], tmp_path, monkeypatch)
    assert "Russet, decoder alone" in text["speed"]
    assert "llama-batched-bench" in text["speed"]
    assert "llama-server" not in text["speed"]
    assert "decode, 32 rows vs llama.cpp" in text["ratios"]
    assert "2.5x" in text["ratios"]
    assert "medians of 3 samples" in text["ratios"]
    assert "DISTURBED" not in text["ratios"]


def test_a_disturbed_part_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = report(decoding.LONG_CONTEXTS, {decoding.LONG: [2.0]}, {decoding.LONG: [1.0]})
    busy.busy_percent = [60]
    text = drawn([busy], tmp_path, monkeypatch)["ratios"]
    assert "DISTURBED by other work: long" in text
    assert "single samples" in text


def test_a_delay_of_a_third_is_three_times_better() -> None:
    delay = Figure("delay", "ms", higher_is_better=False)
    made = report(decoding.KERNELS, {delay: [1.0] * 3}, {delay: [3.0] * 3})
    assert [line["ratio"] for line in harness.lines(made, Options()) if "ratio" in line] == [3]


def test_without_peers_and_curves_there_is_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    made = report(plan.PART, {Figure("a plan", "ms", 1.0, higher_is_better=False): [0.2]}, {})
    assert draw(harness.keep([made], Options())) == []
