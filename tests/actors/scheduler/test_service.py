"""The scheduler's service over real channels, with a worker that obeys the lease rules but needs no arithmetic."""

import asyncio
import contextlib
import itertools
import logging
import shutil
import tempfile
from pathlib import Path

import pytest

from actors.base.channel import connect
from actors.base.errors import Internal, InvalidArgument, QueueFull, Unavailable
from actors.base.server import Server
from actors.base.telemetry import Telemetry
from actors.scheduler import batch, kept, loop
from actors.scheduler.config import SchedulerConfig
from actors.scheduler.service import SchedulerService
from protos.gen import (
    inference_pb2,
    scheduler_pb2,
    scheduler_pb2_grpc,
    worker_pb2_grpc,
)

PROMPT = [100, 101, 102, 103, 104]
_names = itertools.count()


class Rig:
    """A fake worker and a scheduler, each behind its own server."""

    def __init__(self, instruments, config, transport, folder, **worker):
        self.instruments = instruments
        self.worker = instruments.Servicer(instruments.Worker(**worker))
        self.config = config
        self.transport = transport
        self.folder = folder
        self.closing = contextlib.AsyncExitStack()

    async def serve(self, name, add, servicer):
        unique = f"{name}-{next(_names)}"
        unix = str(self.folder / unique) if self.transport == "unix" else None
        server = Server(unique, [(add, servicer)], tcp=None, unix=unix)
        addresses = await server.start()
        self.closing.push_async_callback(server.stop, grace_s=0)
        channel = connect([address for address in addresses if address.startswith(self.transport)])
        self.closing.push_async_callback(channel.close)
        return channel

    async def __aenter__(self):
        worker = await self.serve("worker", worker_pb2_grpc.add_WorkerServicer_to_server, self.worker)
        self.telemetry = Telemetry(service="scheduler", replica="tiny-0")
        self.service = SchedulerService(
            self.config, "tiny-0", "here", worker_pb2_grpc.WorkerStub(worker), None, self.telemetry
        )
        await self.service.start()
        self.closing.push_async_callback(self.service.stop)
        channel = await self.serve("scheduler", scheduler_pb2_grpc.add_SchedulerServicer_to_server, self.service)
        self.stub = scheduler_pb2_grpc.SchedulerStub(channel)
        return self

    async def __aexit__(self, *error):
        await self.closing.aclose()

    async def ready(self):
        await self.until(lambda reply: reply.load.ready)

    async def until(self, holds):
        """Ask Describe until `holds` of its reply."""
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(Unavailable):
                    reply = await self.stub.Describe(scheduler_pb2.DescribeRequest())
                    if holds(reply):
                        return reply
                await asyncio.sleep(0.005)

    def request(self, prompt=PROMPT, emitted=(), **fields):
        fields = {"request_id": "r", "max_tokens": 40, "ignore_eos": True} | fields
        fields.setdefault("sampling", self.instruments.sampling())
        fields.setdefault("prompt_tokens", len(prompt))
        return scheduler_pb2.GenerateRequest(token_ids=[*prompt, *emitted], **fields)

    async def generate(self, **fields):
        """Tokens and events of a whole answer."""
        events = [event async for event in self.stub.Generate(self.request(**fields))]
        return [token for event in events for token in event.token_ids], events

    async def at_rest(self):
        """Nothing runs, nothing waits, no page is held, every pool is sound."""
        await self.until(lambda reply: reply.load.pages_used == reply.load.running == reply.load.waiting == 0)
        check = await self.stub.Check(scheduler_pb2.CheckRequest())
        assert (list(check.problems), check.live_sequences, check.pages_used) == ([], 0, 0)

    def metric(self, name):
        """The sample of a metric without labels."""
        for line in self.telemetry.render().decode().splitlines():
            if line.split("{")[0].split(" ")[0] == name:
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"{name} is not among the metrics")

    def metric_of(self, name, **labels):
        """The sample of a metric with these labels; 0 where there is none."""
        for line in self.telemetry.render().decode().splitlines():
            if line.startswith(name + "{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
                return float(line.rsplit(" ", 1)[1])
        return 0.0


@pytest.fixture
async def rig(instruments):
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(dir="/tmp"))
        stack.callback(shutil.rmtree, folder)

        async def make(config=None, transport="inproc", ready=True, **worker):
            made = Rig(instruments, config or SchedulerConfig(), transport, folder, **worker)
            if not ready:
                made.worker.reachable = False
            await stack.enter_async_context(made)
            if ready:
                await made.ready()
            return made

        yield make


