"""Policies: versions, search by type and by meaning, and watchers that miss nothing."""

import asyncio
import json
import threading
import time

import numpy as np
import pytest

from actors.base.errors import InvalidArgument, TooLarge, Unavailable
from actors.memory import edge
from protos.gen.memory_pb2 import (
    DeletePolicyRequest,
    Policy,
    PutPolicyRequest,
    SearchPoliciesRequest,
    WatchPoliciesRequest,
)


def policy(name: str = "p1", **more) -> Policy:
    return Policy(**{"id": name, "type": "pattern", "source": "manual", "confidence": 0.5} | more)


async def put(memory, *args, **more) -> int:
    return (await memory.stub.PutPolicy(PutPolicyRequest(policy=policy(*args, **more)))).version


async def search(memory, **more) -> list[tuple[str, float]]:
    reply = await memory.stub.SearchPolicies(SearchPoliciesRequest(**more))
    return [(each.policy.id, round(each.similarity, 3)) for each in reply.policies]


def direction(*values: float) -> list[float]:
    vector = np.zeros(384)
    vector[: len(values)] = values
    return (vector / np.linalg.norm(vector)).tolist()


@pytest.mark.parametrize("transport", ["inproc", "unix"])
async def test_versions_count_up_and_survive_a_restart(opening, transport):
    async with opening(transport) as memory:
        assert [await put(memory, parameters=json.dumps({"at": at})) for at in range(3)] == [1, 2, 3]
        assert await put(memory, "p2") == 1
        first = (await memory.stub.SearchPolicies(SearchPoliciesRequest(id="p1"))).policies[0].policy
    async with opening(transport) as memory:
        assert await put(memory, version=77) == 4
        after = (await memory.stub.SearchPolicies(SearchPoliciesRequest(id="p1"))).policies[0].policy
        assert json.loads(first.parameters) == {"at": 2}
        assert (after.version, after.created_ms) == (4, first.created_ms)


async def test_search_by_type_id_and_similarity(opening):
    async with opening() as memory:
        await put(memory, "north", embedding=direction(1), created_ms=1)
        await put(memory, "northeast", embedding=direction(1, 1), created_ms=2)
        await put(memory, "east", embedding=direction(0, 1), created_ms=3)
        await put(memory, "router", type="router", embedding=direction(1), created_ms=4)
        assert await search(memory) == [("router", 1), ("east", 1), ("northeast", 1), ("north", 1)]
        assert await search(memory, type="pattern", limit=2) == [("east", 1), ("northeast", 1)]
        assert await search(memory, id="north") == [("north", 1)]
        assert await search(memory, type="router", id="north") == []
        nearest = await search(memory, type="pattern", embedding=direction(1))
        assert nearest == [("north", 1.0), ("northeast", 0.707), ("east", 0.0)]
        assert await search(memory, type="pattern", embedding=direction(1), limit=1) == [("north", 1.0)]


async def test_concurrent_puts_each_get_a_version_of_their_own(opening):
    async with opening() as memory:
        versions = await asyncio.gather(*(put(memory, parameters=json.dumps({"at": at})) for at in range(30)))
        assert sorted(versions) == list(range(1, 31))
        newest = (await memory.stub.SearchPolicies(SearchPoliciesRequest(id="p1"))).policies[0].policy
        assert json.loads(newest.parameters) == {"at": versions.index(30)}


@pytest.mark.parametrize("transport", ["inproc", "unix"])
async def test_watch_gives_all_then_changes_of_the_types_asked_for(opening, transport):
    async with opening(transport) as memory:
        for name in ("a", "b"):
            await put(memory, name)
        await put(memory, "r", type="router")
        stream = memory.stub.WatchPolicies(WatchPoliciesRequest(types=["pattern"]))
        changes = aiter(stream)
        async with asyncio.timeout(20):
            assert {(await anext(changes)).id for _ in range(2)} == {"a", "b"}
            assert (await anext(changes)).id == ""  # That was all.
            await put(memory, "r", type="router")
            await put(memory, "a")
            await put(memory, "c")
            assert [((got := await anext(changes)).id, got.version) for _ in range(2)] == [("a", 2), ("c", 1)]
            stream.cancel()
            while memory.service.policies._watchers:
                await asyncio.sleep(0)


async def test_watch_gives_more_than_one_page(opening):
    async with opening() as memory:
        await asyncio.gather(*(put(memory, f"p{at}") for at in range(1100)))
        seen = set()
        async with asyncio.timeout(20):
            async for each in memory.service.policies.watch([]):
                seen.add(each.id)
                if len(seen) == 1100:
                    break


