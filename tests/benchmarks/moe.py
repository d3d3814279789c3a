"""Mixtures of experts: what choosing experts takes, and what a bonus for those in memory saves and changes.

A decision is one token's, 8 of 64 experts. Traces are the router logits of real text through random-weight models
(tests.benchmarks.moe_model: random gates, and gates shaped by clusters of what they see), as decoding brings them,
token by token. Beside Russet's choice stands plain top-k with LRU on the same trace, memory divided among layers
alike. What the changed choice does is measured on real forwards with experts on disk: KL divergence of logits from
those with all experts in memory, and perplexity, which of random weights says little.
"""

import tempfile
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from kernels import reference
from kernels.cpu import _ext
from kernels.cpu.decoder import CpuDecoder
from kernels.decoder import ExpertMemory
from tests.benchmarks import moe_model
from tests.benchmarks.harness import Contender, Figure, Options, Part, Samples
from tests.benchmarks.moe_model import EXPERTS, LAYERS, TOP_K, Floats, Model

BONUS = 0.15
SHARES = (25, 50, 75)
MICROSECONDS = 10.0
LRU = "plain top-k, LRU"


class Paged(NamedTuple):
    """What became of a trace: experts chosen that were not in memory, of how many; experts read; chosen that are
    not of the model's own top k.
    """

    misses: int
    chosen: int
    read: int
    others: int = 0


def by_lru(logits: Floats, slots: int) -> Paged:
    """One layer's trace [tokens, experts] with plain top-k and the least recently used dropped."""
    held: OrderedDict[int, None] = OrderedDict()
    misses = 0
    for ids in np.argsort(-logits, axis=1, kind="stable")[:, :TOP_K].tolist():
        for expert in ids:
            misses += expert not in held
            held[expert] = None
            held.move_to_end(expert)
        while len(held) > slots:
            held.popitem(last=False)
    return Paged(misses, TOP_K * len(logits), misses)


def by_affinity(logits: Floats, slots: int, bonus: float) -> Paged:
    """One layer's trace as the pager runs it."""
    cache = _ext.ExpertCache(EXPERTS, 1, slots)
    ids, weights = np.empty((1, TOP_K), np.int32), np.empty((1, TOP_K), np.float32)
    others, own = 0, np.argsort(-logits, axis=1, kind="stable")[:, :TOP_K]
    for row, top in zip(np.ascontiguousarray(logits)[:, None], own.tolist(), strict=True):
        _ext.choose_experts(row, np.array(cache.resident, np.uint8), TOP_K, True, bonus, ids, weights)
        cache.record(ids[0].tolist())
        cache.admit(sorted(ids[0].tolist()))
        cache.foresee()
        others += len(set(ids[0].tolist()).difference(top))
    hits, misses, _, read, _, _ = cache.counts
    return Paged(misses, hits + misses, read, others)


def changed(model: Model, rows: list[list[int]], share: int, bonus: float) -> tuple[float, float, float]:
    """(hit rate, mean KL divergence of logits in nats, perplexity over that with all in memory) of real forwards."""
    with tempfile.TemporaryDirectory() as directory:
        nbytes = LAYERS * EXPERTS * share // 100 * expert_bytes(model)
        paged = CpuDecoder(*model, experts=ExpertMemory(nbytes, bonus, Path(directory)))
        whole = CpuDecoder(*model)
        following = [token for row in rows for token in (*row[1:], -1)]
        divergences, losses = [], []
        for own, theirs, token in zip(moe_model.told(whole, rows), moe_model.told(paged, rows), following, strict=True):
            p, q = _log_softmax(own), _log_softmax(theirs)
            divergences.append(float((np.exp(p) * (p - q)).sum()))
            if token >= 0:
                losses.append(p[token] - q[token])
        counts = paged.expert_counts
    assert counts is not None
    hit_rate = counts.hits / (counts.hits + counts.misses)
    return hit_rate, float(np.mean(divergences)), float(np.exp(np.mean(losses)))


def expert_bytes(model: Model) -> int:
    """Of one packed expert."""
    expert = model.weights.layers[0].mixture.experts[0]
    return sum(
        _ext.pack_affine(part.weight, part.scales, part.biases, part.bits, part.group_size).nbytes for part in expert
    )


def _log_softmax(logits: Floats) -> np.ndarray:
    wide = logits.astype(np.float64)
    return wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())


def decision_figures() -> tuple[Figure, Figure, Figure]:
    """The op alone, the call from Python around it, and the same operations in MLX."""
    names = ("the op", "called from Python", "in MLX's operations")
    one, two, three = (f"a decision, {EXPERTS} experts, top {TOP_K}, p50 of {name}" for name in names)
    asked = Figure(one, "us", MICROSECONDS, higher_is_better=False)
    return asked, Figure(two, "us", higher_is_better=False), Figure(three, "us", higher_is_better=False)