@pytest.mark.parametrize("transport", ["inproc", "unix"])
async def test_streams_what_the_model_says(rig, instruments, transport):
    it = await rig(transport=transport)
    tokens, events = await it.generate(max_tokens=40)
    assert tokens == instruments.answer(PROMPT, 45, ignore_eos=True)
    assert events[0].admission.replica_id == "tiny-0"
    assert events[0].admission.epoch == 1
    assert not any(event.HasField("admission") for event in events[1:])
    assert [event.finish_reason for event in events[:-1]] == [inference_pb2.FINISH_UNSPECIFIED] * (len(events) - 1)
    assert events[-1].finish_reason == inference_pb2.FINISH_LENGTH
    assert events[-1].timings.decode_us > 0
    await it.at_rest()
    assert it.metric("vllm:generation_tokens_total") == 40
    assert it.metric("vllm:prompt_tokens_total") == 5
    assert it.metric("vllm:time_to_first_token_seconds_count") == 1
    assert it.metric("vllm:e2e_request_latency_seconds_count") == 1
    assert it.metric("russet_scheduler_plan_seconds_count") >= 1


async def test_the_end_of_text_token_is_not_sent(rig, instruments):
    it = await rig()
    prompt = next(
        [seed, seed + 1] for seed in range(8, 900) if 3 <= len(instruments.answer([seed, seed + 1], 60)) <= 40
    )
    tokens, events = await it.generate(prompt=prompt, max_tokens=58, ignore_eos=False)
    assert tokens == instruments.answer(prompt, 60)
    assert instruments.eos not in tokens
    assert events[-1].finish_reason == inference_pb2.FINISH_STOP
    await it.at_rest()


async def test_many_streams_share_too_few_pages_and_say_what_they_say_alone(rig, instruments):
    """200 requests with room for a few: all end, none is lost, preempted ones say the same."""
    config = SchedulerConfig(lease_tokens=8, reserve_fraction=0)
    it = await rig(config, pages=24, page_size=4, max_rows=8)
    prompts = [[200 + index, 300 + index, 5] for index in range(200)]
    answers = await asyncio.gather(*(it.generate(prompt=prompt, max_tokens=30) for prompt in prompts))
    assert [tokens for tokens, _ in answers] == [instruments.answer(p, 33, ignore_eos=True) for p in prompts]
    assert sum(events[-1].timings.preemptions for _, events in answers) > 0
    assert it.metric("vllm:num_preemptions_total") > 0
    await it.at_rest()


@pytest.mark.parametrize("transport", ["inproc", "unix"])
async def test_a_client_that_vanishes_leaves_no_row_and_no_page(rig, transport):
    it = await rig(transport=transport)
    it.worker.permit(3)
    call = it.stub.Generate(it.request(max_tokens=200))
    async for event in call:
        assert event.token_ids
        break
    assert (await it.until(lambda reply: reply.load.running == 1)).load.pages_used > 0
    call.cancel()
    await it.at_rest()


async def test_a_client_that_vanishes_while_waiting_leaves_nothing(rig):
    it = await rig(SchedulerConfig(max_running=1))
    it.worker.permit(1)
    first = asyncio.create_task(it.generate(max_tokens=20))
    await it.until(lambda reply: reply.load.running == 1)
    second = asyncio.create_task(it.generate(max_tokens=20))
    await it.until(lambda reply: reply.load.waiting == 1)
    second.cancel()
    await it.until(lambda reply: reply.load.waiting == 0)
    it.worker.permit(None)
    assert len((await first)[0]) == 20
    await it.at_rest()


