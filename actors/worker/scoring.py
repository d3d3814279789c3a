"""Log-probabilities of the prompt: logits are wanted at every position of a chunk, not at its end alone.

The logits at position p say how likely token p + 1 is. Of a row that is scored from token f on, and a chunk of it:

    0          f - 1            length                 length + count      prompt_tokens
    |-- nobody asks --|-- told before --|-- logits at each of these --|-- later --|

Where a chunk ends the prompt, its last logits draw the first token of the output, as ever. Each logits row that is
scored counts as a greedy row of the sampler, whose draw nobody looks at.
"""

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from actors.worker.rows import Rows
from kernels.decoder import Batch, Float32, Int32
from kernels.logprobs import Logprobs, asked, part
from kernels.sampling import SampleBatch, UInt64

MOST_SCORED = 128
"""Prompt tokens that one step scores, over all rows: 196 KB of logits each, at 49,152 ids."""


class Scores(NamedTuple):
    """N prompt tokens that a step scores, in the order of its tokens."""

    at: Int32  # [N], index into Batch.tokens of the position before each
    row: Int32  # [N], index into the step's rows
    given: Int32  # [N], the tokens
    tops: Int32  # [N]


def bounded(rows: Rows, slots: Int32, counts: Int32) -> Int32:
    """`counts` [R] made small enough for the logits of rows that are scored; the first of these always goes on."""
    scored = np.flatnonzero((rows.score_from[slots] > 0) & (counts > 0))
    if not len(scored):
        return counts
    counts, left = counts.copy(), MOST_SCORED
    for index in scored:
        counts[index] = min(counts[index], left)
        left -= counts[index]
    return counts


def scores_of(rows: Rows, slots: Int32, counts: Int32, row_starts: Int32) -> Scores | None:
    """What a step over `counts` tokens of `slots` [R] scores; None where nobody asks."""
    parts = []
    for index in np.flatnonzero(rows.score_from[slots] > 0):
        slot = slots[index]
        length = int(rows.computed[slot])
        first = max(length, int(rows.score_from[slot]) - 1)
        end = min(length + int(counts[index]), int(rows.prompt_tokens[slot]) - 1)
        if first < end:
            positions = np.arange(first, end, dtype=np.int32)
            following = rows.tokens[slot, first + 1 : end + 1]
            tops = np.full(end - first, max(rows.top_logprobs[slot], 0), np.int32)
            at = row_starts[index] + positions - length
            parts.append((at, np.full(end - first, index, np.int32), following, tops))
    if not parts:
        return None
    return Scores(*(np.concatenate(column).astype(np.int32) for column in zip(*parts, strict=True)))


class Both(NamedTuple):
    """The logits of a step in which some rows draw and some prompt tokens are scored, as one batch of the sampler."""

    scores: Scores
    draws_at: Int32  # [D], which of the logits the step's draws have
    scores_at: Int32  # [N], and which the tokens that are scored

    @classmethod
    def of(cls, batch: Batch, draws_at: Int32, scores: Scores) -> Self:
        """`draws_at` [D]: the tokens of the batch after which the step draws."""
        draws_at, scores_at = (np.searchsorted(batch.logits_at, at).astype(np.int32) for at in (draws_at, scores.at))
        return cls(scores, draws_at, scores_at)

    def widened(self, sampling: SampleBatch) -> SampleBatch:
        """The rows that draw, and between them a greedy one for each token that is scored."""
        draws_at, scores_at, scores = self.draws_at, self.scores_at, self.scores
        total = len(draws_at) + len(scores_at)

        def column(values: Float32 | Int32 | UInt64, otherwise: float = 0) -> NDArray[Any]:
            whole = np.full(total, otherwise, values.dtype)
            whole[draws_at] = values
            return whole

        def starts(of_draws: Int32) -> Int32:
            counts = np.zeros(total + 1, np.int32)
            counts[draws_at + 1] = np.diff(of_draws)
            return np.cumsum(counts, dtype=np.int32)

        wanted = sampling.logprobs
        rows, tops = (draws_at[wanted.rows], wanted.tops) if wanted is not None else (scores_at[:0], scores.tops[:0])
        rows, tops = np.concatenate([rows, scores_at]), np.concatenate([tops, scores.tops])
        given = np.concatenate([np.full(len(rows) - len(scores_at), -1, np.int32), scores.given])
        order = np.argsort(rows)
        return sampling._replace(
            temperature=column(sampling.temperature),
            top_k=column(sampling.top_k),
            top_p=column(sampling.top_p, 1),
            min_p=column(sampling.min_p),
            repetition=column(sampling.repetition, 1),
            presence=column(sampling.presence),
            frequency=column(sampling.frequency),
            seed=column(sampling.seed),
            position=column(sampling.position),
            seen_starts=starts(sampling.seen_starts),
            bias_starts=starts(sampling.bias_starts),
            masked_rows=draws_at[sampling.masked_rows],
            logprobs=asked(rows[order], tops[order], given[order]),
        )

    def parted(self, told: Logprobs | None) -> tuple[Logprobs | None, Logprobs | None]:
        """Of what was told of all: that of the tokens drawn, by draw, and that of the prompt's, by the step's rows."""
        if told is None:
            return None, None
        drawn, given = np.flatnonzero(told.given < 0), np.flatnonzero(told.given >= 0)
        of_draws = part(told, drawn, np.searchsorted(self.draws_at, told.rows[drawn]).astype(np.int32))
        return of_draws if len(drawn) else None, part(told, given, self.scores.row)


def scored(rows: Rows, slots: Int32) -> None:
    """A step is done (after Rows.advance): what its rows computed of their prompts was told."""
    asking = slots[rows.score_from[slots] > 0]
    reached = rows.computed[asking] + 1
    rows.score_from[asking] = np.where(
        reached >= rows.prompt_tokens[asking], 0, np.maximum(reached, rows.score_from[asking])
    )
