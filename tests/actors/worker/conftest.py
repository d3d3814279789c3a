"""Decoders small enough to test an engine with, and a scheduler small enough to read."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from actors.worker.engine import Engine, Reset
from actors.worker.keeper import Keeper
from actors.worker.ledger import Capacity, Ledger
from actors.worker.results import merge
from kernels import cpu, ops
from kernels.backend import build_decoder
from kernels.bell import NO_BELL, NO_ERRAND, Errand, ring, wait
from kernels.decoder import (
    KV_BLOCK,
    Batch,
    Decoder,
    DecoderSpec,
    DecoderWeights,
    Int32,
    Kv,
    KvTier,
    LayerWeights,
    Rope,
)
from kernels.sampling import SampleBatch
from kernels.tree import lineage
from protos.gen import inference_pb2, worker_pb2

VOCAB, CONTEXT, PAGE_SIZE = 96, 192, 8


def tiny_spec() -> DecoderSpec:
    frequencies = tuple(float(10000 ** (-i / 16)) for i in range(16))
    return DecoderSpec(
        layers=2,
        hidden=128,
        heads=4,
        kv_heads=2,
        head_dim=32,
        intermediate=256,
        vocab=VOCAB,
        context_length=CONTEXT,
        norm_eps=1e-5,
        rope=Rope(frequencies, interleaved=False),
    )


def tiny_weights(spec: DecoderSpec) -> DecoderWeights:
    random = np.random.default_rng(7)

    def matrix(rows: int, columns: int, scale: float = 1.0) -> mx.array:
        return mx.array(random.normal(0, scale / np.sqrt(columns), (rows, columns)).astype(np.float32))

    ones = mx.ones((spec.hidden,), mx.float32)
    kv = spec.kv_heads * spec.head_dim
    layers = tuple(
        LayerWeights(
            attention_norm=ones,
            q=matrix(spec.heads * spec.head_dim, spec.hidden, 2),
            k=matrix(kv, spec.hidden, 2),
            v=matrix(kv, spec.hidden),
            o=matrix(spec.hidden, spec.heads * spec.head_dim),
            mlp_norm=ones,
            gate=matrix(spec.intermediate, spec.hidden),
            up=matrix(spec.intermediate, spec.hidden),
            down=matrix(spec.hidden, spec.intermediate),
        )
        for _ in range(spec.layers)
    )
    return DecoderWeights(matrix(spec.vocab, spec.hidden), layers, ones, matrix(spec.vocab, spec.hidden, 6))


class ToyKv:
    """Pages of token ids; -1 where nothing was written. Its quantized blocks lose nothing."""

    def __init__(self, pages: int, page_size: int, blocks: Mapping[str, int] | None = None) -> None:
        self.pages, self.page_size = pages, page_size
        self.tiers = (KvTier("f16", 0, pages, 1, page_size * 8),)
        ids = pages
        for name, units in (blocks or {}).items():
            self.tiers += (KvTier(name, ids, units, KV_BLOCK // page_size, KV_BLOCK * 8),)
            ids += units * (KV_BLOCK // page_size)
        self.ids = np.full((ids, page_size), -1, np.int64)

    @property
    def nbytes(self) -> int:
        return self.ids[: self.pages].nbytes

    def copy_pages(self, source: np.ndarray, target: np.ndarray) -> None:
        for a, b in zip(source, target, strict=True):
            self.ids[b] = self.ids[a]

    def move_tokens(self, source: np.ndarray, target: np.ndarray) -> None:
        for a, b in zip(source, target, strict=True):
            self.ids.reshape(-1)[b] = self.ids.reshape(-1)[a]

    def demote(self, source: np.ndarray, target: np.ndarray) -> None:
        count = KV_BLOCK // self.page_size
        for index, block in enumerate(target):
            self.ids[block : block + count] = self.ids[source[index * count : (index + 1) * count]]

    def release_units(self, units: np.ndarray) -> None:
        for unit in units:
            self._unit(unit)[:] = -1

    def read_unit(self, unit: int, into: np.ndarray) -> None:
        np.frombuffer(into, np.int64)[:] = self._unit(unit).ravel()

    def write_unit(self, unit: int, data: bytes) -> None:
        self._unit(unit)[:] = np.frombuffer(data, np.int64).reshape(-1, self.page_size)

    def _unit(self, unit: int) -> np.ndarray:
        count = 1 if unit < self.pages else KV_BLOCK // self.page_size
        return self.ids[unit : unit + count]


class ToyDecoder:
    """Logits are a hash of the whole history as read back through the page table: any slip in a page shows."""

    isa_class = "toy"

    def __init__(self) -> None:
        self.spec = tiny_spec()
        self.batches: list[Batch] = []
        self.fail: Callable[[Batch], bool] = lambda batch: False

    def allocate_kv(self, pages: int, page_size: int, blocks: Mapping[str, int] | None = None) -> ToyKv:
        return ToyKv(pages, page_size, blocks)

    @staticmethod
    def logits(history: Sequence[int] | np.ndarray) -> np.ndarray:
        return toy_logits(history)

    def forward(self, batch: Batch, kv: Any) -> mx.array:
        self.batches.append(batch)
        if self.fail(batch):
            raise RuntimeError("the toy broke")
        logits = []
        for row in range(len(batch.lengths)):
            first, last = int(batch.row_starts[row]), int(batch.row_starts[row + 1])
            length = int(batch.lengths[row])
            assert last > first
            parents = np.arange(-1, last - first - 1) if batch.parents is None else batch.parents[first:last]
            sees = lineage(parents)
            for at in range(first, last):
                slot = length + at - first
                page = batch.page_table[row, slot // kv.page_size]
                assert page >= 0, "a token outside the row's pages"
                kv.ids[page, slot % kv.page_size] = batch.tokens[at]
                if at in batch.logits_at:
                    own = self.history(batch.page_table[row], kv, slot + 1)
                    logits.append(
                        toy_logits(np.append(own[:length], own[length:][sees[at - first, : slot + 1 - length]]))
                    )
        return mx.array(np.array(logits, np.float32).reshape(-1, self.spec.vocab))

    def draw(
        self, batch: Batch, sampling: SampleBatch, kv: Any, bell: int = NO_BELL, errand: Errand = NO_ERRAND
    ) -> Int32:
        ring(bell)
        ring(errand.begin)
        try:
            logits = self.forward(batch, kv)
        finally:
            wait(errand.done)
        return ops.sample(logits, sampling) if len(logits) else np.zeros(0, np.int32)

    @staticmethod
    def history(pages: np.ndarray, kv: ToyKv, length: int) -> np.ndarray:
        return kv.ids[pages[: -(-length // kv.page_size)]].reshape(-1)[:length]


def toy_logits(history: Sequence[int] | np.ndarray) -> np.ndarray:
    seed = zlib.crc32(np.asarray(history, np.int64).tobytes())
    return np.random.default_rng(seed).normal(0, 2, VOCAB).astype(np.float32)


@dataclass
class Row:
    """What the scheduler knows of a row."""

    tokens: list[int]
    prompt_tokens: int
    pages: list[int]
    limit: int
    start: worker_pb2.RowStart | None
    new_pages: list[int]
    computed: int = 0
    end: int = worker_pb2.ROW_RUNNING
    error: str = ""
    granted: int = 0  # limit of the newest plan sent
    asks: bool = False
    logprobs: worker_pb2.Logprobs = field(default_factory=worker_pb2.Logprobs)
    prompt_logprobs: worker_pb2.Logprobs = field(default_factory=worker_pb2.Logprobs)

    @property
    def output(self) -> list[int]:
        return self.tokens[self.prompt_tokens :]


@dataclass
class Scheduler:
    """Grants leases to an engine and books its results; checks every plan as the service would."""

    engine: Engine
    ledger: Ledger
    rows: dict[int, Row] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)
    results: list[worker_pb2.StepResult] = field(default_factory=list)
    page_size: int = PAGE_SIZE

    def start(
        self,
        row: int,
        tokens: Sequence[int],
        *,
        prompt_tokens: int | None = None,
        cached_tokens: int = 0,
        limit: int | None = None,
        max_length: int | None = None,
        min_tokens: int = 0,
        stop_ids: Sequence[int] = (),
        pages: Sequence[int] = (),
        logprobs: int | None = None,
        score_from: int = 0,
        **sampling: object,
    ) -> None:
        """A row for the next plan; `pages` come first in its table, more are taken as limit needs."""
        greedy = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": 1}
        penalties = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
        start = worker_pb2.RowStart(
            row=row,
            token_ids=tokens,
            prompt_tokens=prompt_tokens or len(tokens),
            cached_tokens=cached_tokens,
            sampling=inference_pb2.Sampling(**(greedy | penalties | sampling)),  # type: ignore[arg-type]
            max_length=max_length or CONTEXT,
            min_tokens=min_tokens,
            stop_ids=stop_ids,
            logprobs=logprobs,
            score_from=score_from,
        )
        self.rows[row] = Row(list(tokens), start.prompt_tokens, list(pages), 0, start, list(pages), cached_tokens)
        self.rows[row].asks = logprobs is not None
        self.lease(row, CONTEXT if limit is None else limit)

    def lease(self, row: int, limit: int) -> None:
        """Let a row grow to `limit` tokens in its KV, from the next plan on."""
        state = self.rows[row]
        state.limit = limit
        while len(state.pages) * self.page_size < limit:
            page = self.free.pop()
            state.pages.append(page)
            state.new_pages.append(page)

    def drop(self, row: int) -> Row:
        """Leave a row out of the next plan; its pages are free once that is applied."""
        return self.rows.pop(row)

    def plan(
        self,
        step_tokens: int = 64,
        copies: Sequence[tuple[int, int]] = (),
        itl_target_us: int = 0,
        demotions: Sequence[tuple[Sequence[int], int]] = (),
        release: Sequence[int] = (),
    ) -> worker_pb2.Plan:
        """Send the next plan. `demotions`: (pages, first page of the block that takes them)."""
        plan = worker_pb2.Plan(
            epoch=self.ledger.epoch,
            plan_id=self.ledger.plan_id + 1,
            start=[row.start for row in self.rows.values() if row.start is not None],
            row=self.rows.keys(),
            limit=[row.limit for row in self.rows.values()],
            page_count=[len(row.new_pages) for row in self.rows.values()],
            pages=[page for row in self.rows.values() for page in row.new_pages],
            copy_from=[source for source, _ in copies],
            copy_to=[target for _, target in copies],
            step_tokens=step_tokens,
            itl_target_us=itl_target_us,
            demote_from=[page for pages, _ in demotions for page in pages],
            demote_to=[block for _, block in demotions],
            release=release,
        )
        self.ledger.accept(plan)
        self.engine.submit(plan)
        for row in self.rows.values():
            row.start, row.new_pages, row.granted = None, [], row.limit
        return plan

    def tick(self) -> bool:
        """One turn of the engine, booked."""
        ran = self.engine.tick()
        records = self.engine.take()
        if records:
            self.book(merge(records))
        return ran

    def book(self, result: worker_pb2.StepResult) -> None:
        self.results.append(result)
        errors, told, at = iter(result.error), iter(result.logprobs), 0
        asking = {row for row, state in self.rows.items() if state.asks}
        for row, computed, count, end in zip(result.row, result.computed, result.token_count, result.end, strict=True):
            state = self.rows[row]
            assert state.end == worker_pb2.ROW_RUNNING, "news of a row that had ended"
            state.computed, state.end = computed, end
            state.tokens += result.token_ids[at : at + count]
            at += count
            if count and row in asking:
                logprobs = next(told)
                state.logprobs.chosen.extend(logprobs.chosen)
                state.logprobs.top_ids.extend(logprobs.top_ids)
                state.logprobs.top_values.extend(logprobs.top_values)
            if end == worker_pb2.ROW_ERROR:
                state.error = next(errors)
        assert at == len(result.token_ids)
        for scored in result.prompt_logprobs:
            self.rows[scored.row].prompt_logprobs.chosen.extend(scored.chosen)
            self.rows[scored.row].prompt_logprobs.top_ids.extend(scored.top_ids)
        assert next(told, None) is None, "log-probabilities that nobody asked for"

    def run(self, step_tokens: int = 64) -> dict[int, list[int]]:
        """Plan, run until nothing is runnable, and return each row's output."""
        self.plan(step_tokens)
        while self.tick():
            pass
        return {row: state.output for row, state in self.rows.items()}


