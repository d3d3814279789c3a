"""`russet bench load`: arrivals kept to whatever still runs, prompts that share what the trace says, goodput."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from actors.base.errors import InvalidArgument
from cluster import cli
from cluster.load_stream import Stream
from cluster.replay import Replay, Report, Sent, Slo, replay
from cluster.replay_picture import write_pictures
from cluster.simulation.traffic import Arrival, read_trace
from tests.cluster.fake_openai import ANSWER, ENDING, Body, FakeServer

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,48,10
2023-11-16 18:17:04.0319600,96,0
2023-11-16 18:17:06.9799600,20,8
"""
BURST = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,GPT-4,1087,230,1317,API log
"""


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    fake = FakeServer()
    listening = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    yield fake
    listening.close()


def trace(tmp_path: Path, text: str, name: str = "trace.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def jsonl(tmp_path: Path, *rows: dict[str, Any]) -> list[Arrival]:
    return read_trace(trace(tmp_path, "\n".join(map(json.dumps, rows)), "trace.jsonl"))


def test_azure_s_and_other_csv_are_read(tmp_path: Path) -> None:
    arrivals = read_trace(trace(tmp_path, AZURE))
    assert [(each.prompt_tokens, each.output_tokens) for each in arrivals] == [(48, 10), (96, 1), (20, 8)]
    assert [round(each.time_s, 3) for each in arrivals] == [0, 0.052, 3]
    burst = read_trace(trace(tmp_path, BURST))
    assert [(each.time_s, each.prompt_tokens, each.output_tokens) for each in burst] == [(0, 472, 18), (40, 1087, 230)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "its first line names a, b; accepted are, in any case, time: time_s"),
        ("time_s,prompt_tokens,output_tokens\n0,5,5\nsoon,5,5\n", "line 3 of .*'soon,5,5'"),
        ("time_s,prompt_tokens,output_tokens\n0,9999999,5\n", "line 2 of .*counts of tokens up to"),
        ("time_s,prompt_tokens,output_tokens\n", "no requests"),
        ("", "its first line names nothing"),
    ],
)
def test_what_is_no_trace_is_refused_by_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        read_trace(trace(tmp_path, text))


async def test_requests_are_sent_when_the_trace_says_so_whatever_runs(server: FakeServer, tmp_path: Path) -> None:
    """The server answers nothing before the last request has come: a closed loop would wait for ever."""
    all_there = asyncio.Event()
    arrivals = jsonl(
        tmp_path, *({"time_s": 100 + number, "prompt_tokens": 20 + number, "output_tokens": 6} for number in range(4))
    )

    def answer(body: Body) -> tuple[int, list[bytes]]:
        if sum(body["max_tokens"] == 6 for body in server.bodies) == 4:
            all_there.set()
        return 200, ANSWER + ENDING

    server.answer = answer
    server.hold = all_there
    heard: list[Sent] = []
    report = await replay(server.url, Replay(arrivals, speed=100, seed=1), on_end=heard.append)
    assert [len(body["prompt"].split()) for body in server.bodies[1:]] == [20, 21, 22, 23]
    assert [body["model"] for body in server.bodies] == ["tiny"] * 5
    assert server.most_together == 4
    assert len(heard) == 4
    told = report.as_dict()
    assert (told["requests"], told["answered"], told["failed"], told["most_at_once"]) == (4, 4, 0, 4)
    assert [each.sent_s >= report.replay.due_s(each.arrival) for each in report.sent] == [True] * 4
    assert report.replay.due_s(arrivals[3]) == pytest.approx(0.03), "a hundred times as fast"


async def test_connections_are_used_again(server: FakeServer, tmp_path: Path) -> None:
    row = {"prompt_tokens": 5, "output_tokens": 6}
    arrivals = jsonl(tmp_path, {"time_s": 0} | row, {"time_s": 0.3} | row)
    await replay(server.url, Replay(arrivals))
    assert server.connections == 1 + 1, "one asked for the models"


async def test_what_the_trace_shares_prompts_share(tmp_path: Path) -> None:
    row = {"prompt_tokens": 40, "output_tokens": 4}
    first, second, other, turn, next_turn = jsonl(
        tmp_path,
        {"time_s": 0, "prefix": "p", "prefix_tokens": 32} | row,
        {"time_s": 1, "prefix": "p", "prefix_tokens": 32} | row,
        {"time_s": 2} | row,
        {"time_s": 3, "session": "s"} | row,
        {"time_s": 4, "session": "s", "prompt_tokens": 80, "output_tokens": 4},
    )
    asked = Replay([first], seed=7)
    words = {each.number: asked.prompt(each).split() for each in (first, second, other, turn, next_turn)}
    assert [len(each) for each in words.values()] == [40, 40, 40, 40, 80]
    assert words[0][:32] == words[1][:32]
    assert words[0][32:] != words[1][32:]
    assert words[0][:16] != words[2][:16]
    assert words[3][:32] == words[4][:32]
    assert Replay([first], seed=8).prompt(first).split()[:32] != words[0][:32], "another seed shares nothing"


def sent(number: int, stream: Stream) -> Sent:
    return Sent(Arrival(number, number, 10, 9, "", (), number), float(number), 0.001, stream)


def report(slo: Slo) -> Report:
    """Fast, slow to begin, slow to go on, failed, and one that came whole."""
    streams = (
        Stream((0.1, 0.5), 0.6, 10, 9),
        Stream((2.0, 2.4), 2.5, 10, 9),
        Stream((0.1, 4.1), 4.2, 10, 9),
        Stream(error="503: full"),
        Stream((0.2,), 0.2, 10, 9),
    )
    rows = tuple(sent(number, stream) for number, stream in enumerate(streams))
    return Report(Replay([row.arrival for row in rows], 1.0, "tiny", slo, 1), "http://here", 10.0, rows)


def test_goodput_is_what_kept_to_the_slo() -> None:
    told = report(Slo(1.0, 0.1)).as_dict()
    assert told["slo"] == {
        "ttft_ms": 1000, "tpot_ms": 100, "met": 2, "share": 0.4, "missed": {"ttft": 1, "tpot": 1, "failed": 1},
        "goodput_per_s": 0.2,
    }  # fmt: skip
    assert (told["answered"], told["failed"], told["errors"]) == (4, 1, {"503: full": 1})
    assert told["offered_per_s"] == 1.25
    assert told["output_tokens_per_s"] == 3.6
    assert told["ttft_ms"]["p50"] == pytest.approx(150)
    assert told["ttft_ms"]["max"] == 2000
    assert told["time_per_output_token_ms"]["p50"] == 50
    assert told["total_ms"]["mean"] == pytest.approx(1875)
    assert told["most_at_once"] == 3
    json.dumps(told, allow_nan=False)
    assert report(Slo()).as_dict()["slo"]["met"] == 4, "without an SLO whoever is answered"


def test_rows_tell_of_each_request() -> None:
    rows = report(Slo(1.0, None)).rows()
    assert [row["missed"] for row in rows] == [[], ["ttft"], [], ["failed"], []]
    assert [row["ttft_ms"] for row in rows] == [100, 2000, 100, None, 200]
    assert rows[3]["error"] == "503: full"


def test_the_picture_is_one(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "load.png"
    write_pictures(report(Slo(1.0, 0.1)), path)
    assert path.read_bytes().startswith(b"\x89PNG")


async def test_the_command_replays_a_file(server: FakeServer, tmp_path: Path) -> None:
    path, rows = trace(tmp_path, AZURE), tmp_path / "rows.jsonl"
    arguments = ["bench", "load", str(path), "--url", server.url, "--speed", "1000", "--tokens", "0.5", "--limit", "2"]
    more = ["--rows", str(rows), "--slo-ttft", "60000", "--seed", "3"]
    shown = await asyncio.to_thread(CliRunner().invoke, cli.app, [*arguments, *more, "--json"])
    assert shown.exit_code == 0, shown.output
    told = json.loads(shown.stdout)
    assert (told["requests"], told["slo"]["met"], told["speed"]) == (2, 2, 1000)
    assert [len(body["prompt"].split()) for body in server.bodies[1:]] == [24, 48]
    assert [body["max_tokens"] for body in server.bodies[1:]] == [5, 1]
    assert len(rows.read_text().splitlines()) == 2
    table = await asyncio.to_thread(CliRunner().invoke, cli.app, [*arguments, "--slo-tpot", "1000"])
    assert "goodput" in table.stdout


def test_what_stands_in_the_wrong_place_is_refused(tmp_path: Path) -> None:
    path = str(trace(tmp_path, AZURE))
    early = CliRunner().invoke(cli.app, ["bench", "--clients", "3", "load", path])
    assert "--clients stands before `load`" in str(early.exception)
    nowhere = CliRunner().invoke(cli.app, ["bench", "load", path, "--url", "http://x", "--plot", "/nonexistent/a.png"])
    assert "there is no directory /nonexistent" in str(nowhere.exception)
