"""`russet bench` against a small scripted server: what it counts, what it times, and what it says of failures."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from rich.console import Console

from actors.base.errors import InvalidArgument, RussetError, Unavailable
from cluster.bench import Load, Result, run
from cluster.load_client import Connection
from cluster.load_stream import CUT, Stream
from tests.cluster.fake_openai import ANSWER, ENDING, Body, FakeServer, sse


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    fake = FakeServer()
    listening = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    yield fake
    listening.close()


def load(**more: Any) -> Load:
    fields: dict[str, Any] = {"clients": 2, "requests": 6, "prompt_tokens": 5, "output_tokens": 6, "seed": 1}
    return Load(**fields | more)


def shown(result: Result) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(result.table())
    return capture.get()


async def test_tokens_are_the_servers_and_not_the_chunks(server: FakeServer) -> None:
    result = await run(server.url, load())
    figures = result.as_dict()
    assert (figures["answered"], figures["failed"], figures["short"]) == (6, 0, 0)
    assert (figures["prompt_tokens"], figures["output_tokens"]) == (30, 36)
    assert figures["output_tokens_per_s"] == pytest.approx(36 / result.wall_s, rel=1e-2)
    assert figures["total_tokens_per_s"] == pytest.approx(66 / result.wall_s, rel=1e-2)
    assert figures["usage_reported"]


async def test_the_warm_up_is_short_and_counts_for_nothing(server: FakeServer) -> None:
    heard: list[Stream] = []
    result = await run(server.url, load(output_tokens=20), on_stream=heard.append)
    assert [body["max_tokens"] for body in server.bodies] == [8] + [20] * 6
    assert len(result.streams) == len(heard) == 6
    await run(server.url, load(warm_up_tokens=0))
    assert len(server.bodies) == 7 + 6


async def test_every_prompt_is_another_and_a_seed_makes_them_again(server: FakeServer) -> None:
    await run(server.url, load())
    await run(server.url, load())
    await run(server.url, load(seed=2))
    prompts = [body["prompt"] for body in server.bodies]
    first, again, other = prompts[:7], prompts[7:14], prompts[14:]
    assert len(set(first)) == 7
    assert sorted(first) == sorted(again)
    assert not set(first) & set(other)
    assert all(len(prompt.split()) == 5 for prompt in prompts)


async def test_never_more_streams_than_clients_each_on_one_connection(server: FakeServer) -> None:
    await run(server.url, load(clients=3, requests=12, model="tiny"))
    assert server.most_together == 3
    assert server.connections == 3


async def test_a_server_that_closes_after_each_answer_is_asked_on_another_connection(server: FakeServer) -> None:
    server.keep_alive = False
    assert (await run(server.url, load(model="tiny"))).as_dict()["answered"] == 6
    assert server.connections == 7


async def test_a_kept_connection_that_closed_unannounced_is_replaced(server: FakeServer) -> None:
    server.keep_alive, server.promises = False, True
    result = await run(server.url, Load(clients=2, requests=6, prompt_tokens=3, output_tokens=6))
    assert len(result.good) == 6
    assert len(server.bodies) == 7


async def test_the_model_is_the_servers_first_unless_named(server: FakeServer) -> None:
    assert (await run(f"{server.url}/v1/", load())).load.model == "tiny"
    await run(server.url, load(model="other"))
    assert {body["model"] for body in server.bodies[:7]} == {"tiny"}
    assert {body["model"] for body in server.bodies[7:]} == {"other"}


async def test_the_key_is_sent_with_every_request(server: FakeServer) -> None:
    await run(server.url, load(requests=1), key="secret")
    assert len(server.headers) == 3
    assert all("authorization: bearer secret" in head.lower() for head in server.headers)


async def test_a_server_that_does_not_know_ignore_eos_is_asked_without(server: FakeServer) -> None:
    def strict(body: Body) -> tuple[int, Sequence[bytes]]:
        if "ignore_eos" in body:
            return 400, [b'{"error": {"message": "Unrecognized request argument: ignore_eos"}}']
        return 200, ANSWER + ENDING

    server.answer = strict
    assert (await run(server.url, load())).as_dict()["answered"] == 6
    assert ["ignore_eos" in body for body in server.bodies] == [True] + [False] * 7


async def test_without_usage_chunks_are_counted_and_the_reader_is_told(server: FakeServer) -> None:
    server.answer = lambda body: (200, [*ANSWER, sse("[DONE]")])
    result = await run(server.url, load())
    assert not result.as_dict()["usage_reported"]
    assert "no usage" in shown(result)


async def test_events_split_anywhere_are_read_alike(server: FakeServer) -> None:
    whole = b"".join(ANSWER + ENDING)
    server.answer = lambda body: (200, [whole[i : i + 7] for i in range(0, len(whole), 7)])
    assert (await run(server.url, load())).as_dict()["output_tokens"] == 36


@pytest.mark.parametrize(
    ("status", "pieces", "said"),
    [
        (429, [b'{"error": {"message": "the queue is full"}}'], "429: the queue is full"),
        (503, [b"<html>no", b"body</html>"], "503: <html>nobody</html>"),
        (200, [*ANSWER[:2], sse({"error": {"message": "the worker died"}})], "the worker died"),
        (200, ANSWER[:3], CUT),
        (200, [sse("{not json")], "an event is not JSON: b'{not json'"),
    ],
)
async def test_failures_are_counted_by_what_was_said(
    server: FakeServer, status: int, pieces: list[bytes], said: str
) -> None:
    def third_fails(body: Body) -> tuple[int, Sequence[bytes]]:
        return (status, pieces) if len(server.bodies) in (3, 5) else (200, ANSWER + ENDING)

    server.answer = third_fails
    result = await run(server.url, load())
    figures = result.as_dict()
    assert (figures["answered"], figures["failed"], figures["errors"]) == (4, 2, {said: 2})
    assert figures["output_tokens"] == 24
    assert f"2 failed: {said}" in shown(result)


async def test_a_connection_cut_in_an_answer_is_a_failure(server: FakeServer) -> None:
    def cut_last(body: Body) -> tuple[int, Sequence[bytes]]:
        server.cut = len(server.bodies) == 3
        return 200, ANSWER[:2] if server.cut else ANSWER + ENDING

    server.answer = cut_last
    assert (await run(server.url, load(clients=1))).as_dict()["errors"] == {CUT: 1}


async def test_a_failing_warm_up_ends_the_run_with_the_servers_words(server: FakeServer) -> None:
    server.answer = lambda body: (404, [b'{"error": {"message": "no such model"}}'])
    with pytest.raises(RussetError, match="404: no such model"):
        await run(server.url, load())
    assert len(server.bodies) == 1


async def test_nothing_there_is_said(server: FakeServer) -> None:
    with pytest.raises(Unavailable, match=r"no answer from http://127\.0\.0\.1:1"):
        await run("http://127.0.0.1:1", load())
    with pytest.raises(RussetError, match=r"127\.0\.0\.1:1"):
        await run("http://127.0.0.1:1", load(model="tiny"))
    server.models = {"data": []}
    with pytest.raises(Unavailable, match="lists no model"):
        await run(server.url, load())
    with pytest.raises(InvalidArgument, match="ftp://here"):
        Connection("ftp://here")


def test_times_are_per_token_and_gaps_per_chunk() -> None:
    # Two streams of 9 tokens in chunks of several; a third that came in one piece has neither.
    streams = (
        Stream((0.1, 0.3, 0.5), 0.6, 10, 9),
        Stream((0.2, 0.6), 0.7, 10, 9),
        Stream((0.4,), 0.4, 10, 9),
        Stream(error="lost"),
    )
    figures = Result(load(), "http://here", 2.0, streams).as_dict()
    assert figures["time_per_output_token_ms"] == {"p50": 50, "p90": 50, "p95": 50, "p99": 50, "max": 50}
    assert figures["chunk_gap_ms"]["p50"] == pytest.approx(200)
    assert figures["chunk_gap_ms"]["max"] == pytest.approx(400)
    assert figures["ttft_ms"]["p50"] == pytest.approx(200)
    assert figures["ttft_ms"]["max"] == pytest.approx(400)
    assert figures["output_tokens_per_s"] == 13.5
    assert figures["requests_per_s"] == 1.5


def test_figures_are_json_and_a_dash_where_there_are_none() -> None:
    result = Result(load(), "http://here", 1.0, (Stream(error="lost"),))
    figures = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert figures["ttft_ms"] == {"p50": None, "p90": None, "p95": None, "p99": None, "max": None}
    assert figures["output_tokens_per_s"] == 0
    table = shown(result)
    assert "nan" not in table
    assert "first token" in table
    assert "-" in table


def test_percentiles_lie_between_their_neighbours() -> None:
    streams = tuple(Stream((i / 1000,), i / 1000, 1, 1) for i in range(1, 101))
    ttft = Result(load(), "http://here", 1.0, streams).as_dict()["ttft_ms"]
    assert math.isclose(ttft["p50"], 50.5)
    assert 90 <= ttft["p90"] <= 91
    assert 99 <= ttft["p99"] <= 100
    assert ttft["max"] == 100


async def test_short_answers_are_told(server: FakeServer) -> None:
    result = await run(server.url, load(output_tokens=7))
    assert result.as_dict()["short"] == 6
    assert "6 answers ended before 7 tokens" in shown(result)
