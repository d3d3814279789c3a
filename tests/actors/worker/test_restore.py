"""KV through the worker's calls: saved under keys, restored after a restart and from another worker, and refused."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from actors.base.channel import connect
from actors.base.errors import Internal, InvalidArgument
from actors.base.server import Server
from actors.base.telemetry import Telemetry
from actors.worker.config import WorkerConfig
from actors.worker.models import LoadedModel
from actors.worker.peers import MAX_KEYS
from actors.worker.service import WorkerService
from protos.gen import worker_pb2, worker_pb2_grpc
from tests.actors.worker.test_service import SAMPLING, Plans

PAGE_SIZE = 8
PROMPT = list(range(1, 28))
FULL = len(PROMPT) // PAGE_SIZE
KEYS = [bytes([number]) * 16 for number in range(FULL)]


class Session:
    """A scheduler's side of one epoch: sends plans, and books what comes."""

    def __init__(self, stub: worker_pb2_grpc.WorkerStub, hello: worker_pb2.HelloReply) -> None:
        self.hello, self.plans = hello, Plans()
        self.tokens: list[int] = []
        self.told = worker_pb2.StepResult()
        self._id = 0
        self._results = stub.Run(self.plans)

    def plan(self, **fields: object) -> None:
        self._id += 1
        self.plans.put(worker_pb2.Plan(epoch=self.hello.epoch, plan_id=self._id, step_tokens=64, **fields))  # type: ignore[arg-type]

    def row(self, pages: list[int], cached_tokens: int = 0) -> None:
        """Answer PROMPT with 9 tokens in these pages."""
        start = worker_pb2.RowStart(
            row=self._id,
            token_ids=PROMPT,
            prompt_tokens=len(PROMPT),
            cached_tokens=cached_tokens,
            sampling=SAMPLING,
            max_length=len(PROMPT) + 9,
        )
        self.plan(start=[start], row=[self._id], limit=[8 * len(pages)], page_count=[len(pages)], pages=pages)

    async def until(self, holds: Callable[["Session"], bool]) -> None:
        while not holds(self):
            result = await anext(self._results)
            self.tokens += result.token_ids
            self.told.MergeFrom(worker_pb2.StepResult(loaded=result.loaded, unloaded=result.unloaded, end=result.end))
            self.told.saved += result.saved
            self.told.lost += result.lost
            self.told.plan_id = result.plan_id
            self.told.load_bytes += result.load_bytes


class Worker:
    """A worker behind a unix socket."""

    def __init__(self, address: str, telemetry: Telemetry) -> None:
        self.address, self.telemetry = address, telemetry
        self.stub = worker_pb2_grpc.WorkerStub(connect(address))

    async def session(self) -> Session:
        return Session(self.stub, await self.stub.Hello(worker_pb2.HelloRequest()))

    async def answer_and_save(self) -> list[int]:
        """Tokens of PROMPT, whose full pages are saved under KEYS."""
        session = await self.session()
        session.row([9, 8, 7, 6, 5])
        await session.until(lambda s: worker_pb2.ROW_LENGTH in s.told.end)
        session.plan(save=[9, 8, 7], save_keys=b"".join(KEYS))
        await session.until(lambda s: len(s.told.saved) == 16 * FULL)
        assert session.told.plan_id == 2
        session.plans.close()
        return session.tokens


@pytest.fixture
def worker(home: Path, monkeypatch: pytest.MonkeyPatch, toy) -> Callable:
    """worker(name): a running worker of the toy model that keeps KV below home/NAME."""
    info = worker_pb2.ModelInfo(id="file", family="toy", revision="r1", context_length=192)
    model = LoadedModel(toy.spec, None, worker_pb2.Vocabulary(vocab_size=96), info)  # type: ignore[arg-type]
    monkeypatch.setattr("actors.worker.service.load_model", lambda name: model)
    monkeypatch.setattr("actors.worker.service.build_decoder", lambda *args, **options: toy)

    @asynccontextmanager
    async def run(name: str, **settings: object) -> AsyncIterator[Worker]:
        chosen = {"kv_disk_directory": home / name, "key_file": home / "cluster.key"} | settings
        config = WorkerConfig(model_id="toy", page_size=8, max_rows=4, max_step_tokens=64, **chosen)  # type: ignore[arg-type]
        telemetry = Telemetry("worker", name)
        service = WorkerService(config, telemetry)
        await service.start()
        server = Server(
            name, [(worker_pb2_grpc.add_WorkerServicer_to_server, service)], unix=str(home / f"{name}.sock")
        )
        await server.start()
        try:
            yield Worker(f"unix:{home / name}.sock", telemetry)
        finally:
            await server.stop(grace_s=0)
            await service.stop()

    return run


async def test_a_restarted_worker_restores_what_it_saved(worker) -> None:
    async with worker("a") as first:
        tokens = await first.answer_and_save()
        assert "russet_kv_saved_total 3.0" in first.telemetry.render().decode()
    async with worker("a") as again:
        session = await again.session()
        assert session.hello.keeps
        assert {session.hello.kept[at : at + 16] for at in (0, 16, 32)} == set(KEYS)
        session.plan(load=[1, 2, 3, 4], load_keys=b"".join(KEYS) + b"u" * 16)
        await session.until(lambda s: len(s.told.loaded) + len(s.told.unloaded) == 4)
        assert (sorted(session.told.loaded), list(session.told.unloaded)) == ([1, 2, 3], [4])
        assert session.told.lost == b"u" * 16
        assert session.told.load_bytes == 3 * 64, "the toy's pages are 8 ids of 8 bytes"
        session.row([1, 2, 3, 0, 4], cached_tokens=8 * FULL)
        await session.until(lambda s: worker_pb2.ROW_LENGTH in s.told.end)
        assert session.tokens == tokens