def decisions(bonus: float, count: int) -> Samples:
    """Medians over `count` decisions (MLX: fewer)."""
    random = np.random.default_rng(1)
    logits = random.standard_normal((count, EXPERTS)).astype(np.float32)
    resident = (random.random(EXPERTS) < 0.5).astype(np.uint8)
    ids, weights = np.empty((1, TOP_K), np.int32), np.empty((1, TOP_K), np.float32)
    called, in_mlx = [], []
    for row in logits[:, None]:
        begin = time.perf_counter_ns()
        _ext.choose_experts(row, resident, TOP_K, True, bonus, ids, weights)
        called.append((time.perf_counter_ns() - begin) / 1e3)
    flags = mx.array(resident) > 0
    for row in logits[: count // 20, None]:
        begin = time.perf_counter_ns()
        mx.eval(reference.choose(mx.array(row), TOP_K, True, flags, bonus))
        in_mlx.append((time.perf_counter_ns() - begin) / 1e3)
    alone = np.array(_ext.time_choice(logits, resident, TOP_K, bonus)) / 1e3
    return {
        figure: [float(np.median(times))]
        for figure, times in zip(decision_figures(), (alone, called, in_mlx), strict=True)
    }


Replay = Callable[[Floats, int], Paged]


def traced(traces: Mapping[str, Floats], nbytes: int, replay: Replay) -> Samples:
    """Hit rate, misses and bytes of every trace at every size."""
    samples: dict[Figure, Sequence[float]] = {}
    for name, layers in traces.items():
        for share in SHARES:
            slots = EXPERTS * share // 100
            results = [replay(layer, slots) for layer in layers]
            tokens = layers.shape[1]
            misses, chosen, read, others = (sum(column) for column in zip(*results, strict=True))
            at = f"{name}, {share} % in memory"
            least = ((LRU, 2.0),) if share == 50 else ()
            samples[Figure(f"{at}: hit rate", "%")] = [100 * (1 - misses / chosen)]
            samples[Figure(f"{at}: misses", "/token", higher_is_better=False, ratios=least)] = [misses / tokens]
            samples[Figure(f"{at}: read", "KB/token", higher_is_better=False)] = [read * nbytes / tokens / 1e3]
            samples[Figure(f"{at}: not of the top {TOP_K}", "% of chosen", higher_is_better=False)] = [
                100 * others / chosen
            ]
    return samples


def effects(models: Mapping[str, Model], rows: list[list[int]], bonus: float) -> Samples:
    """Of real forwards."""
    samples: dict[Figure, Sequence[float]] = {}
    for name, model in models.items():
        for share in SHARES:
            hit_rate, divergence, perplexity = changed(model, rows, share, bonus)
            at = f"{name}, {share} % in memory, forwards"
            samples[Figure(f"{at}: hit rate", "%")] = [100 * hit_rate]
            samples[Figure(f"{at}: KL of logits", "nats", higher_is_better=False)] = [divergence]
            samples[Figure(f"{at}: perplexity over that in memory", "x", higher_is_better=False)] = [perplexity]
    return samples


@asynccontextmanager
async def _contenders(options: Options) -> AsyncGenerator[Sequence[Contender], None]:
    rows = moe_model.texts(12 if options.quick else 30)
    plain = moe_model.random_model()
    models = {"random gates": plain, "shaped gates": moe_model.shaped(plain, rows)}
    traces = {name: moe_model.trace(model, rows) for name, model in models.items()}
    nbytes, count = expert_bytes(plain), 1000 if options.quick else 20_000
    few = rows[: 2 if options.quick else 5]
    known: dict[float, Samples] = {}  # what does not depend on the machine is the same in every round

    def ours(bonus: float) -> Samples:
        if bonus not in known:
            replay = traced(traces, nbytes, lambda logits, slots: by_affinity(logits, slots, bonus))
            known[bonus] = {**replay, **effects(models, few, bonus)}
        return {**decisions(bonus, count), **known[bonus]}

    async def with_bonus() -> Samples:
        return ours(BONUS)

    async def without() -> Samples:
        return ours(0.0)

    async def lru() -> Samples:
        return traced(traces, nbytes, by_lru)

    tokens = next(iter(traces.values())).shape[1]
    note = f"{tokens} tokens of text, {LAYERS} layers; forwards over {sum(map(len, few))} tokens"
    yield [Contender("Russet", with_bonus, note), Contender("bonus 0", without), Contender(LRU, lru, peer=True)]


PART = Part("moe", "Choosing and paging experts (random-weight models)", _contenders)
