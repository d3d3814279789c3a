"""Operations of the sentence encoder in NumPy, where the compiled kernels are missing.

NumPy brings a good BLAS, MLX's CPU wheel does not, and on x86 it runs the others scalar, on one thread. Measured on 2
cores: attention over 8 x 12 heads x 256 tokens 267 ms in MLX, 22 ms here; gelu of 608 x 1536 25 ms, 4 ms here. All
compute at once and have no gradient: inference only. Large gelus and attentions are cut into parts for all processors,
which changes no bit of any of them.
"""

import functools
import itertools
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

_BLOCK = 16384
"""Elements at a time, so that a block's intermediates stay in the cache."""

_ONE_THREAD = 1 << 18
"""Multiplications up to which OpenBLAS keeps a product on the calling thread. Its threads wait for one another: on busy
cores attention over 256 tokens took 340 ms in larger products and 13 ms in these; on idle ones they gain 2 to 3 times.
"""

_PART = 1 << 16
"""Elements from which on a part is worth a thread: 0.2 ms of gelu, where handing it over costs 0.03."""

_PIECES = 2
"""Of each part, so that no processor waits long for another."""

_P = 0.3275911 * math.sqrt(0.5)
_TAIL = tuple(0.5 * a for a in (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429))


def linear(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """x [.., K] times weight [N, K] transposed, plus bias [N] -> [.., N], all float32."""
    return mx.array(np.asarray(x) @ np.asarray(weight).T + np.asarray(bias))


def gelu(x: mx.array) -> mx.array:
    """x times the normal distribution function of x, float32, any shape; within 2e-7 * |x|.

    As max(x, 0) - |x| * tail(|x|), where tail is half of Abramowitz and Stegun's 7.1.26 for 1 - erf(|x| / sqrt(2)).
    """
    flat = np.asarray(x).reshape(-1)
    out = np.empty_like(flat)
    parts = max(min(len(flat) // _PART, _processors()), 1)
    step = max(-(-len(flat) // (_PIECES * parts * _BLOCK)), 1) * _BLOCK
    starts = range(0, len(flat), step)
    _each(lambda start: _gelu(flat[start : start + step], out[start : start + step]), starts, parts)
    return mx.array(out).reshape(x.shape)


def _gelu(x: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Of x [n] into out."""
    for start in range(0, len(x), _BLOCK):
        v = x[start : start + _BLOCK]
        size = np.abs(v)
        t = np.reciprocal(size * np.float32(_P) + np.float32(1))
        tail = t * np.float32(_TAIL[4])
        for a in _TAIL[3::-1]:
            tail += np.float32(a)
            tail *= t
        np.multiply(v, v, out=t)
        t *= np.float32(-0.5)
        np.exp(t, out=t)
        tail *= t
        tail *= size
        np.subtract(np.maximum(v, np.float32(0)), tail, out=out[start : start + _BLOCK])


def attention(q: mx.array, k: mx.array, v: mx.array, lengths: mx.array) -> mx.array:
    """softmax(q k^T / sqrt(D)) v, float32 [B, heads, t, D]; of row b only the first lengths[b] keys count."""
    queries, keys, values = (np.ascontiguousarray(np.asarray(array)) for array in (q, k, v))
    queries = queries * np.float32(queries.shape[-1] ** -0.5)
    out = np.empty_like(queries)
    counts = np.asarray(lengths)
    # Neighbours of one length go together: of short texts, a call of NumPy for each costs more than what it computes.
    edges = [0, *(np.flatnonzero(np.diff(counts)) + 1).tolist(), len(counts)]
    parts = max(min(queries.size // _PART, _processors()), 1)
    step = max(-(-len(counts) // (_PIECES * parts)), 1) if parts > 1 else max(len(counts), 1)
    ranges = [
        (first, min(first + step, end)) for begin, end in itertools.pairwise(edges) for first in range(begin, end, step)
    ]
    _each(lambda rows: _attend(queries, keys, values, int(counts[rows[0]]), slice(*rows), out), ranges, parts)
    return mx.array(out)


def _attend(
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    length: int,
    rows: slice,
    out: NDArray[np.float32],
) -> None:
    """Those rows, which all count their first `length` keys, into out; q is scaled."""
    transposed, own_values = k[rows, :, :length].swapaxes(2, 3), v[rows, :, :length]
    block = max(_ONE_THREAD // (length * q.shape[-1]), 1)
    for first in range(0, q.shape[2], block):
        scores = q[rows, :, first : first + block] @ transposed
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        out[rows, :, first : first + block] = scores @ own_values


def _each(work: Callable[[Any], None], items: Iterable[Any], parts: int) -> None:
    """work(item) for each. Where there are several `parts`, other threads help, as far as the system lets them run: one
    that it does not is not waited for."""
    left = iter(items)

    def run() -> None:
        for item in left:
            work(item)

    helpers = [_threads().submit(run) for _ in range(parts - 1)]
    run()
    for helper in helpers:
        if not helper.cancel():
            helper.result()


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_processors(), thread_name_prefix="encoder")


@functools.cache
def _processors() -> int:
    return os.cpu_count() or 1