async def test_streams_survive_the_worker_with_the_same_tokens(rig, instruments):
    it = await rig()
    it.worker.break_after = [6, 15, 16]
    prompts = [PROMPT, [7, 8, 9], [42]]
    answers = await asyncio.gather(*(it.generate(prompt=prompt, max_tokens=60) for prompt in prompts))
    for prompt, (tokens, _) in zip(prompts, answers, strict=True):
        assert tokens == instruments.answer(prompt, len(prompt) + 60, ignore_eos=True)
    assert it.worker.break_after == []
    assert it.worker.greetings == 4
    assert it.metric("russet_scheduler_worker_losses_total") == 3
    await it.at_rest()
    assert (await it.until(lambda reply: True)).load.epoch == 4


async def test_streams_survive_a_defect_of_ours_with_the_same_tokens(rig, instruments, monkeypatch, caplog):
    """An error nobody foresaw ends the epoch, not the loop: a dead loop behind a healthy port hangs every client."""
    it = await rig()
    real, failures = batch.plan, [ZeroDivisionError("a defect")]

    def fails_once(state):
        if state.running and failures:
            raise failures.pop()
        return real(state)

    monkeypatch.setattr(batch, "plan", fails_once)
    tokens, _ = await it.generate(max_tokens=60)
    assert tokens == instruments.answer(PROMPT, 65, ignore_eos=True)
    assert failures == []
    assert it.worker.greetings == 2
    assert "a defect" in caplog.text, "it is not swallowed"
    await it.at_rest()


async def test_an_outage_is_said_once(rig, caplog):
    it = await rig(ready=False)
    async with asyncio.timeout(20):
        while it.worker.refusals < 3:
            await it.worker.refused.wait()
            it.worker.refused.clear()
    it.worker.reachable = True
    await it.ready()
    about = [record for record in caplog.records if record.name == "actors.scheduler.loop"]
    assert [record.levelname for record in about if record.levelno >= logging.WARNING] == ["WARNING"]


async def test_a_request_that_kills_every_worker_is_given_up(rig):
    it = await rig(SchedulerConfig(max_recoveries=2))
    it.worker.break_after = [1, 2, 3]
    with pytest.raises(Internal, match="lost 3 times while it ran r"):
        await it.generate()
    await it.at_rest()


async def test_a_stream_is_told_that_its_worker_is_lost_and_how_often_in_a_row(rig, instruments):
    it = await rig(SchedulerConfig(max_recoveries=9))
    it.worker.break_after = [1, 2, 9]
    tokens, events = await it.generate(max_tokens=60)
    assert tokens == instruments.answer(PROMPT, 65, ignore_eos=True)
    # The first two fell into the prompt; then there was a token, and it counts from 1 again.
    assert [event.losses for event in events if event.stalled] == [1, 2, 1]
    assert not any(event.token_ids or event.finish_reason for event in events if event.stalled)
    assert next(event for event in events if not event.stalled).HasField("admission")


async def test_losses_elsewhere_count_here(rig):
    it = await rig(SchedulerConfig(max_recoveries=2))
    it.worker.break_after = [1]
    with pytest.raises(Internal, match="lost 3 times while it ran r"):
        await it.generate(losses=2)
    with pytest.raises(Internal, match="lost 3 times in a row"):
        await it.generate(losses=3)
    await it.at_rest()


async def test_a_vocabulary_is_asked_for_once_and_told_to_those_who_lack_it(rig):
    it = await rig()
    it.worker.break_after = [3]
    await it.generate(max_tokens=30)
    assert (it.worker.greetings, it.worker.vocabularies_sent) == (2, 1)
    whole = await it.stub.Describe(scheduler_pb2.DescribeRequest(known_vocabularies=[b"of another model"]))
    assert whole.vocabulary.vocab_size == it.instruments.vocab_size
    known = [b"of another model", whole.vocabulary_digest]
    assert not (await it.stub.Describe(scheduler_pb2.DescribeRequest(known_vocabularies=known))).HasField("vocabulary")


