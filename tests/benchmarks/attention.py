"""How fast paged attention runs alone, beside what memory and the instruction set allow.

    python -m tests.benchmarks.attention [--threads 2] [--isa avx2] [--seconds 0.5] [--heads 9 --kv-heads 3 --dim 64]
        [--kv q8]

Decoding rows are bound by reading their keys and values (GB/s, to be held against the read bandwidth printed first),
prefill by float products (GFLOP/s, two operations per product, the masked half not counted). Times are of one layer;
each figure is the best of a few sweeps over 30 layers, which follow each other as in a forward, so long contexts come
from memory and short ones from where a forward finds them at best. Pages of neighbouring positions lie apart.
"""

import argparse
from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from kernels.cpu import _ext
from kernels.cpu.decoder import CpuDecoder
from kernels.decoder import KV_BLOCK, DecoderSpec, DecoderWeights, Kv, LayerWeights, Rope

LAYERS = 30
PAGE_SIZE = 16
PER_BLOCK = KV_BLOCK // PAGE_SIZE
BYTES = {"f16": 2, "q8": 1, "q4": 1 / 2, "q2": 1 / 4}
"""Of a key's or value's number, without scales."""
DECODE = ((1, 128), (1, 512), (1, 4096), (8, 128), (8, 512), (8, 4096), (32, 128), (32, 512))  # rows, context
PREFILL = ((128, 0), (512, 0), (2048, 0), (256, 2048))  # tokens, context before them


def slab(kv_heads: int, dim: int, pages: int, blocks: int, form: str) -> Kv:
    """Written pages and blocks of LAYERS layers; slabs are made by decoders, so this makes the smallest that fits."""
    width = kv_heads * dim
    one, into, back = mx.ones(1), mx.zeros((width, 1)), mx.zeros((1, width))
    layer = LayerWeights(one, into, into, into, back, one, mx.zeros((1, 1)), mx.zeros((1, 1)), mx.zeros((1, 1)))
    spec = DecoderSpec(LAYERS, 1, kv_heads, kv_heads, dim, 1, 1, 1 << 20, 1e-5, Rope((), False))
    weights = DecoderWeights(mx.zeros((1, 1)), (layer,) * LAYERS, one, mx.zeros((1, 1)))
    kv = CpuDecoder(spec, weights).allocate_kv(pages, PAGE_SIZE, {form: blocks} if blocks else None)
    random = np.random.default_rng(0)
    x = random.standard_normal((3, PAGE_SIZE, kv_heads, dim)).astype(np.float32)
    starts, lengths, table = (np.array(a, np.int32) for a in ([0, PAGE_SIZE], [0], [[0]]))
    for index in range(LAYERS):
        _ext.attend(kv, index, *x, starts, lengths, table, 1.0)
    kv.copy_pages(np.zeros(pages - 1, np.int32), np.arange(1, pages, dtype=np.int32))
    if blocks:
        units = kv.tiers[1].first_page + PER_BLOCK * np.arange(blocks, dtype=np.int32)
        kv.demote(np.zeros(blocks * PER_BLOCK, np.int32), units)
    return kv


def measure(heads: int, kv_heads: int, dim: int, tokens: Sequence[int], context: int, form: str, aim: float) -> float:
    """Seconds of one layer in which row r brings tokens[r] queries to `context` earlier ones, held in that form."""
    rows, blocks = len(tokens), 0 if form == "f16" else context // KV_BLOCK
    pages = -(-(context + max(tokens)) // PAGE_SIZE) - blocks * PER_BLOCK
    kv = slab(kv_heads, dim, rows * pages, rows * blocks, form)
    apart = np.arange(rows * pages, dtype=np.int32).reshape(pages, rows).T
    units = np.arange(rows * blocks, dtype=np.int32).reshape(blocks, rows).T[..., None] * PER_BLOCK
    packed = (rows * pages + units + np.arange(PER_BLOCK, dtype=np.int32)).reshape(rows, -1)
    table = np.ascontiguousarray(np.concatenate([packed, apart], axis=1))
    q = np.random.default_rng(1).standard_normal((sum(tokens), heads, dim)).astype(np.float32) * dim**-0.5
    starts, lengths = np.cumsum([0, *tokens]).astype(np.int32), np.full(rows, context, np.int32)
    once = _ext.time_attend(kv, q, starts, lengths, table, 2)
    return _ext.time_attend(kv, q, starts, lengths, table, max(3, min(200, int(aim / once)))) / LAYERS


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=0, help="0: one per processor")
    parser.add_argument("--isa", default="auto")
    parser.add_argument("--seconds", type=float, default=0.5, help="aimed at, per figure")
    parser.add_argument("--heads", type=int, default=9)
    parser.add_argument("--kv-heads", type=int, default=3)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--kv", choices=BYTES, default="f16", help="what the context is held in")
    options = parser.parse_args()
    mx.set_default_device(mx.Device(mx.cpu))
    _ext.set_threads(options.threads)
    _ext.set_isa(options.isa)
    heads, kv_heads, dim = options.heads, options.kv_heads, options.dim
    bandwidth = _ext.read_bandwidth(256 << 20)
    print(f"{_ext.isa_class()}, {_ext.threads()} threads, read bandwidth {bandwidth / 1e9:.1f} GB/s")
    print(f"{heads} heads, {kv_heads} of keys and values, {dim} wide, in {options.kv}")
    print(f"{'rows x context':>20} {'us':>9} {'GB/s':>7} {'of limit':>9} {'GFLOP/s':>8}")
    cases = [(f"{rows} x {context}", [1] * rows, context) for rows, context in DECODE]
    cases += [(f"{tokens} tokens + {context}", [tokens], context) for tokens, context in PREFILL]
    for name, tokens, context in cases:
        seconds = measure(heads, kv_heads, dim, tokens, context, options.kv, options.seconds)
        read = sum((context + n) * kv_heads * dim * 2 * BYTES[options.kv] for n in tokens)
        flops = sum(4 * heads * dim * (n * context + n * (n + 1) // 2) for n in tokens)
        print(
            f"{name:>20} {seconds * 1e6:>9.1f} {read / seconds / 1e9:>7.1f} {read / seconds / bandwidth:>9.0%} "
            f"{flops / seconds / 1e9:>8.0f}"
        )


if __name__ == "__main__":
    main()
