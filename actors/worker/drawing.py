"""One forward and what is drawn from it: the call that an engine's step is made of."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from actors.worker.batch import Step
from actors.worker.grammar import Grammars
from actors.worker.rows import Rows
from actors.worker.sampler import sample_batch
from actors.worker.scoring import Both
from kernels import logprobs
from kernels.decoder import Decoder, Int32, Kv
from kernels.logprobs import Logprobs, part
from kernels.sampling import SampleBatch


class Drawn(NamedTuple):
    """What a step of R rows drew."""

    tokens: Int32  # [R], -1: none
    logprobs: Logprobs | None  # of the rows that ask, by index into the step
    errors: dict[int, str]  # by index into the step: rows that failed, whose token is -1
    prompt_logprobs: Logprobs | None = None  # of prompt tokens, a row's one after the other


def gathered(alone: Sequence[Drawn]) -> Drawn:
    """What the rows of a step drew one by one."""
    told = [(index, each.logprobs) for index, each in enumerate(alone) if each.logprobs is not None]
    scored = [(index, each.prompt_logprobs) for index, each in enumerate(alone) if each.prompt_logprobs is not None]
    errors = {index: each.errors[0] for index, each in enumerate(alone) if each.errors}
    tokens = np.concatenate([each.tokens for each in alone])
    return Drawn(tokens, logprobs.gathered(told), errors, logprobs.gathered(scored))


def draw(decoder: Decoder, kv: Kv, rows: Rows, grammars: Grammars, step: Step, bell: int) -> Drawn:
    """Run a step's forward and sample. Raises what the decoder raises.

    `bell` tells of the step before, from in there: whoever wakes wants the GIL, which is free from then to the step's
    end. Woken when a step ends, it takes it from between the steps, where everything waits for this thread.
    """
    sampling = step.sampling
    if sampling is None:
        sampling = sample_batch(rows, step.slots[step.draws])
    if len(sampling.masked_rows):
        return _draw_masked(decoder, kv, grammars, step, sampling, bell)
    if step.sampling is not None:
        return Drawn(decoder.draw(step.batch, sampling, kv, bell), sampling.logprobs, {})
    sampling, both = _with_scores(step, sampling)
    return _by_row(step, decoder.draw(step.batch, sampling, kv, bell), sampling, both)


def _draw_masked(decoder: Decoder, kv: Kv, grammars: Grammars, step: Step, sampling: SampleBatch, bell: int) -> Drawn:
    """The same where rows have a grammar: what one draws that has no mask is thrown away."""
    masked = np.flatnonzero(step.draws)[sampling.masked_rows]
    slots, known = step.slots[masked], sampling.position[sampling.masked_rows]
    newest = step.batch.tokens[step.batch.row_starts[masked + 1] - 1]
    errand = grammars.fill(slots, known, newest)
    sampling, both = _with_scores(step, sampling)
    drawn = _by_row(step, decoder.draw(step.batch, sampling, kv, bell, errand), sampling, both)
    failures = grammars.failures(slots)
    if not failures:
        return drawn
    failed = masked[list(failures)]
    drawn.tokens[failed] = -1
    told = drawn.logprobs
    if told is not None:
        kept = np.flatnonzero(~np.isin(told.rows, failed))
        told = part(told, kept, told.rows[kept])
    return drawn._replace(logprobs=told, errors=dict(zip(failed.tolist(), failures.values(), strict=True)))


def _with_scores(step: Step, sampling: SampleBatch) -> tuple[SampleBatch, Both | None]:
    """The rows that draw together with the prompt tokens that are scored, if any are."""
    if step.scores is None:
        return sampling, None
    both = Both.of(step.batch, np.flatnonzero(step.draws).astype(np.int32), step.scores)
    return both.widened(sampling), both


def _by_row(step: Step, drawn: Int32, sampling: SampleBatch, both: Both | None) -> Drawn:
    """What the rows that draw drew, by index into the step."""
    tokens = np.full(len(step.slots), -1, np.int32)
    told = sampling.logprobs
    if both is not None:
        tokens[step.draws] = drawn[both.draws_at]
        of_draws, of_prompts = both.parted(told)
        return Drawn(tokens, of_draws, {}, of_prompts)
    tokens[step.draws] = drawn
    if told is not None:
        told = told._replace(rows=np.flatnonzero(step.draws)[told.rows].astype(np.int32))
    return Drawn(tokens, told, {})
