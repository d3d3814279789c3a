"""Columns of rows, and the counts that penalties need."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from actors.worker.rows import Rows, Seen
from actors.worker.sampler import sample_batch
from protos.gen import inference_pb2, worker_pb2

tokens = st.lists(st.integers(0, 20), max_size=40)


@given(st.lists(st.integers(0, 20), min_size=1), tokens, tokens)
def test_seen_counts_the_output_and_knows_the_prompt(prompt: list[int], output: list[int], more: list[int]) -> None:
    seen = Seen(np.array(prompt + output, np.int32), len(prompt), 21)
    for token in more:
        seen.add(token)
    counts = Counter(output + more)
    expected = {token: counts[token] for token in {*prompt, *output, *more}}
    assert dict(zip(seen.ids.tolist(), seen.output_counts.tolist(), strict=True)) == expected
    assert len(seen.ids) == len(expected)


def row_start(row: int, **settings: object) -> worker_pb2.RowStart:
    sampling = {"temperature": 0.5, "top_p": 1, "top_k": 2**31, "repetition_penalty": 1, "seed": 2**64 - 1}
    sampling |= settings.pop("sampling", {})
    return worker_pb2.RowStart(
        row=row,
        token_ids=[1, 2, 2],
        prompt_tokens=1,
        max_length=9,
        sampling=inference_pb2.Sampling(**sampling),
        **settings,
    )


def test_only_rows_that_need_spans_bring_them() -> None:
    rows = Rows(4, 32, 8, 50)
    slots = [
        rows.start(row_start(0)),
        rows.start(row_start(1, sampling={"frequency_penalty": 0.5})),
        rows.start(row_start(2, sampling={"logit_bias": {7: 2.0, 3: 1.0}}, min_tokens=3, stop_ids=[3])),
        rows.start(row_start(3, min_tokens=2, stop_ids=[3])),
    ]
    batch = sample_batch(rows, np.array(slots, np.int32))
    assert batch.seen_starts.tolist() == [0, 0, 2, 2, 2]
    assert batch.seen_ids.tolist() == [1, 2]
    assert batch.seen_output_counts.tolist() == [0, 2]
    assert batch.bias_starts.tolist() == [0, 0, 0, 2, 2], "row 3 has its min_tokens: nothing is banned any more"
    assert batch.bias_ids.tolist() == [3, 7]
    assert batch.bias_values.tolist() == [-np.inf, 2.0]
    assert batch.position.tolist() == [3] * 4
    assert batch.seed.tolist() == [2**64 - 1] * 4
    assert batch.top_k.tolist() == [50] * 4, "more than the vocabulary is the vocabulary"


def test_a_slot_used_again_knows_nothing_of_the_row_before() -> None:
    rows = Rows(1, 32, 8, 50)
    sampling = {"repetition_penalty": 2.0, "logit_bias": {7: 2.0}}
    slot = rows.start(row_start(1, sampling=sampling, min_tokens=9, stop_ids=[1, 2]))
    rows.extend(slot, [4, 5])
    rows.ended[slot] = True
    rows.drop(1)
    assert rows.start(row_start(2)) == slot
    batch = sample_batch(rows, np.array([slot], np.int32))
    assert len(batch.seen_ids) == len(batch.bias_ids) == 0
    assert not rows.ended[slot]
    assert (rows.page_table[slot] == -1).all()
    assert rows.ends(np.array([slot]), np.array([[2]], np.int32)).tolist() == [worker_pb2.ROW_RUNNING]
