"""One tenant's key against all that another keeps: through the real gateway, router, memory and prefix cache."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from cluster.gateway import api_keys
from cluster.local import LocalCluster
from tests.conftest import settings

pytestmark = pytest.mark.asyncio(loop_scope="module")
MODEL = "smollm2-135m-instruct"
SECRET = "The safe opens with the number 9301, and only Ann may know that. " * 12


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def callers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, httpx.AsyncClient]]:
    """Clients with the keys of ann, bob, and an administrator."""
    home: Path = tmp_path_factory.mktemp("rt")
    keys = {name: api_keys.create(home / "keys", name, role) for name, role in (("ann", "user"), ("bob", "user"))}
    keys["ops"] = api_keys.create(home / "keys", "ops", "admin")
    async with LocalCluster(settings(home / "home", gateway__api_keys_file=home / "keys")) as cluster:
        clients = {
            name: httpx.AsyncClient(
                base_url=cluster.http, timeout=120, trust_env=False, headers={"authorization": f"Bearer {key}"}
            )
            for name, key in keys.items()
        }
        yield clients
        for client in clients.values():
            await client.aclose()


def chat(text: str, **more: Any) -> dict[str, Any]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 4, "temperature": 0}
    return body | more


async def test_a_prompt_that_another_sent_is_not_found_in_the_cache(callers):
    cached = []
    for name in ("ann", "ann", "bob", "ops", "bob"):
        answer = await callers[name].post("/v1/chat/completions", json=chat(SECRET))
        assert answer.status_code == 200, answer.text
        cached.append(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert cached[0] == cached[2] == cached[3] == 0
    assert cached[1] > 0
    assert cached[4] > 0


async def test_anothers_session_is_as_if_it_were_not(callers):
    ann, bob = callers["ann"], callers["bob"]
    asked = chat("My number is 9301. Remember it.", russet={"session_id": "diary"})
    assert (await ann.post("/v1/chat/completions", json=asked)).status_code == 200
    assert (await ann.get("/v1/russet/sessions/diary")).status_code == 200

    theirs, none = [await bob.get(f"/v1/russet/sessions/{name}") for name in ("diary", "never-was")]
    assert (theirs.status_code, none.status_code) == (404, 404)
    assert theirs.json()["error"]["code"] == none.json()["error"]["code"]
    assert theirs.text.replace("diary", "never-was") == none.text, "no difference tells that it is there"
    assert not (await bob.delete("/v1/russet/sessions/diary")).json().get("deleted")
    for name in ("ann/diary", "%2e%2e/ann/diary", "..%2fann%2fdiary", "ann%00diary", "%252e%252e/diary", "diary/", "*"):
        found = await bob.get(f"/v1/russet/sessions/{name}")
        assert found.status_code in (400, 404), name
    assert "diary" not in (await bob.get("/v1/russet/sessions")).text
    # The same name is another session, and begins with nothing.
    mine = await bob.post("/v1/chat/completions", json=chat("What is my number?", russet={"session_id": "diary"}))
    assert mine.status_code == 200
    assert "9301" not in (await bob.get("/v1/russet/sessions/diary")).text
    assert "9301" in (await ann.get("/v1/russet/sessions/diary")).text


async def test_anothers_response_cannot_be_read_continued_or_deleted(callers):
    ann, bob = callers["ann"], callers["bob"]
    body = {"model": MODEL, "input": "My number is 9301.", "max_output_tokens": 4, "temperature": 0, "store": True}
    made = await ann.post("/v1/responses", json=body)
    assert made.status_code == 200, made.text
    name = made.json()["id"]
    assert (await ann.get(f"/v1/responses/{name}")).status_code == 200
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items")):
        refused = await bob.request(method, f"/v1/responses/{name}{path}")
        assert refused.status_code == 404, refused.text
    refused = await bob.post("/v1/responses", json=body | {"previous_response_id": name})
    assert refused.status_code in (400, 404), refused.text
    assert (await ann.get(f"/v1/responses/{name}")).status_code == 200


async def test_anothers_files_and_vector_stores_are_not_there(callers):
    ann, bob = callers["ann"], callers["bob"]
    upload = {"file": ("safe.txt", SECRET.encode(), "text/plain")}
    file = (await ann.post("/v1/files", files=upload, data={"purpose": "assistants"})).json()["id"]
    store = (await ann.post("/v1/vector_stores", json={"name": "safe", "file_ids": [file]})).json()["id"]
    paths = [
        ("GET", f"/v1/files/{file}"), ("GET", f"/v1/files/{file}/content"), ("DELETE", f"/v1/files/{file}"),
        ("GET", f"/v1/vector_stores/{store}"), ("DELETE", f"/v1/vector_stores/{store}"),
        ("GET", f"/v1/vector_stores/{store}/files"), ("DELETE", f"/v1/vector_stores/{store}/files/{file}"),
    ]  # fmt: skip
    for method, path in paths:
        refused = await bob.request(method, path)
        assert refused.status_code == 404, (path, refused.text)
    refused = await bob.post(f"/v1/vector_stores/{store}/search", json={"query": "the number of the safe"})
    assert refused.status_code == 404, refused.text
    asked = chat("What opens the safe?", russet={"retrieve": {"vector_store_ids": [store]}})
    refused = await bob.post("/v1/chat/completions", json=asked)
    assert refused.status_code in (400, 404), refused.text
    assert "9301" not in refused.text
    for path in ("/v1/files", "/v1/vector_stores"):
        assert (await bob.get(path)).json()["data"] == []
    assert (await ann.get(f"/v1/files/{file}/content")).text == SECRET


async def test_anothers_witness_entries_are_for_administrators(callers):
    ann, bob, ops = callers["ann"], callers["bob"], callers["ops"]
    assert (await ann.post("/v1/chat/completions", json=chat("Hello"))).status_code == 200
    assert (await bob.get("/v1/witness?tenant=ann")).status_code == 403
    assert (await bob.get("/v1/witness?all_tenants=true")).status_code == 403
    for client, tenants in ((bob, {"bob"}), (ops, {"ann", "bob", "ops"})):
        query = "?all_tenants=true&limit=100" if client is ops else "?limit=100"
        found = (await client.get(f"/v1/witness{query}")).json()["data"]
        assert {entry["tenant"] for entry in found} <= tenants
        assert "9301" not in str(found)
