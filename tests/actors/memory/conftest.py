"""A memory actor behind a real server, with real stores of its own, and one embedder for all tests of a process."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from actors.base.channel import connect
from actors.base.server import Server
from actors.base.telemetry import Telemetry
from actors.memory.config import MemoryConfig
from actors.memory.embedder import Embedder
from actors.memory.hot_server import EmbeddedServer
from actors.memory.service import MemoryService
from protos.gen.documents_pb2_grpc import DocumentsStub, add_DocumentsServicer_to_server
from protos.gen.memory_pb2_grpc import MemoryStub, add_MemoryServicer_to_server


class Memory:
    """A running memory actor: its service, stubs to it, and where it keeps things."""

    def __init__(
        self,
        service: MemoryService,
        stub: MemoryStub,
        documents: DocumentsStub,
        directory: Path,
        telemetry: Telemetry,
    ) -> None:
        self.service = service
        self.stub = stub
        self.documents = documents
        self.directory = directory
        self.telemetry = telemetry

    @property
    def valkey(self) -> psutil.Process:
        """The process of the embedded hot tier."""
        (process,) = _valkeys_of(self.directory)
        return process

    def metric(self, name: str) -> float:
        """A counter's value."""
        return self.telemetry.registry.get_sample_value(name) or 0.0


Opening = Callable[..., AbstractAsyncContextManager[Memory]]


def _valkeys_of(directory: Path) -> list[psutil.Process]:
    """Every living server that works in this memory directory."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(directory / "hot") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture
def valkeys_of() -> Callable[[Path], list[psutil.Process]]:
    """Every living server that works in a memory directory."""
    return _valkeys_of


async def until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    """Return when something outside of this process has become true."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.fixture(scope="session")
def embedder() -> Iterator[Embedder]:
    """The real MiniLM."""
    embedder = Embedder(None)
    yield embedder
    embedder.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    """An empty memory directory. Nothing may run in it when the test is over."""
    parent = Path(tempfile.mkdtemp(prefix="rm-", dir="/tmp")).resolve()
    path = parent / "memory"
    yield path
    left = _valkeys_of(path)
    for process in left:
        process.kill()
    shutil.rmtree(EmbeddedServer(path).socket.parent, ignore_errors=True)
    shutil.rmtree(parent, ignore_errors=True)
    assert not left, f"a Valkey outlived its memory: {left}"


def settings(at: Path, **more: object) -> MemoryConfig:
    """The configuration of a memory in directory `at`."""
    chosen = {"directory": at, "key_file": at.parent / "cluster.key", "witness_flush_s": 0.05}
    return MemoryConfig.model_validate(chosen | more)


@pytest.fixture
def opening(directory: Path, embedder: Embedder) -> Opening:
    """`async with opening(**settings) as memory:` runs a memory actor; again for a restart on the same directory."""

    @contextlib.asynccontextmanager
    async def run(transport: str = "inproc", **more: object) -> AsyncIterator[Memory]:
        telemetry = Telemetry("memory")
        service = MemoryService(settings(directory, **more), telemetry, embedder)
        await service.start()
        server = Server(
            f"memory-{uuid4().hex[:8]}",
            [(add_MemoryServicer_to_server, service), (add_DocumentsServicer_to_server, service.documents)],
            unix=str(directory.parent / "memory.sock"),
        )
        addresses = await server.start()
        channel = connect(next(address for address in addresses if address.startswith(transport)))
        try:
            yield Memory(service, MemoryStub(channel), DocumentsStub(channel), directory, telemetry)
        finally:
            await channel.close()
            await server.stop(grace_s=1)
            await service.stop()

    return run
