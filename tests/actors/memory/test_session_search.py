"""Sessions found by what was asked last: nearest first, the tenant's own alone, and of each only its last exchange."""

import pytest

from actors.base.errors import InvalidArgument
from protos.gen.memory_pb2 import EmbedRequest, PutSessionRequest, SearchSessionsRequest, Session, Turn


async def put(memory, tenant: str, name: str, question: str) -> None:
    vector = (await memory.stub.Embed(EmbedRequest(texts=[question]))).values
    turns = [
        Turn(role="user", content="an earlier turn"),
        Turn(role="assistant", content="of no matter"),
        Turn(role="user", content=question),
        Turn(role="assistant", content=f"about {name}"),
    ]
    session = Session(tenant=tenant, session_id=name, turns=turns, token_ids=[1, 2], embedding=vector)
    await memory.stub.PutSession(PutSessionRequest(session=session))


async def test_the_nearest_of_the_tenant_with_its_last_exchange(opening):
    async with opening() as memory:
        await put(memory, "a", "bread", "How long does dough rise?")
        await put(memory, "a", "ships", "Which ship crossed the Atlantic first?")
        await put(memory, "b", "other", "How long does dough rise?")
        vector = (await memory.stub.Embed(EmbedRequest(texts=["When is the dough ready?"]))).values
        found = (await memory.stub.SearchSessions(SearchSessionsRequest(tenant="a", embedding=vector))).sessions
        assert [each.session.session_id for each in found] == ["bread", "ships"]
        assert 1 >= found[0].similarity > found[1].similarity
        first = found[0].session
        assert [turn.content for turn in first.turns] == ["How long does dough rise?", "about bread"]
        assert (first.turn_count, list(first.token_ids)) == (4, [])
        one = await memory.stub.SearchSessions(SearchSessionsRequest(tenant="a", embedding=vector, limit=1))
        assert len(one.sessions) == 1
        for wrong, says in (([], "embedding is empty"), ([1.0], "width 1")):
            with pytest.raises(InvalidArgument, match=says):
                await memory.stub.SearchSessions(SearchSessionsRequest(tenant="a", embedding=wrong))
