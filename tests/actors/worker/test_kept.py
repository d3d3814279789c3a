"""Units on disk: what was put comes back or is gone, within the budget, and what is not ours is never read."""

import logging
import os
import random
import stat
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.base.errors import Conflict
from actors.base.keys import Keyring
from actors.worker.kept import DRAFT, Kept
from actors.worker.sealed import Sealer, sealed_bytes

LENGTHS = {"f16": 40, "q8": 90}
SIZE = sealed_bytes(40)


def key_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def unit_of(key: bytes, form: str) -> bytes:
    return random.Random(key + form.encode()).randbytes(LENGTHS[form])


def kept_in(directory: Path, budget: int = 10 * SIZE, secret: bytes = b"k", maker: str = "maker") -> Kept:
    return Kept(directory, Sealer(Keyring([secret * 32]), maker), LENGTHS, budget)


def put(kept: Kept, number: int, form: str = "f16") -> None:
    kept.put(key_of(number), form, memoryview(unit_of(key_of(number), form)))


def get(kept: Kept, number: int, form: str = "f16") -> bytes | None:
    into = bytearray(LENGTHS[form])
    return bytes(into) if kept.get(key_of(number), form, memoryview(into)) else None


def path_of(directory: Path, number: int) -> Path:
    name = key_of(number).hex()
    return directory / name[:2] / name


NUMBERS, FORMS = st.integers(0, 12), st.sampled_from(sorted(LENGTHS))
STEPS = st.one_of(
    st.tuples(st.just("put"), NUMBERS, FORMS),
    st.tuples(st.just("get"), NUMBERS, FORMS),
    st.tuples(st.just("lose"), NUMBERS, FORMS),
    st.tuples(st.just("reopen"), st.integers(1, 12), FORMS),
)


@settings(max_examples=60)
@given(st.lists(STEPS, max_size=40), st.integers(1, 12))
def test_it_behaves_as_a_bounded_dictionary_that_forgets_the_least_recently_used(steps: list, room: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory, budget = Path(name) / "kv", room * SIZE
        kept = kept_in(directory, budget)
        model: dict[bytes, str] = {}  # in the order of use

        def size() -> int:
            return sum(sealed_bytes(LENGTHS[form]) for form in model.values())

        for what, number, form in steps:
            key = key_of(number)
            if what == "put" and key not in kept and sealed_bytes(LENGTHS[form]) <= budget:
                put(kept, number, form)
                evicted = []
                while size() + sealed_bytes(LENGTHS[form]) > budget:
                    evicted.append((next(iter(model)), "evicted"))
                    del model[evicted[-1][0]]
                model[key] = form
                assert kept.gone() == evicted
            elif what == "get":
                found = get(kept, number, form)
                if model.get(key) == form:
                    assert found == unit_of(key, form)
                    model[key] = model.pop(key)
                elif key in model:
                    assert found is None, "it was of another format, and is removed"
                    del model[key]
                    assert kept.gone() == [(key, "damaged")]
                else:
                    assert found is None
            elif what == "lose" and key in model:
                path_of(directory, number).unlink()
                assert get(kept, number, model.pop(key)) is None
                assert kept.gone() == [(key, "absent")]
            elif what == "reopen":
                kept.close()
                budget = number * SIZE
                kept = kept_in(directory, budget)
                assert set(kept) <= set(model)
                assert (size() <= budget) <= (set(kept) == set(model)), "nothing goes where all fits"
                model = {key: model[key] for key in kept}
            assert list(kept) == list(model)
            files = [file for file in directory.glob("??/*") if file.is_file()]
            assert sorted(file.name for file in files) == sorted(key.hex() for key in model)
            assert kept.nbytes == sum(file.stat().st_size for file in files) == size() <= budget
        kept.close()


def test_the_order_of_use_outlives_the_process(tmp_path: Path) -> None:
    kept = kept_in(tmp_path)
    for number in range(4):
        put(kept, number)
        os.utime(path_of(tmp_path, number), (number, number))
    assert get(kept, 0) is not None
    kept.close()
    kept = kept_in(tmp_path, 2 * SIZE)
    assert list(kept) == [key_of(3), key_of(0)]
    assert kept.gone() == [], "nobody was told of them yet"


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "a byte changed": lambda path, other: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "cut": lambda path, other: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path, other: path.write_bytes(b""),
    "grown": lambda path, other: path.write_bytes(path.read_bytes() * 2),
    "garbage": lambda path, other: path.write_bytes(bytes(SIZE)),
    "another's": lambda path, other: path.write_bytes(other.read_bytes()),
    "a link": lambda path, other: (path.rename(path.with_name("elsewhere")), path.symlink_to("elsewhere")),
    "a pipe": lambda path, other: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("restarted", [False, True])
def test_damage_is_noticed_and_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str, restarted: bool
) -> None:
    kept = kept_in(tmp_path)
    put(kept, 1)
    put(kept, 2)
    DAMAGES[how](path_of(tmp_path, 1), path_of(tmp_path, 2))
    if restarted:
        kept.close()
        kept = kept_in(tmp_path)
    assert get(kept, 1) is None
    assert key_of(1) not in kept
    assert not path_of(tmp_path, 1).is_symlink()
    assert not path_of(tmp_path, 1).exists()
    assert len(caplog.records) <= 1, "one warning"
    if not restarted:
        assert "is ignored and removed" in caplog.text
        assert kept.gone() == [(key_of(1), "damaged")]
    assert get(kept, 2) == unit_of(key_of(2), "f16"), "the other stays"
    put(kept, 1)
    assert get(kept, 1) == unit_of(key_of(1), "f16")


