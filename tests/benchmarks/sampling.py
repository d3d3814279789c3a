"""Milliseconds to draw for a batch, on logits the model gives for real text and on shapes that are harder.

    python -m tests.benchmarks.sampling [--model smollm2-135m-instruct] [--rows 32] [--threads 0] [--rounds 9]

Wall time, and processor time of all threads together. Reading the logits once is the limit: it is printed first. The
text is this repository's README; temperature 2 makes real logits flat, "128k" repeats them over 131,072 ids with noise.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from actors.base.vocabulary import Vocabulary
from actors.worker.models import load_model
from kernels.cpu import _ext
from kernels.cpu.decoder import CpuDecoder
from kernels.decoder import Float32
from kernels.sampling import SampleBatch
from tests.oracles.running import logits_of

TEXT = Path(__file__).parents[2] / "README.md"
CONTEXT = 400
LARGE_VOCAB = 131072
CALLS = 5

KINDS: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0},
    "plain": {},
    "top-k 50": {"top_k": 50},
    "top-k 1000": {"top_k": 1000},
    "top-p 0.9": {"top_p": 0.9},
    "top-p 0.99": {"top_p": 0.99},
    "min-p 0.05": {"min_p": 0.05},
    "top-k 50, top-p 0.9": {"top_k": 50, "top_p": 0.9},
    "temperature 2": {"temperature": 2},
    "temperature 2, top-p 0.9": {"temperature": 2, "top_p": 0.9},
}


def batch_of(rows: int, temperature: float = 1, top_k: float = 0, top_p: float = 1, min_p: float = 0) -> SampleBatch:
    """Rows of equal parameters and different seeds."""
    ones, none, no_ids = np.ones(rows, np.float32), np.zeros(rows, np.float32), np.zeros(0, np.int32)
    starts = np.zeros(rows + 1, np.int32)
    return SampleBatch(
        temperature=temperature * ones, top_k=np.full(rows, top_k, np.int32), top_p=top_p * ones, min_p=min_p * ones,
        repetition=ones, presence=none, frequency=none, seed=np.arange(rows, dtype=np.uint64),
        position=np.arange(rows, dtype=np.int32), seen_starts=starts, seen_ids=no_ids, seen_output_counts=no_ids,
        bias_starts=starts, bias_ids=no_ids, bias_values=np.zeros(0, np.float32),
    )  # fmt: skip


def penalised(batch: SampleBatch, vocab: int) -> SampleBatch:
    """Each row has seen 300 ids."""
    rows, ids = len(batch.seed), np.random.default_rng(1).choice(vocab, 300, replace=False).astype(np.int32)
    return batch._replace(
        repetition=np.full(rows, 1.2, np.float32),
        seen_starts=np.arange(rows + 1, dtype=np.int32) * len(ids),
        seen_ids=np.tile(ids, rows),
        seen_output_counts=np.ones(rows * len(ids), np.int32),
    )


def masked(batch: SampleBatch, vocab: int) -> SampleBatch:
    """Each row's mask allows half of the ids."""
    rows = len(batch.seed)
    masks = np.random.default_rng(2).integers(0, 2**32, (rows, -(-vocab // 32)), dtype=np.uint32)
    return batch._replace(masked_rows=np.arange(rows, dtype=np.int32), masks=masks)


def seconds(logits: Float32, batch: SampleBatch, rounds: int) -> tuple[float, float]:
    """Wall and processor seconds a call, medians of rounds of a few calls each."""
    out = np.zeros(len(logits), np.int32)
    walls, processors = [], []
    for _ in range(rounds + 1):  # the first warms up
        wall, processor = time.perf_counter(), time.process_time()
        for _ in range(CALLS):
            _ext.sample(logits, batch, out)
        walls.append((time.perf_counter() - wall) / CALLS)
        processors.append((time.process_time() - processor) / CALLS)
    return statistics.median(walls[1:]), statistics.median(processors[1:])


def main() -> None:
    """Print one line per measurement."""
    parser = argparse.ArgumentParser(description="Speed of the fused sampler.")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--threads", type=int, default=0, help="0: one per processor")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()

    model = load_model(options.model)
    ids = Vocabulary.from_message(model.vocabulary).encode(TEXT.read_text("utf-8"), special=False)
    first = min(CONTEXT, len(ids) - options.rows)
    real = logits_of(CpuDecoder(model.spec, model.weights), ids[: first + options.rows], first)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.5, (options.rows, LARGE_VOCAB)).astype(np.float32)
    large = np.tile(real, (1, -(-LARGE_VOCAB // real.shape[1])))[:, :LARGE_VOCAB] + noise
    synthetic = rng.normal(0, 3, real.shape).astype(np.float32)
    synthetic[:, :8] += 12
    _ext.set_threads(options.threads)
    print(f"{options.rows} rows x {real.shape[1]} ids on {_ext.isa()}, {_ext.threads()} threads")

    def show(name: str, logits: Float32, batch: SampleBatch) -> None:
        wall, processor = seconds(logits, batch, options.rounds)
        print(f"{name:34} {1e3 * wall:8.3f} ms wall  {1e3 * processor:8.3f} ms of processor time")

    start = time.perf_counter()
    for _ in range(CALLS):
        real.max()
    print(f"{'limit: one thread reads them once':34} {1e3 * (time.perf_counter() - start) / CALLS:8.3f} ms")
    nucleus = batch_of(options.rows, top_p=0.9)
    for name, kind in KINDS.items():
        show(f"real, {name}", real, batch_of(options.rows, **kind))
    show("real, top-p 0.9, penalties", real, penalised(nucleus, real.shape[1]))
    show("real, top-p 0.9, mask", real, masked(nucleus, real.shape[1]))
    for name in ("plain", "top-p 0.9", "temperature 2, top-p 0.9"):
        show(f"128k, {name}", large, batch_of(options.rows, **KINDS[name]))
    for name in ("plain", "top-k 50", "top-p 0.9", "top-k 50, top-p 0.9"):
        show(f"synthetic, {name}", synthetic, batch_of(options.rows, **KINDS[name]))
    show("all equal, top-p 0.9", np.zeros_like(real), nucleus)


if __name__ == "__main__":
    main()
