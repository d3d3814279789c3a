"""One service behind every transport, and a record of what its handlers went through."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from opentelemetry import trace

from actors.base.channel import Channel, connect
from actors.base.server import Server
from protos.gen import scheduler_pb2, worker_pb2
from protos.gen.scheduler_pb2_grpc import SchedulerServicer, SchedulerStub, add_SchedulerServicer_to_server
from protos.gen.worker_pb2_grpc import WorkerServicer, WorkerStub, add_WorkerServicer_to_server

TRANSPORTS = ("inproc", "unix", "tcp")


class Handlers(SchedulerServicer, WorkerServicer):
    """Answers as told: `error` is raised, `release` is awaited; the events tell how far a handler came."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.release = asyncio.Event()
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.ended = asyncio.Event()
        self.left = asyncio.Event()
        self.calls = 0
        self.metadata: dict[str, object] = {}
        self.trace_id = 0

    def _enter(self, context) -> None:
        self.calls += 1
        self.metadata = dict(tuple(pair) for pair in context.invocation_metadata())
        self.trace_id = trace.get_current_span().get_span_context().trace_id
        context.add_done_callback(lambda _: self.ended.set())
        self.entered.set()

    async def Describe(self, request, context):
        """Unary, may be repeated."""
        self._enter(context)
        if self.error is not None:
            raise self.error
        return scheduler_pb2.DescribeReply(replica_id="replica")

    async def Drain(self, request, context):
        """Unary, waits to be released."""
        self._enter(context)
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return scheduler_pb2.DrainReply(remaining=7)

    async def Generate(self, request, context):
        """As many events as the request has token ids, then the error; max_tokens 1 waits instead of ending."""
        self._enter(context)
        try:
            for token_id in request.token_ids:
                yield scheduler_pb2.GenerateEvent(token_ids=[token_id])
            if self.error is not None:
                raise self.error
            if request.max_tokens:
                await self.release.wait()
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise

    async def Hello(self, request, context):
        """Unary, may not be repeated."""
        self._enter(context)
        if self.error is not None:
            raise self.error
        return worker_pb2.HelloReply(epoch=1)

    async def Run(self, request_iterator, context):
        """A result for each plan."""
        self._enter(context)
        try:
            async for plan in request_iterator:
                yield worker_pb2.StepResult(plan_id=plan.plan_id)
        finally:
            self.left.set()


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose path leaves room for a unix socket's 100 characters."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest_asyncio.fixture
async def handlers() -> Handlers:
    """The handlers behind `server`."""
    return Handlers()


@pytest_asyncio.fixture
async def server(handlers: Handlers, short_dir: Path) -> AsyncIterator[tuple[Server, dict[str, str]]]:
    """A server on every transport, and its address by kind."""
    server = Server(
        "test",
        [(add_SchedulerServicer_to_server, handlers), (add_WorkerServicer_to_server, handlers)],
        tcp="127.0.0.1:0",
        unix=str(short_dir / "s"),
    )
    addresses = await server.start()
    yield server, {address.partition(":")[0]: address for address in addresses}
    handlers.release.set()
    await server.stop(grace_s=0)


@pytest_asyncio.fixture(params=TRANSPORTS)
async def channel(server: tuple[Server, dict[str, str]], request: pytest.FixtureRequest) -> AsyncIterator[Channel]:
    """A channel over each transport."""
    channel = connect(server[1][request.param])
    yield channel
    await channel.close()


@pytest.fixture
def scheduler(channel: Channel) -> SchedulerStub:
    """The scheduler's stub over `channel`."""
    return SchedulerStub(channel)


@pytest.fixture
def worker(channel: Channel) -> WorkerStub:
    """The worker's stub over `channel`."""
    return WorkerStub(channel)
