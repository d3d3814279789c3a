"""One forward and what is drawn from it: the call that an engine's step is made of."""

from typing import NamedTuple

import numpy as np

from actors.worker.batch import Step
from actors.worker.grammar import Grammars
from actors.worker.rows import Rows
from actors.worker.sampler import sample_batch
from kernels.decoder import Decoder, Int32, Kv
from kernels.logprobs import Logprobs
from kernels.sampling import SampleBatch


class Drawn(NamedTuple):
    """What a step of R rows drew."""

    tokens: Int32  # [R], -1: none
    logprobs: Logprobs | None  # of the rows that ask, by index into the step
    errors: dict[int, str]  # by index into the step: rows that failed, whose token is -1


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
    drawn = decoder.draw(step.batch, sampling, kv, bell)
    return Drawn(drawn, sampling.logprobs, {}) if step.sampling is not None else _by_row(step, drawn, sampling)


def _draw_masked(decoder: Decoder, kv: Kv, grammars: Grammars, step: Step, sampling: SampleBatch, bell: int) -> Drawn:
    """The same where rows have a grammar: what one draws that has no mask is thrown away."""
    masked = np.flatnonzero(step.draws)[sampling.masked_rows]
    slots, known = step.slots[masked], sampling.position[sampling.masked_rows]
    newest = step.batch.tokens[step.batch.row_starts[masked + 1] - 1]
    errand = grammars.fill(slots, known, newest)
    drawn = _by_row(step, decoder.draw(step.batch, sampling, kv, bell, errand), sampling)
    failures = grammars.failures(slots)
    if not failures:
        return drawn
    failed = masked[list(failures)]
    drawn.tokens[failed] = -1
    told = drawn.logprobs
    if told is not None:
        kept = ~np.isin(told.rows, failed)
        told = Logprobs(told.rows[kept], told.tops[kept], told.chosen[kept], told.top_ids[kept], told.top_values[kept])
    return Drawn(drawn.tokens, told, dict(zip(failed.tolist(), failures.values(), strict=True)))


def _by_row(step: Step, drawn: Int32, sampling: SampleBatch) -> Drawn:
    """What the rows that draw drew, by index into the step."""
    tokens = np.full(len(step.slots), -1, np.int32)
    tokens[step.draws] = drawn
    logprobs = sampling.logprobs
    if logprobs is not None:
        logprobs = logprobs._replace(rows=np.flatnonzero(step.draws)[logprobs.rows].astype(np.int32))
    return Drawn(tokens, logprobs, {})
