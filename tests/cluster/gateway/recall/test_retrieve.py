"""russet.retrieve: passages stand in the prompt, are told as citations, and are recorded; or the request fails."""

import asyncio
import json
from typing import Any

import grpc
import pytest

from protos.gen import inference_pb2, inference_pb2_grpc

LINES = "Moons pull seas.\nBread rises.\nSalt."
BLOCK = "Passages that may help to answer:\n\n[1] a.txt\nMoons pull seas.\n\n[2] a.txt\nBread rises."
PROMPT = "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
CITATIONS = [
    {"number": 1, "vector_store_id": "vs_0", "file_id": "file-0", "filename": "a.txt", "chunk_index": 0, "start": 0,
     "end": 16, "score": 0.25},
    {"number": 2, "vector_store_id": "vs_0", "file_id": "file-0", "filename": "a.txt", "chunk_index": 1, "start": 17,
     "end": 29, "score": 0.1875},
]  # fmt: skip


@pytest.fixture
async def scheduler(world: Any) -> Any:
    scheduler = await world.replica()
    await world.start(retrieve_timeout_s=0.2)
    client = world.client()
    await client.post("/v1/files", files={"file": ("a.txt", LINES.encode())})
    await client.post("/v1/vector_stores", json={"file_ids": ["file-0"]})
    return scheduler


def asked(**more: Any) -> dict[str, Any]:
    retrieve = {"vector_store_ids": ["vs_0"], "max_num_results": 2}
    return {"messages": [{"role": "user", "content": "Why?"}], "russet": {"retrieve": retrieve}} | more


def read(scheduler: Any, index: int = -1) -> str:
    """The prompt that a replica was given."""
    ids = scheduler.requests[index].token_ids
    special = {257: b"<|im_start|>", 258: b"<|im_end|>"}
    return b"".join(special.get(token) or bytes([token]) for token in ids).decode()


async def test_a_whole_answer_has_citations_and_its_prompt_the_passages(world: Any, scheduler: Any) -> None:
    reply = await world.client(headers={"X-Russet-Tenant": ""}).post("/v1/chat/completions", json=asked())
    told = reply.json()["russet"]["retrieval"]
    assert told == {"citations": CITATIONS, "embedding_ms": 2, "retrieval_ms": 3}
    assert read(scheduler) == PROMPT.format(BLOCK)
    (search,) = world.documents.searches
    assert (search.query, search.limit) == ("Why?", 2)
    await world.until(lambda: world.memory.entries)
    (entry,) = world.memory.entries
    assert [(each.id, each.store, each.chunk) for each in entry.documents] == [
        ("file-0", "vs_0", 0),
        ("file-0", "vs_0", 1),
    ]
    assert (entry.latency.embedding_ms, list(entry.query_embedding)) == (2, [0.5, 0.5])


async def test_the_learner_hears_which_passages_an_answer_used(world: Any, scheduler: Any) -> None:
    scheduler.answer_ids = list(b"Because Bread rises.")
    await world.client().post("/v1/chat/completions", json=asked())
    await world.client().post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "Why?"}]})
    await world.until(lambda: len(world.learner.trajectories) == 2)
    found, without = world.learner.trajectories
    assert list(found.passages) == ["passage:file-0:0-16", "passage:file-0:17-29"]
    assert list(found.passages_used) == ["passage:file-0:17-29"]
    assert list(found.stores) == ["store:vs_0"]
    assert not [*without.passages, *without.passages_used, *without.stores]


async def test_a_stream_tells_them_first(world: Any, scheduler: Any) -> None:
    reply = await world.client().post("/v1/chat/completions", json=asked(stream=True))
    events = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    assert events[0]["russet"]["retrieval"]["citations"] == CITATIONS
    reply = await world.client().post("/v1/responses", json={"input": "Why?", "russet": asked()["russet"]})
    assert reply.json()["russet"]["retrieval"]["citations"] == CITATIONS
    body = asked(max_tokens=9)
    reply = await world.client().post("/v1/messages", json=body)
    assert reply.json()["russet"]["retrieval"]["citations"] == CITATIONS


