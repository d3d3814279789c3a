"""What a StepResult means for the sequences: tokens, ends, and pages that may be used again."""

from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import NamedTuple

from actors.base.errors import Internal
from actors.scheduler.batch import Batch
from actors.scheduler.planner import runs_low
from actors.scheduler.sequence import Sequence, Status
from protos.gen import worker_pb2


class News(NamedTuple):
    """What one row has to tell its client."""

    sequence: Sequence
    # The end-of-text token that ended the row is not among them.
    token_ids: list[int]
    end: worker_pb2.RowEnd
    # Why the row failed; empty unless end is ROW_ERROR.
    error: str
    # Of these tokens; None where the request does not ask for them.
    logprobs: worker_pb2.Logprobs | None = None
    # Of prompt tokens, those that follow the ones told before.
    prompt_logprobs: worker_pb2.Logprobs | None = None


class Outcome(NamedTuple):
    """What a result brought."""

    news: list[News]
    # Pages or rows became free, a row's lease runs low, a suspect was cleared, pages came that somebody waits for, or
    # are old enough for another tier: the next plan may differ.
    replan: bool


def reconcile(batch: Batch, result: worker_pb2.StepResult) -> Outcome:
    """Apply a result of the batch's own epoch. Raises Internal where it contradicts itself or the leases."""
    if sum(result.token_count) != len(result.token_ids) or not (
        len(result.row) == len(result.computed) == len(result.token_count) == len(result.end)
    ):
        raise Internal(
            f"The worker's result of step {result.step} has {len(result.row)} rows but columns of "
            f"{len(result.computed)}, {len(result.token_count)}, {len(result.end)} and {len(result.token_ids)} tokens."
        )
    news: list[News] = []
    ended: list[Sequence] = []
    low = cleared = awaited = due = False
    if len(result.drafted) not in (0, len(result.row)) or len(result.drafted) != len(result.accepted):
        raise Internal(
            f"The worker's result of step {result.step} has {len(result.row)} rows, but says of {len(result.drafted)} "
            f"what was drafted and of {len(result.accepted)} what stands."
        )
    errors, told = iter(result.error), iter(result.logprobs)
    guesses = zip(result.drafted, result.accepted, strict=True) if result.drafted else repeat((0, 0))
    scored = {logprobs.row: logprobs for logprobs in result.prompt_logprobs}
    all_tokens = list(result.token_ids)
    start = 0
    for row, computed, count, end, (drafted, accepted) in zip(
        result.row, result.computed, result.token_count, result.end, guesses, strict=False
    ):
        token_ids = all_tokens[start : start + count]
        start += count
        error = next(errors, "the worker gave no reason") if end == worker_pb2.ROW_ERROR else ""
        sequence = batch.running.get(row)
        if sequence is None:
            leaving = batch.leaving.get(row)
            if leaving is None:
                raise Internal(f"The worker reported row {row}, which no plan in flight lists.")
            sequence = leaving.sequence
        logprobs = _logprobs_of(sequence, count, told) if count and sequence.logprobs is not None else None
        prompt_logprobs = _prompt_logprobs_of(sequence, scored[row]) if row in scored else None
        if computed > sequence.limit:
            raise Internal(f"The worker computed {computed} tokens of row {row}; its lease ends at {sequence.limit}.")
        sequence.num_computed_tokens = computed
        sequence.token_ids += token_ids
        sequence.num_drafted_tokens += drafted
        sequence.num_accepted_tokens += accepted
        if batch.keep_pages(sequence):
            awaited = True
        if token_ids and sequence.num_losses:
            # It does no harm: those that were kept waiting for that may enter.
            sequence.num_losses = 0
            cleared = True
        if end:
            ended.append(sequence)
            if end == worker_pb2.ROW_STOP and token_ids:
                token_ids = token_ids[:-1]
                sequence.token_ids.pop()
                if logprobs is not None:
                    _drop_last(logprobs)
        else:
            low = low or runs_low(sequence, batch.config.lease_tokens)
            due = due or batch.tiering.is_due(sequence)
        if (token_ids or end or prompt_logprobs is not None) and not sequence.cancelled:
            news.append(News(sequence, token_ids, end, error, logprobs, prompt_logprobs))
    freed = free_rows(batch, ended, result.plan_id)
    return Outcome(news, replan=low or freed or cleared or awaited or due)


def _logprobs_of(sequence: Sequence, count: int, told: Iterator[worker_pb2.Logprobs]) -> worker_pb2.Logprobs:
    """The next message, a copy, which must be of `count` tokens."""
    return _checked(sequence, next(told, worker_pb2.Logprobs()), count)


def _prompt_logprobs_of(sequence: Sequence, told: worker_pb2.Logprobs) -> worker_pb2.Logprobs:
    """A message of prompt tokens, a copy; what follows them is told next, also where the row begins anew."""
    count, left = len(told.chosen), sequence.num_prompt_tokens - sequence.score_from
    if not (sequence.score_from and count <= left):
        raise Internal(f"The worker scored {count} prompt tokens of {sequence.request_id}; {left} were wanted.")
    sequence.score_from = sequence.score_from + count if count < left else 0
    return _checked(sequence, told, count)


def _checked(sequence: Sequence, told: worker_pb2.Logprobs, count: int) -> worker_pb2.Logprobs:
    logprobs = worker_pb2.Logprobs()
    logprobs.CopyFrom(told)
    if len(logprobs.chosen) != count or not (
        len(logprobs.top_ids) == len(logprobs.top_values) == count * logprobs.tops
    ):
        raise Internal(
            f"The worker told {len(logprobs.chosen)} log-probabilities and {len(logprobs.top_ids)} alternatives of "
            f"{count} tokens of {sequence.request_id}."
        )
    return logprobs


def _drop_last(logprobs: worker_pb2.Logprobs) -> None:
    del logprobs.chosen[-1]
    if logprobs.tops:
        del logprobs.top_ids[-logprobs.tops :]
        del logprobs.top_values[-logprobs.tops :]


def free_rows(batch: Batch, ended: Iterable[Sequence], acknowledged: int) -> bool:
    """Give back the pages of rows that the worker will never touch again; returns whether there were any.

    The one place where pages of a row become free. A row is out of reach of every lease in flight when
    - the worker itself ended it (later plans that still list it do nothing to it), or
    - a plan that does not list it has been applied: plans apply in order, so one acknowledged plan acknowledges all
      before it, and the worker says so with the plan_id of its result.
    A preempted sequence goes back to the queue here, with the tokens that were on their way when it was preempted.
    """
    batch.acknowledged = max(batch.acknowledged, acknowledged)
    gone: list[Sequence] = []
    for sequence in ended:
        (batch.running if sequence.row in batch.running else batch.leaving).pop(sequence.row)
        sequence.status = Status.FINISHED
        gone.append(sequence)
    for row, (sequence, plan_id) in list(batch.leaving.items()):
        if plan_id <= batch.acknowledged:
            del batch.leaving[row]
            gone.append(sequence)
    for sequence in gone:
        if sequence.keep and (sequence.cancelled or sequence.status is Status.FINISHED):
            batch.keep_on_disk(sequence)
        batch.give_up_pages(sequence)
        if sequence.status is Status.FINISHED:
            continue
        if sequence.cancelled:
            sequence.status = Status.FINISHED
        else:
            sequence.forget_kv()
            batch.queue.put_back(sequence)
    return bool(gone)
