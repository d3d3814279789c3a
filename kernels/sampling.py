"""Drawing tokens: what a row asks of the sampler, the generator it draws from, and the sampler's NumPy specification.

A row's draw depends on its own logits and parameters and on (seed, position) alone, never on the other rows or on what
was drawn before: the same row gives the same token whether it is drawn alone, in a batch, again after preemption, or on
another machine. The stages, each on the result of the one before:

1. repetition, on every id the row has seen: l / r where l > 0, else l * r (Keskar et al. 2019, CTRL)
2. presence and frequency, on ids of the row's output: l - presence - frequency * count (OpenAI's definition)
3. bias: l + b; -inf bans. Stages 1 to 3 are float32. Temperature 0: the answer is the largest l, ties to the lower id
4. temperature: w = exp((l - max l) / temperature)
5. top-k: the k largest
6. top-p: the fewest of the largest whose weights sum to at least top_p of the sum left (Holtzman et al. 2019)
7. min-p: those with at least min_p times the largest weight (Nguyen et al. 2024)
8. the first id, in vocabulary order, at which the running sum of the weights left exceeds u times their sum

Orders "largest first" put the lower id first among equals. u is one uniform from Philox4x32-10 (`uniform`). Sums are
float64. Implementations with another exp may differ where u falls within rounding of a boundary, and only there.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.decoder import Float32, Int32

UInt64 = NDArray[np.uint64]
Float64 = NDArray[np.float64]

_MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], np.uint64)
_WEYL = np.array([0x9E3779B9, 0xBB67AE85], np.uint64)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


class SampleBatch(NamedTuple):
    """R rows that each draw one token; NumPy arrays, columnar. Spans may be empty for rows that do not need them."""

    temperature: Float32  # [R], >= 0; 0: greedy
    top_k: Int32  # [R], >= 0; 0: off
    top_p: Float32  # [R], (0, 1]; 1: off
    min_p: Float32  # [R], [0, 1]; 0: off
    repetition: Float32  # [R], > 0; 1: off
    presence: Float32  # [R], 0: off
    frequency: Float32  # [R], 0: off
    seed: UInt64  # [R]
    position: Int32  # [R], position of the token to be drawn
    seen_starts: Int32  # [R + 1], row r's seen ids are seen_ids[seen_starts[r]:seen_starts[r + 1]]
    seen_ids: Int32  # [S], distinct within a row: the ids in its prompt and output
    seen_output_counts: Int32  # [S], how often in the row's output; 0: only in its prompt
    bias_starts: Int32  # [R + 1]
    bias_ids: Int32  # [B], distinct within a row
    bias_values: Float32  # [B], added to the logits; -inf bans


def philox(counter: NDArray[np.uint32], key: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): [R, 4], [R, 2] -> [R, 4]."""
    x, k = counter.astype(np.uint64), key.astype(np.uint64)
    for _ in range(10):
        product0, product1 = x[:, 0] * _MULTIPLIERS[0], x[:, 2] * _MULTIPLIERS[1]
        x = np.stack(
            [
                (product1 >> _HALF) ^ x[:, 1] ^ k[:, 0],
                product1 & _LOW,
                (product0 >> _HALF) ^ x[:, 3] ^ k[:, 1],
                product0 & _LOW,
            ],
            axis=1,
        )
        k = (k + _WEYL) & _LOW
    return x.astype(np.uint32)


def uniform(seed: UInt64, position: Int32) -> Float32:
    """The rows' uniforms [R] in [0, 1), multiples of 2^-24: the top 24 bits of Philox's first word.

    Key (seed low, seed high), counter (position, 0, 0, 0), 32-bit words.
    """
    counter = np.zeros((len(position), 4), np.uint32)
    counter[:, 0] = position.astype(np.uint32)
    key = np.stack([seed & _LOW, seed >> _HALF], axis=1).astype(np.uint32)
    return (philox(counter, key)[:, 0] >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def check(batch: SampleBatch, rows: int, vocab: int) -> None:
    """Raise ValueError where the batch does not describe `rows` rows over ids below `vocab`."""
    for name in ("temperature", "top_k", "top_p", "min_p", "repetition", "presence", "frequency", "seed", "position"):
        if len(getattr(batch, name)) != rows:
            raise ValueError(f"{name} has {len(getattr(batch, name))} rows, the logits have {rows}")
    for name, starts, ids, values in (
        ("seen", batch.seen_starts, batch.seen_ids, batch.seen_output_counts),
        ("bias", batch.bias_starts, batch.bias_ids, batch.bias_values),
    ):
        if len(starts) != rows + 1 or starts[0] != 0 or starts[-1] != len(ids) or (np.diff(starts) < 0).any():
            raise ValueError(f"{name}_starts must rise from 0 to {len(ids)} in {rows + 1} entries, got {starts}")
        if len(values) != len(ids):
            raise ValueError(f"{name} has {len(ids)} ids but {len(values)} values")
        if len(ids) and not 0 <= ids.min() <= ids.max() < vocab:
            raise ValueError(f"{name}_ids must lie in [0, {vocab}), got {ids.min()}..{ids.max()}")


def sample(logits: Float32, batch: SampleBatch) -> Int32:
    """Draw a token for each row of logits [R, vocab] -> ids [R].

    Raises ValueError for a malformed batch, or where a row has nothing to draw: all its tokens banned, or NaN logits.
    """
    check(batch, *logits.shape)
    u = uniform(batch.seed, batch.position)
    return np.array([_sample_row(logits[r], batch, r, u[r]) for r in range(len(logits))], np.int32)


def _sample_row(logits: Float32, batch: SampleBatch, r: int, u: np.float32) -> int:
    adjusted = _adjusted(logits, batch, r)
    peak = adjusted.max()
    if not np.isfinite(peak):
        raise ValueError(f"row {r} has no token to draw: the largest of its logits is {peak}")
    if batch.temperature[r] == 0:
        return int(adjusted.argmax())
    weights = np.exp((adjusted.astype(np.float64) - peak) / float(batch.temperature[r]))
    running = np.cumsum(_filtered(weights, adjusted, batch, r))
    return int(np.searchsorted(running, float(u) * running[-1], side="right"))


def _adjusted(logits: Float32, batch: SampleBatch, r: int) -> Float32:
    """Stages 1 to 3."""
    adjusted = logits.astype(np.float32)
    seen = slice(batch.seen_starts[r], batch.seen_starts[r + 1])
    ids, counts = batch.seen_ids[seen], batch.seen_output_counts[seen]
    repeated = adjusted[ids]
    repeated = np.where(repeated > 0, repeated / batch.repetition[r], repeated * batch.repetition[r])
    adjusted[ids] = repeated - batch.presence[r] * (counts > 0) - batch.frequency[r] * counts.astype(np.float32)
    bias = slice(batch.bias_starts[r], batch.bias_starts[r + 1])
    adjusted[batch.bias_ids[bias]] += batch.bias_values[bias]
    return adjusted


def _filtered(weights: Float64, adjusted: Float32, batch: SampleBatch, r: int) -> Float64:
    """Stages 5 to 7: the weights, with 0 for what is cut."""
    top_k, top_p = int(batch.top_k[r]), float(batch.top_p[r])
    if top_k > 0 or top_p < 1:
        order = np.argsort(-adjusted, kind="stable")[: top_k or None]
        if top_p < 1:
            running = np.cumsum(weights[order])
            order = order[: np.searchsorted(running, top_p * running[-1]) + 1]
        kept = np.zeros_like(weights)
        kept[order] = weights[order]
        weights = kept
    return np.where(weights >= float(batch.min_p[r]), weights, 0.0)  # the largest weight is 1