async def test_over_grpc_it_is_the_same(world: Any, scheduler: Any) -> None:
    request = inference_pb2.ChatRequest(
        messages=[inference_pb2.Message(role="user", content="Why?")],
        retrieve=inference_pb2.Retrieve(store_ids=["vs_0"], limit=1),
    )
    async with grpc.aio.insecure_channel(world.gateway.addresses.grpc) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        answer = await stub.Chat(request)
        (citation,) = answer.retrieval.citations
        assert (citation.file_name, citation.start, citation.end, citation.text) == ("a.txt", 0, 16, "")
        first, *rest = [chunk async for chunk in stub.ChatStream(request)]
        assert first.retrieval == answer.retrieval
        assert not any(chunk.HasField("retrieval") for chunk in rest)


async def test_passages_are_no_part_of_the_session(world: Any, scheduler: Any) -> None:
    body = asked(messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}])
    body["russet"]["session_id"] = "s"
    await world.client().post("/v1/chat/completions", json=body)
    assert read(scheduler) == PROMPT.format(f"Be brief.\n\n{BLOCK}")
    plain = {"messages": [{"role": "user", "content": "And?"}], "russet": {"session_id": "s"}}
    reply = await world.client().post("/v1/chat/completions", json=plain)
    assert "retrieval" not in reply.json()["russet"]
    assert "Passages" not in read(scheduler)
    assert "Be brief." in read(scheduler)


async def test_choices_search_once(world: Any, scheduler: Any) -> None:
    reply = await world.client().post("/v1/chat/completions", json=asked(n=3))
    assert len(reply.json()["choices"]) == 3
    assert len(world.documents.searches) == 1
    assert {read(scheduler, index) for index in range(3)} == {PROMPT.format(BLOCK)}


async def test_what_is_below_the_threshold_is_left_out_and_told(world: Any, scheduler: Any) -> None:
    body = asked()
    body["russet"]["retrieve"]["score_threshold"] = 0.9
    reply = await world.client().post("/v1/chat/completions", json=body)
    assert reply.json()["russet"]["retrieval"]["citations"] == []
    assert "Passages" not in read(scheduler)


async def test_where_it_cannot_be_done_the_request_fails_soon(world: Any, scheduler: Any) -> None:
    world.documents.away = True
    reply = await world.client().post("/v1/chat/completions", json=asked())
    assert reply.status_code == 503
    assert "russet.retrieve cannot be done now: memory is away" in reply.json()["error"]["message"]
    world.documents.away, world.documents.hold = False, asyncio.Event()
    reply = await world.client().post("/v1/chat/completions", json=asked(stream=True))
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    assert not scheduler.requests


@pytest.mark.parametrize(
    ("path", "retrieve", "param"),
    [
        ("/v1/chat/completions", {"vector_store_ids": []}, "russet.retrieve.vector_store_ids"),
        ("/v1/chat/completions", {"vector_store_ids": ["vs_9"]}, "russet.retrieve.vector_store_ids"),
        ("/v1/chat/completions", {"vector_store_ids": ["vs_0"], "max_num_results": 51},
         "russet.retrieve.max_num_results"),
        ("/v1/chat/completions", {"vector_store_ids": ["vs_0"], "score_threshold": 2},
         "russet.retrieve.score_threshold"),
        ("/v1/chat/completions", {"vector_store_ids": ["vs_0"], "rerank": True}, "russet.retrieve.rerank"),
        ("/v1/completions", {"vector_store_ids": ["vs_0"]}, "russet.retrieve"),
    ],
)  # fmt: skip
async def test_what_cannot_be_is_refused_by_name(
    world: Any, scheduler: Any, path: str, retrieve: dict[str, Any], param: str
) -> None:
    body = {"russet": {"retrieve": retrieve}}
    body |= {"prompt": "a"} if path == "/v1/completions" else {"messages": asked()["messages"]}
    reply = await world.client().post(path, json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert not scheduler.requests


async def test_without_a_question_it_is_refused(world: Any, scheduler: Any) -> None:
    body = asked(messages=[{"role": "system", "content": "x"}])
    reply = await world.client().post("/v1/chat/completions", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "russet.retrieve")


async def test_anothers_vector_store_is_none(world: Any, scheduler: Any) -> None:
    reply = await world.client(headers={"X-Russet-Tenant": "b"}).post("/v1/chat/completions", json=asked())
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "russet.retrieve.vector_store_ids")