async def test_a_long_stream_outlives_any_number_of_workers(rig, instruments):
    it = await rig(SchedulerConfig(max_recoveries=1))
    it.worker.break_after = [4, 8, 12, 16, 20]
    tokens, _ = await it.generate(max_tokens=60)
    assert it.worker.break_after == []
    assert tokens == instruments.answer(PROMPT, 65, ignore_eos=True)
    await it.at_rest()


async def test_a_request_that_kills_every_worker_takes_no_other_with_it(rig, instruments):
    """All are lost together every time; the culprit alone is given up, those beside and behind it are answered."""
    it = await rig(SchedulerConfig(max_recoveries=2))
    it.worker.poison = 13
    prompts = [[1, 2], [13, 7], [3, 4], [5, 6]]
    requests = [it.generate(prompt=prompt, max_tokens=30, request_id=f"r{prompt[0]}") for prompt in prompts]
    answers = await asyncio.gather(*requests, return_exceptions=True)
    (culprit,) = [answer for answer in answers if isinstance(answer, BaseException)]
    assert isinstance(culprit, Internal)
    assert "lost 3 times while it ran r13" in str(culprit)
    for prompt, answer in zip(prompts, answers, strict=True):
        if prompt[0] != 13:
            assert answer[0] == instruments.answer(prompt, 32, ignore_eos=True)
    assert it.worker.greetings == 4
    await it.at_rest()


async def test_requests_wait_while_the_worker_is_away(rig, instruments):
    it = await rig()
    it.worker.reachable = False
    it.worker.break_after = [1]
    waiting = asyncio.create_task(it.generate(max_tokens=10))
    assert (await it.until(lambda reply: not reply.load.ready)).load.epoch == 0
    assert not waiting.done()
    it.worker.reachable = True
    assert (await waiting)[0] == instruments.answer(PROMPT, 15, ignore_eos=True)


async def test_a_worker_that_falls_silent_is_lost(rig, instruments):
    it = await rig(SchedulerConfig(worker_silence_s=0.2))
    it.worker.permit(4)
    answer = asyncio.create_task(it.generate(max_tokens=10))
    await it.until(lambda reply: reply.load.running == 1)
    await it.until(lambda reply: it.worker.greetings == 2)
    it.worker.permit(None)
    assert (await answer)[0] == instruments.answer(PROMPT, 15, ignore_eos=True)


async def test_a_worker_that_stops_during_hello_is_tried_again(rig):
    it = await rig(ready=False)
    it.worker.stops = it.worker.reachable = True
    await it.ready()
    assert not it.worker.stops
    assert len((await it.generate(max_tokens=5))[0]) == 5


async def test_starts_before_its_worker(rig, instruments):
    it = await rig(ready=False)
    with pytest.raises(Unavailable, match="no worker yet"):
        await it.stub.Describe(scheduler_pb2.DescribeRequest())
    with pytest.raises(Unavailable, match="no worker yet") as caught:
        await it.generate()
    assert caught.value.retry_after_s
    it.worker.reachable = True
    reply = await it.until(lambda reply: reply.load.ready)
    assert (reply.model.id, reply.vocabulary.vocab_size, reply.load.pages_total) == ("tiny", 1000, 64)
    assert (await it.generate(max_tokens=5))[0] == instruments.answer(PROMPT, 10, ignore_eos=True)


async def test_resumes_after_emitted_tokens_and_counts_from_the_prompt(rig, instruments):
    it = await rig()
    whole = instruments.answer(PROMPT, 25, ignore_eos=True)
    tokens, events = await it.generate(emitted=whole[:8], max_tokens=20)
    assert tokens == whole[8:]
    assert events[-1].finish_reason == inference_pb2.FINISH_LENGTH
    nothing_left, events = await it.generate(emitted=whole, max_tokens=20)
    assert nothing_left == []
    assert events[-1].finish_reason == inference_pb2.FINISH_LENGTH
    await it.at_rest()


