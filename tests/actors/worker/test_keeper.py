"""The thread between memory and disk: it answers every job, never writes into a later epoch, and outlives its disk."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from actors.base.keys import Keyring
from actors.base.telemetry import Telemetry
from actors.worker.keeper import Keeper
from actors.worker.kept import Kept
from actors.worker.kept_jobs import Fetched, Load, Save
from actors.worker.results import KeptRecord, merge
from actors.worker.sealed import Sealer, sealed_bytes
from kernels.decoder import KvTier

PAGE, BLOCK = 40, 90
TIERS = (KvTier("f16", 0, 8, 1, PAGE), KvTier("q8", 8, 4, 4, BLOCK))


class Pages:
    """Memory of 8 pages and 4 blocks; `gate` holds a copy up."""

    tiers = TIERS

    def __init__(self) -> None:
        random = np.random.default_rng(1)
        self.units = {unit: random.integers(0, 256, PAGE).astype(np.uint8) for unit in range(8)}
        self.units |= {unit: random.integers(0, 256, BLOCK).astype(np.uint8) for unit in range(8, 24, 4)}
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()

    def read_unit(self, unit: int, into: np.ndarray) -> None:
        self.reached.set()
        assert self.gate.wait(10)
        into[:] = self.units[unit]

    def write_unit(self, unit: int, data: np.ndarray) -> None:
        self.reached.set()
        assert self.gate.wait(10)
        self.units[unit] = data.copy()


class Running:
    """A keeper at work, and what it told."""

    def __init__(self, directory: Path, budget: int = 100 * sealed_bytes(BLOCK)) -> None:
        self.memory, self.telemetry = Pages(), Telemetry("worker")
        sealer = Sealer(Keyring([b"k" * 32]), "maker")
        self.kept = Kept(directory, sealer, {tier.format: tier.unit_bytes for tier in TIERS}, budget)
        self.keeper = Keeper(self.kept, self.memory, self.telemetry)  # type: ignore[arg-type]
        self.records: list[KeptRecord] = []
        self.asked: list[tuple[tuple[str, ...], list[Load], int]] = []
        self.answer: Callable[[Fetched], None]
        self._told = threading.Condition()
        self.keeper.reset(1)

    def start(self) -> "Running":
        self.keeper.start(self._tell, self._ask)
        return self

    def _tell(self, record: KeptRecord) -> None:
        with self._told:
            self.records.append(record)
            self._told.notify()

    def _ask(self, addresses: tuple[str, ...], loads: list[Load], most: int, answer: Callable[[Fetched], None]) -> None:
        with self._told:
            self.answer = answer
            self.asked.append((addresses, loads, most))
            self._told.notify()

    def until(self, holds: Callable[[], bool]) -> None:
        with self._told:
            assert self._told.wait_for(holds, timeout=10)

    def heard(self) -> tuple[dict[bytes, bool], list[int], list[int]]:
        kept: dict[bytes, bool] = {}
        for record in self.records:
            kept |= record.kept
        return (
            kept,
            sorted(unit for record in self.records for unit in record.loaded),
            sorted(unit for record in self.records for unit in record.unloaded),
        )

    def metrics(self) -> str:
        return self.telemetry.render().decode()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    it = Running(tmp_path).start()
    yield it
    it.memory.gate.set()
    it.keeper.stop()


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def save(unit: int, number: int | None = None, epoch: int = 1) -> Save:
    return Save(epoch, unit, key(unit if number is None else number))


def load(unit: int, number: int, *sources: str, epoch: int = 1) -> Load:
    return Load(epoch, unit, key(number), sources)


def test_units_come_back_as_they_were_saved(running: Running) -> None:
    before = {unit: data.copy() for unit, data in running.memory.units.items()}
    running.keeper.submit([save(0), save(8)])
    running.until(lambda: running.heard()[0] == {key(0): True, key(8): True})
    running.keeper.submit([load(5, 0), load(12, 8), load(6, 77)])
    running.until(lambda: running.heard()[1:] == ([5, 12], [6]))
    assert running.heard()[0] == {key(0): True, key(8): True, key(77): False}
    assert (running.memory.units[5] == before[0]).all()
    assert (running.memory.units[12] == before[8]).all()
    assert (running.memory.units[6] == before[6]).all()
    assert sum(record.load_bytes for record in running.records) == PAGE + BLOCK
    assert sum(record.load_seconds for record in running.records) > 0
    metrics = running.metrics()
    assert f"russet_kv_disk_bytes {running.kept.nbytes}.0" in metrics
    assert "russet_kv_saved_total 2.0" in metrics
    assert 'russet_kv_loaded_total{source="disk"} 2.0' in metrics
    assert 'russet_kv_lost_total{reason="absent"} 1.0' in metrics
    assert 'russet_kv_disk_seconds_count{operation="save"} 2.0' in metrics


def test_what_goes_for_others_and_what_is_damaged_is_told(tmp_path: Path) -> None:
    it = Running(tmp_path, 2 * sealed_bytes(PAGE)).start()
    it.keeper.submit([save(0), save(1), save(2)])
    it.until(lambda: it.heard()[0] == {key(0): False, key(1): True, key(2): True})
    for file in tmp_path.glob(f"??/{key(2).hex()}"):
        file.write_bytes(bytes(sealed_bytes(PAGE)))
    it.keeper.submit([load(4, 2)])
    it.until(lambda: it.heard()[2] == [4])
    assert it.heard()[0][key(2)] is False
    metrics = it.metrics()
    assert 'russet_kv_lost_total{reason="evicted"} 1.0' in metrics
    assert 'russet_kv_lost_total{reason="damaged"} 1.0' in metrics
    assert 'reason="absent"' not in metrics, "it is counted once"
    it.keeper.stop()


def test_a_key_that_is_kept_already_is_not_read_again(running: Running) -> None:
    running.keeper.submit([save(0, 5)])
    running.until(lambda: running.heard()[0] == {key(5): True})
    running.memory.reached.clear()
    running.keeper.submit([save(1, 5)])
    running.until(lambda: len(running.records) == 2)
    assert running.records[1].kept == {key(5): True}
    assert not running.memory.reached.is_set()


def test_a_key_that_is_being_saved_is_not_told_as_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler would take it for the answer to the save, and give the unit to another before it is read."""
    monkeypatch.setattr("actors.worker.keeper.TELL_S", 0)
    it = Running(tmp_path, 2 * sealed_bytes(PAGE))
    it.keeper.submit([save(0), save(1)])
    it.start()
    it.until(lambda: len(it.heard()[0]) == 2)
    it.memory.gate.clear()
    it.memory.reached.clear()
    it.keeper.submit([save(2)])
    assert it.memory.reached.wait(10)
    it.keeper.submit([save(3, 0), load(5, 0), load(6, 99)])
    it.keeper._kept._evict(0)  # as if room were made just now
    it.memory.gate.set()
    it.until(lambda: it.heard()[2] == [5, 6] and it.heard()[0].get(key(0)) is True)
    assert all(record.kept.get(key(0), True) for record in it.records)
    it.keeper.stop()


