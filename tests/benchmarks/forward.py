"""Speed of the CPU decoder alone: decode at several batch sizes, prefill, beside what memory allows.

    python -m tests.benchmarks.forward [--model smollm2-135m-instruct] [--context 128] [--threads 0] [--rounds 3]

Decode at batch 1 reads every packed weight once per token, so bandwidth over their bytes is its limit. Each figure is
the median of `rounds` rounds; a round takes about a second.
"""

import argparse
import statistics
import time
from collections.abc import Mapping

import numpy as np

from actors.worker.models import load_model
from kernels.cpu import _ext
from kernels.cpu.decoder import CpuDecoder
from kernels.decoder import Batch, Int32, Kv

PAGE_SIZE = 16
CHUNK = 512
DECODE_STEPS = 16


def bandwidth_gb_s() -> float:
    """What two passes over 256 MB read per second: an upper bound for one that also computes."""
    data = np.ones(32 << 20, np.float64)
    start = time.perf_counter()
    for _ in range(2):
        data.max()
    return 2 * data.nbytes / (time.perf_counter() - start) / 1e9


def page_table(rows: int, tokens: int) -> Int32:
    """Distinct pages for `rows` rows of `tokens` tokens, neighbours far apart as in a slab that has been in use."""
    pages = -(-tokens // PAGE_SIZE)
    return np.arange(rows * pages, dtype=np.int32).reshape(pages, rows).T.copy()


def prompted(
    decoder: CpuDecoder, rows: int, context: int, room: int, blocks: Mapping[str, int] | None = None
) -> tuple[Kv, Int32]:
    """A slab in which `rows` rows have `context` tokens each and room for more, and their page table.

    The prompt is computed once and its pages copied: every row reads memory of its own, as rows of different prompts
    would. Pages never written would all read as one page of zeros, which stays in the cache.
    """
    table = page_table(rows, context + room)
    kv = decoder.allocate_kv(table.size, PAGE_SIZE, blocks)
    ids = (np.arange(context) % 1000 + 100).astype(np.int32)
    for begin in range(0, context, CHUNK):
        chunk = ids[begin : begin + CHUNK]
        starts, none = np.array([0, chunk.size], np.int32), np.zeros(0, np.int32)
        decoder.forward(Batch(chunk, starts, np.array([begin], np.int32), table[:1], none), kv)
    others = table[1:]
    kv.copy_pages(np.tile(table[0], len(others)), others.ravel())
    return kv, table


def decode_seconds(decoder: CpuDecoder, rows: int, context: int, steps: int = DECODE_STEPS) -> float:
    """Seconds per step of `rows` rows that each have `context` tokens before the first."""
    kv, table = prompted(decoder, rows, context, steps + 1)
    starts, every = np.arange(rows + 1, dtype=np.int32), np.arange(rows, dtype=np.int32)
    tokens = np.arange(100, 100 + rows, dtype=np.int32)
    batches = [Batch(tokens, starts, np.full(rows, context + i, np.int32), table, every) for i in range(steps + 1)]
    decoder.forward(batches[0], kv)
    start = time.perf_counter()
    for batch in batches[1:]:
        decoder.forward(batch, kv)
    return (time.perf_counter() - start) / steps


def prefill_seconds(decoder: CpuDecoder, tokens: int) -> float:
    """Seconds to prefill one prompt in one forward, logits of its last token."""
    table = page_table(1, tokens)
    kv = decoder.allocate_kv(table.size, PAGE_SIZE)
    ids = (np.arange(tokens) % 1000 + 100).astype(np.int32)
    batch = Batch(ids, np.array([0, tokens], np.int32), np.zeros(1, np.int32), table, np.array([tokens - 1], np.int32))
    start = time.perf_counter()
    decoder.forward(batch, kv)
    return time.perf_counter() - start


def main() -> None:
    """Print one line per measurement."""
    arguments = argparse.ArgumentParser(description="Speed of the CPU decoder alone.")
    arguments.add_argument("--model", default="smollm2-135m-instruct")
    arguments.add_argument("--context", type=int, default=128, help="tokens each decoding row already has")
    arguments.add_argument("--threads", type=int, default=0, help="0: one per processor")
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()

    _ext.set_threads(options.threads)
    model = load_model(options.model)
    decoder = CpuDecoder(model.spec, model.weights)
    print(f"{options.model} on {decoder.isa_class}, {_ext.threads()} threads")
    megabytes, speed = decoder.weight_bytes / 1e6, bandwidth_gb_s()
    print(
        f"weights {megabytes:.1f} MB, one thread reads {speed:.1f} GB/s: {1e3 * speed / megabytes:.0f} tokens/s at most"
    )
    for rows in (1, 8, 16, 32):
        seconds = statistics.median(decode_seconds(decoder, rows, options.context) for _ in range(options.rounds))
        print(f"decode  {rows:4d} rows  {1e3 * seconds:8.2f} ms/step  {rows / seconds:8.0f} tokens/s")
    for tokens in (128, 512):
        seconds = statistics.median(prefill_seconds(decoder, tokens) for _ in range(options.rounds))
        print(f"prefill {tokens:4d} tokens {1e3 * seconds:7.1f} ms       {tokens / seconds:8.0f} tokens/s")


if __name__ == "__main__":
    main()