async def test_without_max_tokens_the_context_is_the_end(rig, instruments):
    it = await rig(pages=64, page_size=16)
    tokens, _ = await it.generate(max_tokens=0)
    assert tokens == instruments.answer(PROMPT, 512, ignore_eos=True)


async def test_without_max_tokens_a_small_slab_is_the_end(rig):
    it = await rig(pages=8, page_size=4)
    tokens, _ = await it.generate(max_tokens=0)
    assert len(tokens) == 8 * 4 + 1 - len(PROMPT)
    await it.at_rest()


async def test_queue_full(rig):
    it = await rig(SchedulerConfig(queue_limit=2, max_running=1))
    it.worker.permit(1)
    calls = [asyncio.create_task(it.generate(max_tokens=5))]
    await it.until(lambda reply: reply.load.running == 1)
    calls += [asyncio.create_task(it.generate(max_tokens=5)) for _ in range(2)]
    await it.until(lambda reply: reply.load.waiting == 2 and reply.load.queue_delay_s > 0)
    await it.until(lambda reply: reply.load.running_limit == 1)
    with pytest.raises(QueueFull, match="2 requests wait") as caught:
        await it.generate()
    assert caught.value.retry_after_s >= 1
    it.worker.permit(None)
    assert [len(tokens) for tokens, _ in await asyncio.gather(*calls)] == [5, 5, 5]
    await it.until(lambda reply: reply.load.queue_delay_s == 0)
    await it.at_rest()


async def test_how_kv_is_held_is_told_and_what_is_not_there_is_refused(rig, instruments):
    config = SchedulerConfig(kv_format="q8", kv_tail_tokens=64)
    it = await rig(config, pages=64, page_size=16, tiers=True)
    prompt = [*range(100, 400)]
    tokens, events = await it.generate(prompt=prompt, max_tokens=20)
    assert tokens == instruments.answer(prompt, 320, ignore_eos=True)
    assert events[0].admission.kv_format == "q8"
    load = (await it.stub.Describe(scheduler_pb2.DescribeRequest())).load
    assert [tier.format for tier in load.kv_tiers] == ["f16", "q8", "q4", "q2"]
    assert sum(tier.live_bytes for tier in load.kv_tiers) == 0
    assert load.kv_tiers[1].cached_bytes > 0
    assert load.kv_bytes == 64_000
    _, events = await it.generate(prompt=PROMPT, kv_format="f16")
    assert events[0].admission.kv_format == "f16"
    with pytest.raises(InvalidArgument, match="kv_format is 'q3'; accepted: here f16, q8, q4, auto"):
        await it.generate(kv_format="q3")
    it = await rig(page_size=16)
    with pytest.raises(InvalidArgument, match="kv_format is 'q4'; accepted: here f16, auto"):
        await it.generate(kv_format="q4")


async def test_a_setting_that_the_worker_cannot_meet_refuses_no_request(rig, caplog):
    it = await rig(SchedulerConfig(kv_format="q4"), page_size=16)
    _, events = await it.generate(max_tokens=2)
    assert events[0].admission.kv_format == "f16"
    assert "kv_format is 'q4', which the worker of tiny-0 does not offer" in caplog.text


async def test_without_a_worker_no_memory_is_in_use(rig):
    it = await rig(pages=64, page_size=16, tiers=True, disk={})
    await it.generate(prompt=[*range(100, 300)], max_tokens=20, keep=True)
    await it.until(lambda reply: reply.load.kv_kept_tokens)
    assert it.metric_of("russet_kv_bytes", tier="f16", state="cached") > 0
    it.worker.reachable = False
    it.worker.break_after = [1]
    call = asyncio.create_task(it.generate(max_tokens=20))
    await it.until(lambda reply: not reply.load.ready)
    assert it.metric_of("russet_kv_bytes", tier="f16", state="cached") == 0
    assert it.metric("russet_kv_kept_tokens") == 0
    it.worker.reachable = True
    await call


