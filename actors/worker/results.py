"""What steps did, on its way to the scheduler: one record a step, merged where the reader is behind."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.decoder import Int32
from kernels.logprobs import Logprobs
from protos.gen import worker_pb2

NO_GUESSES = (0, 0)


class StepRecord(NamedTuple):
    """One step, or none (no rows, step_seconds 0) where only a plan was applied. Columns are [R]."""

    epoch: int
    plan_id: int
    step: int
    row: NDArray[np.int64]
    computed: Int32
    drawn: Int32  # [R, W], new tokens from the left; -1 elsewhere
    end: NDArray[np.int8]
    errors: dict[int, str]  # by row
    step_seconds: float
    gap_seconds: float
    prefill_tokens: int
    decode_tokens: int
    logprobs: Logprobs | None = None
    """Of the tokens of rows that ask; None where none does."""
    prompt_logprobs: Logprobs | None = None
    """Of prompt tokens, a row's one after the other."""
    drafted: Int32 | None = None
    """[R], tokens that were guessed, and how many of them stand; None where none were."""
    accepted: Int32 | None = None


class KeptRecord(NamedTuple):
    """What became of units that were to be saved or loaded, from the thread that does so."""

    epoch: int
    kept: dict[bytes, bool]  # whether a key is on disk now
    loaded: list[int]  # units, by their first page id
    unloaded: list[int]
    load_bytes: int
    load_seconds: float


def applied_only(epoch: int, plan_id: int, step: int) -> StepRecord:
    """The record of a plan that was applied and has not run a step yet: the scheduler may free what it dropped."""
    none = np.zeros(0, np.int32)
    rows, drawn, end = none.astype(np.int64), none.reshape(0, 1), none.astype(np.int8)
    return StepRecord(epoch, plan_id, step, rows, none, drawn, end, {}, 0.0, 0.0, 0, 0)


def merge(
    records: Sequence[StepRecord | KeptRecord], before: worker_pb2.StepResult | None = None
) -> worker_pb2.StepResult:
    """One message for consecutive records (at least one) of one epoch: tokens in order, the rest at its newest.

    `before` is the epoch's last message: plan and step stay what it says where none was applied or run since.
    """
    steps = [record for record in records if isinstance(record, StepRecord)]
    result = _merge_steps(steps) if steps else worker_pb2.StepResult(epoch=records[-1].epoch)
    if not steps and before is not None:
        result.plan_id, result.step = before.plan_id, before.step
    if len(steps) < len(records):
        _add_kept(result, [record for record in records if isinstance(record, KeptRecord)])
    return result


def _add_kept(result: worker_pb2.StepResult, records: Sequence[KeptRecord]) -> None:
    """Of a key that was kept and lost, or lost and kept again, only the newest counts."""
    kept: dict[bytes, bool] = {}
    for record in records:
        kept.update(record.kept)
        result.loaded.extend(record.loaded)
        result.unloaded.extend(record.unloaded)
    result.saved = b"".join(key for key, there in kept.items() if there)
    result.lost = b"".join(key for key, there in kept.items() if not there)
    result.load_bytes = sum(record.load_bytes for record in records)
    result.load_us = round(sum(record.load_seconds for record in records) * 1e6)


def _merge_steps(records: Sequence[StepRecord]) -> worker_pb2.StepResult:
    computed: dict[int, int] = {}
    tokens: dict[int, list[int]] = {}
    ends: dict[int, worker_pb2.RowEnd] = {}
    errors: dict[int, str] = {}
    guesses: dict[int, tuple[int, int]] = {}
    logprobs: dict[int, worker_pb2.Logprobs] = {}
    scored: dict[int, worker_pb2.Logprobs] = {}
    for record in records:
        for row, count, new, end in zip(
            record.row.tolist(), record.computed.tolist(), record.drawn.tolist(), record.end.tolist(), strict=True
        ):
            computed[row] = count
            ends[row] = end
            tokens.setdefault(row, []).extend(token for token in new if token >= 0)
        errors.update(record.errors)
        if record.drafted is not None and record.accepted is not None:
            _add_guesses(guesses, record.row, record.drafted, record.accepted)
        if record.logprobs is not None:
            _add_logprobs(logprobs, record.row, record.logprobs)
        if record.prompt_logprobs is not None:
            _add_logprobs(scored, record.row, record.prompt_logprobs)
    for row, message in scored.items():
        message.row = row
    newest = records[-1]
    return worker_pb2.StepResult(
        epoch=newest.epoch,
        plan_id=newest.plan_id,
        step=newest.step,
        row=computed.keys(),
        computed=computed.values(),
        token_count=map(len, tokens.values()),
        token_ids=[token for drawn in tokens.values() for token in drawn],
        end=ends.values(),
        error=[errors[row] for row in computed if row in errors],
        busy_us=round(sum(record.step_seconds for record in records) * 1e6),
        gap_us=round(sum(record.gap_seconds for record in records) * 1e6),
        prefill_tokens=sum(record.prefill_tokens for record in records),
        decode_tokens=sum(record.decode_tokens for record in records),
        logprobs=[logprobs[row] for row in computed if row in logprobs],
        prompt_logprobs=scored.values(),
        drafted=[guesses.get(row, NO_GUESSES)[0] for row in computed] if guesses else (),
        accepted=[guesses.get(row, NO_GUESSES)[1] for row in computed] if guesses else (),
    )


def _add_guesses(by_row: dict[int, tuple[int, int]], rows: NDArray[np.int64], drafted: Int32, accepted: Int32) -> None:
    """Count what a step drafted for its rows."""
    for row, guessed, stood in zip(rows.tolist(), drafted.tolist(), accepted.tolist(), strict=True):
        if guessed:
            before = by_row.get(row, NO_GUESSES)
            by_row[row] = before[0] + guessed, before[1] + stood


def _add_logprobs(by_row: dict[int, worker_pb2.Logprobs], rows: NDArray[np.int64], told: Logprobs) -> None:
    """Append what a step told of its rows' tokens."""
    for row, top, chosen, ids, values in zip(
        rows[told.rows].tolist(), told.tops.tolist(), told.chosen.tolist(), told.top_ids, told.top_values, strict=True
    ):
        message = by_row.get(row)
        if message is None:
            message = by_row[row] = worker_pb2.Logprobs(tops=top)
        message.chosen.append(chosen)
        message.top_ids.extend(ids[:top].tolist())
        message.top_values.extend(values[:top].tolist())
