"""The sampler's view of the rows that draw in a step: their parameters, penalties and biases, columnar."""

from collections.abc import Callable

import numpy as np

from actors.worker.rows import NO_BIAS, NO_IDS, NO_VALUES, Rows, Seen
from actors.worker.verify import Drafted, Draws
from kernels.decoder import Int32
from kernels.logprobs import Logprobs, asked
from kernels.sampling import SampleBatch


def drawing_batch(rows: Rows, slots: Int32, draws: Draws, drafted: Drafted) -> SampleBatch:
    """Parameters of a step's draws, of its rows `slots` [R]: each after the drafted tokens before it."""
    return sample_batch(rows, slots[draws.row], draws.ahead, lambda draw: _guessed(draws, drafted, draw))


def sample_batch(
    rows: Rows, slots: Int32, ahead: Int32 | None = None, guessed: Callable[[int], list[int]] | None = None
) -> SampleBatch:
    """Parameters for `slots` [R], whose KV holds all their known tokens: the token drawn stands at position `known`.

    Where `ahead` [R] is given, so many tokens more are supposed to stand before it; guessed(r) gives them.

    Penalised rows bring their seen tokens and biased rows their biases; the others' spans are empty, so a batch that
    uses neither costs neither. The masks of constrained rows are views of Rows.masks, filled while the forward runs.
    """
    known = rows.known[slots]
    if ahead is not None:
        known = known + ahead
    starts = np.zeros(len(slots) + 1, np.int32)
    seen_starts = bias_starts = starts
    seen_ids = seen_output_counts = bias_ids = NO_IDS
    bias_values = NO_VALUES
    if rows.penalised[slots].any():
        seen = [_seen(rows.seen[slot], guessed, index) for index, slot in enumerate(slots)]
        seen_starts = _starts([ids for ids, _ in seen])
        seen_ids = np.concatenate([ids for ids, _ in seen])
        seen_output_counts = np.concatenate([counts for _, counts in seen])
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


def _seen(seen: Seen | None, guessed: Callable[[int], list[int]] | None, index: int) -> tuple[Int32, Int32]:
    """Distinct ids before a draw, and how often each is in the output."""
    if seen is None:
        return NO_IDS, NO_IDS
    if guessed is not None and len(tokens := guessed(index)):
        return seen.after(tokens)
    return seen.ids, seen.output_counts


def _guessed(draws: Draws, drafted: Drafted, draw: int) -> list[int]:
    """The drafted tokens before a draw."""
    row, last = int(draws.row[draw]), int(np.searchsorted(draws.row, draws.row[draw], "right")) - 1
    # A row draws after its last tokens, the last of them the last.
    draft = drafted.rows.get(row)
    return [] if draft is None else draft.path(len(draft.tokens) - 1 - (last - draw))


def _starts(spans: list[Int32]) -> Int32:
    return np.cumsum([0, *map(len, spans)], dtype=np.int32)
