"""Drawing tokens: what a row asks of the sampler, the generator it draws from, and the sampler's NumPy specification.

A row's draw depends on its own logits and parameters and on (seed, position) alone, never on the other rows or on what
was drawn before: the same row gives the same token whether it is drawn alone, in a batch, again after preemption, or on
another machine. The stages, each on the result of the one before:

1. repetition, on every id the row has seen: l / r where l > 0, else l * r (Keskar et al. 2019, CTRL)
2. presence and frequency, on ids of the row's output: l - presence - frequency * count (OpenAI's definition)
3. bias: l + b; -inf bans. Then the mask: -inf where its bit is 0. All of this is float32. Temperature 0: the answer is
   the largest l, ties to the lower id. A mask that allows one id alone, which no bias bans, is the answer itself: no
   logit is looked at, so that none need be finite
4. temperature: w = 2^30 * e^((l - max l) / temperature) as an integer (`weights`)
5. top-k: the k largest l
6. top-p: the fewest of the largest w that sum to at least top_p of the sum left (Holtzman et al. 2019)
7. min-p: those with at least min_p times the largest w (Nguyen et al. 2024)
8. the first id, in vocabulary order, at which the running sum of the w left exceeds u times their sum

Orders "largest first" put the lower id first among equals. u is one uniform from Philox4x32-10 (`uniform`).

The weights are integers so that their sums are exact in any order: an implementation may add in blocks, in vectors or
on several threads, and skip what is too small to weigh anything, yet draws the same id. A token that the softmax gives
less than 2^-31 of the likeliest one's probability is never drawn; rounding moves at most 2^-31 per token.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels import logprobs
from kernels.decoder import Float32, Int32
from kernels.logprobs import Logprobs

UInt32 = NDArray[np.uint32]
UInt64 = NDArray[np.uint64]
Int64 = NDArray[np.int64]

WEIGHT_BITS = 30
"""The largest weight is 2^WEIGHT_BITS."""
SHARE_BITS = 24
"""Shares of a sum, top_p and u, are multiples of 2^-SHARE_BITS."""
POWER_OF_TWO = (1.0, 0.693147, 0.24022242, 0.055507336, 0.009671513, 0.0013264727)
"""2^f for |f| <= 1/2 to 1.9e-7 of its value, by rising powers of f: minimax, but exact at 0."""

_ACCEPTED = {"temperature": "[0, inf)", "top_k": "[0, inf)", "top_p": "(0, 1]", "min_p": "[0, 1]"}
_SMALLEST, _LARGEST = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max

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
    masked_rows: Int32 = np.zeros(0, np.int32)  # [M], rising: the rows that have a mask
    masks: UInt32 = np.zeros((0, 0), np.uint32)  # [M, ceil(vocab / 32)], id i is bit i % 32 of word i // 32; 1: allowed
    logprobs: Logprobs | None = None
    """The rows that want log-probabilities (kernels.logprobs), which whoever draws writes there."""


def philox(counter: UInt32, key: UInt32) -> UInt32:
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


def uniform(seed: UInt64, position: Int32) -> Int64:
    """The rows' uniforms [R] in units of 2^-24, so in [0, 2^24): the top 24 bits of Philox's first word.

    Key (seed low, seed high), counter (position, 0, 0, 0), 32-bit words.
    """
    counter = np.zeros((len(position), 4), np.uint32)
    counter[:, 0] = position.astype(np.uint32)
    key = np.stack([seed & _LOW, seed >> _HALF], axis=1).astype(np.uint32)
    return (philox(counter, key)[:, 0] >> np.uint32(32 - SHARE_BITS)).astype(np.int64)


def rate(temperature: Float32) -> Float32:
    """log2(e) / temperature [R], which must be positive: rounded to float32, never infinite."""
    return np.minimum(np.log2(np.e) / temperature.astype(np.float64), np.finfo(np.float32).max).astype(np.float32)


def weights(logits: Float32, rate: np.float32) -> Int64:
    """2^30 * 2^((l - max l) * rate), rounded to integers: [vocab] -> [vocab].

    Every step is one correctly rounded float32 operation, none fused, so that all implementations get the same bits.
    Relative error 3e-6 at most, plus the rounding to an integer.
    """
    with np.errstate(over="ignore"):  # to -inf, of which the maximum makes a weight of 0
        exponent = np.maximum((logits - logits.max()) * rate, np.float32(-WEIGHT_BITS - 2))
    whole = np.rint(exponent)
    fraction = exponent - whole
    power = np.full_like(fraction, POWER_OF_TWO[-1])
    for coefficient in POWER_OF_TWO[-2::-1]:
        power = power * fraction + np.float32(coefficient)
    return np.rint(np.ldexp(power, whole.astype(np.int32) + WEIGHT_BITS)).astype(np.int64)


def share(top_p: Float32) -> Int64:
    """top_p [R] in units of 2^-24, rounded up (from 1/2 on, float32 has no finer ones)."""
    return np.ceil(top_p.astype(np.float64) * 2**SHARE_BITS).astype(np.int64)


def least_weight(min_p: Float32) -> Int64:
    """The least weight [R] that min_p lets through."""
    return np.ceil(min_p.astype(np.float64) * 2**WEIGHT_BITS).astype(np.int64)


def check(batch: SampleBatch, rows: int, vocab: int) -> None:
    """Raise ValueError where the batch does not describe `rows` rows over ids below `vocab`."""
    for name in ("temperature", "top_k", "top_p", "min_p", "repetition", "presence", "frequency", "seed", "position"):
        if len(getattr(batch, name)) != rows:
            raise ValueError(f"{name} has {len(getattr(batch, name))} rows, the logits have {rows}")
    for name, values, low, high in (
        ("temperature", batch.temperature, 0, _LARGEST),
        ("top_k", batch.top_k, 0, np.inf),
        ("top_p", batch.top_p, _SMALLEST, 1),
        ("min_p", batch.min_p, 0, 1),
    ):
        wrong = ~((values >= low) & (values <= high))
        if wrong.any():
            raise ValueError(f"{name} must lie in {_ACCEPTED[name]}, got {values[wrong][0]} in row {wrong.argmax()}")
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
    masked, words = batch.masked_rows, -(-vocab // 32)
    if len(masked) and batch.masks.shape != (len(masked), words):
        got = list(batch.masks.shape)
        raise ValueError(f"masks must be [{len(masked)}, {words}], a row for each of masked_rows; got {got}")
    if len(masked) and not ((np.diff(masked, prepend=-1) > 0).all() and masked[-1] < rows):
        raise ValueError(f"masked_rows must rise within [0, {rows}), got {masked}")
    if batch.logprobs is not None:
        logprobs.check(batch.logprobs, rows, vocab)


def allowed(mask: UInt32, vocab: int) -> NDArray[np.bool_]:
    """The bits of packed masks [.., ceil(vocab / 32)] as booleans [.., vocab]."""
    bits = np.unpackbits(np.ascontiguousarray(mask, "<u4").view(np.uint8), axis=-1, bitorder="little")
    return bits[..., :vocab].astype(bool)


def only_allowed(batch: SampleBatch, vocab: int) -> Int32:
    """Per row the one id that its mask allows and no bias bans [R]; -1 where there is no mask or not one such id."""
    only = np.full(len(batch.seed), -1, np.int32)
    if len(batch.masked_rows):
        bits = allowed(batch.masks, vocab)
        only[batch.masked_rows] = np.where(bits.sum(axis=1) == 1, bits.argmax(axis=1), -1)
    row = np.repeat(np.arange(len(only)), np.diff(batch.bias_starts))
    only[row[(only[row] == batch.bias_ids) & (batch.bias_values == -np.inf)]] = -1
    return only


def nothing_to_draw(batch: SampleBatch, row: int, vocab: int, peak: float) -> ValueError:
    """What to raise for a row whose largest logit, after stage 3, is not finite."""
    if any(not allowed(mask, vocab).any() for mask in batch.masks[batch.masked_rows == row]):
        return ValueError(f"row {row} has no token to draw: its mask allows none of the {vocab} ids")
    return ValueError(f"row {row} has no token to draw: the largest of its logits is {peak}")


def sample(logits: Float32, batch: SampleBatch) -> Int32:
    """Draw a token for each row of logits [R, vocab] -> ids [R].

    Raises ValueError for a malformed batch, or where a row has nothing to draw: all its tokens banned, or NaN logits.
    """
    check(batch, *logits.shape)
    u = uniform(batch.seed, batch.position)
    drawn = only_allowed(batch, logits.shape[1])
    for r in np.flatnonzero(drawn < 0):
        drawn[r] = _sample_row(logits[r], batch, int(r), int(u[r]))
    if batch.logprobs is not None:
        logprobs.tell(logits, drawn, batch.logprobs)
    return drawn


def _sample_row(logits: Float32, batch: SampleBatch, r: int, u: int) -> int:
    adjusted = _adjusted(logits, batch, r)
    peak = adjusted.max()
    if not np.isfinite(peak):
        raise nothing_to_draw(batch, r, len(logits), float(peak))
    if batch.temperature[r] == 0:
        return int(adjusted.argmax())
    running = np.cumsum(_filtered(weights(adjusted, rate(batch.temperature[r : r + 1])[0]), adjusted, batch, r))
    return int(np.searchsorted(running, u * int(running[-1]) >> SHARE_BITS, side="right"))


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
    for mask in batch.masks[batch.masked_rows == r]:
        adjusted[~allowed(mask, len(adjusted))] = -np.inf
    return adjusted


def _filtered(weights: Int64, adjusted: Float32, batch: SampleBatch, r: int) -> Int64:
    """Stages 5 to 7: the weights, with 0 for what is cut."""
    if top_k := int(batch.top_k[r]):
        weights = _only(weights, np.argsort(-adjusted, kind="stable")[:top_k])
    if batch.top_p[r] < 1:
        order = np.argsort(-weights, kind="stable")
        running = np.cumsum(weights[order])
        wanted = -(-int(share(batch.top_p[r : r + 1])[0]) * int(running[-1]) >> SHARE_BITS)  # rounded up
        weights = _only(weights, order[: np.searchsorted(running, wanted) + 1])
    return np.where(weights >= least_weight(batch.min_p[r : r + 1])[0], weights, 0)


def _only(weights: Int64, kept: NDArray[np.intp]) -> Int64:
    result = np.zeros_like(weights)
    result[kept] = weights[kept]
    return result
