"""Calls behave the same in process, over a unix socket and over TCP."""

import asyncio
import gc

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from actors.base import errors
from actors.base.errors import DeadlineExceeded, Internal, Unreachable
from actors.base.telemetry import Telemetry
from protos.gen.scheduler_pb2 import DescribeRequest, DrainRequest, GenerateRequest
from protos.gen.worker_pb2 import HelloRequest, Plan

SOON_S = 5
KINDS = sorted(errors.MAPPINGS, key=lambda kind: kind.__name__)


async def soon(event: asyncio.Event) -> None:
    """Wait for what must happen; fails instead of hanging."""
    async with asyncio.timeout(SOON_S):
        await event.wait()


async def test_unary(scheduler):
    assert (await scheduler.Describe(DescribeRequest())).replica_id == "replica"


async def test_server_stream_keeps_order(scheduler):
    ids = list(range(3000))
    events = [event async for event in scheduler.Generate(GenerateRequest(token_ids=ids))]
    assert [event.token_ids[0] for event in events] == ids


async def test_bidi_answers_each_message_before_the_next_is_sent(worker):
    answered = asyncio.Event()

    async def plans():
        for plan_id in (1, 2, 3):
            yield Plan(plan_id=plan_id)
            await soon(answered)
            answered.clear()

    results = []
    async for result in worker.Run(plans()):
        results.append(result.plan_id)
        answered.set()
    assert results == [1, 2, 3]


@pytest.mark.parametrize("kind", KINDS)
async def test_errors_arrive_as_they_left(scheduler, handlers, kind):
    handlers.error = kind("a größe of 9 is too much; at most 8", param="größe", retry_after_s=1.5)
    with pytest.raises(errors.RussetError) as raised:
        await scheduler.Describe(DescribeRequest())
    assert type(raised.value) is kind
    assert (raised.value.message, raised.value.param) == ("a größe of 9 is too much; at most 8", "größe")
    assert raised.value.retry_after_s == 1.5


async def test_errors_after_messages_of_a_stream(scheduler, handlers):
    handlers.error = errors.QueueFull("64 wait; at most 64 may", retry_after_s=2)
    call = scheduler.Generate(GenerateRequest(token_ids=[4, 5]))
    assert [(await anext(call)).token_ids[0] for _ in range(2)] == [4, 5]
    with pytest.raises(errors.QueueFull) as raised:
        await anext(call)
    assert raised.value.retry_after_s == 2


async def test_defects_are_internal_and_name_the_exception(scheduler, handlers, caplog):
    handlers.error = ZeroDivisionError("division by zero")
    with pytest.raises(Internal, match="ZeroDivisionError: division by zero"):
        await scheduler.Describe(DescribeRequest())
    assert "handler failed" in caplog.text


async def test_a_huge_message_of_an_error_still_arrives(scheduler, handlers):
    handlers.error = errors.InvalidArgument("€" * 100_000, param="p" * 100_000)
    with pytest.raises(errors.InvalidArgument, match="€€€"):
        await scheduler.Describe(DescribeRequest())


async def test_a_unary_deadline_ends_the_handler(scheduler, handlers):
    with pytest.raises(DeadlineExceeded, match="Drain"):
        await scheduler.Drain(DrainRequest(), timeout=0.05)
    await soon(handlers.cancelled)


async def test_a_stream_deadline_ends_the_handler(scheduler, handlers):
    with pytest.raises(DeadlineExceeded):
        async for _ in scheduler.Generate(GenerateRequest(token_ids=[1], max_tokens=1), timeout=0.05):
            pass
    await soon(handlers.cancelled)


async def test_cancel_reaches_the_handler(scheduler, handlers):
    call = scheduler.Generate(GenerateRequest(token_ids=[1], max_tokens=1))
    await anext(call)
    call.cancel()
    await soon(handlers.cancelled)
    await soon(handlers.ended)
    with pytest.raises(asyncio.CancelledError):
        await anext(call)


