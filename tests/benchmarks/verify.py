"""What verifying drafts costs: a step of rows that each bring 1 + k tokens, logits of all, beside a plain step.

    python -m tests.benchmarks.verify [--model smollm2-135m-instruct] [--context 256] [--threads 0] [--rounds 5]

Chains and, where said, trees of depth 3 and branch 2. Each round runs every kind of step once after the other, so that
what else the machine does falls on all of them; figures are medians. The whole takes about a second a round.
"""

import argparse
import statistics
import time

import numpy as np

from actors.worker.models import load_model
from kernels.cpu import _ext
from kernels.cpu.decoder import CpuDecoder
from kernels.decoder import Batch, Int32
from tests.benchmarks.forward import prompted

SHAPES = (
    *((1, k) for k in range(9)),
    *((rows, k) for rows in (8, 16) for k in range(5)),
)
TREE = np.array([-1, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6], np.int32)
"""A token and all continuations of it to depth 3, each with two followers."""


def step(rows: int, tokens: int, context: int, table: Int32, parents: Int32 | None = None) -> Batch:
    """Rows that each bring so many tokens after `context`, logits of all."""
    starts = np.arange(0, rows * tokens + 1, tokens, dtype=np.int32)
    ids = (np.arange(rows * tokens) % 1000 + 100).astype(np.int32)
    every = np.arange(rows * tokens, dtype=np.int32)
    column = None if parents is None else np.tile(parents, rows)
    return Batch(ids, starts, np.full(rows, context, np.int32), table[:rows], every, column)


def main() -> None:
    """Print one line per kind of step."""
    arguments = argparse.ArgumentParser(description="What verifying drafts costs.")
    arguments.add_argument("--model", default="smollm2-135m-instruct")
    arguments.add_argument("--context", type=int, default=256, help="tokens each row already has")
    arguments.add_argument("--threads", type=int, default=0, help="0: one per processor")
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()

    _ext.set_threads(options.threads)
    model = load_model(options.model)
    decoder = CpuDecoder(model.spec, model.weights)
    kv, table = prompted(decoder, max(rows for rows, _ in SHAPES), options.context, len(TREE))
    batches = {f"{rows:2} rows of {1 + k:2}": step(rows, 1 + k, options.context, table) for rows, k in SHAPES}
    for rows in (1, 8):
        chain = f"{rows:2} rows of {len(TREE):2}"
        batches[chain] = step(rows, len(TREE), options.context, table)
        batches[f"{chain}, a tree"] = step(rows, len(TREE), options.context, table, TREE)
    seconds: dict[str, list[float]] = {name: [] for name in batches}
    for _ in range(options.rounds + 1):
        for name, batch in batches.items():
            decoder.forward(batch, kv)  # the step before: caches are as another of its kind leaves them
            start = time.perf_counter()
            decoder.forward(batch, kv)
            seconds[name].append(time.perf_counter() - start)
    print(f"{options.model} on {decoder.isa_class}, {_ext.threads()} threads, {options.context} tokens before")
    for name, (_, *taken) in seconds.items():
        middle, least = 1e3 * statistics.median(taken), 1e3 * min(taken)
        tokens = len(batches[name].tokens)
        print(f"{name:22} {middle:7.2f} ms (least {least:6.2f}), {middle / tokens:6.3f} ms a token")


if __name__ == "__main__":
    main()
