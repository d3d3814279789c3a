"""Documents: what is put in is found by meaning, by its tenant alone, and again after a restart."""

import asyncio
from collections.abc import Iterator
from random import Random

import numpy as np
import pytest

from actors.base.errors import Internal, InvalidArgument, NotFound, TooLarge
from actors.memory.documents.ingestion import Ingestion
from protos.gen import documents_pb2 as pb
from tests.actors.memory.qdrant_stub import running

FACTS = """The lighthouse at Cape Orsa was painted red in 1911.

Bread rises because yeast makes carbon dioxide out of sugar.

Tides are caused by the pull of the moon and of the sun on the seas."""
SMALL = pb.Chunking(max_tokens=20)


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with running() as stub:
        yield stub.url


@pytest.fixture(params=["embedded", "server"])
def kept(request: pytest.FixtureRequest, server_url: str) -> dict[str, object]:
    """Settings of both stores."""
    if request.param == "embedded":
        return {}
    return {"store": "server", "server_url": server_url, "server_prefix": f"d{id(request)}"}


async def put(memory, text: str = FACTS, tenant: str = "t", name: str = "facts.txt", **more) -> pb.File:
    return await memory.documents.PutFile(pb.PutFileRequest(tenant=tenant, name=name, content=text.encode(), **more))


async def store(memory, tenant: str = "t", name: str = "shelf") -> pb.VectorStore:
    return await memory.documents.PutStore(pb.PutStoreRequest(tenant=tenant, name=name))


async def attach(memory, at: pb.VectorStore, file: pb.File, tenant: str = "t", chunking=SMALL) -> pb.Attached:
    """Attach and wait for the end."""
    asked = pb.AttachRequest(tenant=tenant, store_id=at.id, file_id=file.id, chunking=chunking)
    card = await memory.documents.Attach(asked)
    return await ended(memory, tenant, card)


async def ended(memory, tenant: str, card: pb.Attached) -> pb.Attached:
    asked = pb.AttachedRequest(tenant=tenant, store_id=card.store_id, file_id=card.file_id)
    async with asyncio.timeout(30):
        while (card := await memory.documents.GetAttached(asked)).status == pb.STATUS_IN_PROGRESS:
            await asyncio.sleep(0.01)
    return card


async def search(memory, query: str, *stores: pb.VectorStore, tenant: str = "t", **more) -> list[pb.Chunk]:
    asked = pb.SearchRequest(tenant=tenant, store_ids=[each.id for each in stores], query=query, **more)
    return list((await memory.documents.Search(asked)).chunks)


async def test_a_question_finds_its_passage_and_still_does_after_a_restart(opening, kept):
    async with opening(**kept) as memory:
        file, shelf = await put(memory), await store(memory)
        assert (file.bytes, file.purpose) == (len(FACTS.encode()), "user_data")
        card = await attach(memory, shelf, file)
        assert (card.status, card.chunks) == (pb.STATUS_COMPLETED, 3)
    async with opening(**kept) as memory:
        asked = pb.SearchRequest(tenant="t", store_ids=[shelf.id], query="Why does dough grow?", limit=2)
        reply = await memory.documents.Search(asked)
        first, second = reply.chunks
        assert first.text == FACTS[first.start : first.end] == FACTS.split("\n\n")[1]
        assert (first.index, first.file_id, first.file_name, first.store_id) == (1, file.id, "facts.txt", shelf.id)
        assert 1 >= first.score > second.score
        assert np.isclose(np.linalg.norm(reply.embedding), 1, atol=1e-3)
        assert reply.embedding_ms > 0
        (told,) = (await memory.documents.ListStores(pb.ListRequest(tenant="t"))).stores
        assert (told.id, told.name, told.completed) == (shelf.id, "shelf", 1)
        content = await memory.documents.ReadFile(pb.FileRequest(tenant="t", file_id=file.id))
        assert content.content.decode() == FACTS