async def test_cancel_before_the_first_read_never_starts_the_handler(scheduler, handlers):
    call = scheduler.Generate(GenerateRequest(token_ids=[1]))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await anext(call)
    assert handlers.calls == 0


async def test_cancelling_the_reading_task_reaches_the_handler(scheduler, handlers):
    async def read():
        async for _ in scheduler.Generate(GenerateRequest(max_tokens=1)):
            pass

    task = asyncio.create_task(read())
    await soon(handlers.entered)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await soon(handlers.cancelled)


async def test_cancelling_the_task_of_a_unary_call_reaches_the_handler(scheduler, handlers):
    task = asyncio.create_task(scheduler.Drain(DrainRequest()))
    await soon(handlers.entered)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await soon(handlers.cancelled)


async def test_closing_the_iterator_reaches_the_handler(scheduler, handlers):
    call = scheduler.Generate(GenerateRequest(token_ids=[1], max_tokens=1))
    await anext(call)
    await call.aclose()
    await soon(handlers.cancelled)


async def test_leaving_the_loop_reaches_the_handler(scheduler, handlers):
    async for _ in scheduler.Generate(GenerateRequest(token_ids=[1], max_tokens=1)):
        break
    gc.collect()
    await soon(handlers.cancelled)


async def test_cancelling_bidi_reaches_the_handler_and_the_sender(worker, handlers):
    sender_ended = asyncio.Event()

    async def plans():
        try:
            yield Plan(plan_id=1)
            await asyncio.Event().wait()
        finally:
            sender_ended.set()

    call = worker.Run(plans())
    await anext(call)
    call.cancel()
    # A handler that waits for a request sees the requests end; one that does anything else is cancelled.
    await soon(handlers.left)
    await soon(sender_ended)


async def test_metadata_reaches_the_handler(scheduler, handlers):
    await scheduler.Describe(DescribeRequest(), metadata=(("x-request", "r1"),))
    assert handlers.metadata["x-request"] == "r1"


async def test_the_trace_goes_on_in_the_handler(scheduler, handlers):
    exporter = InMemorySpanExporter()
    telemetry = Telemetry("test", spans=[SimpleSpanProcessor(exporter)])
    with telemetry.span("outer") as span:
        await scheduler.Describe(DescribeRequest())
        assert handlers.trace_id == span.get_span_context().trace_id
        async for _ in scheduler.Generate(GenerateRequest(token_ids=[1])):
            pass
        assert handlers.trace_id == span.get_span_context().trace_id
    assert handlers.trace_id != 0
    await scheduler.Describe(DescribeRequest())
    assert handlers.trace_id == trace.INVALID_TRACE_ID


async def test_stop_lets_calls_in_flight_end_and_refuses_new_ones(server, scheduler, handlers):
    running = asyncio.create_task(scheduler.Drain(DrainRequest()))
    await soon(handlers.entered)
    stopping = asyncio.create_task(server[0].stop(grace_s=SOON_S))
    await asyncio.sleep(0)
    with pytest.raises(Unreachable):
        await scheduler.Describe(DescribeRequest(), timeout=0.5)
    assert not running.done()
    handlers.release.set()
    assert (await running).remaining == 7
    await stopping


async def test_stop_cancels_what_outlasts_the_grace(server, scheduler, handlers):
    call = scheduler.Generate(GenerateRequest(token_ids=[1], max_tokens=1))
    await anext(call)
    await server[0].stop(grace_s=0.05)
    await soon(handlers.cancelled)
    with pytest.raises(Unreachable):
        await anext(call)


async def test_refusals_by_a_handler_are_not_repeated(scheduler, handlers):
    handlers.error = errors.Unavailable("no replica is ready", retry_after_s=1)
    with pytest.raises(errors.Unavailable):
        await scheduler.Describe(DescribeRequest())
    assert handlers.calls == 1


async def test_hello_is_served_beside_describe(worker, handlers):
    assert (await worker.Hello(HelloRequest())).epoch == 1
