"""Retention: periods that are over move to the archive, which stays verifiable and searchable; a kill loses nothing."""

import pytest

from actors.base.errors import Internal, InvalidArgument
from actors.memory.chain import GENESIS
from actors.memory.store import Where
from actors.memory.witness_log import retention as module
from actors.memory.witness_log.verification import Broken
from protos.gen.memory_pb2 import WitnessEntry, WitnessStatsRequest


def entry(at: int, **more) -> WitnessEntry:
    """Entry number `at`, which arrived in second `at`."""
    return WitnessEntry(**{"id": f"r{at}", "tenant": "acme", "time_ms": 1000 * at, "error": "marzipan"} | more)


async def filled(log, count: int = 40) -> None:
    await log.add(*(entry(at) for at in range(count)))


def stored(log) -> list[str]:
    return [each.payload["entry_id"] for each in log.collection.scan(Where(), 1000, "sequence")][::-1]


async def test_periods_that_are_over_move_and_the_chain_goes_on(opening, tmp_path):
    async with opening() as log:
        await filled(log)
        head = log.verify().head
        log.now[0] = 125.0  # 100 s are kept: of the periods of 10 s, two are over.
        assert await log.retention.sweep() == 20
        assert stored(log) == [f"r{at}" for at in range(20, 40)]
        assert [(each.first, each.entries, each.from_ms, each.to_ms) for each in log.archive.heads] == [
            (0, 20, 0, 19_000)
        ]
        reply = log.verify()
        assert (reply.sound, reply.entries, reply.first, reply.archived, reply.head) == (True, 40, 0, 20, head)
        assert await log.ids(from_ms=18_000, to_ms=21_000) == ["r21", "r20", "r19", "r18"]
        assert await log.ids(from_ms=18_000, to_ms=21_000, tenant="other") == []
        assert await log.ids(limit=1000) == [f"r{at}" for at in reversed(range(20, 40))]
        assert await log.ids(id="r3", from_ms=1) == ["r3"]
        stats = await log.reader.stats(WitnessStatsRequest(tenant="acme", from_ms=1))
        assert stats.groups[0].entries == 39
        assert await log.retention.sweep() == 0
        assert not any(b"marzipan" in path.read_bytes() for path in (tmp_path / "witness-archive").iterdir())
    async with opening() as log:
        await log.add(entry(40))
        assert (log.verify().sound, log.verify().entries) == (True, 41)
        assert await log.ids(from_ms=19_000, to_ms=20_000) == ["r20", "r19"]


async def test_a_log_of_which_all_was_archived_goes_on_where_it_ended(opening):
    async with opening() as log:
        await filled(log)
        log.now[0] = 1e6
        assert await log.retention.sweep() == 40
    async with opening() as log:
        assert stored(log) == []
        await log.add(entry(40))
        assert log.collection.scan(Where(), 1, "sequence")[0].payload["sequence"] == 40
        assert log.verify().sound


async def test_files_are_bounded_and_follow_each_other(opening, monkeypatch):
    monkeypatch.setattr(module, "MOST_ENTRIES", 15)
    async with opening() as log:
        await filled(log)
        log.now[0] = 1e6
        assert await log.retention.sweep() == 40
        assert [(each.first, each.entries) for each in log.archive.heads] == [(0, 15), (15, 15), (30, 10)]
        assert log.archive.heads[0].previous == GENESIS
        assert log.verify().sound


@pytest.mark.parametrize("step", ["archive", "checkpoint"])
async def test_a_kill_between_two_steps_loses_nothing_and_doubles_nothing(opening, step, monkeypatch):
    everything = [f"r{at}" for at in reversed(range(40))]
    async with opening() as log:
        await filled(log)
        log.now[0] = 125.0

        def killed(*_):
            raise KeyboardInterrupt

        if step == "archive":  # Written; the checkpoint does not say so yet.
            monkeypatch.setattr(log.files.checkpoint, "put", killed)
            with pytest.raises(KeyboardInterrupt):
                log.retention._keep()
        else:  # The checkpoint says so; nothing is removed yet.
            assert log.retention._keep() == 20
        assert await log.ids(from_ms=1, limit=1000) == everything[:-1]
    async with opening() as log:
        assert log.verify().sound
        assert await log.ids(from_ms=1, limit=1000) == everything[:-1]
        log.now[0] = 125.0
        await log.retention.sweep()
        assert stored(log) == [f"r{at}" for at in range(20, 40)]
        assert [(each.first, each.entries) for each in log.archive.heads] == [(0, 20)]
        assert await log.ids(from_ms=1, limit=1000) == everything[:-1]
        assert log.verify().sound


async def test_old_archives_go_and_a_signed_checkpoint_stays(opening):
    async with opening(witness_archive_keep_s=500) as log:
        await filled(log)
        log.now[0] = 125.0
        await log.retention.sweep()
        log.now[0] = 525.0
        await log.retention.sweep()
        assert [(each.first, each.entries) for each in log.archive.heads] == [(20, 20)]
        reply = log.verify()
        assert (reply.sound, reply.first, reply.archived, reply.entries) == (True, 20, 20, 40)
    async with opening() as log:
        assert log.verify().sound


def damage(log, how: str) -> None:
    (path,) = (log.files.directory / "witness-archive").iterdir()
    content = bytearray(path.read_bytes())
    if how == "change":
        content[-1] ^= 1
        path.write_bytes(content)
    elif how == "remove":
        path.unlink()
    else:
        path.rename(path.with_name("0000000000000001.archive"))


@pytest.mark.parametrize(("how", "problem"), [("change", "cannot be read"), ("remove", "cannot be read")])
async def test_a_damaged_archive_is_noticed(opening, how, problem):
    async with opening() as log:
        await filled(log)
        log.now[0] = 125.0
        await log.retention.sweep()
        damage(log, how)
        reply = log.verify()
        assert (reply.sound, reply.broken_at) == (False, 0)
        assert problem in reply.problem
        with pytest.raises(Internal, match="archive"):
            await log.ids(from_ms=1000, to_ms=2000)


async def test_a_removed_archive_is_noticed_after_a_restart(opening):
    async with opening() as log:
        await filled(log)
        log.now[0] = 125.0
        await log.retention.sweep()
    damage(log, "remove")
    async with opening() as log:
        reply = log.verify()
        assert (reply.sound, reply.broken_at, reply.problem) == (False, 0, "the archive of entries 0 to 19 is missing")


async def test_an_archive_under_another_number_does_not_open(opening):
    async with opening() as log:
        await filled(log)
        log.now[0] = 125.0
        await log.retention.sweep()
    damage(log, "rename")
    with pytest.raises(InvalidArgument, match="another cluster key"):
        await opening().__aenter__()


async def test_what_the_chain_does_not_vouch_for_is_not_moved(opening):
    async with opening() as log:
        await filled(log)
        (fifth,) = log.collection.scan(Where({"entry_id": "r5"}), 1, "sequence")
        log.collection.delete([fifth.id])
        log.now[0] = 125.0
        with pytest.raises(Broken, match="entry 5 is missing"):
            await log.retention.sweep()
        assert log.archive.heads == []
        assert len(stored(log)) == 39


async def test_an_entry_of_the_far_future_holds_up_nobody(opening):
    async with opening() as log:
        await log.add(entry(0, time_ms=10**15), *(entry(at) for at in range(1, 5)))
        log.now[0] = 125.0
        assert await log.retention.sweep() == 5
