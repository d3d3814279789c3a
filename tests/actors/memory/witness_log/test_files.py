"""Signed heads: a history written anew does not agree with them, and a cut end is shorter than they say."""

import json

import pytest

from actors.base.keys import Keyring
from actors.memory.chain import Head, append, draft
from actors.memory.store import Where
from actors.memory.witness_log.files import SignedHeads
from protos.gen.memory_pb2 import WitnessEntry


def entries(first: int, end: int, **more) -> list[WitnessEntry]:
    return [WitnessEntry(id=f"r{at}", tenant="acme", **more) for at in range(first, end)]


async def test_heads_are_signed_every_so_many_entries_and_at_the_end(opening, tmp_path):
    elsewhere = tmp_path / "mount" / "heads"
    elsewhere.parent.mkdir()
    async with opening(witness_sign_every=10, witness_batch=5, witness_heads_file=elsewhere) as log:
        await log.add(*entries(0, 25))
        assert [json.loads(line)["entries"] for line in elsewhere.read_text().splitlines()] == [10, 20]
    assert [json.loads(line)["entries"] for line in elsewhere.read_text().splitlines()] == [10, 20, 25]
    async with opening(witness_heads_file=elsewhere) as log:
        reply = log.verify()
        assert (reply.sound, reply.signed_heads) == (True, 3)


async def test_a_history_written_anew_with_the_key_does_not_agree(opening, tmp_path):
    """Whoever has the store and the key can make a chain that holds in itself, and a sealed head for it."""
    async with opening() as log:
        await log.add(*entries(0, 10))
    async with opening() as log:
        head, points = Head(), []
        for each in entries(0, 10, model="innocent"):
            head, point = append(head, draft(each, 6))
            points.append(point)
        log.collection.upsert(points)
        log.files.head.put(head)
        log.writer.head = head
        reply = log.verify()
        assert (reply.sound, reply.broken_at, reply.broken_id) == (False, 9, "r9")
        assert "is not the one that was signed" in reply.problem


async def test_an_end_cut_with_the_sealed_head_is_noticed(opening, tmp_path):
    async with opening() as log:
        await log.add(*entries(0, 5))
        early = (tmp_path / "witness.head").read_bytes()
        await log.add(*entries(5, 10))
    (tmp_path / "witness.head").write_bytes(early)
    async with opening() as log:
        late = log.collection.scan(Where(between={"sequence": (5, None)}), 100, "sequence")
        log.collection.delete([each.id for each in late])
    async with opening() as log:
        reply = log.verify()
        assert (reply.sound, reply.broken_at) == (False, 5)
        assert reply.problem == "entries 5 to 9 are missing: 10 were signed"


@pytest.mark.parametrize("how", ["entries", "hash", "signature", "garble"])
async def test_a_changed_line_is_named(opening, tmp_path, how):
    async with opening() as log:
        await log.add(*entries(0, 5))
    path = tmp_path / "witness.heads"
    row = json.loads(path.read_text())
    row |= {"entries": {"entries": 4}, "hash": {"hash": "00" * 32}}.get(how, {})
    if how == "signature":
        row["signature"] = row["signature"][:-2] + ("00" if row["signature"][-2:] != "00" else "01")
    path.write_text("no JSON\n" if how == "garble" else json.dumps(row) + "\n")
    async with opening() as log:
        reply = log.verify()
        assert not reply.sound
        assert "line 1 of" in reply.problem


async def test_a_head_that_cannot_be_signed_holds_up_nobody(opening, tmp_path, caplog):
    async with opening(witness_sign_every=1, witness_heads_file=tmp_path / "gone" / "heads") as log:
        await log.add(*entries(0, 3))
        assert log.verify().sound
    assert "was not signed" in caplog.text


def test_a_key_that_is_gone_says_nothing_of_what_it_signed(tmp_path):
    old, new = b"o" * 32, b"n" * 32
    SignedHeads(tmp_path / "heads", Keyring([old])).add(Head(1, b"h" * 32))
    assert list(SignedHeads(tmp_path / "heads", Keyring([new])).read()) == []
    assert list(SignedHeads(tmp_path / "heads", Keyring([old, new])).read()) == [(1, Head(1, b"h" * 32), "")]


async def test_a_removed_entry_is_located_between_its_neighbours(opening):
    async with opening() as log:
        await log.add(*entries(0, 5))
        (third,) = log.collection.scan(Where({"entry_id": "r2"}), 1, "sequence")
        log.collection.delete([third.id])
        assert log.verify().problem == "entry 2 is missing; 3 follows (it came after r1 and before r3)"


async def test_a_kill_is_told_by_the_next_start(opening, tmp_path, caplog):
    async with opening() as log:
        await log.add(*entries(0, 3))
    async with opening() as log:
        assert "was killed" not in caplog.text
    (tmp_path / "witness.open").touch()
    async with opening() as log:
        assert "it goes on after entry 2" in caplog.text
