"""A new cluster key: everything opens with it alone once memory is sealed anew, and an old key can go."""

import pytest

from actors.base.errors import InvalidArgument
from actors.base.keys import Keyring, add_key, drop_old_keys, key_ids
from actors.memory.ownership import proven
from actors.memory.resealing import reseal
from protos.gen.memory_pb2 import (
    AppendWitnessRequest,
    GetSessionRequest,
    PutSessionRequest,
    QueryWitnessRequest,
    Session,
    Turn,
    VerifyWitnessRequest,
    WitnessEntry,
)
from tests.actors.memory.conftest import settings


async def fill(memory, name: str) -> None:
    session = Session(
        session_id=name, tenant="acme", turns=[Turn(role="user", content="marzipan")], embedding=[1] * 384
    )
    await memory.stub.PutSession(PutSessionRequest(session=session))
    entry = WitnessEntry(id=name, tenant="acme", time_ms=1000)
    await memory.stub.AppendWitness(AppendWitnessRequest(entries=[entry], wait=True))


async def test_after_a_rotation_the_old_key_can_be_dropped(opening, directory, embedder):
    config = settings(directory)
    key_file = config.key_file
    async with opening() as memory:
        await fill(memory, "s1")
        assert await memory.service.retention.sweep() == 1  # Arrived in 1970: it goes to the archive.
    (old,) = key_ids(key_file)
    add_key(key_file)
    async with opening() as memory:  # New writes under the new key, old ones readable; s2 is in the hot tier too.
        read = await memory.stub.GetSession(GetSessionRequest(tenant="acme", session_id="s1"))
        assert read.session.turns[0].content == "marzipan"
        await fill(memory, "s2")
    assert proven(directory) == old
    done = reseal(config, embedder.width, embedder.model)
    assert (done["sessions"], done["archives"]) == (1, 1)
    assert proven(directory) == key_ids(key_file)[-1] != old
    assert reseal(config, embedder.width, embedder.model)["sessions"] == 0
    assert drop_old_keys(key_file) == 1
    assert old not in key_ids(key_file)
    async with opening() as memory:
        for name in ("s1", "s2"):
            read = await memory.stub.GetSession(GetSessionRequest(tenant="acme", session_id=name))
            assert read.session.turns[0].content == "marzipan"
        verdict = await memory.stub.VerifyWitness(VerifyWitnessRequest())
        assert (verdict.sound, verdict.entries, verdict.archived) == (True, 2, 1)
        found = await memory.stub.QueryWitness(QueryWitnessRequest(tenant="acme", from_ms=1))
        assert [each.entry.id for each in found.records] == ["s2", "s1"]


async def test_a_key_dropped_too_early_is_named(opening, directory):
    config = settings(directory)
    async with opening() as memory:
        await fill(memory, "s1")
    add_key(config.key_file)
    drop_old_keys(config.key_file)
    with pytest.raises(InvalidArgument, match="encrypted with another key"):
        await opening().__aenter__()


def test_renewed_and_known():
    old, new = b"o" * 32, b"n" * 32
    sealed = Keyring([old]).seal(b"text", b"context")
    both = Keyring([old, new])
    renewed = both.renewed(sealed, b"context")
    assert renewed is not None
    assert Keyring([new]).open(renewed, b"context") == b"text"
    assert both.renewed(renewed, b"context") is None
    assert Keyring([new]).knows(renewed)
    assert not Keyring([new]).knows(sealed)