async def test_a_disk_that_is_stuck_is_noticed_though_nothing_else_happens(rig, instruments, monkeypatch, caplog):
    disk = {}
    prompt = [*range(100, 400)]
    it = await rig(pages=64, page_size=16, disk=disk)
    await it.generate(prompt=prompt, max_tokens=5, keep=True)
    await it.until(lambda reply: reply.load.kv_kept_tokens == 304)
    monkeypatch.setattr(kept, "PATIENCE_S", 0.05)
    monkeypatch.setattr(loop, "PATIENCE_S", 0.05)
    it = await rig(pages=64, page_size=16, disk=disk)
    it.worker.simulated.stuck = True
    tokens, _ = await it.generate(prompt=prompt, max_tokens=5)
    assert tokens == instruments.answer(prompt, 305, ignore_eos=True)
    assert "The disk of the worker has not answered" in caplog.text


async def test_a_drained_replica_has_its_sessions_on_disk(rig):
    disk = {}
    it = await rig(pages=64, page_size=16, disk=disk, disk_steps=50)
    await it.generate(prompt=[*range(100, 400)], max_tokens=5, keep=True)
    reply = await it.stub.Drain(scheduler_pb2.DrainRequest(timeout_s=20))
    assert (reply.remaining, len(disk)) == (0, 19)


async def test_asking_one_worker_does_not_wait_for_another(rig, instruments):
    it = await rig(pages=64, page_size=16, disk={}, disk_steps=300)
    asked, apply = [], it.worker.simulated.apply

    def watch(plan):
        apply(plan)
        if plan.load:
            asked.append((list(plan.load_from), len(it.worker.simulated.moves) - len(plan.load)))

    it.worker.simulated.apply = watch
    calls = [
        asyncio.create_task(
            it.generate(prompt=[*range(start, start + 100)], max_tokens=2, kv_source=[f"unix:/{start}"])
        )
        for start in (100, 300)
    ]
    await asyncio.gather(*calls)
    assert asked == [(["unix:/100"], 0), (["unix:/300"], 6)], "the first 6 pages are still on their way"


async def test_a_session_comes_back_from_disk_after_a_restart(rig, instruments):
    disk = {}
    prompt = [*range(100, 400)]
    it = await rig(pages=64, page_size=16, disk=disk)
    tokens, _ = await it.generate(prompt=prompt, max_tokens=20, keep=True)
    await it.until(lambda reply: reply.load.kv_kept_tokens == 304)
    it = await rig(pages=64, page_size=16, disk=disk)
    more = [*prompt, *tokens, 5, 6]
    again, events = await it.generate(prompt=more, max_tokens=20)
    assert again == instruments.answer(more, len(more) + 20, ignore_eos=True)
    assert (events[0].admission.cached_tokens, events[0].admission.restored_tokens) == (304, 304)
    assert it.metric("russet_kv_restored_tokens_total") == 304
    assert it.metric("russet_kv_restore_seconds_count") == 1
    assert it.metric("russet_kv_kept_tokens") >= 304


async def test_what_pressure_does_is_counted(rig):
    config = SchedulerConfig(kv_tail_tokens=64, kv_backlog=1.0, reserve_fraction=0)
    it = await rig(config, pages=64, page_size=16, tiers=True, disk={})
    it.worker.permit(0)
    calls = [
        asyncio.create_task(it.generate(prompt=[i, *range(100, 540)], max_tokens=40, kv_format="auto", priority=i + 1))
        for i in range(2)
    ]
    await it.until(lambda reply: reply.load.waiting + reply.load.running == 2)
    it.worker.permit(None)
    await asyncio.gather(*calls)
    assert it.metric_of("russet_kv_pressure_total", policy="quantize") > 0
    assert it.metric_of("russet_kv_demoted_tokens_total", tier="q8") > 0
    calls = [asyncio.create_task(it.generate(prompt=[9, *range(100, 540)], max_tokens=40))]
    await asyncio.gather(*calls)
    assert it.metric_of("russet_kv_pressure_total", policy="evict") > 0


