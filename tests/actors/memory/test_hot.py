"""The hot tier away: sessions go on from disk, the graph says Unavailable, and a dead Valkey is started again."""

import asyncio
import signal

import psutil
import pytest

from actors.base.errors import Conflict, Unavailable
from actors.memory.hot_server import EmbeddedServer
from protos.gen.memory_pb2 import (
    AppendWitnessRequest,
    DeleteSessionRequest,
    EdgeUpdate,
    GetSessionRequest,
    NeighboursRequest,
    PutSessionRequest,
    Session,
    StatusRequest,
    UpdateEdgesRequest,
    WitnessEntry,
)

EDGE = UpdateEdgesRequest(updates=[EdgeUpdate(source="n", target="a", kind="used", factor=1, add=0.25)])


async def put(memory, model: str) -> None:
    await memory.stub.PutSession(PutSessionRequest(session=Session(session_id="s", tenant="acme", model=model)))


async def get(memory) -> str:
    return (await memory.stub.GetSession(GetSessionRequest(tenant="acme", session_id="s"))).session.model


def kill(process: psutil.Process) -> None:
    process.kill()
    psutil.wait_procs([process], timeout=10)


async def recovered(memory) -> None:
    """Return when the start that a failure set off is over."""
    await asyncio.wait_for(asyncio.shield(memory.service.hot._reviving), 20)


@pytest.mark.parametrize("transport", ["inproc", "unix"])
async def test_a_killed_valkey_is_started_again(opening, transport):
    async with opening(transport) as memory:
        await put(memory, "before")
        # By default up to two seconds of edges die with it.
        await memory.service.hot.ask(lambda client: client.config_set("appendfsync", "always"))
        await memory.stub.UpdateEdges(EDGE)
        dead = memory.valkey
        kill(dead)
        with pytest.raises(Unavailable, match=r"hot tier .* does not answer") as raised:
            await memory.stub.UpdateEdges(EDGE)
        assert raised.value.retry_after_s
        await recovered(memory)
        assert memory.valkey.pid != dead.pid
        assert memory.metric("russet_hot_restarts_total") == 1
        await memory.stub.UpdateEdges(EDGE)
        edges = (await memory.stub.Neighbours(NeighboursRequest(node="n"))).edges
        assert [edge.weight for edge in edges] == [pytest.approx(0.5, abs=1e-4)]
        assert await get(memory) == "before"


async def test_sessions_go_on_from_disk_and_no_old_copy_comes_back(opening):
    """A hung server answers late or never; what it still holds must not be read when it wakes."""
    async with opening() as memory:
        await put(memory, "old")
        memory.valkey.send_signal(signal.SIGSTOP)
        await put(memory, "new")
        assert await get(memory) == "new"
        await recovered(memory)
        assert await get(memory) == "new"
        assert memory.metric("russet_hot_outages_total") >= 1


async def test_a_session_deleted_during_the_outage_stays_deleted(opening):
    async with opening() as memory:
        await put(memory, "old")
        kill(memory.valkey)
        assert (await memory.stub.DeleteSession(DeleteSessionRequest(tenant="acme", session_id="s"))).found
        await recovered(memory)
        reply = await memory.stub.GetSession(GetSessionRequest(tenant="acme", session_id="s"))
        assert not reply.HasField("session")


async def test_witness_and_status_need_no_hot_tier(opening):
    async with opening() as memory:
        await memory.stub.UpdateEdges(EDGE)
        assert (await memory.stub.Status(StatusRequest())).edges == 1
        kill(memory.valkey)
        await memory.stub.AppendWitness(AppendWitnessRequest(entries=[WitnessEntry(id="r1", tenant="acme")]))
        await memory.service.witness.flush()
        status = await memory.stub.Status(StatusRequest())
        assert (status.witness_entries, status.edges) == (1, 1)


async def test_stop_with_a_dead_valkey_leaves_nothing(opening, directory):
    async with opening() as memory:
        kill(memory.valkey)
    assert not EmbeddedServer(directory).socket.parent.exists()


async def test_an_external_server_that_is_not_there_is_named(opening, directory):
    url = f"unix://:secret@{directory.parent}/none.sock"
    with pytest.raises(Unavailable, match=r"none\.sock.*check memory\.hot_url") as raised:
        await opening(hot_url=url).__aenter__()
    assert "secret" not in str(raised.value)


async def test_an_external_server_is_used_and_left_running(opening, directory, valkeys_of):
    other = EmbeddedServer(directory.parent / "other")
    await asyncio.to_thread(other.ensure)
    try:
        async with opening(hot_url=f"unix://{other.socket}") as memory:
            await put(memory, "there")
            assert await get(memory) == "there"
            assert not valkeys_of(directory)
        assert len(valkeys_of(directory.parent / "other")) == 1
    finally:
        await asyncio.to_thread(other.stop)


async def test_a_socket_directory_that_others_may_enter_is_refused(opening, directory):
    place = EmbeddedServer(directory).socket.parent
    place.mkdir(mode=0o700)
    place.chmod(0o755)
    with pytest.raises(Conflict, match=r"mode 0755; accepted: owner .* mode 0700"):
        await opening().__aenter__()
