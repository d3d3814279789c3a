"""The spool: what memory has not written waits on disk, is sent again, and is written once."""

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from actors.base.channel import connect
from actors.base.errors import Conflict, InvalidArgument, Unavailable
from actors.base.keys import Keyring
from actors.base.telemetry import Telemetry
from cluster.gateway.spool import Spool
from protos.gen.memory_pb2 import (
    AppendWitnessReply,
    AppendWitnessRequest,
    QueryWitnessRequest,
    VerifyWitnessRequest,
    WitnessEntry,
)
from protos.gen.memory_pb2_grpc import MemoryStub

KEYRING = Keyring([b"k" * 32])


class Memory:
    """Writes entries by id, and misbehaves as told."""

    def __init__(self) -> None:
        self.written: dict[str, WitnessEntry] = {}
        self.calls: list[int] = []
        self.errors: list[Exception] = []
        self.away = False
        self.loses_answers = 0
        self.room = 10**6
        self.refused = ""
        self.asked = asyncio.Event()

    async def AppendWitness(self, request: AppendWitnessRequest, timeout: float) -> AppendWitnessReply:
        assert request.wait
        self.calls.append(len(request.entries))
        self.asked.set()
        if self.away:
            raise Unavailable("memory is away")
        if any(each.id == self.refused for each in request.entries):
            raise InvalidArgument("no")
        taken = request.entries[: self.room]
        self.written.update((each.id, each) for each in taken)
        if self.loses_answers:
            self.loses_answers -= 1
            raise Unavailable("the answer was lost")
        self.room = 10**6
        return AppendWitnessReply(dropped=len(request.entries) - len(taken))


def entries(first: int, end: int) -> list[WitnessEntry]:
    return [WitnessEntry(id=f"r{at}", time_ms=1000 * at, query_text="marzipan") for at in range(first, end)]


def spool_of(directory: Path, memory: Any, most: int = 1 << 20) -> Spool:
    return Spool(directory, KEYRING, memory, most, Telemetry("gateway"))


def lost(spool: Spool) -> float:
    return spool._dropped._value.get()


async def settled(spool: Spool) -> None:
    await asyncio.wait_for(spool.flush(), 20)


async def test_what_memory_does_not_take_waits_and_is_sent_once_it_is_back(tmp_path, caplog):
    memory = Memory()
    memory.away = True
    spool = spool_of(tmp_path, memory)
    await spool.start()
    await spool.put(entries(0, 3))
    await spool.put(entries(3, 5))
    await asyncio.wait_for(memory.asked.wait(), 10)
    assert not any(b"marzipan" in path.read_bytes() for path in tmp_path.iterdir())
    memory.away = False
    await settled(spool)
    assert list(memory.written) == [f"r{at}" for at in range(5)]
    assert not list(tmp_path.glob("*.entries"))
    assert re.search(r"wait: \d, from r0 \(1970-01-01T00:00:00.000\+00:00\) to r\d", caplog.text)
    assert "memory is back" in caplog.text
    await spool.stop(1)


async def test_a_gateway_that_ends_leaves_it_to_the_next(tmp_path):
    memory = Memory()
    memory.away = True
    first = spool_of(tmp_path, memory)
    await first.start()
    await first.put(entries(0, 3))
    await first.stop(0.01)
    memory.away = False
    second = spool_of(tmp_path, memory)
    await second.start()
    await second.put(entries(3, 4))
    await settled(second)
    assert list(memory.written) == ["r0", "r1", "r2", "r3"]
    await second.stop(1)


async def test_an_answer_that_was_lost_is_asked_for_again(tmp_path):
    memory = Memory()
    memory.loses_answers = 2
    spool = spool_of(tmp_path, memory)
    await spool.start()
    await spool.put(entries(0, 3))
    await settled(spool)
    assert memory.calls == [3, 3, 3]
    await spool.stop(1)


async def test_what_a_full_queue_has_no_room_for_is_sent_again(tmp_path):
    memory = Memory()
    memory.room = 1
    spool = spool_of(tmp_path, memory)
    await spool.start()
    await spool.put(entries(0, 3))
    await settled(spool)
    assert sorted(memory.written) == ["r0", "r1", "r2"]
    assert lost(spool) == 0
    await spool.stop(1)


async def test_one_that_memory_refuses_takes_no_other_with_it(tmp_path, caplog):
    memory = Memory()
    memory.refused = "r2"
    spool = spool_of(tmp_path, memory)
    await spool.start()
    await spool.put(entries(0, 5))
    await settled(spool)
    assert sorted(memory.written) == ["r0", "r1", "r3", "r4"]
    assert lost(spool) == 1
    assert "refuses witness entry r2" in caplog.text
    await spool.stop(1)


async def test_past_its_size_the_oldest_go_counted_and_named(tmp_path, caplog):
    memory = Memory()
    memory.away = True
    spool = spool_of(tmp_path, memory, most=1000)
    await spool.start()
    for at in range(40):
        await spool.put(entries(at, at + 1))
    memory.away = False
    await settled(spool)
    assert lost(spool) == 40 - len(memory.written) > 0
    assert list(memory.written) == [f"r{at}" for at in range(40 - len(memory.written), 40)]
    assert re.search(r"entries are lost, for more than 1000 bytes waited: \d, from r0", caplog.text)
    await spool.stop(1)


async def test_a_directory_belongs_to_one_gateway(tmp_path):
    spool = spool_of(tmp_path, Memory())
    await spool.start()
    with pytest.raises(Conflict, match="another gateway"):
        await spool_of(tmp_path, Memory()).start()
    await spool.stop(1)


async def test_a_file_that_does_not_open_is_put_aside(tmp_path, caplog):
    (tmp_path / "0000000000000007.entries").write_bytes(b"nonsense" * 10)
    memory = Memory()
    spool = spool_of(tmp_path, memory)
    await spool.start()
    await spool.put(entries(0, 1))
    await settled(spool)
    assert list(memory.written) == ["r0"]
    assert (tmp_path / "0000000000000007.unreadable").exists()
    await spool.stop(1)


async def start_memory(directory: Path) -> asyncio.subprocess.Process:
    """A real memory actor, in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.benchmarks.memory", str(directory), "768"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 120)
    return process


async def test_memory_killed_again_and_again_has_every_entry_once(home):
    """Its process dies by SIGKILL in the middle of a stream of entries; the chain holds, and nothing is lost."""
    directory = home / "memory"
    process = await start_memory(directory)
    channel = connect(f"unix:{home}/m768.sock")
    stub = MemoryStub(channel)
    spool = spool_of(home / "spool", stub)
    await spool.start()
    sent = 0
    for _ in range(2):
        for _ in range(10):
            await spool.put([WitnessEntry(id=f"r{at}", tenant="t", time_ms=at) for at in range(sent, sent + 15)])
            sent += 15
        process.kill()
        await process.wait()
        await spool.put([WitnessEntry(id=f"r{at}", tenant="t", time_ms=at) for at in range(sent, sent + 15)])
        sent += 15
        process = await start_memory(directory)
    await asyncio.wait_for(spool.flush(), 60)
    found = await stub.QueryWitness(QueryWitnessRequest(tenant="t", limit=1000))
    assert sorted(int(each.entry.id[1:]) for each in found.records) == list(range(sent))
    verdict = await stub.VerifyWitness(VerifyWitnessRequest())
    assert (verdict.sound, verdict.entries) == (True, sent)
    await spool.stop(1)
    await channel.close()
    assert process.stdin is not None
    process.stdin.close()
    await asyncio.wait_for(process.wait(), 30)