async def test_requests_are_refused_while_those_that_wait_want_too_much(rig):
    config = SchedulerConfig(kv_backlog=1.0, reserve_fraction=0)
    it = await rig(config, pages=16, page_size=16)
    it.worker.permit(0)
    calls = [asyncio.create_task(it.generate(prompt=[1, *range(100, 320)], max_tokens=30))]
    await it.until(lambda reply: reply.load.running == 1)
    calls.append(asyncio.create_task(it.generate(prompt=[2, *range(100, 320)], max_tokens=30)))
    calls.append(asyncio.create_task(it.generate(prompt=[3, *range(100, 320)], max_tokens=30)))
    await it.until(lambda reply: reply.load.waiting == 2)
    with pytest.raises(Unavailable, match="those that wait want 1 times all of it") as caught:
        await it.generate()
    assert caught.value.retry_after_s >= 1
    assert it.metric_of("russet_kv_pressure_total", policy="reject") == 1
    it.worker.permit(None)
    assert [len(tokens) for tokens, _ in await asyncio.gather(*calls)] == [30, 30, 30]
    await it.at_rest()


async def test_a_plan_that_fails_halfway_leaves_no_page_of_its_epoch_behind(rig, instruments, monkeypatch):
    """Whom it would have admitted holds cached pages already; in the next epoch they are anybody's."""
    it = await rig()
    prompt = [*range(100, 130)]
    expected = (await it.generate(prompt=prompt, max_tokens=20))[0]
    real, failures = batch.plan, [ZeroDivisionError("a defect")]

    def fails_once(state):
        if failures and state.waiting:
            assert state.waiting[0].table.pages
            raise failures.pop()
        return real(state)

    monkeypatch.setattr(batch, "plan", fails_once)
    tokens, events = await it.generate(prompt=prompt, max_tokens=20)
    assert tokens == expected == instruments.answer(prompt, 50, ignore_eos=True)
    assert failures == []
    assert events[0].admission.cached_tokens == 0, "the new epoch's cache is empty"
    await it.at_rest()


async def test_says_how_much_of_a_prompt_was_found(rig):
    """28 tokens are seven whole pages: of the same prompt again, one token is computed."""
    it = await rig()
    found = []
    for prompt in (range(100, 128), range(100, 128), range(100, 145), range(101, 128)):
        _, events = await it.generate(prompt=list(prompt), max_tokens=1)
        found.append(events[0].admission.cached_tokens)
    assert found == [0, 27, 28, 0]
    await it.at_rest()
    assert it.metric("vllm:prefix_cache_queries_total") == 28 + 28 + 45 + 27
    assert it.metric("vllm:prefix_cache_hits_total") == 27 + 28
    assert it.metric("russet_prefix_cache_pages") == 7 + 4 + 6
    assert it.metric("russet_prefix_cache_evictions_total") == 0
    await it.generate(prompt=list(range(200, 399)), max_tokens=20)
    assert it.metric("russet_prefix_cache_evictions_total") == 17 - (64 - 55)
    assert it.metric("russet_prefix_cache_pages") == 64 - 1


async def test_critical_goes_before_low(rig):
    it = await rig(SchedulerConfig(max_running=1))
    it.worker.permit(1)
    ended = []

    async def ask(name, priority):
        await it.generate(request_id=name, priority=priority, max_tokens=6)
        ended.append(name)

    first = asyncio.create_task(ask("first", inference_pb2.PRIORITY_CRITICAL))
    await it.until(lambda reply: reply.load.running == 1)
    others = [
        asyncio.create_task(ask("low", inference_pb2.PRIORITY_LOW)),
        asyncio.create_task(ask("normal", inference_pb2.PRIORITY_NORMAL)),
        asyncio.create_task(ask("critical", inference_pb2.PRIORITY_CRITICAL)),
        asyncio.create_task(ask("high", inference_pb2.PRIORITY_HIGH)),
    ]
    await it.until(lambda reply: reply.load.waiting == 4)
    it.worker.permit(None)
    await asyncio.gather(first, *others)
    assert ended == ["first", "critical", "high", "normal", "low"]


