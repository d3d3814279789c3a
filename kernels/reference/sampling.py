"""The sampler of kernels.sampling in MLX, all rows at once: what draws where the logits live on a GPU."""

import mlx.core as mx
import numpy as np

from kernels.decoder import Int32
from kernels.logprobs import LEAST, Logprobs
from kernels.sampling import (
    POWER_OF_TWO,
    SHARE_BITS,
    WEIGHT_BITS,
    SampleBatch,
    allowed,
    check,
    least_weight,
    nothing_to_draw,
    only_allowed,
    rate,
    share,
    uniform,
)


def sample(logits: mx.array, batch: SampleBatch) -> Int32:
    """Draw a token for each row of logits [R, vocab] -> ids [R]; raises ValueError as kernels.sampling.sample does."""
    rows, vocab = logits.shape
    check(batch, rows, vocab)
    if rows == 0:
        return np.zeros(0, np.int32)
    adjusted = _adjusted(logits.astype(mx.float32), batch)
    peaks = adjusted.max(axis=-1, keepdims=True)
    drawn = mx.argmax(adjusted, axis=-1)
    if batch.temperature.any():
        drawn = mx.where(mx.array(batch.temperature == 0), drawn, _drawn(adjusted, peaks, batch))
    mx.eval(drawn, peaks)
    only = only_allowed(batch, vocab)
    bad = np.flatnonzero(~np.isfinite(np.array(peaks)[:, 0]) & (only < 0))
    if len(bad):
        raise nothing_to_draw(batch, int(bad[0]), vocab, float(np.array(peaks)[bad[0], 0]))
    ids = np.where(only < 0, np.array(drawn), only).astype(np.int32)
    if batch.logprobs is not None and len(batch.logprobs.rows):
        _tell(logits, ids, batch.logprobs)
    return ids


def _tell(logits: mx.array, drawn: Int32, wanted: Logprobs) -> None:
    """kernels.logprobs.tell."""
    raw = logits[mx.array(wanted.rows)].astype(mx.float32)
    known = mx.isfinite(raw.max(axis=-1, keepdims=True))
    raw = mx.where(known, raw, 0)
    values = mx.where(known, mx.maximum(raw - mx.logsumexp(raw, axis=-1, keepdims=True), LEAST), LEAST)
    ids = np.where(wanted.given >= 0, wanted.given, drawn[wanted.rows])
    wanted.chosen[:] = np.array(mx.take_along_axis(values, mx.array(ids)[:, None], axis=-1))[:, 0]
    width = int(wanted.tops.max())
    if width:
        top = mx.argsort(-raw, axis=-1)[:, :width]
        wanted.top_ids[:, :width] = np.array(top)
        wanted.top_values[:, :width] = np.array(mx.take_along_axis(values, top, axis=-1))


def _adjusted(logits: mx.array, batch: SampleBatch) -> mx.array:
    """Penalties, biases and masks, written only where there are some."""
    every = np.arange(len(logits))
    if len(batch.seen_ids):
        row = np.repeat(every, np.diff(batch.seen_starts))
        at = (mx.array(row), mx.array(batch.seen_ids))
        repetition = mx.array(batch.repetition[row])
        penalty = batch.presence[row] * (batch.seen_output_counts > 0)
        frequency = batch.frequency[row] * batch.seen_output_counts.astype(np.float32)
        seen = logits[at]
        seen = mx.where(seen > 0, seen / repetition, seen * repetition)
        logits[at] = seen - mx.array(penalty) - mx.array(frequency)
    if len(batch.bias_ids):
        at = (mx.array(np.repeat(every, np.diff(batch.bias_starts))), mx.array(batch.bias_ids))
        logits[at] = logits[at] + mx.array(batch.bias_values)
    if len(batch.masked_rows):
        at, bits = mx.array(batch.masked_rows), allowed(batch.masks, logits.shape[1])
        logits[at] = mx.where(mx.array(bits.view(np.uint8)) == 1, logits[at], -mx.inf)
    return logits


def _drawn(adjusted: mx.array, peaks: mx.array, batch: SampleBatch) -> mx.array:
    weights = _weights(adjusted, peaks, batch)
    vocab = adjusted.shape[1]
    if batch.top_k.any():
        order = mx.argsort(-adjusted, axis=-1)
        top_k = mx.array(np.where(batch.top_k > 0, batch.top_k, vocab)[:, None])
        ranked = mx.where(mx.arange(vocab) < top_k, mx.take_along_axis(weights, order, axis=-1), 0)
        weights = mx.put_along_axis(mx.zeros_like(weights), order, ranked, axis=-1)
    if (batch.top_p < 1).any():
        order = mx.argsort(-weights, axis=-1)
        ranked = mx.take_along_axis(weights, order, axis=-1)
        running = mx.cumsum(ranked, axis=-1)
        wanted = _share_of(running[:, -1:], share(batch.top_p), up=True)
        ranked = mx.where(running - ranked < wanted, ranked, 0)  # one stays while those before it are too light
        weights = mx.put_along_axis(mx.zeros_like(weights), order, ranked, axis=-1)
    weights = mx.where(weights >= mx.array(least_weight(batch.min_p)[:, None]), weights, 0)
    running = mx.cumsum(weights, axis=-1)
    bar = _share_of(running[:, -1:], uniform(batch.seed, batch.position), up=False)
    return mx.argmax(running > bar, axis=-1)


def _weights(adjusted: mx.array, peaks: mx.array, batch: SampleBatch) -> mx.array:
    """kernels.sampling.weights of all rows, int64."""
    temperature = np.where(batch.temperature == 0, np.float32(1), batch.temperature)
    exponent = mx.maximum((adjusted - peaks) * mx.array(rate(temperature)[:, None]), -WEIGHT_BITS - 2)
    whole = mx.round(exponent)
    fraction = exponent - whole
    power = mx.full(fraction.shape, POWER_OF_TWO[-1])
    for coefficient in POWER_OF_TWO[-2::-1]:
        power = power * fraction + coefficient
    scale = (whole.astype(mx.int32) + (127 + WEIGHT_BITS)) << 23  # the bits of 2^(whole + 30)
    return mx.round(power * scale.view(mx.float32)).astype(mx.int64)


def _share_of(total: mx.array, share: np.ndarray, *, up: bool) -> mx.array:
    """share [R] * 2^-24 of the totals [R, 1], rounded up or down; in two halves, for the product has over 64 bits."""
    low = (1 << SHARE_BITS) - 1
    part = mx.array(share[:, None])
    return (total >> SHARE_BITS) * part + (((total & low) * part + (low if up else 0)) >> SHARE_BITS)