@pytest.mark.parametrize("other", [{"secret": b"x"}, {"maker": "another model"}])
def test_units_of_another_key_or_model_are_not_read(tmp_path: Path, other: dict) -> None:
    kept = kept_in(tmp_path)
    put(kept, 1)
    kept.close()
    kept = kept_in(tmp_path, **other)
    assert get(kept, 1) is None
    assert list(kept) == []


def test_swapped_files_do_not_open(tmp_path: Path) -> None:
    kept = kept_in(tmp_path)
    put(kept, 1)
    put(kept, 2)
    one, two = path_of(tmp_path, 1), path_of(tmp_path, 2)
    one.rename(tmp_path / "aside")
    two.rename(one)
    (tmp_path / "aside").rename(two)
    assert get(kept, 1) is None
    assert get(kept, 2) is None


def test_a_unit_for_another_worker_is_sent_as_it_lies_there(tmp_path: Path) -> None:
    kept, there = kept_in(tmp_path / "a"), kept_in(tmp_path / "b")
    put(kept, 1)
    sealed = kept.sealed(key_of(1))
    assert sealed == path_of(tmp_path / "a", 1).read_bytes()
    into = bytearray(40)
    there.open(key_of(1), "f16", sealed, memoryview(into))
    assert into == unit_of(key_of(1), "f16")
    path_of(tmp_path / "a", 1).write_bytes(sealed * 2)
    assert kept.sealed(key_of(1)) is None
    assert kept.sealed(key_of(9)) is None


def test_what_is_not_ours_is_left_alone_and_drafts_are_cleared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / key_of(1).hex()).write_bytes(bytes(SIZE))
    directory = tmp_path / "kv"
    kept = kept_in(directory)
    put(kept, 300)
    kept.close()
    strange = [directory / "notes.txt", directory / "00" / "readme", directory / "00" / f"ff{'0' * 30}"]
    for path in strange:
        path.write_text("mine")
    (directory / "0f").symlink_to(outside)
    draft = path_of(directory, 301).with_name(key_of(301).hex() + DRAFT)
    draft.write_bytes(b"half")
    kept = kept_in(directory)
    assert list(kept) == [key_of(300)]
    assert all(path.read_text() == "mine" for path in strange)
    assert list(outside.iterdir()), "links are not followed"
    assert not draft.exists()
    assert "holds 4 entries that are not ours" in caplog.text


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    directory = tmp_path / "home" / "kv"
    put(kept_in(directory), 1)
    for folder in (directory.parent, directory, path_of(directory, 1).parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in (directory / "lock", path_of(directory, 1)):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_directory_is_one_owners_at_a_time(tmp_path: Path) -> None:
    kept = kept_in(tmp_path)
    with pytest.raises(Conflict, match="in use by another process"):
        kept_in(tmp_path)
    kept.close()
    kept_in(tmp_path).close()


def test_a_unit_larger_than_the_budget_is_refused_and_nothing_goes_for_it(tmp_path: Path) -> None:
    kept = kept_in(tmp_path, SIZE)
    put(kept, 1)
    with pytest.raises(OSError, match="more than all may take"):
        put(kept, 2, "q8")
    assert list(kept) == [key_of(1)]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = kept_in(tmp_path)
    write = os.write

    def full(descriptor: int, data: memoryview) -> int:
        if len(data) < 50:
            return write(descriptor, data)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            put(kept, 1)
    assert list(kept) == []
    assert not list(tmp_path.glob("??/*"))
    put(kept, 1)
    assert get(kept, 1) == unit_of(key_of(1), "f16")


def test_free_space_bounds_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = kept_in(tmp_path, 100 * SIZE)
    put(kept, 1)
    kept.close()
    usage = type("Usage", (), {"free": 8 * SIZE})
    monkeypatch.setattr("actors.worker.kept.shutil.disk_usage", lambda path: usage)
    assert kept_in(tmp_path, 100 * SIZE).budget == 3 * SIZE, "what is there, and a quarter of what is free"


def test_damage_by_the_thousand_warns_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = kept_in(tmp_path)
    for number in range(5):
        put(kept, number)
        path_of(tmp_path, number).write_bytes(bytes(SIZE))
    with caplog.at_level(logging.WARNING):
        assert [get(kept, number) for number in range(5)] == [None] * 5
    assert len(caplog.records) == 1


def test_others_may_read_while_units_come_and_go(tmp_path: Path) -> None:
    kept = kept_in(tmp_path, 5 * SIZE)
    done = threading.Event()

    def read(seed: int) -> int:
        numbers, found = random.Random(seed), 0
        while not done.is_set():
            key = next(iter(kept), key_of(numbers.randrange(300)))
            if (sealed := kept.sealed(key)) is not None:
                into = bytearray(40)
                kept.open(key, "f16", sealed, memoryview(into))
                assert into == unit_of(key, "f16")
                found += 1
        return found

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read, seed) for seed in range(3)]
        for number in range(300):
            put(kept, number)
        done.set()
        assert sum(reader.result(10) for reader in readers) > 0
    assert kept.nbytes == 5 * SIZE
    assert [cause for _, cause in kept.gone()] == ["evicted"] * 295