async def test_drain_ends_what_runs_and_admits_nothing_more(rig):
    it = await rig()
    it.worker.permit(2)
    running = asyncio.create_task(it.generate(max_tokens=20))
    await it.until(lambda reply: reply.load.running == 1)
    assert (await it.stub.Drain(scheduler_pb2.DrainRequest(timeout_s=0.05))).remaining == 1
    with pytest.raises(Unavailable, match="draining") as caught:
        await it.generate()
    assert caught.value.retry_after_s
    assert (await it.until(lambda reply: True)).load.draining
    drain = asyncio.create_task(it.stub.Drain(scheduler_pb2.DrainRequest(timeout_s=20)))
    it.worker.permit(None)
    assert (await drain).remaining == 0
    assert len((await running)[0]) == 20


async def test_stop_ends_open_streams_as_unavailable(rig):
    it = await rig()
    it.worker.permit(2)
    running = asyncio.create_task(it.generate(max_tokens=20))
    await it.until(lambda reply: reply.load.running == 1)
    await it.service.stop()
    with pytest.raises(Unavailable, match="stopping"):
        await running


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"prompt": []}, "token_ids", "is empty"),
        ({"prompt": [1, 1000]}, "token_ids", "ids below 1000"),
        ({"prompt": [1] * 512}, "token_ids", "context of 512"),
        ({"prompt": [1] * 500, "max_tokens": 13, "pages": 200}, "max_tokens", "at most 12"),
        ({"prompt": [1] * 200, "max_tokens": 60}, "max_tokens", "needs 65 pages.*at most 57.*64 KV pages of 4"),
        ({"prompt": [1] * 300, "max_tokens": 0}, "token_ids", "needs 75 pages"),
        ({"prompt_tokens": 6}, "prompt_tokens", "1 to len"),
        ({"prompt_tokens": 0}, "prompt_tokens", "1 to len"),
        ({"emitted": [1] * 41}, "token_ids", "resumes after 41"),
        ({"min_tokens": 41}, "min_tokens", "at most the 40"),
        ({"request_id": ""}, "request_id", "is empty"),
        ({"tenant": "x" * 300}, "tenant", "at most 256"),
        ({"priority": 9}, "priority", "is 9"),
        ({"sampling": {"temperature": 2.5}}, "sampling.temperature", r"\[0, 2\]"),
        ({"sampling": {"temperature": float("nan")}}, "sampling.temperature", "nan"),
        ({"sampling": {"top_p": 0}}, "sampling.top_p", r"\(0, 1\]"),
        ({"sampling": {"min_p": 1}}, "sampling.min_p", r"\[0, 1\)"),
        ({"sampling": {"repetition_penalty": 0}}, "sampling.repetition_penalty", "is 0"),
        ({"sampling": {"seed": None}}, "sampling.seed", "is not set"),
        ({"sampling": {"logit_bias": {1000: 1.0}}}, "sampling.logit_bias", "token 1000"),
        ({"sampling": {"logit_bias": {1: -101.0}}}, "sampling.logit_bias", r"\[-100, 100\]"),
    ],
)
async def test_bad_input_is_refused_by_name(rig, instruments, fields, param, says):
    fields = dict(fields)
    it = await rig(pages=fields.pop("pages", 64))
    if (changes := fields.get("sampling")) is not None:
        sampling = instruments.sampling()
        for name, value in changes.items():
            sampling.ClearField(name)
            if name == "logit_bias":
                sampling.logit_bias.update(value)
            elif value is not None:
                setattr(sampling, name, value)
        fields = fields | {"sampling": sampling}
    with pytest.raises(InvalidArgument, match=says) as caught:
        await it.generate(**fields)
    assert caught.value.param == param
    await it.at_rest()