async def test_what_is_deleted_is_not_found_and_nothing_of_it_is_left(opening):
    async with opening() as memory:
        file, shelf, other = await put(memory), await store(memory), await store(memory, name="other")
        await attach(memory, shelf, file)
        await attach(memory, other, file)
        assert len(await search(memory, "moon", shelf, other)) == 3  # each once
        gone = await memory.documents.Detach(pb.AttachedRequest(tenant="t", store_id=shelf.id, file_id=file.id))
        assert gone.found
        assert await search(memory, "moon", shelf) == []
        assert len(await search(memory, "moon", other)) == 3
        assert (await memory.documents.DeleteFile(pb.FileRequest(tenant="t", file_id=file.id))).found
        assert not (await memory.documents.DeleteFile(pb.FileRequest(tenant="t", file_id=file.id))).found
        assert await search(memory, "moon", other) == []
        for each in (shelf, other):
            assert (await memory.documents.DeleteStore(pb.StoreRequest(tenant="t", store_id=each.id))).found
        with pytest.raises(NotFound, match="no vector store"):
            await search(memory, "moon", shelf)
        assert memory.service.documents._collection.count() == 0


async def test_a_file_in_progress_goes_on_after_a_restart(opening, monkeypatch):
    never = asyncio.Event()

    async def held(self, tenant: str, card: pb.Attached) -> None:
        await never.wait()

    async with opening() as memory:
        file, shelf = await put(memory), await store(memory)
        with monkeypatch.context() as patch:
            patch.setattr(Ingestion, "_chunks", held)
            asked = pb.AttachRequest(tenant="t", store_id=shelf.id, file_id=file.id, chunking=SMALL)
            card = await memory.documents.Attach(asked)
            assert card.status == pb.STATUS_IN_PROGRESS
            assert await search(memory, "moon", shelf) == []
            assert (await memory.documents.Attach(asked)) == card
            (told,) = (await memory.documents.ListStores(pb.ListRequest(tenant="t"))).stores
            assert told.in_progress == 1
            await memory.service.documents.stop()
    async with opening() as memory:
        assert (await ended(memory, "t", card)).status == pb.STATUS_COMPLETED
        assert len(await search(memory, "moon", shelf)) == 3


async def test_a_file_that_fails_says_why_and_can_be_tried_again(opening, monkeypatch):
    async def broken(texts: list[str]) -> None:
        raise Internal("the embedder broke")

    async with opening() as memory:
        file, shelf = await put(memory), await store(memory)
        with monkeypatch.context() as patch:
            patch.setattr(memory.service.documents._embedder, "embed_last", broken)
            card = await attach(memory, shelf, file)
        assert (card.status, card.error) == (pb.STATUS_FAILED, "the embedder broke")
        assert await search(memory, "moon", shelf) == []
        assert (await attach(memory, shelf, file)).status == pb.STATUS_COMPLETED
        # Cut otherwise, it is the other chunks that are found.
        await attach(memory, shelf, file, chunking=pb.Chunking(max_tokens=100))
        assert [chunk.text for chunk in await search(memory, "moon", shelf)] == [FACTS]


async def test_deleting_ends_what_is_in_progress(opening):
    async with opening() as memory:
        file, shelf = await put(memory, FACTS * 200), await store(memory)
        await memory.documents.Attach(pb.AttachRequest(tenant="t", store_id=shelf.id, file_id=file.id, chunking=SMALL))
        await memory.documents.DeleteFile(pb.FileRequest(tenant="t", file_id=file.id))
        other = await put(memory)
        assert (await attach(memory, shelf, other)).status == pb.STATUS_COMPLETED
        assert {chunk.file_id for chunk in await search(memory, "moon", shelf, limit=50)} == {other.id}


