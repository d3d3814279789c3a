"""The Responses API's file_search, by its own client: an item of the output, events, annotations; or a refusal."""

from typing import Any

import openai
import pytest

LINES = "Moons pull seas.\nBread rises.\nSalt."
TOOL = {"type": "file_search", "vector_store_ids": ["vs_0"], "max_num_results": 2}
MINIMAL: Any = {"model": "tiny", "input": "Why?", "tools": [TOOL]}


@pytest.fixture
async def made(world: Any) -> Any:
    """A gateway over a replica that answers with a passage's number, and a vector store of one file."""
    scheduler = await world.replica(answer="Tides [1].")
    await world.start()
    await world.client().post("/v1/files", files={"file": ("a.txt", LINES.encode())})
    await world.client().post("/v1/vector_stores", json={"file_ids": ["file-0"]})
    return scheduler


def client_of(world: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0, timeout=20)


async def test_the_search_is_told_and_the_passage_that_the_model_names_cited(world: Any, made: Any) -> None:
    response = await client_of(world).responses.create(**MINIMAL, include=["file_search_call.results"])
    search, message = response.output
    assert (search.type, search.status, search.queries) == ("file_search_call", "completed", ["Why?"])
    assert [(each.filename, each.score, each.text) for each in search.results] == [
        ("a.txt", 0.25, "Moons pull seas."),
        ("a.txt", 0.1875, "Bread rises."),
    ]
    (cited,) = message.content[0].annotations
    assert (cited.type, cited.file_id, cited.filename, cited.index) == ("file_citation", "file-0", "a.txt", 6)
    assert response.tools[0].vector_store_ids == ["vs_0"]
    assert b"Moons pull seas." in bytes(token for token in made.requests[0].token_ids if token < 256)
    (searched,) = world.documents.searches
    assert (searched.limit, searched.score_threshold) == (2, 0)


async def test_without_being_asked_for_results_are_not_told_and_what_was_read_is_cited_at_the_end(
    world: Any, made: Any
) -> None:
    made.answer = "Tides."
    ranked = TOOL | {"ranking_options": {"score_threshold": 0.2}}
    response = await client_of(world).responses.create(**(MINIMAL | {"tools": [ranked], "tool_choice": "required"}))
    search, message = response.output
    assert search.results is None
    assert [(each.file_id, each.index) for each in message.content[0].annotations] == [("file-0", len("Tides."))]
    assert world.documents.searches[0].score_threshold == pytest.approx(0.2)


async def test_a_stream_tells_the_search_before_the_message(world: Any, made: Any) -> None:
    kinds = []
    async with client_of(world).responses.stream(**MINIMAL) as stream:
        async for event in stream:
            kinds.append(event.type.removeprefix("response."))
        final = await stream.get_final_response()
    assert kinds[2:9] == [
        "output_item.added", "file_search_call.in_progress", "file_search_call.searching", "file_search_call.completed",
        "output_item.done", "output_item.added", "content_part.added",
    ]  # fmt: skip
    assert kinds.count("output_item.done") == 2
    assert "output_text.annotation.added" in kinds
    assert [item.type for item in final.output] == ["file_search_call", "message"]
    assert final.output_text == "Tides [1]."


async def test_what_a_response_told_may_be_sent_back(world: Any, made: Any) -> None:
    client = client_of(world)
    first = await client.responses.create(**MINIMAL, store=False)
    turns: Any = [{"role": "user", "content": "Why?"}, *first.output, {"role": "user", "content": "And then?"}]
    second = await client.responses.create(**(MINIMAL | {"input": turns}), store=False)
    assert second.output[0].queries == ["And then?"]


async def test_a_choice_of_none_searches_nothing(world: Any, made: Any) -> None:
    response = await client_of(world).responses.create(**MINIMAL, tool_choice="none")
    assert [item.type for item in response.output] == ["message"]
    assert not world.documents.searches


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tools": [TOOL, TOOL]}, "accepted is one, with all its vector_store_ids"),
        ({"tools": [TOOL | {"vector_store_ids": []}]}, "tools.0.vector_store_ids"),
        ({"tools": [TOOL | {"max_num_results": 51}]}, "tools.0.max_num_results"),
        ({"tools": [TOOL | {"filters": {"type": "eq"}}]}, "tools.0.filters"),
        ({"tools": [{"vector_store_ids": ["vs_0"]}]}, "tools.0.type is missing"),
        ({"russet": {"retrieve": {"vector_store_ids": ["vs_0"]}}}, "accepted is one of the two"),
        ({"input": [{"role": "system", "content": "Be brief."}]}, "there is none with a text"),
        ({"tool_choice": {"type": "web_search"}}, '{"type": "file_search"}'),
        ({"include": ["reasoning.encrypted_content"]}, "include.0"),
        ({"tools": [TOOL | {"vector_store_ids": ["vs_9"]}]}, "vs_9"),
    ],
)
async def test_what_is_wrong_is_named(world: Any, made: Any, change: Any, said: str) -> None:
    reply = await world.client().post("/v1/responses", json=MINIMAL | change)
    assert reply.status_code == 400
    assert said in reply.json()["error"]["message"]
