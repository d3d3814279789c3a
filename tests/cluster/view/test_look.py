"""Looks at services, some of which are on other hosts, and some of which are away."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from actors.base.server import Server
from actors.base.telemetry import Telemetry
from cluster.identity import TelemetryService, scrape
from cluster.machine import MachineMetrics
from cluster.view.look import NOTHING, look
from protos.gen import telemetry_pb2, telemetry_pb2_grpc

BOUND_S = 4.0
"""Well over the second that one service gets, well under what a hanging connection would take."""


@pytest.fixture
async def elsewhere() -> AsyncIterator[dict[str, list[str]]]:
    """Services as published: one that answers on another address, one silent, one whose port is closed."""
    telemetry = Telemetry("scheduler", "tiny-0")
    telemetry.counter("vllm:generation_tokens_total", "Tokens.").inc(42)
    telemetry.registry.register(MachineMetrics("127.0.0.2"))
    identity = telemetry_pb2.Identity(role="scheduler", replica="tiny-0", node="127.0.0.2", pid=7, version="1")
    service = TelemetryService(telemetry, identity)
    server = Server("elsewhere", [(telemetry_pb2_grpc.add_TelemetryServicer_to_server, service)], tcp="127.0.0.2:0")
    addresses = await server.start()
    with socket.create_server(("127.0.0.3", 0)) as silent, socket.create_server(("127.0.0.4", 0)) as closed:
        hangs, refuses = (f"tcp:{each.getsockname()[0]}:{each.getsockname()[1]}" for each in (silent, closed))
        closed.close()
        away = ["inproc:another-process", "unix:/nonexistent/worker.sock"]
        yield {
            "scheduler-tiny-0": [*away, addresses[-1]],
            "worker-tiny-0": [*away, hangs],
            "memory": [*away, refuses],
            "learner": [],
        }
    await server.stop(0)


async def test_a_look_is_bounded_and_tells_who_is_away(elsewhere: dict[str, list[str]]) -> None:
    async def published() -> dict[str, list[str]]:
        return elsewhere

    async with asyncio.timeout(BOUND_S):
        seen = await look(published)
    scheduler = seen.services["scheduler-tiny-0"]
    assert (scheduler.role, scheduler.node, scheduler.pid, scheduler.problem) == ("scheduler", "127.0.0.2", 7, "")
    assert scheduler.figures.generated_tokens == 42
    assert scheduler.figures.node_memory_bytes > scheduler.figures.node_available_bytes > 0
    for name in ("worker-tiny-0", "memory", "learner"):
        assert seen.services[name].problem, name
    assert (seen.services["worker-tiny-0"].role, seen.services["worker-tiny-0"].replica) == ("worker", "tiny-0")
    assert [each.name for each in seen.of("scheduler")] == ["scheduler-tiny-0"]
    assert seen.of("memory") == []


async def test_who_was_there_before_is_known_by_its_node(elsewhere: dict[str, list[str]]) -> None:
    async def published() -> dict[str, list[str]]:
        return elsewhere

    before = await look(published, NOTHING)
    elsewhere["scheduler-tiny-0"] = ["inproc:gone"]
    now = await look(published, before)
    gone = now.services["scheduler-tiny-0"]
    assert gone.problem
    assert (gone.node, gone.pid) == ("127.0.0.2", 7)


async def test_one_scrape_reaches_every_node_and_says_who_is_away(elsewhere: dict[str, list[str]]) -> None:
    async with asyncio.timeout(BOUND_S):
        text = (await scrape(elsewhere)).decode()
    assert 'vllm:generation_tokens_total{service="scheduler-tiny-0"} 42.0' in text
    assert 'russet_node_memory_bytes{node="127.0.0.2",service="scheduler-tiny-0",state="total"}' in text
    assert 'russet_up{service="scheduler-tiny-0"} 1.0' in text
    for name in ("worker-tiny-0", "memory", "learner"):
        assert f'russet_up{{service="{name}"}} 0.0' in text
