"""How fast the packed linear layers run, beside what memory and the instruction set allow.

    python -m tests.benchmarks.linear [--threads 2] [--isa avx2] [--seconds 0.3]

Few rows are bound by reading the weights (GB/s, to be held against the read bandwidth printed first), many rows by
integer products (GOP/s, two operations per product). Each figure is the best of a few sweeps over equal matrices that
together exceed the caches, as a model's layers do; quantizing the activations is included, MLX's graph is not.
"""

import argparse
from typing import Any

import mlx.core as mx
import numpy as np

from kernels.cpu import _ext

SHAPES = ((576, 576, 4), (1536, 576, 4), (576, 1536, 4), (49152, 576, 8))  # N, K, bits: SmolLM2-135M's
ROWS = (1, 8, 32, 128, 512)
WORKING_SET = 96 << 20


def packed(n: int, k: int, bits: int) -> Any:
    """A random matrix in groups of 32."""
    weight = mx.random.normal((n, k), key=mx.random.key(n + k))
    return _ext.pack_affine(*mx.quantize(weight, group_size=32, bits=bits), bits, 32)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=0, help="0: one per processor")
    parser.add_argument("--isa", default="auto")
    parser.add_argument("--seconds", type=float, default=0.3, help="aimed at, per figure")
    arguments = parser.parse_args()
    mx.set_default_device(mx.Device(mx.cpu))
    _ext.set_threads(arguments.threads)
    _ext.set_isa(arguments.isa)
    bandwidth = _ext.read_bandwidth(256 << 20)
    print(f"{_ext.isa_class()}, {_ext.threads()} threads, read bandwidth {bandwidth / 1e9:.1f} GB/s")
    print(f"{'N x K, bits':>16} {'rows':>5} {'us':>9} {'GB/s':>7} {'of limit':>9} {'GOP/s':>8}")
    for n, k, bits in SHAPES:
        first = packed(n, k, bits)
        copies = [first, *(packed(n, k, bits) for _ in range(min(400, WORKING_SET // first.nbytes)))]
        for rows in ROWS:
            if rows * n > 16 << 20:
                continue  # logits of that many rows are never asked for
            x = mx.array(np.random.default_rng(0).standard_normal((rows, k)).astype(np.float32))
            flops = 2 * rows * n * k
            # Many rows are bound by arithmetic: a few matrices do.
            sweep = copies[: max(1, min(len(copies), int(arguments.seconds * 5e10 / flops)))]
            seconds = _ext.time_linear(x, sweep, 10) / len(sweep)
            rate = first.nbytes / seconds
            print(
                f"{f'{n} x {k}, {bits}':>16} {rows:>5} {seconds * 1e6:>9.1f} {rate / 1e9:>7.1f} "
                f"{rate / bandwidth:>9.0%} {flops / seconds / 1e9:>8.0f}"
            )


if __name__ == "__main__":
    main()
