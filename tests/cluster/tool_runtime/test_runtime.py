"""Calls of a real MCP server over stdio: checked, bounded, beside each other, and used again."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.tool_runtime.runtime import Allowance, Call, shortened


async def test_a_call_is_answered(bench: Callable[..., Any]) -> None:
    tests = await bench()
    run = await tests.one("population", '{"city": "Paris", "year": 1999}')
    assert (run.text, run.ok, run.cached) == ("2100000 people lived in Paris in 1999", True, "")
    assert tests.counted("russet_tool_calls_total", tool="population", outcome="ok") == 1
    assert tests.counted("russet_tool_seconds_count", tool="population") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ('{"city": 5}', "$.city: 5 is not of type 'string'"),
        ("{}", "'city' is a required property"),
        ('{"city": "Paris"', "not JSON"),
        ("[1]", "accepted is a JSON object"),
        ('{"city": "' + "x" * 300 + '"}', "accepted are up to 256"),
    ],
)
async def test_arguments_that_do_not_fit_are_told_and_nothing_runs(
    bench: Callable[..., Any], tmp_path: Path, arguments: str, told: str
) -> None:
    tests = await bench(max_argument_bytes=256)
    run = await tests.one("population", arguments)
    assert not run.ok
    assert told in run.text
    assert not (tmp_path / "asked").exists()
    assert tests.counted("russet_tool_calls_total", tool="population", outcome="refused") == 1


async def test_what_a_tool_raises_is_told(bench: Callable[..., Any]) -> None:
    tests = await bench()
    run = await tests.one("population", '{"city": "Atlantis"}')
    assert not run.ok
    assert "there is no city Atlantis" in run.text
    assert tests.counted("russet_tool_calls_total", tool="population", outcome="error") == 1


async def test_parallel_calls_overlap_and_keep_their_order(bench: Callable[..., Any]) -> None:
    tests = await bench()
    runs = await tests.run(("meet", '{"me": "a", "other": "b"}'), ("meet", '{"me": "b", "other": "a"}'))
    assert [run.text for run in runs] == ["a met b", "b met a"]


@pytest.mark.parametrize(
    ("settings", "parallel"), [({}, False), ({"max_parallel": 1}, True), ({"max_running": 1}, True)]
)
async def test_calls_that_may_not_overlap_do_not(
    bench: Callable[..., Any], settings: dict[str, Any], parallel: bool
) -> None:
    tests = await bench(call_timeout_s=1, **settings)
    await tests.one("process")
    runs = await tests.run(
        ("meet", '{"me": "a", "other": "b"}'), ("meet", '{"me": "b", "other": "a"}'), parallel=parallel
    )
    assert [run.ok for run in runs] == [False, True], "the first waits in vain, since the second comes after it"


async def test_a_call_that_hangs_is_given_up_and_its_server_serves_on(bench: Callable[..., Any]) -> None:
    tests = await bench(call_timeout_s=1)
    before = await tests.one("process")
    run = await tests.one("hang")
    assert not run.ok
    assert "longer than 1 s" in run.text
    assert tests.counted("russet_tool_calls_total", tool="hang", outcome="failed") == 1
    assert (await tests.one("process")).text == before.text


async def test_a_request_may_spend_so_much_time_on_tools(bench: Callable[..., Any]) -> None:
    tests = await bench()
    hang = (await tests.registry.catalogue()).tools["hang"]
    allowance = Allowance(0.5)
    given_up, never_run = [
        (await tests.runtime.run([Call("call", hang, "{}")], "", allowance, parallel=True))[0] for _ in range(2)
    ]
    assert "given up" in given_up.text
    assert "was not run" in never_run.text
    assert allowance.left_s == 0


async def test_long_output_is_cut_and_says_so(bench: Callable[..., Any]) -> None:
    tests = await bench(max_output_chars=100)
    run = await tests.one("much", '{"characters": 5000}')
    assert run.ok
    assert run.text == "x" * 100 + "\n[cut here: the first 100 of 5000 characters]"
    assert shortened("x" * 100, 100) == "x" * 100


async def test_cancelling_gives_the_calls_up(bench: Callable[..., Any], tmp_path: Path) -> None:
    tests = await bench(max_running=1)
    task = asyncio.create_task(tests.one("hang"))
    await tests.until((tmp_path / "hanging").exists)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert (await tests.one("process")).ok, "its place is free again"


async def test_the_same_arguments_are_asked_once(bench: Callable[..., Any], tmp_path: Path) -> None:
    tests = await bench()
    first = await tests.one("population", '{"city": "Paris", "year": 2020}')
    again = await tests.one("population", ' {"year":2020,"city":"Paris"}')
    other = await tests.one("population", '{"city": "Paris", "year": 2021}')
    assert [run.cached for run in (first, again, other)] == ["", "exact", ""]
    assert again.text == first.text != other.text
    assert (tmp_path / "asked").read_text().splitlines() == ["Paris", "Paris"]
    assert tests.counted("russet_tool_cache_total", tool="population", result="exact") == 1
    assert tests.counted("russet_tool_cache_total", tool="population", result="miss") == 2
    assert tests.embedded == [], "by meaning only where a setting says so"


async def test_another_tenant_is_not_told(bench: Callable[..., Any]) -> None:
    tests = await bench()
    await tests.one("population", '{"city": "Paris"}')
    tests.tenant = "other"
    assert (await tests.one("population", '{"city": "Paris"}')).cached == ""


async def test_failures_and_tools_that_do_not_declare_it_are_asked_again(
    bench: Callable[..., Any], tmp_path: Path
) -> None:
    tests = await bench()
    for _ in range(2):
        assert (await tests.one("population", '{"city": "Atlantis"}')).cached == ""
        assert (await tests.one("much", '{"characters": 1}')).cached == ""
        assert (await tests.one("process")).cached == "", "read-only alone does not say that it answers the same"
    assert (tmp_path / "asked").read_text().splitlines() == ["Atlantis"] * 2


async def test_settings_let_results_be_used_again(bench: Callable[..., Any]) -> None:
    tests = await bench(server={"cached": ("proc*",)})
    await tests.one("process")
    assert (await tests.one("process")).cached == "exact"


async def test_arguments_of_like_meaning_where_a_setting_says_so(bench: Callable[..., Any]) -> None:
    tests = await bench(server={"cached_by_meaning": ("population",)}, cache_cosine=0.97)
    tests.means("Paris", 0)
    tests.means("PARIS", 10)  # cosine 0.985
    tests.means("Rome", 20)  # cosine 0.94
    first = await tests.one("population", '{"city": "Paris"}')
    near = await tests.one("population", '{"city": "PARIS"}')
    far = await tests.one("population", '{"city": "Rome"}')
    year = await tests.one("population", '{"city": "PARIS", "year": 1900}')
    assert [run.cached for run in (first, near, far, year)] == ["", "meaning", "", ""]
    assert near.text == first.text
    assert (await tests.one("population", '{"city": "Paris"}')).cached == "exact"
    assert tests.counted("russet_tool_cache_total", tool="population", result="meaning") == 1
