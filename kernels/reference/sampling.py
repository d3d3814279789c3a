"""The sampler of kernels.sampling in MLX, all rows at once: what draws where the logits live on a GPU."""

import mlx.core as mx
import numpy as np

from kernels.decoder import Int32
from kernels.sampling import SampleBatch, check, uniform


def sample(logits: mx.array, batch: SampleBatch) -> Int32:
    """Draw a token for each row of logits [R, vocab] -> ids [R]; raises ValueError as kernels.sampling.sample does.

    On a GPU, which has no float64, sums are float32: a draw then differs from the specification's where u falls within
    about 1e-6 of a boundary.
    """
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
    bad = np.flatnonzero(~np.isfinite(np.array(peaks)[:, 0]))
    if len(bad):
        raise ValueError(f"row {bad[0]} has no token to draw: the largest of its logits is {peaks[int(bad[0])].item()}")
    return np.array(drawn).astype(np.int32)


def _adjusted(logits: mx.array, batch: SampleBatch) -> mx.array:
    """Penalties and biases, written only where there are some."""
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
    return logits


def _drawn(adjusted: mx.array, peaks: mx.array, batch: SampleBatch) -> mx.array:
    wide = mx.float64 if mx.default_device().type == mx.cpu else mx.float32

    def column(values: np.ndarray) -> mx.array:
        return mx.array(values[:, None]).astype(wide)

    temperature = column(np.where(batch.temperature == 0, np.float32(1), batch.temperature))
    weights = mx.exp((adjusted.astype(wide) - peaks.astype(wide)) / temperature)
    if batch.top_k.any() or (batch.top_p < 1).any():
        vocab = adjusted.shape[1]
        order = mx.argsort(-adjusted, axis=-1)
        ranked = mx.take_along_axis(weights, order, axis=-1)
        top_k = np.where(batch.top_k > 0, batch.top_k, vocab)[:, None]
        ranked = mx.where(mx.arange(vocab) < mx.array(top_k), ranked, 0)
        running = mx.cumsum(ranked, axis=-1)
        # A token stays where those before it do not yet reach top_p. (At 1, rounding must not cut the last ones.)
        share = mx.where(mx.array(batch.top_p)[:, None] < 1, column(batch.top_p), 2)
        before = mx.concatenate([mx.zeros_like(running[:, :1]), running[:, :-1]], axis=-1)
        ranked = mx.where(before < share * running[:, -1:], ranked, 0)
        weights = mx.put_along_axis(mx.zeros_like(weights), order, ranked, axis=-1)
    weights = mx.where(weights >= column(batch.min_p), weights, 0)
    running = mx.cumsum(weights, axis=-1)
    target = column(uniform(batch.seed, batch.position)) * running[:, -1:]
    hits = (running > target) & (weights > 0)
    # In float32 the target can round up to the whole sum, and nothing exceeds it: then the likeliest is as good.
    return mx.where(hits.any(axis=-1), mx.argmax(hits, axis=-1), mx.argmax(weights, axis=-1))
