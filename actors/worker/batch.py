"""What one step computes: a pure choice over the rows' state, and its arrays."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.worker.pace import BY_TOKENS, FIRST_CHUNK, Prompt, chunks, prompt_ms
from actors.worker.rows import Rows
from actors.worker.scoring import Scores, scores_of
from actors.worker.step_cost import StepCost, Work
from actors.worker.verify import Drafted, Draws, draws_of
from kernels.decoder import Batch, Int32
from kernels.sampling import SampleBatch


class Step(NamedTuple):
    """One forward: R rows with at least one token each."""

    slots: Int32  # [R]
    counts: Int32  # [R], tokens computed per row, drafted ones aside
    decode: NDArray[np.bool_]  # [R], rows taken as decoding
    draws: Draws  # where tokens are drawn; batch.logits_at has an entry for each
    batch: Batch
    sampling: SampleBatch | None = None
    """Parameters of the rows that draw, where they are known already."""
    scores: Scores | None = None
    """Prompt tokens whose log-probabilities are wanted; their logits are among batch.logits_at too."""
    drafted: Drafted | None = None
    """Tokens that are verified: they follow the newest of their row."""

    @property
    def work(self) -> Work:
        """What it computes; a drafted token is as much as a decoding row."""
        tokens = np.diff(self.batch.row_starts).astype(np.int64)
        reads = int((tokens * self.batch.lengths + tokens * (tokens + 1) // 2).sum())
        rows = int(tokens[self.decode].sum())
        return Work(int(tokens.sum()) - rows, rows, reads)


def choose(
    known: Int32, computed: Int32, limit: Int32, step_tokens: int, target_ms: float = 0.0, cost: StepCost | None = None
) -> Int32:
    """How many tokens of each row the step computes: one of every decoding row, then prompt chunks.

    Arrays are [R], rows in order of precedence (meanings: actors.worker.rows). A row decodes where one known token is
    not in its KV. Chunks share what the decoding rows leave of step_tokens and, where there is a target for
    inter-token latency (0: none), of the time that a step may take (actors.worker.pace); a row at its limit sits out
    (0). A step exceeds step_tokens only where decoding rows alone do. `cost` is None while no step was measured.
    """
    pending = np.maximum(np.minimum(known, limit) - computed, 0)
    streams = known - computed == 1
    decode = streams & (pending == 1)
    decoding = int(np.count_nonzero(decode))
    if decoding == len(known):
        return pending
    counts = decode.astype(np.int32)
    left = step_tokens - decoding
    at = np.flatnonzero(pending > decode)
    if not len(at) or left <= 0:
        return counts
    columns = zip(pending[at].tolist(), (known - computed)[at].tolist(), computed[at].tolist(), strict=True)
    prompts = [Prompt(*column) for column in columns]
    if not target_ms:
        counts[at] = chunks(prompts, BY_TOKENS, left, left)
    elif cost is None:
        counts[at] = chunks(prompts, BY_TOKENS, FIRST_CHUNK, left)
    else:
        work = Work(0, decoding, int((computed[decode] + 1).sum()))
        counts[at] = chunks(prompts, cost, prompt_ms(cost, work, target_ms, bool(streams.any())), left)
    return counts


def assemble(rows: Rows, slots: Int32, counts: Int32, drafted: Drafted | None = None) -> Step:
    """The arrays of a forward over `counts` (each at least 1) pending tokens of `slots`, both [R], and drafts."""
    lengths = rows.computed[slots]
    after = lengths + counts
    totals = counts if drafted is None else counts + drafted.counts
    row_starts = np.zeros(len(slots) + 1, np.int32)
    np.cumsum(totals, out=row_starts[1:])
    total = int(row_starts[-1])
    if total == len(slots):
        tokens = rows.tokens[slots, lengths]
    else:
        positions = np.arange(total, dtype=np.int32) + np.repeat(lengths - row_starts[:-1], totals)
        tokens = rows.tokens[np.repeat(slots, totals), positions]
    pages = -(-int((lengths + totals).max()) // rows.page_size)
    known = rows.known[slots]
    draws = draws_of(row_starts, np.flatnonzero(after == known).astype(np.int32), drafted)
    if drafted is not None:
        for row, draft in drafted.rows.items():
            end = row_starts[row + 1]
            tokens[end - len(draft.tokens) : end] = draft.tokens
    logits_at = draws.at
    scores = scores_of(rows, slots, counts, row_starts) if rows.score_from[slots].any() else None
    if scores is not None:
        logits_at = np.sort(np.concatenate([logits_at, scores.at]))
    parents = None if drafted is None else drafted.lineage(row_starts)
    batch = Batch(tokens, row_starts, lengths, rows.page_table[slots, :pages], logits_at, parents)
    return Step(slots, counts, known - lengths == 1, draws, batch, scores=scores, drafted=drafted)