async def test_no_tenant_finds_anothers(opening):
    draw = Random(7)
    tenants = ["", "a", "b", "a\0b", "A"]
    async with opening() as memory:
        stores = {tenant: [await store(memory, tenant), await store(memory, tenant)] for tenant in tenants}
        said: dict[str, list[str]] = {tenant: [] for tenant in tenants}
        for at in range(25):
            tenant = draw.choice(tenants)
            said[tenant].append(f"{at} was said by {tenant!r}.")
            file = await put(memory, said[tenant][-1], tenant, f"{at}.txt")
            await attach(memory, draw.choice(stores[tenant]), file, tenant)
        for tenant in tenants:
            found = await search(memory, "what was said?", *stores[tenant], tenant=tenant, limit=50)
            assert sorted(chunk.text for chunk in found) == sorted(said[tenant])
            files = (await memory.documents.ListFiles(pb.ListRequest(tenant=tenant))).files
            assert len(files) == len(said[tenant]) > 0
            for other in set(tenants) - {tenant}:
                with pytest.raises(NotFound, match="no vector store"):
                    await search(memory, "said", *stores[tenant], tenant=other)
                with pytest.raises(NotFound, match="no vector store"):
                    await search(memory, "said", *stores[other], stores[tenant][0], tenant=other)
                with pytest.raises(NotFound, match="no file"):
                    await memory.documents.ReadFile(pb.FileRequest(tenant=other, file_id=files[0].id))
                with pytest.raises(NotFound, match="no file"):
                    await attach(memory, stores[other][0], files[0], other)
                assert not (await memory.documents.DeleteFile(pb.FileRequest(tenant=other, file_id=files[0].id))).found
                gone = pb.StoreRequest(tenant=other, store_id=stores[tenant][0].id)
                assert not (await memory.documents.DeleteStore(gone)).found


async def test_nothing_that_was_said_lies_in_the_clear(opening):
    async with opening() as memory:
        file = await put(memory, "The password is xylophone-forty-two.", name="secretplan.txt")
        shelf = await store(memory, name="hiddenshelf")
        await attach(memory, shelf, file)
    files = [path for path in memory.directory.rglob("*") if path.is_file()]
    assert files
    for word in (b"xylophone-forty-two", b"secretplan", b"hiddenshelf"):
        assert not [path for path in files if word in path.read_bytes()]


async def test_limits_are_kept_by_name(opening):
    async with opening(document_bytes=2000, document_files=2) as memory:
        file, shelf = await put(memory), await store(memory)
        with pytest.raises(TooLarge, match=r"2001 bytes; accepted: 2000 at most \(memory.document_bytes\)"):
            await put(memory, "a" * 2001)
        with pytest.raises(InvalidArgument, match="purpose is 'batch'; accepted are assistants, user_data"):
            await put(memory, purpose="batch")
        await put(memory, tenant="u")
        with pytest.raises(InvalidArgument, match="accepted are up to 2"):
            await put(memory)
        for chunking, says in (
            (pb.Chunking(max_tokens=800, overlap_tokens=400), "max_chunk_size_tokens is 800; accepted are 16 to 254"),
            (pb.Chunking(max_tokens=100, overlap_tokens=51), "chunk_overlap_tokens is 51; accepted is up to half"),
        ):
            with pytest.raises(InvalidArgument, match=says):
                await attach(memory, shelf, file, chunking=chunking)
        for more, says in (
            ({"limit": 51}, "max_num_results is 51; accepted are 1 to 50"),
            ({"score_threshold": 1.5}, "score_threshold 1.5; accepted: 0 to 1"),
            ({"score_threshold": float("nan")}, "score_threshold nan"),
        ):
            with pytest.raises(InvalidArgument, match=says):
                await search(memory, "moon", shelf, **more)
        with pytest.raises(InvalidArgument, match="0 vector stores are named; accepted are 1 to 16"):
            await search(memory, "moon")
        with pytest.raises(InvalidArgument, match="query is empty"):
            await search(memory, " ", shelf)
        await attach(memory, shelf, file)
        near = await search(memory, "Why does the sea rise and fall?", shelf, limit=2)
        least = await search(memory, "Why does the sea rise and fall?", shelf, score_threshold=near[0].score - 1e-3)
        assert [chunk.text for chunk in least] == [FACTS.split("\n\n")[2]]
