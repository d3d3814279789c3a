"""No query ever answers with what is another tenant's, however the names are chosen to collide."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.memory.patterns import pattern_id
from actors.memory.sessions import _Owner
from protos.gen.memory_pb2 import (
    AppendWitnessRequest,
    DeleteSessionRequest,
    GetSessionRequest,
    ListSessionsRequest,
    PutSessionRequest,
    QueryWitnessRequest,
    Session,
    SimilarWitnessRequest,
    SlowWitnessRequest,
    Turn,
    WitnessEntry,
    WitnessStatsRequest,
)

TENANTS = ("", "a", "a/b", "a\0b", "A", "a ", "*", "1\0a", "../a")
NAMES = ("a", "b", "b/c", "a/b", "\0a", "a\0b", "*", "s ")
PAIRS = st.tuples(
    st.sampled_from(TENANTS) | st.text(max_size=6), st.sampled_from(NAMES) | st.text("ab/:\0", min_size=1)
)


@given(PAIRS, PAIRS)
@settings(max_examples=500)
def test_two_owners_have_no_key_point_or_pattern_in_common(one, other):
    if one == other:
        return
    assert _Owner(*one).context != _Owner(*other).context
    assert _Owner(*one).point != _Owner(*other).point
    assert pattern_id(*one, "text") != pattern_id(*other, "text")


async def test_no_query_answers_with_another_tenants(opening):
    """Every store is full of every tenant's things under the same names; each query is asked as each tenant."""
    drawn: set[tuple[str, str]] = {(tenant, name) for tenant in TENANTS for name in NAMES}

    @given(PAIRS)
    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    def draw(pair):
        drawn.add(pair)

    draw()
    pairs = sorted(drawn)
    async with opening() as memory:
        stub = memory.stub
        entries = []
        for at, (tenant, name) in enumerate(pairs):
            turn = Turn(role="user", content=f"{tenant!r} {name!r}")
            await stub.PutSession(PutSessionRequest(session=Session(session_id=name, tenant=tenant, turns=[turn])))
            entry = WitnessEntry(
                id=f"{name}#{at}", tenant=tenant, session_id=name, model="m", time_ms=1000, error="Internal: broke",
                query_embedding=[1.0] * 384, quality=0.1,
            )  # fmt: skip
            entry.latency.total_ms = 1.0 if at % 2 else 1000.0
            entries.append(entry)
        await stub.AppendWitness(AppendWitnessRequest(entries=entries, wait=True))
        for tenant in [*sorted({tenant for tenant, _ in pairs}), "nobody"]:
            own = {name for owner, name in pairs if owner == tenant}
            listed = (await stub.ListSessions(ListSessionsRequest(tenant=tenant, limit=1000))).sessions
            assert {each.session_id for each in listed} == own
            assert {each.tenant for each in listed} <= {tenant}
            queries = [
                QueryWitnessRequest(tenant=tenant, limit=1000),
                QueryWitnessRequest(tenant=tenant, errors_only=True),
            ]
            queries += [QueryWitnessRequest(tenant=tenant, session_id=name, quality_below=0.5) for name in NAMES]
            for query in queries:
                found = (await stub.QueryWitness(query)).records
                assert {each.entry.tenant for each in found} <= {tenant}
            similar = await stub.SimilarWitness(SimilarWitnessRequest(tenant=tenant, text="broke", limit=1000))
            assert {each.record.entry.tenant for each in similar.found} <= {tenant}
            assert len(similar.found) == len(own)
            slow = await stub.SlowWitness(SlowWitnessRequest(tenant=tenant))
            assert {each.record.entry.tenant for each in slow.spikes} <= {tenant}
            stats = await stub.WitnessStats(WitnessStatsRequest(tenant=tenant, by=["tenant"]))
            assert [(list(each.key), each.entries) for each in stats.groups] == ([([tenant], len(own))] if own else [])
        for tenant, name in pairs[::3]:
            read = await stub.GetSession(GetSessionRequest(tenant=tenant, session_id=name))
            assert read.session.turns[0].content == f"{tenant!r} {name!r}"
        victim, name = "a", "b/c"
        await stub.DeleteSession(DeleteSessionRequest(tenant=victim, session_id=name))
        left = await stub.GetSession(GetSessionRequest(tenant="a/b", session_id="b/c"))
        assert left.session.turns[0].content == "'a/b' 'b/c'"
        gone = await stub.GetSession(GetSessionRequest(tenant=victim, session_id=name))
        assert not gone.HasField("session")