async def test_a_watcher_that_falls_behind_is_told_so(opening, monkeypatch):
    monkeypatch.setattr("actors.memory.policies.WATCH_BACKLOG", 3)
    async with opening() as memory:
        await put(memory, "first")
        changes = memory.service.policies.watch([])
        assert [(await anext(changes)).id for _ in range(2)] == ["first", ""]
        for at in range(5):
            await put(memory, f"p{at}")
        with pytest.raises(Unavailable, match=r"more than 3 policy changes.*watch again"):
            async for _ in changes:
                pass


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ({"type": "patern"}, "policy type 'patern'; one of quantization, router"),
        ({"type": ""}, "policy type ''"),
        ({"source": "gossip"}, "policy source 'gossip'; one of instant"),
        ({"id": ""}, "id of 0 characters"),
        ({"id": "x" * 257}, "id of 257 characters"),
        ({"confidence": 1.5}, r"confidence 1\.5"),
        ({"confidence": float("nan")}, "confidence nan"),
        ({"parameters": "{"}, "not JSON"),
        ({"parameters": "[1]"}, "a JSON list; accepted: an object"),
        ({"embedding": [1.0]}, "width 1.*384"),
        ({"expires_ms": 1000}, "expires_ms of policy p1 is 1000, which is past"),
    ],
)
async def test_what_is_no_policy_is_refused(opening, broken, named):
    async with opening() as memory:
        with pytest.raises(InvalidArgument, match=named):
            await put(memory, **broken)
        assert await search(memory) == []


async def test_an_id_keeps_its_type(opening):
    async with opening() as memory:
        await put(memory)
        with pytest.raises(InvalidArgument, match="policy p1 is of type pattern, not router"):
            await put(memory, type="router")


async def test_limits_and_unknown_types_are_named(opening):
    async with opening() as memory:
        with pytest.raises(TooLarge, match="parameters of policy p1"):
            await put(memory, parameters=json.dumps({"x": "y" * (300 << 10)}))
        with pytest.raises(InvalidArgument, match="limit 100000"):
            await search(memory, limit=100_000)
        with pytest.raises(InvalidArgument, match="policy type 'nope'"):
            await search(memory, type="nope")
        with pytest.raises(InvalidArgument, match="policy type 'nope'"):
            async for _ in memory.stub.WatchPolicies(WatchPoliciesRequest(types=["nope"])):
                pass


async def told(changes, number: int) -> list[tuple[str, int, bool]]:
    async with asyncio.timeout(20):
        return [((each := await anext(changes)).id, each.version, each.gone) for _ in range(number)]


async def test_what_is_deleted_is_gone_for_all_and_begins_anew(opening):
    async with opening() as memory:
        await put(memory, "a")
        await put(memory, "a")
        await put(memory, "b")
        changes = memory.service.policies.watch(["pattern"])
        assert len(await told(changes, 3)) == 3
        assert (await memory.stub.DeletePolicy(DeletePolicyRequest(id="a"))).found
        assert not (await memory.stub.DeletePolicy(DeletePolicyRequest(id="a"))).found
        assert await put(memory, "a") == 1
        assert await told(changes, 2) == [("a", 2, True), ("a", 1, False)]
        assert sorted(name for name, _ in await search(memory)) == ["a", "b"]
        with pytest.raises(InvalidArgument, match="id of 0 characters"):
            await memory.stub.DeletePolicy(DeletePolicyRequest())


def soon(seconds: float) -> int:
    return int((time.time() + seconds) * 1000)


async def test_a_policy_holds_until_it_expires(opening, monkeypatch):
    async with opening() as memory:
        changes = memory.service.policies.watch([])
        assert await told(changes, 1) == [("", 0, False)]
        await put(memory, "kept")
        await put(memory, "renewed", expires_ms=soon(300))
        await put(memory, "renewed", expires_ms=soon(7200))
        await put(memory, "short", expires_ms=soon(300))
        puts = [("kept", 1, False), ("renewed", 1, False), ("renewed", 2, False), ("short", 1, False)]
        assert await told(changes, 4) == puts
        hour = time.time() + 3600
        monkeypatch.setattr("actors.memory.policies.time.time", lambda: hour)
        assert await search(memory, id="short") == []
        await put(memory, "wakes", expires_ms=soon(7200))
        assert sorted(await told(changes, 2)) == [("short", 1, True), ("wakes", 1, False)]
        assert sorted(name for name, _ in await search(memory)) == ["kept", "renewed", "wakes"]


async def test_what_expires_while_memory_is_away_is_forgotten_when_it_is_back(opening, monkeypatch):
    async with opening() as memory:
        await put(memory, "short", expires_ms=soon(300))
        await put(memory, "kept")
    hour = time.time() + 3600
    monkeypatch.setattr("actors.memory.policies.time.time", lambda: hour)
    async with opening() as memory:
        changes = memory.service.policies.watch([])
        assert await told(changes, 2) == [("kept", 1, False), ("", 0, False)]
        assert await search(memory) == [("kept", 1)]


async def test_a_search_of_many_entries_leaves_the_loop_to_others(opening, monkeypatch):
    """A small collection in memory is searched where the request is: to hand it over would take longer."""
    async with opening() as memory:
        await put(memory, embedding=direction(1))
        collection = memory.service.policies._collection
        searched_in: list[int] = []
        plain = collection.search

        def search(*args):
            searched_in.append(threading.get_ident())
            return plain(*args)

        monkeypatch.setattr(collection, "search", search)
        request = SearchPoliciesRequest(embedding=direction(1))
        await memory.stub.SearchPolicies(request)
        monkeypatch.setattr(edge, "ON_LOOP", 0)
        await memory.stub.SearchPolicies(request)
        assert searched_in[0] == threading.get_ident() != searched_in[1]
