"""Sessions: through both tiers, encrypted, a tenant's own, and still there after whatever ended memory."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from actors.base.errors import InvalidArgument, TooLarge
from protos.gen.memory_pb2 import (
    DeleteSessionRequest,
    GetSessionRequest,
    ListSessionsRequest,
    PutSessionRequest,
    Session,
    StatusRequest,
    Turn,
    VerifyWitnessRequest,
)

SECRET = "The vault opens at a quarter past nine to the word marzipan."


def session(session_id: str = "s1", tenant: str = "acme", text: str = SECRET, **more) -> Session:
    return Session(session_id=session_id, tenant=tenant, turns=[Turn(role="user", content=text)], **more)


async def put(memory, *args, **more) -> None:
    await memory.stub.PutSession(PutSessionRequest(session=session(*args, **more)))


async def get(memory, session_id: str = "s1", tenant: str = "acme") -> Session | None:
    reply = await memory.stub.GetSession(GetSessionRequest(tenant=tenant, session_id=session_id))
    return reply.session if reply.HasField("session") else None


async def listed(memory, tenant: str = "acme", limit: int = 0) -> list[str]:
    reply = await memory.stub.ListSessions(ListSessionsRequest(tenant=tenant, limit=limit))
    assert not any(each.turns for each in reply.sessions)
    return [each.session_id for each in reply.sessions]


@pytest.mark.parametrize("transport", ["inproc", "unix"])
async def test_put_get_list_delete(opening, transport):
    async with opening(transport) as memory:
        assert await get(memory) is None
        for at, name in enumerate(("a", "b", "c")):
            await put(memory, name, text=f"text {name}", last_active_ms=1000 + at, metadata={"k": name})
        got = await get(memory, "b")
        assert got.turns[0].content == "text b"
        assert got.metadata["k"] == "b"
        assert await listed(memory) == ["c", "b", "a"]
        assert await listed(memory, limit=2) == ["c", "b"]
        delete = DeleteSessionRequest(tenant="acme", session_id="b")
        assert (await memory.stub.DeleteSession(delete)).found
        assert not (await memory.stub.DeleteSession(delete)).found
        assert await get(memory, "b") is None
        assert await listed(memory) == ["c", "a"]


async def test_a_later_put_replaces_but_keeps_when_it_began(opening):
    async with opening() as memory:
        await put(memory, text="first", created_ms=5, last_active_ms=10)
        await put(memory, text="second", created_ms=99, last_active_ms=100)
        got = await get(memory)
        assert (got.turns[0].content, got.created_ms, got.last_active_ms) == ("second", 5, 100)


async def test_only_the_newest_turns_are_kept(opening):
    async with opening(session_turns=3) as memory:
        turns = [Turn(role="user", content=str(at)) for at in range(5)]
        await memory.stub.PutSession(PutSessionRequest(session=Session(session_id="s", tenant="acme", turns=turns)))
        assert [turn.content for turn in (await get(memory, "s")).turns] == ["2", "3", "4"]


async def test_the_system_messages_at_the_beginning_stay(opening):
    async with opening(session_turns=3) as memory:
        turns = [Turn(role="system", content="s"), *(Turn(role="user", content=str(at)) for at in range(5))]
        await memory.stub.PutSession(PutSessionRequest(session=Session(session_id="s", tenant="acme", turns=turns)))
        kept = await get(memory, "s")
        assert [turn.content for turn in kept.turns] == ["s", "3", "4"]
        assert kept.turn_count == 3
        only = [Turn(role="system", content=str(at)) for at in range(5)]
        await memory.stub.PutSession(PutSessionRequest(session=Session(session_id="s", tenant="acme", turns=only)))
        assert [turn.content for turn in (await get(memory, "s")).turns] == ["2", "3", "4"]


async def test_tokens_are_kept_unless_they_are_too_many_and_never_listed(opening):
    async with opening(session_bytes=4096) as memory:
        await put(memory, "small", token_ids=[1, 2, 3])
        await put(memory, "big", token_ids=range(4000))
        assert list((await get(memory, "small")).token_ids) == [1, 2, 3]
        assert (await get(memory, "big")).turns[0].content == SECRET
        assert not (await get(memory, "big")).token_ids
        rows = (await memory.stub.ListSessions(ListSessionsRequest(tenant="acme"))).sessions
        assert [(row.turn_count, len(row.token_ids)) for row in rows] == [(1, 0), (1, 0)]


async def test_a_session_not_used_is_forgotten_in_every_tier(opening):
    async with opening(session_keep_s=100) as memory:
        memory.service.sessions._clock = lambda: 1000.0
        await put(memory, "old", last_active_ms=890_000)
        await put(memory, "used", last_active_ms=890_000)
        await put(memory, "young", last_active_ms=901_000)
        await put(memory, "used")
        assert await memory.service.sessions.sweep() == 1
        assert await get(memory, "old") is None
        assert len(await _keys(memory)) == 2
        assert set(await listed(memory)) == {"used", "young"}
        memory.service.sessions._clock = lambda: 1100.0
        assert await memory.service.sessions.sweep() == 2
        assert (await memory.stub.Status(StatusRequest())).sessions == 0


async def test_past_the_limit_the_one_idle_the_longest_is_forgotten(opening):
    async with opening(session_limit=2) as memory:
        for at, name in enumerate(("a", "b", "a", "c")):
            await put(memory, name, last_active_ms=1000 + at)
        assert await listed(memory) == ["c", "a"]
        await memory.stub.DeleteSession(DeleteSessionRequest(tenant="acme", session_id="a"))
        await put(memory, "d", last_active_ms=2000)
    async with opening(session_limit=2) as memory:
        await put(memory, "e", tenant="other", last_active_ms=3000)
        assert await listed(memory) == ["d"]
        assert await listed(memory, "other") == ["e"]


async def test_a_session_in_use_is_looked_up_without_leaving_the_process(opening):
    async with opening() as memory:
        await put(memory)
        memory.valkey.suspend()
        try:
            assert (await asyncio.wait_for(get(memory), 1)).turns[0].content == SECRET
        finally:
            memory.valkey.resume()
        assert memory.metric("russet_hot_outages_total") == 0


async def test_text_is_encrypted_in_both_tiers(opening, directory):
    async with opening() as memory:
        await put(memory, metadata={"note": "marzipan-metadata"})
        dumped = [await memory.service.hot.ask(lambda client, key=key: client.get(key)) for key in await _keys(memory)]
        assert dumped
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert any("appendonly" in str(path) for path in files)
    for content in [*dumped, *(path.read_bytes() for path in files)]:
        assert SECRET.encode() not in content
        assert b"marzipan" not in content
    # The names that are stored in the clear do show: the search above would have found the text.
    assert any(b"acme" in path.read_bytes() for path in files)


async def _keys(memory) -> list[bytes]:
    return await memory.service.hot.ask(lambda client: client.keys("russet:session:*"))


async def test_the_hot_copy_expires_and_the_persisted_one_answers(opening):
    async with opening(session_idle_s=0.05) as memory:
        await put(memory)
        async with asyncio.timeout(5):
            while await _keys(memory):
                await asyncio.sleep(0.01)
        assert (await get(memory)).turns[0].content == SECRET
        assert len(await _keys(memory)) == 1


async def test_survives_a_restart(opening):
    async with opening() as memory:
        await put(memory)
    async with opening() as memory:
        assert (await get(memory)).turns[0].content == SECRET
        assert await listed(memory) == ["s1"]


async def test_an_older_copy_in_the_hot_tier_is_not_read_after_a_restart(opening):
    async with opening() as memory:
        await put(memory, text="old")
        old = await _keys(memory)
        generation = memory.service.hot.generation
    async with opening() as memory:
        assert await _keys(memory) == old
        assert memory.service.hot.generation != generation
        await put(memory, text="new")
        assert (await get(memory)).turns[0].content == "new"


async def test_another_key_file_is_refused(opening, directory):
    async with opening() as memory:
        await put(memory)
    key = directory.parent / "cluster.key"
    kept = key.with_name("kept.key")
    key.rename(kept)
    with pytest.raises(InvalidArgument, match=rf"its key {key} is missing"):
        await opening().__aenter__()
    assert not key.exists()
    other = directory.parent / "other.key"
    async with opening(directory=directory.parent / "elsewhere", key_file=other):
        pass
    with pytest.raises(InvalidArgument, match=rf"another key than {other}"):
        await opening(key_file=other).__aenter__()
    # A rotated key file opens what the older key sealed.
    key.write_bytes(kept.read_bytes() + other.read_bytes())
    key.chmod(0o600)
    async with opening() as memory:
        assert (await get(memory)).turns[0].content == SECRET


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ({"session_id": ""}, "session_id"),
        ({"session_id": "x" * 257}, "session_id of 257"),
        ({"tenant": "x" * 257}, "tenant of 257"),
        ({"model": "x" * 257}, "model of 257"),
        ({"metadata": {str(at): "" for at in range(17)}}, "17 pairs"),
        ({"metadata": {"k": "v" * 513}}, "513 characters"),
        ({"embedding": [1.0] * 7}, "width 7.*384"),
        ({"embedding": [float("nan")] * 384}, "not finite"),
    ],
)
async def test_what_is_out_of_bounds_is_refused_by_name(opening, broken, named):
    async with opening() as memory:
        with pytest.raises(InvalidArgument, match=named):
            await put(memory, **broken)
        assert (await memory.service.sessions.list("acme", 10)) == []


async def test_a_session_past_the_size_limit_is_refused_by_name(opening):
    async with opening(session_bytes=4096) as memory:
        await put(memory, "small", text="x" * 3000)
        with pytest.raises(TooLarge, match=r"session big of 5\d\d\d bytes.*4096.*memory.session_bytes"):
            await put(memory, "big", text="x" * 5000)
        assert await listed(memory) == ["small"]
        with pytest.raises(InvalidArgument, match="limit 1001"):
            await listed(memory, limit=1001)


NAMES = st.text(st.sampled_from("ab/:\0é"), min_size=1, max_size=3)
STEPS = st.lists(st.tuples(st.sampled_from(("put", "get", "delete")), NAMES, NAMES), max_size=12)
SAME_CHARACTERS = [("put", "a", "b\0a"), ("get", "a\0b", "a"), ("put", "a\0b", "a"), ("delete", "a", "b\0a")]


async def test_tenants_never_see_each_others(opening):
    """Whatever the names, separators included: only the tenant that put a session gets, lists or deletes it."""
    async with opening() as memory:

        async def run(steps: list[tuple[str, str, str]]) -> None:
            expected: dict[tuple[str, str], str] = {}
            for at, (what, tenant, name) in enumerate(steps):
                if what == "put":
                    expected[tenant, name] = f"{tenant}'s {at}"
                    await put(memory, name, tenant, expected[tenant, name])
                elif what == "delete":
                    reply = await memory.stub.DeleteSession(DeleteSessionRequest(tenant=tenant, session_id=name))
                    assert reply.found == (expected.pop((tenant, name), None) is not None)
                got = await get(memory, name, tenant)
                assert (got.turns[0].content if got else None) == expected.get((tenant, name))
                assert set(await listed(memory, tenant)) == {mine for owner, mine in expected if owner == tenant}
            for tenant, name in expected:
                await memory.stub.DeleteSession(DeleteSessionRequest(tenant=tenant, session_id=name))

        loop = asyncio.get_running_loop()

        @hypothesis_settings(max_examples=40, suppress_health_check=list(HealthCheck), database=None)
        @example(SAME_CHARACTERS)
        @given(STEPS)
        def holds(steps: list[tuple[str, str, str]]) -> None:
            asyncio.run_coroutine_threadsafe(run(steps), loop).result(60)

        await asyncio.to_thread(holds)


SERVE = """
import asyncio, sys
sys.path.insert(0, {repository!r})
from pathlib import Path
from actors.base.telemetry import Telemetry
from actors.memory.config import MemoryConfig
from actors.memory.service import MemoryService
from protos.gen import memory_pb2

