"""Traces of many requests through the scheduler, its cache held against an ideal LRU over as many pages."""

import pytest

from actors.scheduler.batch import Batch
from actors.scheduler.config import SchedulerConfig
from actors.scheduler.queue import WaitingQueue
from actors.scheduler.reconcile import reconcile
from actors.scheduler.sequence import Sequence
from protos.gen import worker_pb2
from tests.oracles.block_traces import SHAPES, Request, capacities, ideal_hits

REQUESTS = 300
PAGE_SIZE = 16
CAPACITIES = ("unbounded", "1/2", "1/5", "1/20")


def serve(batch: Batch, index: int, request: Request) -> int:
    """Serve one request alone; returns how many of its prompt's pages were found.

    The answer is written by hand: its tokens are the trace's, not a model's.
    """
    prompt = [block for block in request.prompt for _ in range(PAGE_SIZE)]
    answer = [block for block in request.answer for _ in range(PAGE_SIZE)]
    # The newest token is never computed, so an answer has one more.
    sequence = Sequence(
        f"r{index}", prompt, len(prompt), len(prompt) + len(answer) + 1, arrival_s=float(index), index=index
    )
    batch.queue.arrive(sequence)
    batch.enact(batch.decide(float(index)), float(index))
    found = -(-sequence.num_cached_tokens // PAGE_SIZE)
    answer.append(1)
    while answer:
        reached, fresh = sequence.limit, sequence.limit - sequence.num_tokens + 1
        token_ids, answer = answer[:fresh], answer[fresh:]
        result = worker_pb2.StepResult(epoch=1, plan_id=batch.plan_id, row=[sequence.row], computed=[reached])
        result.token_count.append(len(token_ids))
        result.token_ids.extend(token_ids)
        result.end.append(worker_pb2.ROW_RUNNING if answer else worker_pb2.ROW_LENGTH)
        reconcile(batch, result)
        if answer:
            batch.enact(batch.decide(float(index)), float(index))
    assert not batch.running
    return found


def replayed_hits(trace: list[Request], pages: int) -> float:
    """Share of the prompts' pages that were found."""
    config = SchedulerConfig(reserve_fraction=0)
    hello = worker_pb2.HelloReply(epoch=1, pages=pages, page_size=PAGE_SIZE, max_rows=4, max_step_tokens=512)
    batch = Batch(config, hello, WaitingQueue(config.policy, config.aging_s))
    found = sum(serve(batch, index, request) for index, request in enumerate(trace))
    assert batch.check_integrity() == []
    assert batch.pages_in_use == 0
    return found / sum(len(request.prompt) for request in trace)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("capacity", CAPACITIES)
def test_finds_as_much_as_an_ideal_lru_cache(shape, capacity):
    trace = SHAPES[shape](REQUESTS)
    pages = capacities(trace)[capacity]
    assert replayed_hits(trace, pages) == pytest.approx(ideal_hits(trace, pages), abs=0.01)


@pytest.mark.parametrize(("shape", "share"), [("retrieval", 0.9), ("mixed", 0.8), ("chat", 0.98)])
def test_finds_what_traffic_has_in_common(shape, share):
    """Of the tokens that a model reads, with room for all."""
    trace = SHAPES[shape](1000)
    assert replayed_hits(trace, capacities(trace)["unbounded"]) >= share