def test_nothing_of_an_epoch_happens_in_the_next(running: Running) -> None:
    running.keeper.submit([save(0)])
    running.until(lambda: bool(running.heard()[0]))
    running.memory.gate.clear()
    running.memory.reached.clear()
    running.keeper.submit([load(4, 0), load(5, 0), save(1), save(2)])
    assert running.memory.reached.wait(10)
    resetting = threading.Thread(target=running.keeper.reset, args=(2,))
    resetting.start()
    assert resetting.is_alive(), "a copy is under way: the next epoch waits for its end"
    running.memory.gate.set()
    resetting.join()
    untouched = running.memory.units[5].copy()
    running.keeper.submit([save(3, epoch=2)])
    running.until(lambda: any(record.epoch == 2 and key(3) in record.kept for record in running.records))
    assert (running.memory.units[5] == untouched).all()
    assert {key(1), key(2)}.isdisjoint(running.kept)


def test_what_is_read_from_disk_for_an_older_epoch_is_not_written_into_the_next(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.keeper.submit([save(0)])
    running.until(lambda: bool(running.heard()[0]))
    get, reached, go_on = running.kept.get, threading.Event(), threading.Event()

    def slow(*arguments: object) -> bool:
        reached.set()
        assert go_on.wait(10)
        return get(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(running.kept, "get", slow)
    before = running.memory.units[4].copy()
    running.keeper.submit([load(4, 0)])
    assert reached.wait(10)
    running.keeper.reset(2)
    go_on.set()
    running.keeper.submit([save(3, epoch=2)])
    running.until(lambda: any(key(3) in record.kept for record in running.records))
    assert (running.memory.units[4] == before).all()
    assert running.heard()[1:] == ([], []), "nor is it told"


def test_where_an_epoch_only_ends_its_saves_go_on(running: Running) -> None:
    running.memory.gate.clear()
    running.keeper.submit([save(0), save(1), load(4, 9)])
    assert running.memory.reached.wait(10)
    ending = threading.Thread(target=running.keeper.reset, args=(1,))
    ending.start()
    running.memory.gate.set()
    ending.join()
    running.keeper.stop()
    assert set(running.kept) == {key(0), key(1)}


def test_a_stop_finishes_what_is_to_be_saved(tmp_path: Path) -> None:
    it = Running(tmp_path)
    it.keeper.submit([save(unit) for unit in range(8)])
    it.start()
    it.keeper.stop()
    assert set(it.kept) == {key(unit) for unit in range(8)}
    again = Running(tmp_path)
    assert again.keeper.keys() == b"".join(again.kept), "the directory is free"
    assert len(again.keeper.keys()) == 8 * 16
    again.keeper.stop()


def test_between_saves_it_rests_until_a_load_comes_or_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.worker.keeper.REST", 1e9)
    it = Running(tmp_path)
    it.keeper.submit([save(0), save(1), save(2)])
    it.start()
    it.until(lambda: it.heard()[0] == {key(0): True})
    it.keeper.submit([load(4, 0)])
    it.until(lambda: it.heard() == ({key(0): True, key(1): True}, [4], []))
    it.keeper.stop()
    assert set(it.kept) == {key(0), key(1), key(2)}


def test_a_stop_without_time_leaves_the_rest(tmp_path: Path) -> None:
    it = Running(tmp_path)
    it.memory.gate.clear()
    it.keeper.submit([save(unit) for unit in range(8)])
    it.start()
    assert it.memory.reached.wait(10)
    stopping = threading.Thread(target=it.keeper.stop, args=(0,))
    stopping.start()
    while it.keeper._finish_until is None:
        pass
    it.memory.gate.set()
    stopping.join()
    assert list(it.kept) == [key(0)]
    assert it.records == [], "nobody hears any more"


def test_a_failing_disk_loses_keys_and_nothing_else(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("actors.worker.kept._write", full)
        running.keeper.submit([save(0), save(1)])
        running.until(lambda: running.heard()[0] == {key(0): False, key(1): False})
    assert len(caplog.records) == 1, "one warning a minute"
    assert "No space left" in caplog.text
    running.keeper.submit([save(2)])
    running.until(lambda: running.heard()[0].get(key(2)) is True)
    assert 'russet_kv_lost_total{reason="disk"} 2.0' in running.metrics()


def test_more_jobs_than_units_fail(tmp_path: Path) -> None:
    it = Running(tmp_path)
    it.keeper.submit([save(0, number) for number in range(14)])
    it.start()
    it.until(lambda: len(it.heard()[0]) == 14)
    assert [number for number in range(14) if not it.heard()[0][key(number)]] == [12, 13]
    assert 'russet_kv_lost_total{reason="full"} 2.0' in it.metrics()
    it.keeper.stop()


def test_what_is_not_here_is_asked_for_together_loaded_and_kept(running: Running, tmp_path: Path) -> None:
    there = Running(tmp_path / "there")
    there.kept.put(key(50), "f16", there.memory.units[3].data)
    sealed = there.kept.sealed(key(50))
    running.keeper.submit([load(4, 50, "unix:a"), load(5, 51, "unix:a"), load(6, 52, "unix:a")])
    running.until(lambda: bool(running.asked))
    addresses, loads, most = running.asked[0]
    assert (addresses, [one.unit for one in loads]) == (("unix:a",), [4, 5, 6])
    assert most == sealed_bytes(BLOCK)
    taken: list[Future[None]] = [Future(), Future(), Future()]
    for one, content, done in zip(loads, (sealed, None, bytes(sealed_bytes(PAGE))), taken, strict=True):
        running.answer(Fetched(one, content, 0.5, done))
    running.until(lambda: running.heard()[1:] == ([4], [5, 6]))
    for done in taken:
        done.result(10)
    assert running.heard()[0] == {key(50): True, key(51): False, key(52): False}
    assert (running.memory.units[4] == there.memory.units[3]).all()
    assert list(running.kept) == [key(50)]
    assert merge(running.records).load_us >= 500_000
    metrics = running.metrics()
    assert 'russet_kv_loaded_total{source="peer"} 1.0' in metrics
    assert 'russet_kv_lost_total{reason="damaged"} 1.0' in metrics
    assert "russet_kv_saved_total 0.0" in metrics, "nobody asked for it to be saved"
    there.keeper.stop()


def test_what_comes_too_late_is_dropped(running: Running) -> None:
    running.keeper.submit([load(4, 50, "unix:a")])
    running.until(lambda: bool(running.asked))
    running.keeper.reset(2)
    before, done = running.memory.units[4].copy(), Future()
    running.answer(Fetched(running.asked[0][1][0], None, 0.5, done))
    done.result(10)
    running.keeper.stop()
    after: Future[None] = Future()
    running.answer(Fetched(running.asked[0][1][0], None, 0.5, after))
    assert after.done()
    assert (running.memory.units[4] == before).all()
    assert not [record for record in running.records if record.epoch == 2]
