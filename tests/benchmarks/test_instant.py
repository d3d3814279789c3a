"""The instant worker under the real scheduler: it obeys leases, and every request gets all its tokens."""

import asyncio

import pytest

from actors.base.channel import connect
from actors.base.errors import Unavailable
from actors.base.server import Server
from actors.base.telemetry import Telemetry
from actors.scheduler.config import SchedulerConfig
from actors.scheduler.service import SchedulerService
from protos.gen import scheduler_pb2, scheduler_pb2_grpc, worker_pb2, worker_pb2_grpc
from tests.benchmarks.engine import Arrivals, Engine
from tests.benchmarks.instant import MAX_ROWS, InstantWorker


async def test_many_streams_end_with_all_their_tokens_and_no_page_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.benchmarks.instant.STEP_S", 0)
    worker = InstantWorker(
        worker_pb2.ModelInfo(id="instant", revision="1", context_length=2048),
        worker_pb2.Vocabulary(vocab_size=50000, eos_ids=[2]),
        token=5,
    )
    serving = Server("worker-instant-test", [(worker_pb2_grpc.add_WorkerServicer_to_server, worker)])
    channel = connect(await serving.start())
    service = SchedulerService(
        SchedulerConfig(), "instant-0", "here", worker_pb2_grpc.WorkerStub(channel), None, Telemetry("scheduler", "0")
    )
    front = Server("scheduler-instant-test", [(scheduler_pb2_grpc.add_SchedulerServicer_to_server, service)])
    await service.start()
    to_scheduler = connect(await front.start())
    stub = scheduler_pb2_grpc.SchedulerStub(to_scheduler)
    engine = Engine(stub)
    async with asyncio.timeout(20):
        await _until_ready(stub)
        streams: list[Arrivals] = await asyncio.gather(*(engine.generate(700, 100) for _ in range(MAX_ROWS + 10)))
    assert [sum(stream.tokens) for stream in streams] == [100] * (MAX_ROWS + 10)
    check = await stub.Check(scheduler_pb2.CheckRequest())
    assert (list(check.problems), check.live_sequences, check.pages_used) == ([], 0, 0)
    await front.stop()
    await service.stop()
    await serving.stop()
    await to_scheduler.close()
    await channel.close()


async def _until_ready(stub: scheduler_pb2_grpc.SchedulerStub) -> None:
    """Return once the scheduler has greeted its worker."""
    while True:
        try:
            await stub.Describe(scheduler_pb2.DescribeRequest())
            return
        except Unavailable:
            await asyncio.sleep(0)