async def test_another_worker_fetches_and_keeps_them(worker) -> None:
    async with worker("a") as there, worker("b") as here:
        tokens = await there.answer_and_save()
        session = await here.session()
        assert session.hello.kept == b""
        session.plan(load=[1, 2, 3, 4], load_keys=b"".join(KEYS) + b"u" * 16, load_from=[there.address])
        await session.until(lambda s: len(s.told.loaded) + len(s.told.unloaded) == 4)
        assert (sorted(session.told.loaded), list(session.told.unloaded)) == ([1, 2, 3], [4])
        session.row([1, 2, 3, 0, 4], cached_tokens=8 * FULL)
        await session.until(lambda s: worker_pb2.ROW_LENGTH in s.told.end)
        assert session.tokens == tokens
        assert 'russet_kv_loaded_total{source="peer"} 3.0' in here.telemetry.render().decode()
        assert len((await here.session()).hello.kept) == 16 * FULL


async def test_a_worker_that_is_not_there_costs_nothing_but_the_load(worker, home: Path) -> None:
    async with worker("b") as here:
        session = await here.session()
        session.plan(load=[1], load_keys=KEYS[0], load_from=[f"unix:{home}/nobody.sock"])
        await session.until(lambda s: list(s.told.unloaded) == [1])
        assert session.told.lost == KEYS[0]
        session.row([1, 2, 3, 0, 4])
        await session.until(lambda s: worker_pb2.ROW_LENGTH in s.told.end)


async def test_a_worker_of_another_cluster_key_is_not_believed(worker, home: Path) -> None:
    async with worker("a", key_file=home / "other.key") as there, worker("b") as here:
        await there.answer_and_save()
        session = await here.session()
        session.plan(load=[1, 2], load_keys=b"".join(KEYS[:2]), load_from=[there.address])
        await session.until(lambda s: len(s.told.unloaded) == 2)
        assert 'russet_kv_lost_total{reason="damaged"} 2.0' in here.telemetry.render().decode()
        assert (await here.session()).hello.kept == b""


async def test_fetch_sends_what_is_there_and_refuses_malformed_keys(worker) -> None:
    async with worker("a") as there:
        await there.answer_and_save()
        request = worker_pb2.FetchRequest(keys=KEYS[1] + b"u" * 16 + KEYS[0])
        units = [unit async for unit in there.stub.Fetch(request)]
        assert [(unit.key, unit.end) for unit in units] == [(KEYS[1], True), (KEYS[0], True)]
        assert all(b"\1\0\0\0\0\0\0\0\2" not in unit.piece for unit in units), "sealed"
        for keys in (b"", b"short", bytes(16 * (MAX_KEYS + 1))):
            with pytest.raises(InvalidArgument, match="keys of 16 bytes"):
                await anext(there.stub.Fetch(worker_pb2.FetchRequest(keys=keys)))


@pytest.mark.parametrize("settings", [{"kv_disk_bytes": 0}, {"kv_disk_bytes": 99}, {"kv_disk_directory": None}])
async def test_where_nothing_is_kept_plans_that_save_are_refused(worker, settings: dict) -> None:
    async with worker("a", **settings) as one:
        session = await one.session()
        assert not session.hello.keeps
        session.plan(save=[1], save_keys=KEYS[0])
        with pytest.raises(InvalidArgument, match="keeps no KV on disk"):
            await session.until(lambda s: False)
        assert [unit async for unit in one.stub.Fetch(worker_pb2.FetchRequest(keys=KEYS[0]))] == []


async def test_a_directory_that_cannot_be_made_keeps_nothing_and_ends_nobody(
    worker, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (home / "file").write_text("in the way")
    async with worker("a", kv_disk_directory=home / "file") as one:
        assert not (await one.session()).hello.keeps
    assert "no KV is kept on disk" in caplog.text


async def test_replicas_on_one_directory_keep_apart(worker, home: Path) -> None:
    shared = {"kv_disk_directory": home / "shared"}
    async with worker("a", **shared) as one, worker("b", **shared) as two:
        await one.answer_and_save()
        assert (await two.session()).hello.kept == b""
        await two.answer_and_save()
        assert len((await one.session()).hello.kept) == len((await two.session()).hello.kept) == 16 * FULL


async def test_a_clean_stop_loses_no_save(worker) -> None:
    async with worker("a") as one:
        session = await one.session()
        session.row([9, 8, 7, 6, 5])
        await session.until(lambda s: worker_pb2.ROW_LENGTH in s.told.end)
        session.plan(save=[9, 8, 7], save_keys=b"".join(KEYS))
        await session.until(lambda s: s.told.plan_id == 2)
        session.plans.close()
        await asyncio.sleep(0)
    async with worker("a") as again:
        assert len((await again.session()).hello.kept) == 16 * FULL


def directories(kept_in: Path) -> list[str]:
    return [path.name for path in kept_in.glob("*/*")]


async def test_an_engine_that_is_given_up_lets_go_of_its_directory(worker, toy, home: Path) -> None:
    go_on = threading.Event()
    toy.fail = lambda batch: not go_on.wait(10)
    try:
        async with worker("a", step_timeout_s=0.1) as stuck:
            session = await stuck.session()
            session.row([9, 8, 7, 6, 5])
            with pytest.raises(Internal, match="the engine failed"):
                await session.until(lambda s: False)
        async with worker("a") as again:
            assert (await again.session()).hello.keeps
            assert directories(home / "a") == ["0"]
    finally:
        go_on.set()
