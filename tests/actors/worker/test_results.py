"""Records of steps merged into one message."""

import numpy as np

from actors.worker.results import KeptRecord, StepRecord, applied_only, merge
from protos.gen import worker_pb2


def record(step: int, news: dict[int, tuple[int, int, int]], errors: dict[int, str] | None = None) -> StepRecord:
    """news: row -> (computed, drawn, end)."""
    computed, drawn, end = zip(*news.values(), strict=True)
    return StepRecord(
        epoch=2,
        plan_id=step,
        step=step,
        row=np.array(list(news), np.int64),
        computed=np.array(computed, np.int32),
        drawn=np.array(drawn, np.int32)[:, None],
        end=np.array(end, np.int8),
        errors=errors or {},
        step_seconds=0.002,
        gap_seconds=0.0001,
        prefill_tokens=3,
        decode_tokens=1,
    )


def test_one_step() -> None:
    result = merge([record(7, {9: (4, -1, 0), 3: (12, 0, 1)})])
    assert result == worker_pb2.StepResult(
        epoch=2,
        plan_id=7,
        step=7,
        row=[9, 3],
        computed=[4, 12],
        token_count=[0, 1],
        token_ids=[0],
        end=[worker_pb2.ROW_RUNNING, worker_pb2.ROW_STOP],
        busy_us=2000,
        gap_us=100,
        prefill_tokens=3,
        decode_tokens=1,
    )


def test_steps_a_slow_reader_missed_come_as_one_message() -> None:
    result = merge(
        [
            record(1, {5: (8, 40, 0), 6: (3, -1, 0)}),
            record(2, {6: (4, -1, worker_pb2.ROW_ERROR), 5: (9, 41, 0)}, {6: "broke"}),
            record(3, {5: (10, 42, worker_pb2.ROW_LENGTH), 7: (1, 50, worker_pb2.ROW_ERROR)}, {7: "too"}),
            applied_only(2, 9, 3),
        ]
    )
    assert (result.plan_id, result.step) == (9, 3)
    assert list(result.row) == [5, 6, 7]
    assert list(result.computed) == [10, 4, 1]
    assert list(result.token_count) == [3, 0, 1]
    assert list(result.token_ids) == [40, 41, 42, 50]
    assert list(result.end) == [worker_pb2.ROW_LENGTH, worker_pb2.ROW_ERROR, worker_pb2.ROW_ERROR]
    assert list(result.error) == ["broke", "too"]
    assert (result.busy_us, result.gap_us, result.prefill_tokens, result.decode_tokens) == (6000, 300, 9, 3)


def test_units_saved_and_loaded_travel_with_steps_and_alone() -> None:
    first = KeptRecord(2, {b"a" * 16: True, b"b" * 16: True}, [4], [], 100, 0.001)
    then = KeptRecord(2, {b"b" * 16: False, b"c" * 16: False}, [8], [5], 50, 0.0005)
    with_steps = merge([first, record(7, {9: (4, 40, 0)}), then])
    assert (with_steps.plan_id, with_steps.step, list(with_steps.token_ids)) == (7, 7, [40])
    assert with_steps.saved == b"a" * 16
    assert with_steps.lost == b"b" * 16 + b"c" * 16, "the newest counts"
    assert (list(with_steps.loaded), list(with_steps.unloaded)) == ([4, 8], [5])
    assert (with_steps.load_bytes, with_steps.load_us) == (150, 1500)
    alone = merge([first], with_steps)
    assert (alone.epoch, alone.plan_id, alone.step, alone.saved) == (2, 7, 7, b"a" * 16 + b"b" * 16)
    assert (merge([first]).plan_id, merge([first]).epoch) == (0, 2)