async def main():
    directory = Path(sys.argv[1])
    config = MemoryConfig(directory=directory, key_file=directory.parent / "cluster.key")
    service = MemoryService(config, Telemetry("memory"))
    await service.start()
    turns = [memory_pb2.Turn(role="user", content="before the kill")]
    await service.sessions.put(memory_pb2.Session(session_id="s1", tenant="acme", turns=turns))
    service.witness.append([memory_pb2.WitnessEntry(id="r1", tenant="acme")])
    await service.witness.flush()
    edge = memory_pb2.EdgeUpdate(source="session:a", target="pattern:p", kind="used", add=0.5)
    await service.graph.update(memory_pb2.UpdateEdgesRequest(tenant="acme", updates=[edge]))
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_survives_a_kill_and_adopts_the_orphan(opening, directory, valkeys_of):
    """SIGKILL leaves the Valkey behind; the next start takes it over, and its stop ends it."""
    program = SERVE.format(repository=str(Path(__file__).parents[3]))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(directory), stdout=asyncio.subprocess.PIPE
    )
    assert await process.stdout.readline() == b"ready\n"
    (orphan,) = valkeys_of(directory)
    process.kill()
    assert await process.wait() == -signal.SIGKILL
    assert orphan.is_running()
    async with opening() as memory:
        assert memory.valkey.pid == orphan.pid
        assert (await get(memory)).turns[0].content == "before the kill"
        assert memory.service.witness.head.next_sequence == 1
        assert await memory.service.graph.edges.count() == 1
        assert (await memory.stub.VerifyWitness(VerifyWitnessRequest())).sound
    assert not valkeys_of(directory)
    assert not memory.service.hot.server.socket.parent.exists()
