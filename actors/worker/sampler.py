"""The sampler's view of the rows that draw in a step: their parameters, penalties and biases, columnar."""

import numpy as np

from actors.worker.rows import NO_BIAS, NO_IDS, NO_VALUES, Rows
from kernels.decoder import Int32
from kernels.logprobs import Logprobs, asked
from kernels.sampling import SampleBatch


def sample_batch(rows: Rows, slots: Int32) -> SampleBatch:
    """Parameters for `slots` [R], whose KV holds all their known tokens: the token drawn stands at position `known`.

    Penalised rows bring their seen tokens and biased rows their biases; the others' spans are empty, so a batch that
    uses neither costs neither. The masks of constrained rows are views of Rows.masks, filled while the forward runs.
    """
    known = rows.known[slots]
    starts = np.zeros(len(slots) + 1, np.int32)
    seen_starts = bias_starts = starts
    seen_ids = seen_output_counts = bias_ids = NO_IDS
    bias_values = NO_VALUES
    if rows.penalised[slots].any():
        seen = [rows.seen[slot] for slot in slots]
        ids = [row.ids if row is not None else NO_IDS for row in seen]
        seen_starts = _starts(ids)
        seen_ids = np.concatenate(ids)
        seen_output_counts = np.concatenate([row.output_counts if row is not None else NO_IDS for row in seen])
    biased = rows.biased[slots]
    if biased.any():
        before_min = known - rows.prompt_tokens[slots] < rows.min_tokens[slots]
        biases = [
            NO_BIAS if not has else rows.bias_before_min[slot] if early else rows.bias[slot]
            for slot, has, early in zip(slots, biased, before_min, strict=True)
        ]
        bias_starts = _starts([bias.ids for bias in biases])
        bias_ids = np.concatenate([bias.ids for bias in biases])
        bias_values = np.concatenate([bias.values for bias in biases])
    masked_rows = np.flatnonzero(rows.constrained[slots]).astype(np.int32)
    return SampleBatch(
        temperature=rows.temperature[slots],
        top_k=rows.top_k[slots],
        top_p=rows.top_p[slots],
        min_p=rows.min_p[slots],
        repetition=rows.repetition[slots],
        presence=rows.presence[slots],
        frequency=rows.frequency[slots],
        seed=rows.seed[slots],
        position=known,
        seen_starts=seen_starts,
        seen_ids=seen_ids,
        seen_output_counts=seen_output_counts,
        bias_starts=bias_starts,
        bias_ids=bias_ids,
        bias_values=bias_values,
        logprobs=wanted_logprobs(rows.top_logprobs[slots]),
        masked_rows=masked_rows,
        masks=rows.masks[: len(masked_rows)],
    )


def wanted_logprobs(tops: Int32) -> Logprobs | None:
    """What rows ask that want `tops` [R] alternatives (-1: nothing at all), with room for one step's answers."""
    asking = np.flatnonzero(tops >= 0).astype(np.int32)
    return asked(asking, tops[asking]) if len(asking) else None


def _starts(spans: list[Int32]) -> Int32:
    return np.cumsum([0, *map(len, spans)], dtype=np.int32)
