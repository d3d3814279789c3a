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
from tests.benchmarks.forward import PAGE_SIZE, page_table, prompted
from tests.benchmarks.harness import Contender, Figure, Options, Part, Samples
from tests.benchmarks.perplexity import TEXT, read_windows
from tests.oracles.decoder import negative_log_likelihood

TAIL = 256
WINDOW, WINDOWS = 2048, 4
ROWS, CONTEXT, STEPS = 8, 4096, 24
OLD = CONTEXT - TAIL
FORMS = ("f16", *BLOCK_FORMATS)
FILLED = 16384
PER_BLOCK = KV_BLOCK // PAGE_SIZE

BYTES = {name: Figure(f"KV of a token, {name}", "B", higher_is_better=False) for name in FORMS}
SMALLER = {
    name: Figure(f"  smaller than f16, {name}", "x", least) for name, least in (("q8", 1.85), ("q4", 3.3), ("q2", None))
}
PERPLEXITY = Figure(f"perplexity over {WINDOW:,} tokens, f16", "", higher_is_better=False)
WORSE = {
    name: Figure(f"  more with {name}", "", target, higher_is_better=False)
    for name, target in (("q8", 0.05), ("q4", 0.3), ("q2", None))
}
DECODED = {name: Figure(f"decode, {ROWS} rows of {CONTEXT:,} tokens, {name}", "tokens/s") for name in FORMS}
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


def loss(decoder: CpuDecoder, ids: list[int], name: str) -> float:
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
    exact, *others = (float(np.exp(np.mean([loss(decoder, ids, name) for ids in windows]))) for name in FORMS)
    return {PERPLEXITY: [exact]} | {
        WORSE[name]: [other - exact] for name, other in zip(BLOCK_FORMATS, others, strict=True)
    }


class Decoding:
    """Rows behind long contexts, once in every form."""

    def __init__(self, decoder: CpuDecoder) -> None:
        self._decoder = decoder
        self._slabs = {name: self._slab(name) for name in FORMS}

    def _slab(self, name: str) -> tuple[Kv, Int32, float]:
        """The slab, its page table, and how many microseconds it took to quantize a block."""
        blocks = {} if name == "f16" else {name: ROWS * OLD // KV_BLOCK}
        kv, table = prompted(self._decoder, ROWS, CONTEXT, 1, blocks)
        if not blocks:
            return kv, table, 0
        pages = np.ascontiguousarray(table[:, : OLD // PAGE_SIZE].ravel())
        demote(kv, table.copy(), 0, OLD)  # the system gives the memory now
        started = time.perf_counter()
        demote(kv, table, 0, OLD)
        took = time.perf_counter() - started
        kv.release_units(pages)
        return kv, table, 1e6 * took / blocks[name]

    def round(self, first: int) -> dict[Figure, list[float]]:
        """Steps of every form in turn, beginning with the first-th: what others do to the machine meets all alike."""
        order = (*FORMS[first:], *FORMS[:first])
        lengths, starts = np.full(ROWS, CONTEXT, np.int32), np.arange(ROWS + 1, dtype=np.int32)
        tokens, seconds = np.arange(100, 100 + ROWS, dtype=np.int32), np.empty((STEPS, len(FORMS)))
        for step in range(-1, STEPS):  # the first one warms up
            for name in order:
                kv, table, _ = self._slabs[name]
                started = time.perf_counter()
                self._decoder.forward(Batch(tokens, starts, lengths, table, starts[:-1]), kv)
                seconds[step, FORMS.index(name)] = time.perf_counter() - started
        rates = dict(zip(FORMS, ROWS / np.median(seconds, axis=0), strict=True))
        shares = dict(zip(FORMS, 100 * np.median(seconds[:, :1] / seconds, axis=0), strict=True))
        samples = {DECODED[name]: [float(rate)] for name, rate in rates.items()}
        samples |= {FASTER[name]: [float(shares[name])] for name in BLOCK_FORMATS}
        return samples | {DEMOTED[name]: [self._slabs[name][2]] for name in BLOCK_FORMATS}


class Measure:
    """Rounds over one decoder; what never changes is measured in the first one alone."""

    def __init__(self, decoder: CpuDecoder) -> None:
        self._decoder = decoder
        self._decoding: Decoding | None = None
        self._round = 0

    async def __call__(self) -> Samples:
        decoder, samples = self._decoder, {}
        if self._decoding is None:
            sizes = {name: bytes_per_token(decoder, name) for name in FORMS}
            samples |= {BYTES[name]: [size] for name, size in sizes.items()}
            samples |= {SMALLER[name]: [sizes["f16"] / sizes[name]] for name in BLOCK_FORMATS}
            samples |= perplexities(decoder) if TEXT.exists() else {}
            self._decoding = Decoding(decoder)
        samples |= self._decoding.round(self._round % len(FORMS))
        self._round += 1
        return samples


@asynccontextmanager
async def _contenders(options: Options) -> AsyncGenerator[Sequence[Contender], None]:
    note = f"all but the last {TAIL} tokens quantized"
    yield [Contender("Russet", Measure(load(MODEL)), note if TEXT.exists() else f"no text at {TEXT}: set RUSSET_DATA")]


PART = Part("kv", "Quantized KV beside full precision", _contenders)
