"""Log-probabilities of tokens: what a row asks of the sampler beside its draw, where the answer goes, and the NumPy
specification of what it is.

They are of the model's own distribution, the log-softmax of the raw logits: before penalties, bias, mask, temperature
and every filter, as OpenAI's and vLLM's are. What a row is told depends on its own logits alone. Where the largest of
them is not finite there is no distribution: then all are LEAST, and the likeliest are the first ids. (Only a row whose
mask leaves no choice can be drawn there.)
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]

MAX_TOP = 20
"""Most alternatives that a row may ask for (OpenAI's top_logprobs)."""
LEAST = -9999.0
"""Stands for the logarithm of a probability too small for one: JSON has no infinity."""


class Logprobs(NamedTuple):
    """N rows of a batch that ask, and the arrays that whoever samples writes the answers to."""

    rows: Int32  # [N], rising: which rows of the batch
    tops: Int32  # [N], in [0, K]: how many of the likeliest ids are wanted
    chosen: Float32  # [N], written: of the id given or drawn
    top_ids: Int32  # [N, K], written up to tops: the likeliest ids, likeliest first; of equals the lower first
    top_values: Float32  # [N, K], written up to tops: theirs
    given: Int32  # [N]: the id that `chosen` is of, or -1 for the one drawn


def asked(rows: Int32, tops: Int32, given: Int32 | None = None) -> Logprobs:
    """What `rows` [N] ask for, `tops` [N] alternatives each, with arrays for the answers."""
    count, shape = len(rows), (len(rows), int(tops.max(initial=0)))
    given = np.full(count, -1, np.int32) if given is None else given
    ids, values = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    return Logprobs(rows, tops, np.zeros(count, np.float32), ids, values, given)


def part(told: Logprobs, which: NDArray[np.intp], rows: Int32) -> Logprobs:
    """Some of the answers, for which `rows` [len(which)] is the row now."""
    columns = told.tops[which], told.chosen[which], told.top_ids[which], told.top_values[which], told.given[which]
    return Logprobs(rows, *columns)


def gathered(parts: Sequence[tuple[int, Logprobs]]) -> Logprobs | None:
    """Answers that were computed apart as those of one batch: of each part the first row's number there."""
    if not parts:
        return None
    rows = np.concatenate([part.rows + first for first, part in parts]).astype(np.int32)
    whole = asked(rows, np.concatenate([part.tops for _, part in parts]))
    width = whole.top_ids.shape[1]
    at = 0
    for _, part in parts:
        end, columns = at + len(part.rows), min(width, part.top_ids.shape[1])
        whole.chosen[at:end] = part.chosen
        whole.top_ids[at:end, :columns] = part.top_ids[:, :columns]
        whole.top_values[at:end, :columns] = part.top_values[:, :columns]
        at = end
    return whole


def check(wanted: Logprobs, rows: int, vocab: int) -> None:
    """Raise ValueError where it does not describe rows of a batch of `rows` over `vocab` ids."""
    count, width = len(wanted.rows), wanted.top_ids.shape[1]
    if count and not ((np.diff(wanted.rows, prepend=-1) > 0).all() and wanted.rows[-1] < rows):
        raise ValueError(f"logprobs.rows must rise within [0, {rows}), got {wanted.rows}")
    most = min(width, vocab)
    if len(wanted.tops) != count or (count and not 0 <= wanted.tops.min() <= wanted.tops.max() <= most):
        raise ValueError(f"logprobs.tops must lie in [0, {most}], one for each of {count} rows; got {wanted.tops}")
    if len(wanted.given) != count or (count and not -1 <= wanted.given.min() <= wanted.given.max() < vocab):
        raise ValueError(f"logprobs.given must lie in [-1, {vocab}), one for each of {count} rows; got {wanted.given}")
    if len(wanted.chosen) != count or wanted.top_ids.shape != wanted.top_values.shape or len(wanted.top_ids) != count:
        raise ValueError(f"the arrays for the answers must have {count} rows and equal widths")


def tell(logits: Float32, drawn: Int32, wanted: Logprobs) -> None:
    """Write the answers for logits [R, vocab] and the ids drawn from them [R]."""
    for index, row in enumerate(wanted.rows):
        values = logits[row].astype(np.float64)
        peak = values.max()
        if np.isfinite(peak):
            values -= peak + np.log(np.exp(values - peak).sum())
        else:
            values[:] = LEAST
        top = np.argsort(-values, kind="stable")[: wanted.tops[index]]
        token = wanted.given[index] if wanted.given[index] >= 0 else drawn[row]
        wanted.chosen[index] = max(values[token], LEAST)
        wanted.top_ids[index, : len(top)] = top
        wanted.top_values[index, : len(top)] = np.maximum(values[top], LEAST)
