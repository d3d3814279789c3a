"""One forward and what is drawn from it: the call that an engine's step is made of."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from actors.worker.batch import Step
from actors.worker.grammar import Grammars
from actors.worker.rows import Rows
from actors.worker.sampler import drawing_batch, sample_batch
from actors.worker.scoring import Both
from actors.worker.verify import verified
from kernels import logprobs
from kernels.bell import NO_ERRAND, Errand
from kernels.decoder import Decoder, Int32, Kv
from kernels.logprobs import Logprobs, part
from kernels.sampling import SampleBatch
from kernels.tree import compaction


class Drawn(NamedTuple):
    """What a step of R rows drew."""

    tokens: Int32  # [R, W], new tokens of each row, from the left; -1 elsewhere
    counts: Int32  # [R], by how many tokens each row's KV has grown
    logprobs: Logprobs | None  # of the rows that ask, by index into the step; a row's one after the other
    errors: dict[int, str]  # by index into the step: rows that failed, which have no token
    prompt_logprobs: Logprobs | None = None  # of prompt tokens, a row's one after the other
    accepted: Int32 | None = None  # [R], drafted tokens that stood, forced ones included; None where none were drafted


def failed(reason: str) -> Drawn:
    """What a step of one row drew that failed."""
    return Drawn(np.full((1, 1), -1, np.int32), np.zeros(1, np.int32), None, {0: reason})


def gathered(alone: Sequence[Drawn]) -> Drawn:
    """What the rows of a step drew one by one, a token each at most."""
    told = [(index, each.logprobs) for index, each in enumerate(alone) if each.logprobs is not None]
    scored = [(index, each.prompt_logprobs) for index, each in enumerate(alone) if each.prompt_logprobs is not None]
    errors = {index: each.errors[0] for index, each in enumerate(alone) if each.errors}
    tokens, counts = np.concatenate([each.tokens for each in alone]), np.concatenate([each.counts for each in alone])
    return Drawn(tokens, counts, logprobs.gathered(told), errors, logprobs.gathered(scored))


def draw(decoder: Decoder, kv: Kv, rows: Rows, grammars: Grammars, step: Step, bell: int) -> Drawn:
    """Run a step's forward and sample. Raises what the decoder raises.

    `bell` tells of the step before, from in there: whoever wakes wants the GIL, which is free from then to the step's
    end. Woken when a step ends, it takes it from between the steps, where everything waits for this thread.
    """
    sampling = step.sampling
    if sampling is None:
        sampling = (
            sample_batch(rows, step.slots[step.draws.row])
            if step.drafted is None
            else drawing_batch(rows, step.slots, step.draws, step.drafted)
        )
    if len(sampling.masked_rows):
        return _draw_masked(decoder, kv, rows, grammars, step, sampling, bell)
    if step.sampling is not None:
        drawn = decoder.draw(step.batch, sampling, kv, bell)
        return Drawn(drawn[:, None], step.counts, sampling.logprobs, {})
    return _drawn(decoder, kv, rows, step, sampling, bell)


def _draw_masked(
    decoder: Decoder, kv: Kv, rows: Rows, grammars: Grammars, step: Step, sampling: SampleBatch, bell: int
) -> Drawn:
    """The same where rows have a grammar: what one draws that has no mask is thrown away."""
    masked = np.unique(step.draws.row[sampling.masked_rows])
    slots = step.slots[masked]
    known = step.batch.lengths[masked] + step.counts[masked]
    newest = step.batch.tokens[step.batch.row_starts[masked] + step.counts[masked] - 1]
    guesses = None if step.drafted is None else [step.drafted.guess(row) for row in masked.tolist()]
    errand = grammars.fill(slots, known, newest, guesses)
    drawn = _drawn(decoder, kv, rows, step, sampling, bell, errand)
    failures = grammars.failures(slots)
    if not failures:
        return drawn
    lost = masked[list(failures)]
    drawn.tokens[lost] = -1
    drawn.counts[lost] = 0
    told = drawn.logprobs
    if told is not None:
        kept = np.flatnonzero(~np.isin(told.rows, lost))
        told = part(told, kept, told.rows[kept])
    return drawn._replace(logprobs=told, errors=dict(zip(lost.tolist(), failures.values(), strict=True)))


def _drawn(
    decoder: Decoder, kv: Kv, rows: Rows, step: Step, sampling: SampleBatch, bell: int, errand: Errand = NO_ERRAND
) -> Drawn:
    """Draw, with the prompt tokens that are scored beside, and take what stands of the drafts."""
    both = None if step.scores is None else Both.of(step.batch, step.draws.at, step.scores)
    if both is not None:
        sampling = both.widened(sampling)
    drawn, told, of_prompts = decoder.draw(step.batch, sampling, kv, bell, errand), sampling.logprobs, None
    if both is not None:
        drawn, (told, of_prompts) = drawn[both.draws_at], both.parted(told)
    new = verified(step.draws, step.counts, step.drafted, drawn, rows.stop_ids[step.slots])
    for row, path in new.moves:
        _compact(kv, step, row, path)
    if told is not None:
        kept = np.flatnonzero(np.isin(told.rows, new.stood))
        told = part(told, kept, step.draws.row[told.rows[kept]])
    return Drawn(new.tokens, new.counts, told, {}, of_prompts, new.accepted if step.drafted is not None else None)


def _compact(kv: Kv, step: Step, row: int, path: list[int]) -> None:
    """Bring the tokens of a row's accepted path to where they stand; the others are written over by what follows."""
    count, batch = int(step.counts[row]), step.batch
    whole = [*range(count), *(count + node for node in path)]
    kv.move_tokens(*compaction(int(batch.lengths[row]), whole, batch.page_table[row], kv.page_size))
