"""Servers that die, hang, come late or never, over stdio, HTTP and as entry points: always an answer for the model."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.tool_runtime.config import ServerConfig
from cluster.tool_runtime.connection import State
from tests.cluster.tool_runtime.conftest import SERVER

PLUGIN = '''
import os, time
from mcp.server.mcpserver import MCPServer

many = MCPServer("many")

@many.tool()
def one() -> str:
    """The first."""
    return "1"

@many.tool()
def two() -> str:
    """The second."""
    return "2"

def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    print("this goes to the log, not into the protocol")
    if a < 0:
        raise ValueError(f"{a} is negative")
    return a + b

async def later(text: str) -> str:
    """The same text."""
    return text

def process() -> str:
    return str(os.getpid())

def stuck() -> str:
    """Never ends, and takes no notice."""
    with open(os.environ["MARK"], "w") as mark:
        mark.write(str(os.getpid()))
    while True:
        time.sleep(3600)

def either(stuck: bool) -> str:
    """Ends or does not."""
    while stuck:
        time.sleep(3600)
    return "ended"

number = 7
'''
ENTRY_POINTS = "[russet.tools]\n" + "\n".join(
    f"{name} = plugin_of_tests:{name}" for name in ("many", "add", "later", "process", "stuck", "either", "number")
)


class HttpServer:
    """The tests' server over HTTP, in a process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.port = 0

    def start(self) -> None:
        """On the port that it had before."""
        command = [sys.executable, str(SERVER), str(self._directory), str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def config(self, **more: Any) -> ServerConfig:
        url, headers = f"http://127.0.0.1:{self.port}/mcp", {"Authorization": "Bearer ${TOKEN}"}
        return ServerConfig.model_validate({"name": "web", "url": url, "headers": headers} | more)


@pytest.fixture
def http(tmp_path: Path) -> Iterator[HttpServer]:
    server = HttpServer(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[[str], ServerConfig]:
    """The configuration of an entry point of a package that is installed for its process alone."""
    site = tmp_path / "site"
    installed = site / "plugin_of_tests-1.0.dist-info"
    installed.mkdir(parents=True)
    (site / "plugin_of_tests.py").write_text(PLUGIN)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin-of-tests\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(ENTRY_POINTS)
    env = {"PYTHONPATH": str(site), "MARK": str(tmp_path / "mark")}
    return lambda name: ServerConfig(name=f"plugin-{name}", entry_point=name, env=env)


async def test_a_server_that_is_killed_while_idle_is_started_again(bench: Callable[..., Any]) -> None:
    tests = await bench()
    before = int((await tests.one("process")).text)
    session = tests.registry.connections[0]._session
    os.kill(before, signal.SIGKILL)
    await asyncio.wait_for(session.ended.wait(), 20)
    after = await tests.one("process")
    assert after.ok
    assert int(after.text) != before


async def test_a_server_that_dies_within_a_call_is_told_and_started_again(bench: Callable[..., Any]) -> None:
    tests = await bench()
    run = await tests.one("die")
    assert not run.ok
    assert "ended before it answered" in run.text
    assert (await tests.one("process")).ok


async def test_a_server_that_is_killed_within_a_call_is_told_at_once(bench: Callable[..., Any], tmp_path: Path) -> None:
    tests = await bench(call_timeout_s=500, request_timeout_s=500)
    process = int((await tests.one("process")).text)
    task = asyncio.create_task(tests.one("hang"))
    await tests.until((tmp_path / "hanging").exists)
    os.kill(process, signal.SIGKILL)
    run = await asyncio.wait_for(task, 20)
    assert not run.ok
    assert "ended before it answered" in run.text


async def test_a_server_that_stands_still_is_replaced(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.tool_runtime.connection.PROBE_S", 0.2)
    tests = await bench(call_timeout_s=1)
    stood = int((await tests.one("process")).text)
    session = tests.registry.connections[0]._session
    assert "longer than 1 s" in (await tests.one("freeze")).text
    await asyncio.wait_for(session.ended.wait(), 20)
    after = await tests.one("process")
    if not after.ok:  # It is being started, which may take longer than a call may.
        await tests.registry.connections[0].settled()
        after = await tests.one("process")
    assert int(after.text) != stood
    await tests.until(lambda: not psutil.pid_exists(stood) or psutil.Process(stood).status() == "zombie")


async def test_a_message_without_measure_is_not_read(bench: Callable[..., Any]) -> None:
    tests = await bench(max_message_bytes=1 << 16)
    assert (await tests.one("much", '{"characters": 20000}')).ok
    run = await tests.one("much", '{"characters": 10000000}')
    assert not run.ok
    assert "a message of more than 65536 bytes" in run.text
    assert (await tests.one("process")).ok


async def test_nor_is_one_over_http(bench: Callable[..., Any], http: HttpServer) -> None:
    tests = await bench(servers=[http.config()], environ={"TOKEN": "opensesame"}, max_message_bytes=1 << 16)
    assert (await tests.one("much", '{"characters": 20000}')).ok
    run = await tests.one("much", '{"characters": 10000000}')
    assert not run.ok
    assert "65536 bytes" in run.text
    assert (await tests.one("process")).ok


async def test_what_a_program_prints_beside_the_protocol_is_passed_over(bench: Callable[..., Any]) -> None:
    tests = await bench()
    assert (await tests.one("chatter")).text == "said"


async def test_children_of_a_program_end_with_it(bench: Callable[..., Any]) -> None:
    tests = await bench()
    child = int((await tests.one("child")).text)
    await tests.registry.stop()
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie"


async def test_a_program_that_cannot_be_started_is_a_clear_error(bench: Callable[..., Any]) -> None:
    tests = await bench(server={"command": "/no/such/program"})
    assert (await tests.registry.catalogue()).tools == {}
    connection = tests.registry.connections[0]
    assert connection.state is State.DOWN
    assert "/no/such/program" in connection.problem


async def test_a_program_that_is_no_server_is_a_clear_error(bench: Callable[..., Any]) -> None:
    tests = await bench(server={"command": "sleep", "args": ("3600",)}, connect_timeout_s=0.5)
    await tests.registry.catalogue()
    assert tests.registry.connections[0].problem == "no answer within 0.5 s"


async def test_nothing_of_a_server_is_left_after_the_end(bench: Callable[..., Any]) -> None:
    tests = await bench()
    process = int((await tests.one("process")).text)
    await tests.registry.stop()
    assert not psutil.pid_exists(process)


async def test_http_with_a_token_from_the_environment(bench: Callable[..., Any], http: HttpServer) -> None:
    tests = await bench(servers=[http.config()], environ={"TOKEN": "opensesame"})
    assert (await tests.one("population", '{"city": "Rome"}')).text == "2750000 people lived in Rome in 2024"
    runs = await tests.run(("meet", '{"me": "a", "other": "b"}'), ("meet", '{"me": "b", "other": "a"}'))
    assert [run.text for run in runs] == ["a met b", "b met a"]


async def test_http_that_refuses_is_down_and_its_token_is_not_told(
    bench: Callable[..., Any], http: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    tests = await bench(servers=[http.config()], environ={"TOKEN": "closesesame"})
    assert (await tests.registry.catalogue()).tools == {}
    connection = tests.registry.connections[0]
    assert connection.state is State.DOWN
    assert connection.problem
    assert "closesesame" not in connection.problem + caplog.text


async def test_a_variable_that_is_not_set_is_named(bench: Callable[..., Any], http: HttpServer) -> None:
    tests = await bench(servers=[http.config()], environ={})
    await tests.registry.catalogue()
    assert "environment variable TOKEN, which is not set" in tests.registry.connections[0].problem


async def test_an_http_server_that_was_away_is_found_again(bench: Callable[..., Any], http: HttpServer) -> None:
    tests = await bench(servers=[http.config()], environ={"TOKEN": "opensesame"}, call_timeout_s=20)
    assert (await tests.one("process")).ok
    http.kill()
    run = await tests.one("process")
    assert not run.ok
    assert "web" in run.text
    assert "process" in (await tests.registry.catalogue()).tools, "what it offers is still known"
    http.start()
    connection = tests.registry.connections[0]
    await tests.until(lambda: connection.state is State.READY)
    assert (await tests.one("process")).ok


async def test_an_http_server_that_is_killed_within_a_call(
    bench: Callable[..., Any], http: HttpServer, tmp_path: Path
) -> None:
    tests = await bench(
        servers=[http.config()], environ={"TOKEN": "opensesame"}, call_timeout_s=500, request_timeout_s=500
    )
    task = asyncio.create_task(tests.one("hang"))
    await tests.until((tmp_path / "hanging").exists)
    http.kill()
    run = await asyncio.wait_for(task, 20)
    assert not run.ok


async def test_programs_get_only_the_environment_they_are_given(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS", "not theirs")
    tests = await bench(server={"env": {"THEIRS": "${GIVEN}"}}, environ={"GIVEN": "value"})
    assert (await tests.one("secret", '{"name": "THEIRS"}')).text == "value"
    assert (await tests.one("secret", '{"name": "OURS"}')).text == "not set"


async def test_only_listed_tools_are_offered_under_their_prefix(bench: Callable[..., Any]) -> None:
    tests = await bench(server={"tools": ("pop*", "process"), "prefix": "my_"})
    assert list((await tests.registry.catalogue()).tools) == ["my_population", "my_process"]
    assert (await tests.one("my_process")).ok


async def test_of_two_tools_with_one_name_the_first_servers_is_taken(
    bench: Callable[..., Any], http: HttpServer, tmp_path: Path
) -> None:
    stdio = ServerConfig(name="first", command=sys.executable, args=(str(SERVER), str(tmp_path)), tools=("process",))
    tests = await bench(servers=[stdio, http.config(tools=("process", "much"))], environ={"TOKEN": "opensesame"})
    catalogue = await tests.registry.catalogue()
    assert {name: tool.connection.server.name for name, tool in catalogue.tools.items()} == {
        "process": "first",
        "much": "web",
    }
    assert [(left.server, left.tool) for left in catalogue.left_out] == [("web", "process")]


async def test_a_function_is_a_tool(bench: Callable[..., Any], plugin: Callable[[str], ServerConfig]) -> None:
    tests = await bench(servers=[plugin("add"), plugin("later")])
    add = (await tests.registry.catalogue()).tools["add"]
    assert add.description == "Add two numbers."
    assert add.parameters["properties"]["a"]["type"] == "integer"
    assert add.parameters["required"] == ["a"]
    assert (await tests.one("add", '{"a": 2}')).text == "3"
    assert (await tests.one("later", '{"text": "x"}')).text == "x"
    failed = await tests.one("add", '{"a": -2}')
    assert not failed.ok
    assert "ValueError: -2 is negative" in failed.text


async def test_an_entry_point_may_be_a_server(bench: Callable[..., Any], plugin: Callable[[str], ServerConfig]) -> None:
    tests = await bench(servers=[plugin("many")])
    assert list((await tests.registry.catalogue()).tools) == ["one", "two"]
    assert (await tests.one("two")).text == "2"


@pytest.mark.parametrize("name", ["number", "missing"])
async def test_an_entry_point_that_is_none_is_down(
    bench: Callable[..., Any], plugin: Callable[[str], ServerConfig], name: str
) -> None:
    tests = await bench(servers=[plugin(name)])
    assert (await tests.registry.catalogue()).tools == {}
    assert tests.registry.connections[0].state is State.DOWN


async def test_a_function_that_takes_no_notice_is_killed(
    bench: Callable[..., Any], plugin: Callable[[str], ServerConfig], tmp_path: Path
) -> None:
    tests = await bench(servers=[plugin("stuck")], call_timeout_s=1)
    await tests.registry.catalogue()
    run = await tests.one("stuck")
    assert "longer than 1 s" in run.text
    process = int((tmp_path / "mark").read_text())
    await tests.until(lambda: not psutil.pid_exists(process) or psutil.Process(process).status() == "zombie")


async def test_a_function_that_is_killed_again_and_again_is_there_at_once(
    bench: Callable[..., Any], plugin: Callable[[str], ServerConfig]
) -> None:
    tests = await bench(servers=[plugin("either")], call_timeout_s=60)
    for _ in range(2):
        assert (await tests.one("either", '{"stuck": false}')).ok
        (run,) = await tests.run(("either", '{"stuck": true}'), allowance_s=0.5)
        assert "given up" in run.text
    assert (await tests.one("either", '{"stuck": false}')).ok


async def test_entry_points_do_not_run_in_this_process(
    bench: Callable[..., Any], plugin: Callable[[str], ServerConfig]
) -> None:
    tests = await bench(servers=[plugin("process")])
    assert int((await tests.one("process")).text) != os.getpid()
