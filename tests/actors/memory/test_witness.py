"""The witness log: in batches, exactly once, and every way to tamper with it is located."""

import base64
import re

import pytest

from actors.base.errors import InvalidArgument
from actors.memory.chain import point_id
from actors.memory.store import Entry
from protos.gen.memory_pb2 import (
    AppendWitnessRequest,
    Latency,
    QueryWitnessRequest,
    VerifyWitnessRequest,
    WitnessEntry,
)

QUESTION = "Who has the key to the vault?"


def entry(at: int, tenant: str = "acme", **more) -> WitnessEntry:
    latency = Latency(total_ms=100.123 * (at + 1))
    return WitnessEntry(id=f"r{at}", tenant=tenant, time_ms=1000 + at, latency=latency, query_text=QUESTION, **more)


async def append(memory, *entries) -> int:
    reply = await memory.stub.AppendWitness(AppendWitnessRequest(entries=entries))
    await memory.service.witness.flush()
    return reply.dropped


async def ids(memory, **query) -> list[str]:
    request = QueryWitnessRequest(tenant=query.pop("tenant", "acme"), **query)
    return [record.entry.id for record in (await memory.stub.QueryWitness(request)).records]


async def verify(memory):
    return await memory.stub.VerifyWitness(VerifyWitnessRequest())


async def test_written_once_however_often_it_is_sent(opening):
    async with opening() as memory:
        await append(memory, *(entry(at) for at in range(5)))
        await append(memory, *(entry(at) for at in range(3, 7)))
        assert await ids(memory) == [f"r{at}" for at in reversed(range(7))]
        reply = await verify(memory)
        assert (reply.sound, reply.entries) == (True, 7)


async def test_the_chain_goes_on_after_a_restart(opening):
    async with opening() as memory:
        await append(memory, entry(0), entry(1))
        head = (await verify(memory)).head
    async with opening() as memory:
        assert (await verify(memory)).head == head
        await append(memory, entry(2))
        reply = await verify(memory)
        assert (reply.sound, reply.entries) == (True, 3)
        assert reply.head != head


async def test_no_text_is_kept(opening, directory):
    async with opening() as memory:
        await append(memory, entry(0, response_text="marzipan"))
        (record,) = (await memory.stub.QueryWitness(QueryWitnessRequest(tenant="acme"))).records
        assert record.entry.query_text.startswith("sha256:")
    content = b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())
    assert b"acme" in content
    assert b"marzipan" not in content
    assert QUESTION.encode() not in content


async def test_queries(opening):
    async with opening() as memory:
        await append(
            memory, entry(0), entry(1, error="Internal: it broke"), entry(2, quality=0.25), entry(3, tenant="other")
        )
        assert await ids(memory) == ["r2", "r1", "r0"]
        assert await ids(memory, tenant="other") == ["r3"]
        assert await ids(memory, tenant="nobody") == []
        assert await ids(memory, id="r1") == ["r1"]
        assert await ids(memory, errors_only=True) == ["r1"]
        assert await ids(memory, from_ms=1001, to_ms=1001) == ["r1"]
        assert await ids(memory, quality_below=0.5) == ["r2"]
        assert await ids(memory, quality_below=0.25) == []
        assert await ids(memory, slower_than_ms=150) == ["r2", "r1"]
        assert await ids(memory, limit=1) == ["r2"]
        with pytest.raises(InvalidArgument, match="limit 1001"):
            await ids(memory, limit=1001)


@pytest.mark.parametrize(
    ("tamper", "where", "how"),
    [
        ("change", 2, "r2.*was changed"),
        ("tenant", 2, "r2.*was changed in tenant"),
        ("remove", 2, "entry 2 is missing"),
        ("swap", 1, "was changed, or one before it moved"),
        ("cut", 4, "entries 4 to 4 are missing"),
    ],
)
async def test_tampering_is_located(opening, tamper, where, how):
    async with opening() as memory:
        await append(memory, *(entry(at) for at in range(5)))
        assert (await verify(memory)).sound
        collection = memory.service.witness._collection
        stored = {at: collection.get([point_id(f"r{at}")])[0] for at in range(5)}

        def put(at: int, **fields) -> None:
            collection.upsert([Entry(stored[at].id, stored[at].payload | fields)])

        if tamper == "change":
            changed = WitnessEntry.FromString(base64.b64decode(stored[2].payload["blob"]))
            changed.latency.total_ms += 1
            put(2, blob=base64.b64encode(changed.SerializeToString()).decode())
        elif tamper == "tenant":
            put(2, tenant="other")
        elif tamper == "remove":
            collection.delete([stored[2].id])
        elif tamper == "swap":
            put(1, **{**stored[3].payload, "sequence": 1})
            put(3, **{**stored[1].payload, "sequence": 3})
        else:
            collection.delete([stored[4].id])
        reply = await verify(memory)
        assert not reply.sound
        assert reply.broken_at == where
        assert re.search(how, reply.problem), reply.problem


async def test_a_cut_end_is_noticed_after_a_restart_too(opening):
    async with opening() as memory:
        await append(memory, *(entry(at) for at in range(3)))
        memory.service.witness._collection.delete([point_id("r2")])
    async with opening() as memory:
        reply = await verify(memory)
        assert (reply.sound, reply.broken_at) == (False, 2)


async def test_a_full_queue_counts_what_it_drops_and_blocks_nobody(opening):
    async with opening(witness_queue=3, witness_flush_s=60) as memory:
        reply = await memory.stub.AppendWitness(AppendWitnessRequest(entries=[entry(at) for at in range(5)]))
        assert reply.dropped == 2
        assert memory.metric("russet_witness_dropped_total") == 2
        await memory.service.witness.flush()
        assert await ids(memory) == ["r2", "r1", "r0"]


async def test_a_batch_that_failed_is_written_again(opening, monkeypatch):
    async with opening() as memory:
        collection = memory.service.witness._collection
        write, failures = collection.upsert, [OSError("disk full"), OSError("disk full")]

        def fail_twice(entries) -> None:
            if failures:
                raise failures.pop()
            write(entries)

        monkeypatch.setattr(collection, "upsert", fail_twice)
        await append(memory, entry(0), entry(1))
        assert memory.metric("russet_witness_retries_total") == 2
        assert await ids(memory) == ["r1", "r0"]
        assert (await verify(memory)).sound


async def test_what_could_never_be_written_is_refused_at_once(opening):
    async with opening() as memory:
        with pytest.raises(InvalidArgument, match="id of 0"):
            await append(memory, entry(0), WitnessEntry(tenant="acme"))
        assert await ids(memory) == []
