"""The witness log under faults: stores and embedders that fail, forgeries of every kind, ends that come early."""

import asyncio
import base64
import hashlib
import threading

import pytest

from actors.base.errors import Internal, InvalidArgument
from actors.memory.chain import point_id
from actors.memory.store import Entry, Where
from protos.gen.memory_pb2 import (
    AppendWitnessRequest,
    Latency,
    QueryWitnessRequest,
    StatusRequest,
    VerifyWitnessRequest,
    WitnessEntry,
)


def entry(name: str, **more) -> WitnessEntry:
    return WitnessEntry(**{"id": name, "tenant": "acme", "latency": Latency(total_ms=10.0)} | more)


async def append(memory, *names: str) -> int:
    request = AppendWitnessRequest(entries=[entry(name) for name in names])
    return (await memory.stub.AppendWitness(request)).dropped


async def written(memory, *names: str) -> None:
    assert await append(memory, *names) == 0
    await memory.service.witness.flush()


def collection(memory):
    """The store behind the log's back, as one who tampers has it."""
    return memory.service.witness._collection


def stored(memory) -> list[Entry]:
    """Everything stored, first entry first."""
    return collection(memory).scan(Where(), 1000, "sequence")[::-1]


def names(memory) -> list[str]:
    return [each.payload["entry_id"] for each in stored(memory)]


class Faulty:
    """A store whose writes fail as often as told: before anything was written, or after."""

    def __init__(self, inner, before: int = 0, after: int = 0) -> None:
        self.inner, self.before, self.after = inner, before, after
        self.batches: list[int] = []

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def upsert(self, entries) -> None:
        self.batches.append(len(entries))
        if self.before:
            self.before -= 1
            raise Internal("no space left on device")
        self.inner.upsert(entries)
        if self.after:
            self.after -= 1
            raise Internal("the answer was lost")


def faulty(memory, **how: int) -> Faulty:
    memory.service.witness._collection = store = Faulty(collection(memory), **how)
    return store


async def test_entries_are_written_in_batches(opening):
    async with opening("unix", witness_batch=10, witness_flush_s=30) as memory:
        store = faulty(memory)
        await written(memory, *(f"r{at}" for at in range(25)))
        assert store.batches == [10, 10, 5]
        assert [each.payload["sequence"] for each in stored(memory)] == list(range(25))
        assert memory.metric("russet_witness_written_total") == 25


async def test_a_small_batch_is_written_after_the_flush_time(opening):
    async with opening(witness_flush_s=0.05) as memory:
        log = memory.service.witness
        await append(memory, "r1")
        async with asyncio.timeout(10), log._progress:
            await log._progress.wait_for(lambda: not log.queued)
        assert names(memory) == ["r1"]


async def test_one_who_waits_for_a_small_batch_waits_for_no_others(opening):
    async with opening(witness_flush_s=60) as memory:
        request = AppendWitnessRequest(entries=[WitnessEntry(id="r0")], wait=True)
        await asyncio.wait_for(memory.stub.AppendWitness(request), 20)
        assert names(memory) == ["r0"]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_failed_write_is_repeated_but_not_doubled(opening, when):
    """Also where the store had written and only its answer failed: no entry twice, no number skipped."""
    async with opening() as memory:
        await written(memory, "r0")
        store = faulty(memory, **{when: 1})
        await written(memory, "r1", "r2")
        await written(memory, "r3")
        assert memory.metric("russet_witness_retries_total") == 1
        assert len(store.batches) == (3 if when == "before" else 2)
        assert names(memory) == ["r0", "r1", "r2", "r3"]
        assert (await memory.stub.VerifyWitness(VerifyWitnessRequest())).sound


async def test_drops_are_counted_while_the_writer_stands_still(opening):
    async with opening(witness_queue=5, witness_batch=5) as memory:
        await written(memory, "r0")
        release, store = threading.Event(), faulty(memory)
        write = store.upsert

        def held(entries) -> None:
            assert release.wait(10)
            write(entries)

        store.upsert = held
        async with asyncio.timeout(5):
            assert await append(memory, "a0", "a1", "a2", "a3") == 0
            assert await append(memory, "b0", "b1", "b2", "b3") == 3
            assert await append(memory, "c0") == 1
        status = await memory.stub.Status(StatusRequest())
        assert (status.witness_queued, status.witness_dropped, status.witness_entries) == (5, 4, 1)
        assert memory.metric("russet_witness_dropped_total") == 4
        release.set()
        await memory.service.witness.flush()
        assert names(memory) == ["r0", "a0", "a1", "a2", "a3", "b0"]
        assert await append(memory, "d0") == 0


