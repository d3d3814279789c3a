"""What steps did, on its way to the scheduler: one record a step, merged where the reader is behind."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.decoder import Int32
from protos.gen import worker_pb2


class StepRecord(NamedTuple):
    """One step, or none (no rows, step_seconds 0) where only a plan was applied. Columns are [R]."""

    epoch: int
    plan_id: int
    step: int
    row: NDArray[np.int64]
    computed: Int32
    drawn: Int32  # -1: no token
    end: NDArray[np.int8]
    errors: dict[int, str]  # by row
    step_seconds: float
    gap_seconds: float
    prefill_tokens: int
    decode_tokens: int


def applied_only(epoch: int, plan_id: int, step: int) -> StepRecord:
    """The record of a plan that was applied and has not run a step yet: the scheduler may free what it dropped."""
    none = np.zeros(0, np.int32)
    return StepRecord(epoch, plan_id, step, none.astype(np.int64), none, none, none.astype(np.int8), {}, 0.0, 0.0, 0, 0)


def merge(records: Sequence[StepRecord]) -> worker_pb2.StepResult:
    """One message for consecutive records (at least one) of one epoch: tokens in order, the rest at its newest."""
    computed: dict[int, int] = {}
    tokens: dict[int, list[int]] = {}
    ends: dict[int, worker_pb2.RowEnd] = {}
    errors: dict[int, str] = {}
    for record in records:
        for row, count, token, end in zip(
            record.row.tolist(), record.computed.tolist(), record.drawn.tolist(), record.end.tolist(), strict=True
        ):
            computed[row] = count
            ends[row] = end
            drawn = tokens.setdefault(row, [])
            if token >= 0:
                drawn.append(token)
        errors.update(record.errors)
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
    )
