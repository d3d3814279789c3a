"""The worker as a scheduler sees it: epochs, the lease protocol, refusals, and what it does when the engine dies."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from actors.base.channel import connect
from actors.base.errors import Conflict, Internal, InvalidArgument, NotFound, StaleEpoch, Unavailable
from actors.base.server import Server
from actors.base.telemetry import Telemetry
from actors.worker import service as service_module
from actors.worker.config import WorkerConfig
from actors.worker.engine import Engine, Reset
from actors.worker.models import LoadedModel
from actors.worker.service import WorkerService
from kernels import cpu
from protos.gen import inference_pb2, worker_pb2, worker_pb2_grpc

SAMPLING = inference_pb2.Sampling(
    temperature=0,
    top_p=1,
    top_k=0,
    min_p=0,
    repetition_penalty=1,
    presence_penalty=0,
    frequency_penalty=0,
    seed=1,
)


class Plans:
    """The sending side of a Run: an async iterator with a put and an end."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[worker_pb2.Plan | None] = asyncio.Queue()

    def put(self, plan: worker_pb2.Plan) -> None:
        self.queue.put_nowait(plan)

    def close(self) -> None:
        self.queue.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[worker_pb2.Plan]:
        while (plan := await self.queue.get()) is not None:
            yield plan


def one_row(epoch: int, *, row: int = 0, max_length: int = 12, plan_id: int = 1, pages: int = 4) -> worker_pb2.Plan:
    start = worker_pb2.RowStart(row=row, token_ids=[1, 2, 3], prompt_tokens=3, sampling=SAMPLING, max_length=max_length)
    return worker_pb2.Plan(
        epoch=epoch,
        plan_id=plan_id,
        start=[start],
        row=[row],
        limit=[pages * 8],
        page_count=[pages],
        pages=range(pages),
        step_tokens=16,
    )


@pytest.fixture
def toy_model(monkeypatch: pytest.MonkeyPatch, toy) -> None:
    """Every model is the toy."""
    info = worker_pb2.ModelInfo(id="file", family="toy", revision="r1", context_length=192)
    vocabulary = worker_pb2.Vocabulary(tokenizer_json=b"{}", eos_ids=[95], vocab_size=96)
    model = LoadedModel(toy.spec, None, vocabulary, info)  # type: ignore[arg-type]
    monkeypatch.setattr("actors.worker.service.load_model", lambda name: model)
    monkeypatch.setattr("actors.worker.service.build_decoder", lambda *args, **options: toy)


@asynccontextmanager
async def serving(config: WorkerConfig | None = None, tcp: str | None = None):
    """A running worker: (service, stub, telemetry)."""
    config = config or WorkerConfig(model_id="toy", page_size=8, max_rows=4, max_step_tokens=64)
    telemetry = Telemetry(service="worker", replica="toy-0")
    service = WorkerService(config, telemetry)
    await service.start()
    server = Server("worker-under-test", [(worker_pb2_grpc.add_WorkerServicer_to_server, service)], tcp=tcp)
    channel = connect((await server.start())[-1])
    try:
        yield service, worker_pb2_grpc.WorkerStub(channel), telemetry
    finally:
        await channel.close()
        await server.stop(grace_s=0)
        await service.stop()


async def until_end(call, row: int = 0) -> tuple[list[int], worker_pb2.StepResult]:
    tokens: list[int] = []
    async for result in call:
        if row in result.row:
            at = list(result.row).index(row)
            first = sum(result.token_count[:at])
            tokens += result.token_ids[first : first + result.token_count[at]]
            if result.end[at] != worker_pb2.ROW_RUNNING:
                return tokens, result
    raise AssertionError("the results ended before the row did")


