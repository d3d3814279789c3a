"""A witness log on a real embedded store of small vectors, without the rest of memory."""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from actors.base.keys import Keyring
from actors.base.telemetry import Telemetry
from actors.memory.config import MemoryConfig
from actors.memory.edge import EdgeStore
from actors.memory.store import Collection
from actors.memory.stores import schemas
from actors.memory.witness_log.archive import Archive
from actors.memory.witness_log.files import WitnessFiles
from actors.memory.witness_log.log import WitnessLog
from actors.memory.witness_log.reading import Reader
from actors.memory.witness_log.retention import Retention
from actors.memory.witness_log.verification import verify
from protos.gen import memory_pb2

WORDS = ("connection", "memory", "grammar", "weather", "cat", "dog")


async def embed(texts: Sequence[str]) -> tuple[np.ndarray, int]:
    """How often each of WORDS is in a text, and a little of everything."""
    rows = [[text.lower().count(word) + 0.01 for word in WORDS] for text in texts]
    return np.array(rows, np.float32).reshape(len(texts), len(WORDS)), 0


@dataclass
class Log:
    """What a memory actor has of its witness log."""

    writer: WitnessLog
    reader: Reader
    retention: Retention
    collection: Collection
    archive: Archive
    files: WitnessFiles
    telemetry: Telemetry
    now: list[float]

    async def add(self, *entries: memory_pb2.WitnessEntry) -> None:
        """Append, and wait until they are written."""
        assert self.writer.append(entries) == 0
        await self.writer.flush()

    def verify(self) -> memory_pb2.VerifyWitnessReply:
        """Walk the chain."""
        return verify(self.collection, self.archive, self.files, self.writer.head)

    async def ids(self, **asked: object) -> list[str]:
        """Of what a query finds."""
        request = memory_pb2.QueryWitnessRequest(**{"tenant": "acme", **asked})  # type: ignore[arg-type]
        return [each.entry.id for each in await self.reader.query(request)]


Opening = Callable[..., AbstractAsyncContextManager[Log]]


@pytest.fixture
def keyring() -> Keyring:
    """Of the cluster."""
    return Keyring([b"k" * 32])


@pytest.fixture
def opening(tmp_path: Path, keyring: Keyring) -> Opening:
    """`async with opening(**settings) as log:`; again for a restart on the same directory."""

    @contextlib.asynccontextmanager
    async def run(**settings: object) -> AsyncIterator[Log]:
        chosen = {"witness_flush_s": 0.02, "directory": tmp_path, "witness_period_s": 10.0, "witness_keep_s": 100.0}
        config = MemoryConfig.model_validate(chosen | settings)
        telemetry, store = Telemetry("memory"), EdgeStore(tmp_path)
        collection = store.collection(schemas(len(WORDS), "words").witness)
        files = WitnessFiles(tmp_path, keyring, config.witness_heads_file)
        archive = Archive(tmp_path / "witness-archive", keyring)
        writer = WitnessLog(config, collection, embed, files, telemetry)
        now = [1000.0]
        retention = Retention(
            config, collection, archive, files, writer.embedding.lock, telemetry, clock=lambda: now[0]
        )
        writer.start()
        try:
            yield Log(
                writer, Reader(collection, archive, files, embed), retention, collection, archive, files, telemetry, now
            )
        finally:
            await writer.stop()
            collection.close()

    return run
