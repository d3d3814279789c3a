"""Quantized KV beside full precision: memory, what it costs in perplexity, and decoding at long context.

Memory is the growth of the process when KV is filled. Perplexity is of text of $RUSSET_DATA, read in chunks of 64
tokens; each block is quantized as it leaves the tail of 256. Decoding goes on behind contexts of which all but the tail
is quantized.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import numpy as np
import psutil

from actors.base.vocabulary import Vocabulary
from actors.worker.models import load_model
from kernels.cpu.decoder import BLOCK_FORMATS, CpuDecoder
from kernels.decoder import KV_BLOCK, Batch, Int32, Kv
from tests.benchmarks.decoding import MODEL, load
from tests.benchmarks.forward import DECODE_STEPS, PAGE_SIZE, page_table, prompted, step_seconds
from tests.benchmarks.harness import Contender, Figure, Options, Part, Samples
from tests.benchmarks.perplexity import TEXT, read_windows
from tests.oracles.decoder import negative_log_likelihood

TAIL = 256
WINDOW, WINDOWS = 2048, 4
ROWS, CONTEXT = 8, 4096
FILLED = 16384
PER_BLOCK = KV_BLOCK // PAGE_SIZE

BYTES = {name: Figure(f"KV of a token, {name}", "B", higher_is_better=False) for name in ("f16", *BLOCK_FORMATS)}
SMALLER = {
    name: Figure(f"  smaller than f16, {name}", "x", least) for name, least in (("q8", 1.85), ("q4", 3.3), ("q2", None))
}
PERPLEXITY = Figure(f"perplexity over {WINDOW:,} tokens, f16", "", higher_is_better=False)
WORSE = {
    name: Figure(f"  more with {name}", "", target, higher_is_better=False)
    for name, target in (("q8", 0.05), ("q4", 0.3), ("q2", None))
}
DECODED = {
    name: Figure(f"decode, {ROWS} rows of {CONTEXT:,} tokens, {name}", "tokens/s") for name in ("f16", *BLOCK_FORMATS)
}
FASTER = {name: Figure(f"  of f16's speed, {name}", "%", 100 if name != "q2" else None) for name in BLOCK_FORMATS}
DEMOTED = {name: Figure(f"quantizing a block, {name}", "us", higher_is_better=False) for name in BLOCK_FORMATS}


def demote(kv: Kv, table: Int32, begin: int, end: int) -> None:
    """Quantize the tokens [begin, end) of every row of a page table, whole blocks, into the rows' own blocks."""
    tier = kv.tiers[1]
    blocks, per_row = (end - begin) // KV_BLOCK, tier.units // len(table)
    for row, pages in enumerate(table):
        first = tier.first_page + (row * per_row + begin // KV_BLOCK) * PER_BLOCK
        units = first + PER_BLOCK * np.arange(blocks, dtype=np.int32)
        moved = slice(begin // PAGE_SIZE, end // PAGE_SIZE)
        kv.demote(pages[moved].copy(), units)
        pages[moved] = first + np.arange(blocks * PER_BLOCK)


def bytes_per_token(decoder: CpuDecoder, name: str) -> float:
    """By how much the process grows when FILLED tokens enter a tier."""
    blocks = {} if name == "f16" else {name: FILLED // KV_BLOCK}
    kv = decoder.allocate_kv(PER_BLOCK + (FILLED // PAGE_SIZE if name == "f16" else 0), PAGE_SIZE, blocks)
    random = np.random.default_rng(0)
    for page in range(PER_BLOCK):
        halves = random.normal(0, 1, kv.tiers[0].unit_bytes // 2).astype(np.float16)
        kv.write_unit(page, halves.view(np.uint8))
    before = psutil.Process().memory_info().rss
    if name == "f16":
        filled = np.arange(PER_BLOCK, kv.pages, dtype=np.int32)
        kv.copy_pages(filled % PER_BLOCK, filled)
    else:
        units = kv.tiers[1].first_page + PER_BLOCK * np.arange(kv.tiers[1].units, dtype=np.int32)
        kv.demote(np.tile(np.arange(PER_BLOCK, dtype=np.int32), len(units)), units)
    return (psutil.Process().memory_info().rss - before) / FILLED


def loss(decoder: CpuDecoder, ids: Sequence[int], name: str) -> float:
    """Mean -log p of a text's tokens but the first, of which all but the tail is quantized."""
    tokens = np.array(ids, np.int32)
    table = page_table(1, len(ids))
    kv = decoder.allocate_kv(table.size, PAGE_SIZE, {} if name == "f16" else {name: len(ids) // KV_BLOCK})
    losses = []
    for begin in range(0, len(ids), KV_BLOCK):
        if name != "f16" and begin > TAIL:
            demote(kv, table, begin - TAIL - KV_BLOCK, begin - TAIL)
        chunk = tokens[begin : begin + KV_BLOCK]
        batch = Batch(
            chunk, np.array([0, len(chunk)], np.int32), np.array([begin], np.int32), table,
            np.arange(len(chunk), dtype=np.int32),
        )  # fmt: skip
        following = ids[begin : begin + len(chunk) + 1]
        logits = decoder.forward(batch, kv)
        losses.append(negative_log_likelihood(logits[: len(following) - 1], following))
    return float(np.concatenate(losses).mean())


def perplexities(decoder: CpuDecoder) -> dict[Figure, list[float]]:
    """That of full precision, and by how much those of the others exceed it."""
    windows = read_windows(Vocabulary(load_model(MODEL).vocabulary), WINDOW * WINDOWS, WINDOW)
    exact, *others = (
        float(np.exp(np.mean([loss(decoder, ids, name) for ids in windows]))) for name in ("f16", *BLOCK_FORMATS)
    )
    return {PERPLEXITY: [exact]} | {
        WORSE[name]: [other - exact] for name, other in zip(BLOCK_FORMATS, others, strict=True)
    }


def decoding(decoder: CpuDecoder, name: str) -> dict[Figure, list[float]]:
    """Tokens per second of all rows together; for a quantized tier also microseconds of quantizing a block."""
    old = CONTEXT - TAIL
    blocks = {} if name == "f16" else {name: ROWS * old // KV_BLOCK}
    kv, table = prompted(decoder, ROWS, CONTEXT, DECODE_STEPS + 1, blocks)
    samples: dict[Figure, list[float]] = {}
    if blocks:
        demote(kv, table.copy(), 0, old)  # the system gives the memory now
        started = time.perf_counter()
        demote(kv, table, 0, old)
        samples[DEMOTED[name]] = [1e6 * (time.perf_counter() - started) / blocks[name]]
    return samples | {DECODED[name]: [ROWS / step_seconds(decoder, kv, table, CONTEXT, DECODE_STEPS)]}


class Measure:
    """Rounds over one decoder; what never changes is measured in the first one alone."""

    def __init__(self, decoder: CpuDecoder) -> None:
        self._decoder = decoder
        self._round = 0

    async def __call__(self) -> Samples:
        decoder, names = self._decoder, ("f16", *BLOCK_FORMATS)
        samples: dict[Figure, list[float]] = {}
        if self._round == 0:
            sizes = {name: bytes_per_token(decoder, name) for name in names}
            samples |= {BYTES[name]: [size] for name, size in sizes.items()}
            samples |= {SMALLER[name]: [sizes["f16"] / sizes[name]] for name in BLOCK_FORMATS}
            samples |= perplexities(decoder) if TEXT.exists() else {}
        turn = self._round % len(names)
        self._round += 1
        for name in (*names[turn:], *names[:turn]):
            samples |= decoding(decoder, name)
        exact = samples[DECODED["f16"]][0]
        return samples | {FASTER[name]: [100 * samples[DECODED[name]][0] / exact] for name in BLOCK_FORMATS}


@asynccontextmanager
async def _contenders(options: Options) -> AsyncGenerator[Sequence[Contender], None]:
    note = f"all but the last {TAIL} tokens quantized"
    yield [Contender("Russet", Measure(load(MODEL)), note if TEXT.exists() else f"no text at {TEXT}: set RUSSET_DATA")]


PART = Part("kv", "Quantized KV beside full precision", _contenders)