@pytest.mark.usefixtures("toy_model")
class TestEpochs:
    async def test_hello_introduces_the_worker(self) -> None:
        async with serving() as (_, stub, _):
            first = await stub.Hello(worker_pb2.HelloRequest(scheduler_id="s"))
            second = await stub.Hello(worker_pb2.HelloRequest(scheduler_id="s"))
        assert second.epoch == first.epoch + 1
        assert (first.model.id, first.model.family, first.model.revision) == ("toy", "toy", "r1")
        assert first.model.context_length == 192
        assert first.model.kv_bytes_per_token == 8, "the toy keeps one int64 a token"
        assert (first.pages, first.page_size) == (4 * 192 // 8, 8)
        assert (first.max_rows, first.max_step_tokens, first.isa_class) == (4, 64, "toy")
        assert list(first.vocabulary.eos_ids) == [95]
        assert first.pid > 0

    async def test_a_row_runs_to_its_end(self) -> None:
        async with serving() as (_, stub, telemetry):
            hello = await stub.Hello(worker_pb2.HelloRequest())
            plans = Plans()
            plans.put(one_row(hello.epoch))
            call = stub.Run(plans)
            tokens, last = await until_end(call)
            plans.close()
            metrics = telemetry.render().decode()
        assert len(tokens) == 9
        assert (last.epoch, last.plan_id, list(last.computed)) == (hello.epoch, 1, [11])
        assert 'russet_worker_tokens_total{kind="prefill"} 3' in metrics.replace(".0", "")
        assert 'russet_worker_tokens_total{kind="decode"} 8' in metrics.replace(".0", "")
        assert "russet_worker_step_seconds_count" in metrics
        assert "russet_worker_gap_seconds_count" in metrics
        assert "russet_worker_step_error_ratio " in metrics

    async def test_hello_ends_the_epoch_before(self) -> None:
        async with serving() as (_, stub, _):
            old = await stub.Hello(worker_pb2.HelloRequest())
            plans = Plans()
            plans.put(one_row(old.epoch))
            call = stub.Run(plans)
            await until_end(call)
            new = await stub.Hello(worker_pb2.HelloRequest())
            with pytest.raises(StaleEpoch, match=f"epoch {old.epoch} is over"):
                async for _ in call:
                    pass
            fresh = Plans()
            fresh.put(one_row(new.epoch))
            tokens, _ = await until_end(stub.Run(fresh))
            assert len(tokens) == 9, "the old Run's end did not touch the new epoch"

    async def test_a_plan_of_an_older_epoch_is_refused(self) -> None:
        async with serving() as (_, stub, _):
            old = await stub.Hello(worker_pb2.HelloRequest())
            await stub.Hello(worker_pb2.HelloRequest())
            plans = Plans()
            plans.put(one_row(old.epoch))
            with pytest.raises(StaleEpoch, match=f"plan 1 is of epoch {old.epoch}"):
                await until_end(stub.Run(plans))

    async def test_run_needs_a_hello_and_is_alone(self) -> None:
        async with serving() as (_, stub, _):
            with pytest.raises(StaleEpoch, match="call Hello first"):
                await until_end(stub.Run(Plans()))
            hello = await stub.Hello(worker_pb2.HelloRequest())
            plans = Plans()
            plans.put(one_row(hello.epoch))
            call = stub.Run(plans)
            await until_end(call)
            with pytest.raises(Conflict, match="has its Run already"):
                await until_end(stub.Run(Plans()))


@pytest.mark.usefixtures("toy_model")
class TestPlans:
    async def test_an_invalid_plan_ends_the_run_and_is_not_executed(self, toy) -> None:
        async with serving() as (_, stub, _):
            hello = await stub.Hello(worker_pb2.HelloRequest())
            plans = Plans()
            broken = one_row(hello.epoch)
            broken.limit[0] = 33
            plans.put(broken)
            with pytest.raises(InvalidArgument, match="limit: 33 for row 0; its 4 pages hold 32"):
                await until_end(stub.Run(plans))
        assert toy.batches == []

    async def test_plan_ids_are_consecutive(self) -> None:
        async with serving() as (_, stub, _):
            hello = await stub.Hello(worker_pb2.HelloRequest())
            plans = Plans()
            plans.put(one_row(hello.epoch, plan_id=2))
            with pytest.raises(InvalidArgument, match="plan_id: 2 does not follow 0"):
                await until_end(stub.Run(plans))

    @pytest.mark.parametrize("tcp", [None, "127.0.0.1:0"])
    @pytest.mark.parametrize("leaves", ["closes its side", "cancels"])
    async def test_a_caller_that_leaves_takes_its_rows_along(
        self, toy, monkeypatch, leaves: str, tcp: str | None
    ) -> None:
        """The row could run for 180 tokens more; the step in progress is its last."""
        loop, begun, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
        resets_asked, resets_done = asyncio.Event(), asyncio.Event()
        submit, reset = Engine.submit, Engine._reset

        def watched_submit(engine: Engine, command: object) -> None:
            submit(engine, command)  # type: ignore[arg-type]
            if isinstance(command, Reset) and begun.is_set():
                resets_asked.set()

        def watched_reset(engine: Engine, epoch: int) -> None:
            reset(engine, epoch)
            if go_on.is_set():
                loop.call_soon_threadsafe(resets_done.set)

        monkeypatch.setattr(Engine, "submit", watched_submit)
        monkeypatch.setattr(Engine, "_reset", watched_reset)

        def held(batch: object) -> bool:
            loop.call_soon_threadsafe(begun.set)
            return not go_on.wait(10)

        toy.fail = held
        async with serving(tcp=tcp) as (_, stub, _):
            hello = await stub.Hello(worker_pb2.HelloRequest())
            plans = Plans()
            plans.put(one_row(hello.epoch, max_length=192, pages=24))
            call = stub.Run(plans)
            reader = asyncio.create_task(until_end(call))
            await begun.wait()
            if leaves == "cancels":
                reader.cancel()
            else:
                plans.close()
            with pytest.raises((asyncio.CancelledError, AssertionError)):
                await reader
            async with asyncio.timeout(5):
                await resets_asked.wait()
                go_on.set()
                await resets_done.wait()
            assert len(toy.batches) == 1
            with pytest.raises(StaleEpoch, match="call Hello first"):
                await until_end(stub.Run(Plans()))


@pytest.mark.usefixtures("toy_model")
class TestFaults:
    async def test_a_failing_row_ends_with_its_error(self, toy) -> None:
        toy.fail = lambda batch: len(batch.tokens) == 3
        async with serving() as (_, stub, _):
            hello = await stub.Hello(worker_pb2.HelloRequest())
            plans = Plans()
            plans.put(one_row(hello.epoch))
            tokens, last = await until_end(stub.Run(plans))
        assert (tokens, list(last.end), list(last.error)) == (
            [],
            [worker_pb2.ROW_ERROR],
            ["RuntimeError: the toy broke"],
        )

    async def test_a_dead_engine_is_an_internal_error_to_everyone(self, monkeypatch, caplog) -> None:
        def fault(self: object, slots: object, counts: object, drawn: object) -> None:
            raise ZeroDivisionError("a defect")

        async with serving() as (service, stub, _):
            monkeypatch.setattr("actors.worker.rows.Rows.advance", fault)
            hello = await stub.Hello(worker_pb2.HelloRequest())
            plans = Plans()
            plans.put(one_row(hello.epoch))
            with caplog.at_level(logging.CRITICAL), pytest.raises(Internal, match="ZeroDivisionError: a defect"):
                await until_end(stub.Run(plans))
            with pytest.raises(Internal, match="restart this worker"):
                await stub.Hello(worker_pb2.HelloRequest())
            assert isinstance(await service.failed(), ZeroDivisionError)
            assert "the engine failed after step 0" in caplog.text

    async def test_a_step_that_never_ends_is_a_failure(self, toy, caplog) -> None:
        """The thread lives, so nothing but a clock can tell; the service neither waits for it nor takes calls."""
        go_on = threading.Event()
        toy.fail = lambda batch: not go_on.wait(20)
        config = WorkerConfig(model_id="toy", page_size=8, max_rows=4, max_step_tokens=64, step_timeout_s=0.1)
        try:
            async with asyncio.timeout(10), serving(config) as (service, stub, _):
                states = service.serving()
                assert await anext(states)
                hello = await stub.Hello(worker_pb2.HelloRequest())
                plans = Plans()
                plans.put(one_row(hello.epoch))
                with pytest.raises(Internal, match=r"step_timeout_s = 0\.1 s"):
                    await until_end(stub.Run(plans))
                assert isinstance(await service.failed(), TimeoutError)
                assert not await anext(states)
                with pytest.raises(Internal, match="restart this worker"):
                    await stub.Hello(worker_pb2.HelloRequest())
        finally:
            go_on.set()

    async def test_a_start_that_is_given_up_leaves_no_engine_running(self, monkeypatch) -> None:
        load, loading, go_on = service_module.load, threading.Event(), threading.Event()

        def held(*arguments: object) -> object:
            loading.set()
            assert go_on.wait(10)
            return load(*arguments)

        monkeypatch.setattr(service_module, "load", held)
        service = WorkerService(WorkerConfig(max_step_tokens=64), Telemetry(service="worker"))
        starting = asyncio.create_task(service.start())
        await asyncio.to_thread(loading.wait, 10)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        go_on.set()
        async with asyncio.timeout(10):
            await service.stop()

    async def test_stopping_ends_open_runs(self) -> None:
        async with serving() as (service, stub, _):
            hello = await stub.Hello(worker_pb2.HelloRequest())
            plans = Plans()
            plans.put(one_row(hello.epoch))
            call = stub.Run(plans)
            await until_end(call)
            await service.stop()
            with pytest.raises(Unavailable, match="not running"):
                await until_end(call)


async def test_a_vocabulary_that_the_scheduler_has_is_not_sent_again(toy_model) -> None:
    async with serving() as (_, stub, _):
        first = await stub.Hello(worker_pb2.HelloRequest())
        assert first.vocabulary.vocab_size == 96
        again = await stub.Hello(worker_pb2.HelloRequest(known_vocabulary=first.vocabulary_digest))
        assert not again.HasField("vocabulary")
        other = await stub.Hello(worker_pb2.HelloRequest(known_vocabulary=b"of another model"))
        assert other.vocabulary == first.vocabulary


async def test_a_model_that_cannot_be_loaded_fails_the_start() -> None:
    service = WorkerService(WorkerConfig(model="/nowhere/x.gguf"), Telemetry(service="worker", replica="x"))
    with pytest.raises(NotFound, match=r"/nowhere/x\.gguf"):
        await service.start()
    await service.stop()


@pytest.mark.usefixtures("toy_model")
async def test_deterministic_is_refused_where_it_cannot_be_kept() -> None:
    config = WorkerConfig(model_id="toy", page_size=8, deterministic=True)
    with pytest.raises(InvalidArgument, match="deterministic = true: on toy a token's numbers depend on its batch"):
        async with serving(config):
            pass


@pytest.mark.parametrize("backend", ["mlx", "cpu"])
async def test_real_decoders_run_on_the_engine_thread(
    monkeypatch: pytest.MonkeyPatch, tiny_model, backend: str
) -> None:
    """What is loaded on the engine thread computes there: MLX keeps streams per thread."""
    if backend == "cpu" and not cpu.available():
        pytest.skip(cpu.reason())

    def load(name: str) -> LoadedModel:
        vocabulary = worker_pb2.Vocabulary(vocab_size=96)
        return LoadedModel(*tiny_model(), vocabulary, worker_pb2.ModelInfo(id=name, context_length=192))

    monkeypatch.setattr("actors.worker.service.load_model", load)
    config = WorkerConfig(backend=backend, page_size=8, kv_memory_bytes=1 << 20)  # type: ignore[arg-type]
    async with serving(config) as (_, stub, _):
        hello = await stub.Hello(worker_pb2.HelloRequest())
        plans = Plans()
        plans.put(one_row(hello.epoch))
        tokens, last = await until_end(stub.Run(plans))
    assert len(tokens) == 9
    assert list(last.end) == [worker_pb2.ROW_LENGTH]
    assert hello.model.kv_bytes_per_token * hello.page_size * hello.pages <= 1 << 20
    assert hello.model.kv_bytes_per_token >= 2 * tiny_model()[0].kv_values_per_token, "float16 at least"


@pytest.mark.usefixtures("toy_model")
async def test_too_small_a_slab_fails_the_start() -> None:
    config = WorkerConfig(model_id="toy", page_size=8, kv_memory_bytes=8 * 8 * 24 - 1)
    with pytest.raises(InvalidArgument, match="kv_memory_bytes = 1535"):
        async with serving(config):
            pass
