"""Queries: failures like one, spikes, aggregates; store and archive answer alike, and no tenant sees another's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.base.errors import InvalidArgument, NotFound
from actors.memory.witness_log import reading
from actors.memory.witness_log.reading import matches
from protos.gen.memory_pb2 import (
    Latency,
    QueryWitnessRequest,
    SimilarWitnessRequest,
    SlowWitnessRequest,
    WitnessEntry,
    WitnessStatsRequest,
)


def entry(name: str, total_ms: float = 10.0, **more) -> WitnessEntry:
    return WitnessEntry(**{"id": name, "tenant": "acme", "model": "m", "latency": Latency(total_ms=total_ms)} | more)


async def similar(log, **asked) -> list[tuple[str, str]]:
    request = SimilarWitnessRequest(**{"tenant": "acme", **asked})
    return [(each.record.entry.id, each.matched) for each in await log.reader.similar(request)]


async def test_failures_like_one_are_found_by_error_and_by_question(opening):
    async with opening() as log:
        await log.add(
            entry("e1", error="Unavailable: connection 17 was lost", query_text="the cat"),
            entry("e2", error="Unavailable: connection 99 was lost", query_text="the weather"),
            entry("e3", error="TooLarge: no memory left", query_text="a cat, a cat"),
            entry("fine", query_text="the cat"),
            entry("other", tenant="other", error="Unavailable: connection 17 was lost", query_text="the cat"),
        )
        await log.writer.embedding.idle()
        assert await similar(log, id="e1") == [("e2", "error"), ("e3", "question")]
        assert (await similar(log, text="lost the connection"))[:2] == [("e2", "error"), ("e1", "error")]
        assert (await similar(log, text="weather"))[0] == ("e2", "question")
        assert await similar(log, id="e1", limit=1) == [("e2", "error")]
        everyone = await similar(log, id="e1", all_tenants=True)
        assert "other" in {name for name, _ in everyone}
        with pytest.raises(NotFound):
            await similar(log, id="other")
        for bad in ({}, {"text": "x", "id": "e1"}):
            with pytest.raises(InvalidArgument, match="one of them"):
                await similar(log, **bad)


async def test_errors_that_differ_in_numbers_and_ids_alone_are_the_same(opening):
    async with opening() as log:
        await log.add(
            *(entry(f"e{at}", error=f"Internal: grammar {at}{at} of chatcmpl-{at}f8a9bcd") for at in range(3))
        )
        found = await log.reader.similar(SimilarWitnessRequest(tenant="acme", id="e0"))
        assert [each.record.entry.id for each in found] == ["e2", "e1"]
        assert all(each.similarity == pytest.approx(1) for each in found)


async def test_a_spike_is_what_takes_many_times_its_models_median(opening):
    async with opening() as log:
        usual = [entry(f"a{at}", 10 + at, time_ms=1000 + at) for at in range(20)]
        slow_model = [entry(f"b{at}", 500, model="large", time_ms=1000 + at) for at in range(20)]
        rare = [entry("c0", 9999, model="rare", time_ms=1000)]
        await log.add(*usual, *slow_model, *rare, entry("spike", 200, time_ms=1010), entry("worse", 900, time_ms=1011))
        await log.add(entry("other", 10_000, tenant="other", time_ms=1010))
        reply = await log.reader.slow(SlowWitnessRequest(tenant="acme"))
        assert [each.record.entry.id for each in reply.spikes] == ["worse", "spike"]
        assert reply.spikes[0].median_ms == 20
        assert reply.spikes[0].ratio == pytest.approx(45)
        assert reply.entries == 43
        assert [each.record.entry.id for each in (await log.reader.slow(SlowWitnessRequest(
            tenant="acme", factor=30, limit=5))).spikes] == ["worse"]  # fmt: skip
        assert not (await log.reader.slow(SlowWitnessRequest(tenant="acme", from_ms=5000))).spikes
        with pytest.raises(InvalidArgument, match="factor"):
            await log.reader.slow(SlowWitnessRequest(factor=0.5))


async def test_aggregates_and_percentiles(opening):
    async with opening() as log:
        entries = [entry(f"e{at}", float(at + 1), replica_id=f"r{at % 2}", time_ms=1000 + at) for at in range(100)]
        for at in range(10):
            entries[at].quality = 0.5
            entries[at].error = "Internal: no"
            entries[at].usage.prompt_tokens, entries[at].usage.completion_tokens = 3, 2
        await log.add(*entries, entry("other", 1e6, tenant="other"))
        reply = await log.reader.stats(WitnessStatsRequest(tenant="acme"))
        (group,) = reply.groups
        assert (group.entries, group.errors, group.prompt_tokens, group.completion_tokens) == (100, 10, 30, 20)
        assert (group.scored, group.mean_quality) == (10, 0.5)
        total = next(each for each in group.latency if each.part == "total")
        assert (total.p50, total.p90, total.p95, total.p99) == (50, 90, 95, 99)
        assert (reply.first_ms, reply.last_ms) == (1000, 1099)
        by = await log.reader.stats(WitnessStatsRequest(tenant="acme", by=["replica", "finish"], from_ms=1050))
        assert [(list(each.key), each.entries) for each in by.groups] == [(["r0", ""], 25), (["r1", ""], 25)]
        for bad in (["colour"], ["model", "model"]):
            with pytest.raises(InvalidArgument, match="by "):
                await log.reader.stats(WitnessStatsRequest(by=bad))


async def test_a_range_with_too_many_entries_is_refused(opening, monkeypatch):
    monkeypatch.setattr(reading, "MOST_LOOKED_AT", 3)
    async with opening() as log:
        await log.add(*(entry(f"e{at}") for at in range(4)))
        with pytest.raises(InvalidArgument, match="shorter"):
            await log.reader.stats(WitnessStatsRequest(tenant="acme"))


NAMES = st.sampled_from(["", "a", "b", "a/b"])
ENTRIES = st.builds(
    WitnessEntry,
    id=st.sampled_from(["a", "b", "c"]),
    tenant=NAMES,
    session_id=NAMES,
    model=NAMES,
    time_ms=st.integers(0, 9),
    error=st.sampled_from(["", "no"]),
    quality=st.none() | st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    latency=st.builds(Latency, total_ms=st.sampled_from([0.0, 1.0, 2.0])),
)
ASKED = st.builds(
    QueryWitnessRequest,
    tenant=NAMES,
    all_tenants=st.booleans(),
    from_ms=st.integers(0, 9),
    id=st.sampled_from(["", "a"]),
    model=NAMES,
    session_id=NAMES,
    errors_only=st.booleans(),
    quality_below=st.none() | st.sampled_from([0.25, 0.5, 2.0]),
    slower_than_ms=st.none() | st.sampled_from([0.0, 1.0]),
)


async def test_the_archive_answers_as_the_store_does(opening):
    """`matches` says of an entry what the store's filter says of its point."""
    async with opening(witness_keep_s=1.0) as log:

        @given(st.data())
        def fill(data):
            drawn.append(data.draw(ENTRIES))

        drawn: list[WitnessEntry] = []
        fill()
        for at, each in enumerate(drawn):
            each.id = f"{each.id}{at}" if any(other.id == each.id for other in drawn[:at]) else each.id
        await log.add(*drawn)
        requests: list[QueryWitnessRequest] = []

        @given(ASKED)
        def ask(request):
            requests.append(request)

        ask()
        for request in requests:
            expected = [each.id for each in reversed(drawn) if matches(request, each)][:100]
            assert [each.entry.id for each in await log.reader.query(request)] == expected, request
        ranged = [request for request in requests if request.from_ms]
        before = [[each.entry for each in await log.reader.query(request)] for request in ranged]
        log.now[0] = 1e6
        assert await log.retention.sweep() == len(drawn)
        assert log.collection.count() == 0
        after = [[each.entry for each in await log.reader.query(request)] for request in ranged]
        assert after == before
        assert any(before)


async def test_what_an_administrator_did_is_listed_and_no_request(opening):
    async with opening() as log:
        await log.add(entry("a"), entry("audit-1", action="model.load", subject="small", model=""))
        reply = await log.reader.stats(WitnessStatsRequest(tenant="acme"))
        assert [group.entries for group in reply.groups] == [1]
        found = await log.reader.query(QueryWitnessRequest(tenant="acme"))
        assert {each.entry.action for each in found} == {"", "model.load"}