@pytest.fixture(params=["toy", "mlx", "cpu"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    """Every interpreter of the tiny model, and the toy."""
    if request.param == "toy":
        return ToyDecoder()
    spec = tiny_spec()
    if request.param == "cpu" and not cpu.available():
        pytest.skip(cpu.reason())
    return build_decoder(spec, tiny_weights(spec), backend=request.param)


@pytest.fixture
def tiny_model() -> Callable[[], tuple[DecoderSpec, DecoderWeights]]:
    """tiny_model(): a random model that every interpreter takes."""
    return lambda: (tiny_spec(), tiny_weights(tiny_spec()))


@pytest.fixture
def toy() -> ToyDecoder:
    return ToyDecoder()


@pytest.fixture
def scheduler() -> Callable[..., Scheduler]:
    """scheduler(decoder, pages=..., max_rows=...): a fresh engine in epoch 1, and who feeds it."""

    def make(
        decoder: Decoder,
        *,
        pages: int = 512,
        max_rows: int = 32,
        kv: Kv | None = None,
        keeper: Keeper | None = None,
        drafter: Any = None,
    ) -> Scheduler:
        slab = kv or decoder.allocate_kv(pages, PAGE_SIZE)
        engine = Engine(decoder, slab, max_rows=max_rows, context_length=CONTEXT, keeper=keeper, drafter=drafter)
        engine.submit(Reset(1))
        size = slab.page_size
        keeps = keeper is not None
        ledger = Ledger(1, Capacity(slab.pages, size, max_rows, 256, CONTEXT, VOCAB, slab.tiers, keeps))
        return Scheduler(engine, ledger, free=list(range(slab.pages - 1, -1, -1)), page_size=size)

    return make
