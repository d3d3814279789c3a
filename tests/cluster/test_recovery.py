"""An engine that dies in one process: said by gRPC health, replaced under its name, and no stream the worse for it."""

import asyncio
import gc
import json
import logging
import weakref
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cluster import compose
from cluster.compose import Listen
from cluster.local import LocalCluster, LocalDirectory
from tests.conftest import settings

REPLICA = "smollm2-135m-instruct-0"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class SocketDirectory(LocalDirectory):
    """Everything in one process, but listening, so that health can be asked."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def listen(self, service: str) -> Listen:
        return Listen(unix=str(self.folder / f"{service[:9]}.sock"))


class Health:
    """What gRPC health says at a unix socket, as it changes."""

    def __init__(self, address: str) -> None:
        self._channel = aio.insecure_channel(address)
        self._stub: Any = health_pb2_grpc.HealthStub(self._channel)

    async def becomes(self, status: int, service: str = "") -> None:
        async with asyncio.timeout(30):
            async for reply in self._stub.Watch(health_pb2.HealthCheckRequest(service=service)):
                if reply.status == status:
                    return

    async def close(self) -> None:
        await self._channel.close()


def break_engine(serving: compose.Serving) -> None:
    """A command that no engine knows: a fault of ours on the engine's own thread."""
    serving.service._machine.engine.submit(None)


async def text(url: str, tokens: int, at: int = -1, then: Any = None) -> str:
    """A streamed greedy completion; calls `then` when `at` chunks have come."""
    body = {"model": "auto", "prompt": "Once upon a time", "max_tokens": tokens, "temperature": 0}
    found, chunks = "", 0
    async with (
        httpx.AsyncClient(timeout=60) as http,
        http.stream("POST", f"{url}/v1/completions", json=body | {"ignore_eos": True, "stream": True}) as response,
    ):
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                found += "".join(choice["text"] for choice in json.loads(line[6:])["choices"])
                chunks += 1
                if chunks == at:
                    then()
    return found


async def test_a_failed_engine_is_replaced_and_its_streams_go_on(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL + 1)  # pytest keeps records, and they the frames of what was logged
    async with LocalCluster(settings(home)) as cluster:
        name = f"worker-{REPLICA}"
        expected = await text(cluster.http, 120)
        first = cluster.service(name)
        engine = weakref.ref(first.service._machine.engine)
        for _ in range(2):
            failing = cluster.service(name)
            texts = await asyncio.gather(
                text(cluster.http, 120, at=20, then=lambda failing=failing: break_engine(failing)),
                text(cluster.http, 120),
            )
            assert texts == [expected] * 2
            assert cluster.service(name) is not failing
        del first, failing
        gc.collect()
        assert engine() is None, "the dead engine, and with it weights and slab, is not kept"
        async with httpx.AsyncClient(base_url=cluster.http) as http:
            assert (await http.get("/health")).status_code == 200


async def test_health_says_when_no_token_can_come_out(home: Path) -> None:
    config = settings(home)
    directory = SocketDirectory(home)
    scheduler = await compose.serve_scheduler(config, REPLICA, directory)
    worker = None
    replica = Health(scheduler.addresses[1])
    try:
        await replica.becomes(NOT_SERVING)
        worker = await compose.serve_worker(config, config.models[0], REPLICA, directory)
        engine = Health(worker.addresses[1])
        await engine.becomes(SERVING, "russet.worker.v1.Worker")
        await replica.becomes(SERVING, "russet.scheduler.v1.Scheduler")
        break_engine(worker)
        await engine.becomes(NOT_SERVING, "russet.worker.v1.Worker")
        await replica.becomes(NOT_SERVING, "russet.scheduler.v1.Scheduler")
        await engine.close()
    finally:
        await replica.close()
        await scheduler.stop()
        if worker is not None:
            await worker.stop()


async def test_health_of_what_is_not_served_is_an_error(home: Path) -> None:
    directory = SocketDirectory(home)
    router = await compose.serve_router(settings(home), directory)
    health = Health(router.addresses[1])
    try:
        await health.becomes(SERVING, "russet.router.v1.Router")
        with pytest.raises(aio.AioRpcError) as refused:
            await health._stub.Check(health_pb2.HealthCheckRequest(service="no.such.Service"))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    finally:
        await health.close()
        await router.stop()
