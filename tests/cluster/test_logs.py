"""Log lines: text or JSON, and the request's id and trace in each of them, in every process that takes part."""

import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry import trace

from actors.base.channel import connect
from actors.base.server import Server
from actors.base.telemetry import REQUEST
from cluster import logs
from cluster.config import load
from cluster.home import Home
from protos.gen import telemetry_pb2, telemetry_pb2_grpc
from tests.cluster.gateway.world import World

log = logging.getLogger("tests.logs")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What a process would write whose handlers these are."""
    root, text = logging.getLogger(), io.StringIO()
    kept, level = root.handlers[:], root.level
    root.handlers[:] = [logging.StreamHandler(text)]
    root.setLevel(logging.INFO)
    yield text
    root.handlers[:] = kept
    root.setLevel(level)
    REQUEST.set("")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.stop()


def lines(text: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.getvalue().splitlines()]


def test_a_line_is_an_object(written: io.StringIO) -> None:
    logs.as_asked("json")
    log.info("two\nlines of %s", '"quotes"')
    REQUEST.set("cmpl-1")
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("failed")
    first, second = lines(written)
    assert (first["level"], first["logger"], first["message"]) == ("info", "tests.logs", 'two\nlines of "quotes"')
    assert first["time"].endswith("+00:00")
    assert "request_id" not in first
    assert second["request_id"] == "cmpl-1"
    assert "ValueError: no" in second["error"]


def test_text_names_the_request_too(written: io.StringIO) -> None:
    logs.as_asked("text")
    log.info("without")
    REQUEST.set("cmpl-2")
    log.info("within")
    without, within = written.getvalue().splitlines()
    assert without.endswith("INFO tests.logs: without")
    assert within.endswith("INFO tests.logs: within [cmpl-2]")


def test_a_process_without_handlers_gets_one_for_json_alone(
    written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    root.handlers[:] = []
    logs.as_asked("text")
    assert root.handlers == []
    monkeypatch.setattr(logs.sys, "__stderr__", written)
    logs.as_asked("json")
    log.info("heard")
    assert lines(written)[0]["message"] == "heard"


def test_the_file_of_a_home_has_the_form_asked_for(written: io.StringIO, home: Path) -> None:
    config = load(None, {"home": home, "telemetry.logs": "json"}, environ={})
    Home(config.home).create().log_to("serve.log", config.telemetry.logs)
    log.info("kept")
    (kept,) = (json.loads(line) for line in (home / "logs" / "serve.log").read_text().splitlines())
    assert kept["message"] == "kept"


class Talking(telemetry_pb2_grpc.TelemetryServicer):
    """Logs when it is called."""

    async def Identify(self, request: Any, context: Any) -> telemetry_pb2.Identity:
        log.info("asked")
        return telemetry_pb2.Identity()


@pytest.mark.parametrize("way", ["inproc", "tcp"])
async def test_a_call_carries_the_request_to_the_other_side(written: io.StringIO, way: str) -> None:
    logs.as_asked("json")
    server = Server("talking", [(telemetry_pb2_grpc.add_TelemetryServicer_to_server, Talking())], tcp="127.0.0.1:0")
    addresses = await server.start()
    channel = connect(next(address for address in addresses if address.startswith(way)))
    stub = telemetry_pb2_grpc.TelemetryStub(channel)
    REQUEST.set("chatcmpl-7")
    span = trace.NonRecordingSpan(trace.SpanContext(0xABC, 0xDEF, is_remote=False))
    with trace.use_span(span):
        await stub.Identify(telemetry_pb2.IdentifyRequest())
    REQUEST.set("")
    await stub.Identify(telemetry_pb2.IdentifyRequest())
    await channel.close()
    await server.stop(0)
    within, without = (line for line in lines(written) if line["logger"] == "tests.logs")
    assert within["request_id"] == "chatcmpl-7"
    assert within["trace_id"] == f"{0xABC:032x}"
    assert "request_id" not in without
    assert "trace_id" not in without


async def test_a_client_cannot_write_into_the_log(world: World, written: io.StringIO) -> None:
    """Ids are the gateway's own, whatever a client sends."""
    logs.as_asked("json")
    await world.replica()
    gateway = await world.start(failover_wait_s=0.1)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "secret words"}], "max_tokens": 4}
    headers = {"russet-request": "forged", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    async with httpx.AsyncClient(base_url=gateway.addresses.http) as http:
        answer = await http.post("/v1/chat/completions", json=body, headers=headers)
        refused = await http.post("/v1/chat/completions", json=body | {"model": "a\nb"}, headers=headers)
    assert (answer.status_code, refused.status_code) == (200, 503)
    of_requests = [line for line in lines(written) if line["logger"] == "cluster.gateway.requests"]
    assert of_requests[0]["request_id"] == answer.json()["id"]
    assert len({line["request_id"] for line in of_requests}) == 2
    assert {line["trace_id"] for line in of_requests} == {"4bf92f3577b34da6a3ce929d0e0e4736"}
    assert "Unavailable" in of_requests[1]["message"]
    assert "forged" not in written.getvalue()
    assert "secret words" not in written.getvalue()