async def test_what_is_queued_is_written_before_the_end(opening):
    async with opening(witness_flush_s=60) as memory:
        await append(memory, "r0", "r1")
        assert not stored(memory)
    async with opening() as memory:
        assert names(memory) == ["r0", "r1"]


def _replace(memory, old: Entry, **changed) -> None:
    collection(memory).upsert([Entry(old.id, old.payload | changed)])


def _change_the_blob(memory, entries) -> int:
    other = WitnessEntry.FromString(base64.b64decode(entries[4].payload["blob"]))
    other.model = "innocent"
    _replace(memory, entries[4], blob=base64.b64encode(other.SerializeToString()).decode())
    return 4


def _change_the_tenant(memory, entries) -> int:
    _replace(memory, entries[3], tenant="somebody else")
    return 3


def _hide_an_error(memory, entries) -> int:
    _replace(memory, entries[5], failed="maybe")
    return 5


def _add_a_field(memory, entries) -> int:
    _replace(memory, entries[5], quality=1.0)
    return 5


def _change_the_vectors(memory, entries) -> int:
    _replace(memory, entries[5], vectors="00" * 32)
    return 5


def _remove_the_first(memory, entries) -> int:
    collection(memory).delete([entries[0].id])
    return 0


def _swap(memory, entries) -> int:
    first, second = entries[2], entries[7]
    _replace(memory, first, **second.payload | {"sequence": 2})
    _replace(memory, second, **first.payload | {"sequence": 7})
    return 2


def _insert(memory, entries) -> int:
    collection(memory).upsert([Entry(point_id("forged"), entries[4].payload)])
    return 4


def _garble(memory, entries) -> int:
    _replace(memory, entries[1], blob="no base64!")
    return 1


def _cut_the_end(memory, entries) -> int:
    collection(memory).delete([entries[8].id, entries[9].id])
    return 8


FORGERIES = (
    _change_the_blob,
    _change_the_tenant,
    _hide_an_error,
    _add_a_field,
    _change_the_vectors,
    _remove_the_first,
    _swap,
    _insert,
    _garble,
    _cut_the_end,
)


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__[1:])
async def test_a_forgery_is_located_now_and_after_a_restart(opening, forge):
    """Fields that queries filter by are as good as the text: a hidden error is a forgery too."""
    async with opening() as memory:
        await written(memory, *(f"r{at}" for at in range(10)))
        at = forge(memory, stored(memory))
        reply = await memory.stub.VerifyWitness(VerifyWitnessRequest())
        assert (reply.sound, reply.broken_at) == (False, at)
        assert str(at) in reply.problem
    async with opening() as memory:
        await written(memory, "later")
        reply = await memory.stub.VerifyWitness(VerifyWitnessRequest())
        assert (reply.sound, reply.broken_at) == (False, at)


async def test_a_forged_head_is_refused(opening, directory):
    async with opening() as memory:
        await written(memory, "r0")
    (directory / "witness.head").write_bytes(b"forged" * 20)
    with pytest.raises(InvalidArgument, match=r"witness\.head.*restore it"):
        await opening().__aenter__()


async def test_a_text_that_looks_like_a_digest_is_hashed_too(opening):
    text = "sha256:marzipan"
    async with opening() as memory:
        await memory.stub.AppendWitness(AppendWitnessRequest(entries=[entry("r0", response_text=text)]))
        await memory.service.witness.flush()
        kept = (await memory.stub.QueryWitness(QueryWitnessRequest(tenant="acme"))).records[0].entry
        assert kept.response_text == "sha256:" + hashlib.sha256(text.encode()).hexdigest()


async def test_questions_are_found_by_meaning(opening):
    async with opening() as memory:
        asked = [entry("cat", query_text="a cat sleeps"), entry("rates", query_text="interest rates rose")]
        await memory.stub.AppendWitness(AppendWitnessRequest(entries=asked))
        await memory.service.witness.flush()
        await memory.service.witness.embedding.idle()
        near = (await memory.service._embedder.embed(["a kitten naps"]))[0][0].tolist()
        found = collection(memory).search(near, 2, Where())
        assert [each.payload["entry_id"] for each, _ in found] == ["cat", "rates"]
