"""A process that is killed while it writes KV to disk: what is read back is what was put, or nothing."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from actors.base.errors import Conflict
from actors.base.keys import Keyring
from actors.worker.kept import DRAFT, Kept
from actors.worker.sealed import Sealer, sealed_bytes

LENGTH = 1 << 20
ROOM = 12
KILLS = 20
WRITER = """
import itertools, sys
from pathlib import Path
from tests.faults.test_kept import kept_in, key_of, unit_of
kept = kept_in(Path(sys.argv[1]))
for number in itertools.count(int(sys.argv[2])):
    kept.put(key_of(number), "f16", memoryview(unit_of(number)))
    print(number, *(int.from_bytes(key, "big") for key, _ in kept.gone()), flush=True)
"""


def key_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def unit_of(number: int) -> bytes:
    return number.to_bytes(16, "big") * (LENGTH // 16)  # made in no time: the writer shall be writing


def kept_in(directory: Path) -> Kept:
    return Kept(directory, Sealer(Keyring([b"k" * 32]), "maker"), {"f16": LENGTH}, ROOM * sealed_bytes(LENGTH))


def test_a_directory_belongs_to_one_process_until_that_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(Conflict, match="in use by another process"):
            kept_in(tmp_path)
        writer.kill()
    assert list(kept_in(tmp_path))


def test_a_writer_killed_at_any_moment_leaves_nothing_corrupt(tmp_path: Path) -> None:
    told: set[int] = set()
    chance, first, drafts = random.Random(4), 0, 0
    for _ in range(KILLS):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as writer:
            assert writer.stdout is not None
            for _ in range(chance.randint(1, 6)):
                saved, *evicted = map(int, writer.stdout.readline().split())
                told = (told | {saved}) - set(evicted)
            writer.kill()
            for line in writer.stdout.read().splitlines():
                saved, *evicted = map(int, line.split())
                told = (told | {saved}) - set(evicted)
        drafts += len(list(tmp_path.glob(f"??/*{DRAFT}")))
        kept = kept_in(tmp_path)
        there = {int.from_bytes(key, "big") for key in kept}
        # It may have removed the oldest for one that it was about to write, or written one that it did not tell of.
        assert len(told - there) <= 1
        assert len(there - told) <= 1
        into = bytearray(LENGTH)
        for number in there:
            assert kept.get(key_of(number), "f16", memoryview(into)), "a file that is in place opens"
            assert into == unit_of(number)
        assert not list(tmp_path.glob(f"??/*{DRAFT}"))
        kept.close()
        told, first = there, max(there) + 1
    assert drafts > KILLS // 4, "hardly a kill came while a unit was being written: this shows nothing"
