"""What worked is found by its tenant alone, sealed at rest, bounded, and forgotten where it works no more."""

from pathlib import Path

import pytest

from actors.base.errors import InvalidArgument
from protos.gen.memory_pb2 import (
    CreditProceduresRequest,
    DeleteProcedureRequest,
    EmbedRequest,
    ListProceduresRequest,
    Procedure,
    PutProcedureRequest,
    ScoredProcedure,
    SearchProceduresRequest,
)

BREAD = "How long does the dough of a rye bread rest?"
TIDE = "When is high tide at the harbour?"


async def put(
    memory, id: str, question: str = BREAD, answer: str = "Ninety minutes.", tenant: str = "t", **more
) -> None:
    given = {"source": "rated", "rating": 1.0} | more
    procedure = Procedure(id=id, tenant=tenant, question=question, answer=answer, **given)
    await memory.stub.PutProcedure(PutProcedureRequest(procedure=procedure))


async def search(memory, question: str, tenant: str = "t", least: float = 0.0) -> list[ScoredProcedure]:
    embedding = (await memory.stub.Embed(EmbedRequest(texts=[question]))).values
    asked = SearchProceduresRequest(tenant=tenant, embedding=embedding, score_threshold=least)
    return list((await memory.stub.SearchProcedures(asked)).procedures)


async def listed(memory, tenant: str = "t") -> list[str]:
    return [each.id for each in (await memory.stub.ListProcedures(ListProceduresRequest(tenant=tenant))).procedures]


def contents(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in directory.rglob("*") if path.is_file()]


async def test_what_worked_is_found_by_its_question_after_a_restart_and_lies_sealed(opening, directory: Path):
    async with opening() as memory:
        await put(memory, "r1")
        await put(memory, "r2", TIDE, "At noon.")
        (nearest, _) = await search(memory, "How long should rye dough rest?")
        assert (nearest.procedure.id, nearest.procedure.answer) == ("r1", "Ninety minutes.")
        assert nearest.similarity > 0.7
        assert len(await search(memory, "How long should rye dough rest?", least=0.6)) == 1
    files = contents(directory)
    assert files
    assert not any(b"Ninety minutes" in content or b"rye bread" in content for content in files)
    async with opening() as memory:
        assert set(await listed(memory)) == {"r1", "r2"}
        assert (await memory.stub.DeleteProcedure(DeleteProcedureRequest(tenant="t", id="r1"))).found
        assert not (await memory.stub.DeleteProcedure(DeleteProcedureRequest(tenant="t", id="r1"))).found
        assert [each.procedure.id for each in await search(memory, BREAD)] == ["r2"]


async def test_no_tenant_finds_lists_credits_or_deletes_anothers(opening):
    tenants = ("", "a", "a/b", "*", "A")
    async with opening() as memory:
        for at, tenant in enumerate(tenants):
            await put(memory, "r1", BREAD, f"answer {at}", tenant)
        for at, tenant in enumerate(tenants):
            assert [each.procedure.answer for each in await search(memory, BREAD, tenant)] == [f"answer {at}"]
        assert await search(memory, BREAD, "nobody") == []
        await memory.stub.CreditProcedures(CreditProceduresRequest(tenant="nobody", ids=["r1"], outcome=0))
        assert not (await memory.stub.DeleteProcedure(DeleteProcedureRequest(tenant="nobody", id="r1"))).found
        await memory.stub.DeleteProcedure(DeleteProcedureRequest(tenant="a", id="r1"))
        assert [await listed(memory, tenant) for tenant in tenants] == [["r1"], [], ["r1"], ["r1"], ["r1"]]


async def test_of_one_question_the_newest_stays_and_of_a_tenant_the_newest_few(opening):
    async with opening(procedures=2) as memory:
        await put(memory, "r1", answer="An hour.")
        await put(memory, "r2", answer="Ninety minutes.", source="corrected")
        assert await listed(memory) == ["r2"]
        memory.service.procedures._clock = iter([2e9, 3e9]).__next__
        await put(memory, "r3", TIDE)
        await put(memory, "r4", "Who keeps the lighthouse?")
        assert await listed(memory) == ["r4", "r3"]
    async with opening(procedures=0) as memory:
        await put(memory, "r5", "What is the capital of France?")
        assert await listed(memory) == ["r4", "r3"]


async def test_uses_are_counted_and_bad_outcomes_demote_then_forget(opening):
    async with opening() as memory:
        await put(memory, "r1", rating=0.9)
        await memory.stub.CreditProcedures(CreditProceduresRequest(tenant="t", ids=["r1", "gone"]))
        (found,) = await search(memory, BREAD)
        assert (found.procedure.uses, round(found.procedure.rating, 3)) == (1, 0.9)
        assert found.procedure.last_used_ms >= found.procedure.created_ms > 0
        await memory.stub.CreditProcedures(CreditProceduresRequest(tenant="t", ids=["r1"], outcome=0))
        (found,) = await search(memory, BREAD)
        assert (found.procedure.uses, round(found.procedure.rating, 3)) == (1, 0.63)
        await memory.stub.CreditProcedures(CreditProceduresRequest(tenant="t", ids=["r1"], outcome=0))
        assert await search(memory, BREAD) == []
        assert await listed(memory) == []


async def test_what_is_no_procedure_is_refused_and_nothing_kept(opening):
    wrong = {
        "id of 0": {"id": ""},
        "question of 0": {"question": ""},
        "answer of 0": {"answer": ""},
        "rating 1.5": {"rating": 1.5},
        "source is 'guessed'": {"source": "guessed"},
    }
    async with opening() as memory:
        for named, given in wrong.items():
            with pytest.raises(InvalidArgument, match=named):
                await put(memory, **({"id": "r1"} | given))
        with pytest.raises(InvalidArgument, match="65 procedures"):
            await memory.stub.CreditProcedures(CreditProceduresRequest(tenant="t", ids=["r"] * 65))
        assert await listed(memory) == []
