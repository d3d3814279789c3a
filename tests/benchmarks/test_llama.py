"""llama.cpp's programs: what is run, what is read of their output, and what is said where they are not there."""

import os
from pathlib import Path

import pytest

from actors.base.errors import Unavailable
from tests.benchmarks.decoding import llama_contender
from tests.benchmarks.harness import Figure
from tests.benchmarks.llama import PROGRAMS, Llama


def programs(folder: Path, script: str) -> Llama:
    """Stand-ins that run `script`."""
    for name in PROGRAMS:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        os.chmod(folder / name, 0o700)
    return Llama(folder, Path("model.gguf"), 2)


async def test_rates_are_read_by_rows(tmp_path: Path) -> None:
    lines = """{"pl": 1, "speed_tg": 120.5}\n{"pl": 8, "speed_tg": 200}"""
    said = f"""echo "$@" > "$0.arguments"; echo noise; echo '{lines}'"""
    found = programs(tmp_path, said)
    assert await found.decode(128, (1, 8)) == {1: 120.5, 8: 200}
    arguments = (tmp_path / "llama-batched-bench.arguments").read_text().split()
    assert arguments[:4] == ["-m", "model.gguf", "-t", "2"]
    assert arguments[arguments.index("-npl") + 1] == "1,8"
    assert int(arguments[arguments.index("-c") + 1]) >= 8 * (128 + int(arguments[arguments.index("-ntg") + 1]))


async def test_a_program_that_fails_or_says_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="ended with 3: no such model"):
        await programs(tmp_path, "echo no such model >&2; exit 3").prefill(512)
    with pytest.raises(Unavailable, match="llama-bench printed no figures"):
        await programs(tmp_path, "echo noise").prefill(512)


async def test_without_the_programs_the_column_is_empty_and_says_how_to_get_them(tmp_path: Path) -> None:
    async def measured(_: Llama) -> dict[Figure, list[float]]:
        raise AssertionError

    column = llama_contender(Llama(tmp_path, Path("model.gguf"), 2), measured)
    assert await column.measure() == {}
    assert "install-peers" in column.note
