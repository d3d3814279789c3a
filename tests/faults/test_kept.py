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
ROOM = 6
KILLS = 20
WRITER = """
import itertools, os, signal, sys
from pathlib import Path
from tests.faults.test_kept import kept_in, key_of, unit_of

left = int(sys.argv[3])

def dying(call):
    def last(*arguments):
        global left
        left -= 1
        if left == 0:
            if call is write:
                write(arguments[0], arguments[1][: len(arguments[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments)
    return last

write = os.write
os.write, os.rename, os.unlink = dying(os.write), dying(os.rename), dying(os.unlink)
kept = kept_in(Path(sys.argv[1]))
for number in itertools.count(int(sys.argv[2])):
    kept.put(key_of(number), "f16", memoryview(unit_of(number)))
    print(number, *(int.from_bytes(key, "big") for key, _ in kept.gone()), flush=True)
"""


def writer(directory: Path, first: int, calls: int = 0) -> subprocess.Popen[str]:
    """Writes units from number `first` on, and kills itself in its call number `calls` that changes the disk."""
    command = [sys.executable, "-c", WRITER, str(directory), str(first), str(calls)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def key_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def unit_of(number: int) -> bytes:
    return number.to_bytes(16, "big") * (LENGTH // 16)


def kept_in(directory: Path) -> Kept:
    return Kept(directory, Sealer(Keyring([b"k" * 32]), "maker"), {"f16": LENGTH}, ROOM * sealed_bytes(LENGTH))


def test_a_directory_belongs_to_one_process_until_that_ends(tmp_path: Path) -> None:
    with writer(tmp_path, 0) as running:
        assert running.stdout is not None
        running.stdout.readline()
        with pytest.raises(Conflict, match="in use by another process"):
            kept_in(tmp_path)
        running.kill()
    assert list(kept_in(tmp_path))


def test_a_writer_killed_at_any_moment_leaves_nothing_corrupt(tmp_path: Path) -> None:
    told: set[int] = set()
    chance, first, drafts = random.Random(4), 0, 0
    for kill in range(KILLS):
        by_itself = kill % 2 == 0
        with writer(tmp_path, first, chance.randint(1, 150) if by_itself else 0) as running:
            assert running.stdout is not None
            lines = [] if by_itself else [running.stdout.readline() for _ in range(chance.randint(1, 6))]
            if not by_itself:
                running.kill()
            for line in (*lines, *running.stdout):
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
        told, first = there, max(there, default=0) + 1
    assert drafts > KILLS // 4, "hardly a kill came while a unit was being written: this shows nothing"
