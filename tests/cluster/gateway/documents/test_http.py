"""Files and vector stores over HTTP: OpenAI's client does with them what it does elsewhere, each tenant its own."""

from typing import Any

import grpc
import openai
import pytest

from protos.gen import documents_pb2, documents_pb2_grpc

TEXT = b"The moon pulls the sea.\nBread rises."


@pytest.fixture
async def client(world: Any) -> Any:
    await world.start()
    async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def test_openais_client_keeps_lists_reads_and_deletes_files(client: Any) -> None:
    made = [await client.files.create(file=(f"{at}.txt", TEXT), purpose="user_data") for at in range(3)]
    assert (made[0].filename, made[0].bytes, made[0].object, made[0].purpose) == ("0.txt", 36, "file", "user_data")
    assert [file.id async for file in client.files.list(limit=2)] == [file.id for file in reversed(made)]
    assert [file.id async for file in client.files.list(order="asc")] == [file.id for file in made]
    assert (await client.files.retrieve(made[1].id)).filename == "1.txt"
    assert (await client.files.content(made[1].id)).content == TEXT
    assert (await client.files.delete(made[1].id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.files.delete(made[1].id)


async def test_openais_client_makes_fills_and_searches_vector_stores(world: Any, client: Any) -> None:
    file = await client.files.create(file=("a.txt", TEXT), purpose="assistants")
    store = await client.vector_stores.create(name="shelf", file_ids=[file.id], metadata={"a": "b"})
    assert (store.name, store.file_counts.completed, store.metadata) == ("shelf", 1, {"a": "b"})
    store = await client.vector_stores.update(store.id, name="other")
    assert (store.name, store.metadata) == ("other", {"a": "b"})
    assert [each.id async for each in client.vector_stores.list()] == [store.id]
    other = await client.vector_stores.create(name="second")
    attached = await client.vector_stores.files.create_and_poll(file.id, vector_store_id=other.id)
    assert (attached.status, attached.vector_store_id) == ("completed", other.id)
    uploaded = await client.vector_stores.files.upload_and_poll(vector_store_id=other.id, file=("b.txt", b"line"))
    assert [each.id async for each in client.vector_stores.files.list(other.id)] == [file.id, uploaded.id]
    page = await client.vector_stores.search(
        other.id, query="sea", max_num_results=2, ranking_options={"score_threshold": 0.1}
    )
    assert [(each.filename, each.content[0].text) for each in page.data] == [
        ("a.txt", "The moon pulls the sea."),
        ("a.txt", "Bread rises."),
    ]
    assert page.data[1].model_extra["russet"] == {"chunk_index": 1, "start": 24, "end": 36}
    (asked,) = world.documents.searches
    assert (asked.query, asked.limit, list(asked.store_ids)) == ("sea", 2, [other.id])
    assert (await client.vector_stores.files.delete(file.id, vector_store_id=other.id)).deleted
    assert (await client.vector_stores.delete(other.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.vector_stores.search(other.id, query="sea")


@pytest.mark.parametrize(
    ("files", "data", "param"),
    [
        ({"other": ("a.txt", b"x")}, {}, "other"),
        ({"purpose": ("a.txt", b"x")}, {}, "file"),
        ({"file": ("a.txt", b"x")}, {"expires_after[anchor]": "created_at"}, "expires_after"),
        ({"file": ("a.txt", b"x")}, {"more": "1"}, "more"),
    ],
)
async def test_uploads_that_are_none_are_refused_by_name(world: Any, files: Any, data: Any, param: str) -> None:
    await world.start()
    reply = await world.client().post("/v1/files", files=files, data=data)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert not world.documents.files


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=a", b"x"),
        ("multipart/form-data; boundary=a", b"--a\r\n\r\n--a--"),
        ("multipart/form-data; boundary=\xff", b"--a"),
        (
            "multipart/form-data; boundary=a",
            b'--a\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n' + b"x" * 2000,
        ),
    ],
)
async def test_bodies_that_are_no_form_are_refused(world: Any, kind: str, body: bytes) -> None:
    await world.start()
    headers = {b"content-type": kind.encode("latin-1")}
    reply = await world.client().post("/v1/files", content=body, headers=headers)
    assert reply.status_code == 400, reply.text


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/vector_stores", {"expires_after": {"anchor": "last_active_at", "days": 1}}, "expires_after"),
        ("/v1/vector_stores", {"file_ids": ["file-9"]}, "file_id"),
        ("/v1/vector_stores/vs_0/files", {"file_id": "file-0", "attributes": {"a": 1}}, "attributes"),
        ("/v1/vector_stores/vs_0/files", {"file_id": "f", "chunking_strategy": {"type": "static"}},
         "chunking_strategy.static"),
        ("/v1/vector_stores/vs_0/search", {"query": "a", "filters": {"type": "eq", "key": "a", "value": 1}}, "filters"),
        ("/v1/vector_stores/vs_0/search", {"query": "a", "rewrite_query": True}, "rewrite_query"),
        ("/v1/vector_stores/vs_0/search", {"query": "a", "max_num_results": 51}, "max_num_results"),
        ("/v1/vector_stores/vs_0/search", {"query": "a"}, "vector_store_id"),
    ],
)  # fmt: skip
async def test_what_is_not_done_is_refused_by_name(world: Any, path: str, body: dict[str, Any], param: str) -> None:
    await world.start()
    reply = await world.client().post(path, json=body)
    assert (reply.status_code in (400, 404), reply.json()["error"]["param"]) == (True, param)
    assert not world.documents.stores


async def test_lists_refuse_what_they_do_not_know(world: Any) -> None:
    await world.start()
    client = world.client()
    for query, param in (("limit=0", "limit"), ("limit=101", "limit"), ("order=up", "order"), ("after=x", "after")):
        reply = await client.get(f"/v1/vector_stores?{query}")
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    reply = await client.get("/v1/vector_stores?before=x")
    assert reply.json()["error"]["code"] == "unknown_parameter"


async def test_a_tenant_is_who_asks_and_not_who_it_says_it_is(world: Any) -> None:
    await world.start()
    http = world.client(headers={"X-Russet-Tenant": "a"})
    file = (await http.post("/v1/files", files={"file": ("a.txt", TEXT)})).json()
    async with grpc.aio.insecure_channel(world.gateway.addresses.grpc) as channel:
        stub = documents_pb2_grpc.DocumentsStub(channel)
        asked = documents_pb2.FileRequest(tenant="a", file_id=file["id"])
        assert (await stub.GetFile(asked, metadata=[("x-russet-tenant", "a")])).name == "a.txt"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetFile(asked, metadata=[("x-russet-tenant", "b")])
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        made = await stub.PutFile(
            documents_pb2.PutFileRequest(tenant="a", name="b.txt", content=TEXT), metadata=[("x-russet-tenant", "b")]
        )
    assert ("b", made.id) in world.documents.files
    assert (await world.client(headers={"X-Russet-Tenant": "b"}).get(f"/v1/files/{file['id']}")).status_code == 404
