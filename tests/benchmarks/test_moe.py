"""Replays of routing traces: what is counted, and that ours without a bonus is plain top-k."""

import numpy as np
import pytest

from kernels import cpu

if not cpu.available():
    pytest.skip(cpu.reason(), allow_module_level=True)

from tests.benchmarks.moe import Paged, by_affinity, by_lru
from tests.benchmarks.moe_model import EXPERTS, TOP_K


def logits(chosen: list[list[int]]) -> np.ndarray:
    """A trace whose tokens choose these experts."""
    out = np.random.default_rng(0).random((len(chosen), EXPERTS)).astype(np.float32)
    for row, ids in zip(out, chosen, strict=True):
        row[ids] += 2
    return out


def test_in_enough_memory_each_expert_is_read_once() -> None:
    trace = logits([list(range(8)), list(range(4, 12)), list(range(8))])
    assert by_lru(trace, EXPERTS) == by_affinity(trace, EXPERTS, 0.0) == Paged(12, 3 * TOP_K, 12)


def test_lru_forgets_what_comes_round_and_round() -> None:
    around = [list(range(start, start + 8)) for start in (0, 8, 16)] * 4
    assert by_lru(logits(around), 16) == Paged(12 * 8, 12 * 8, 12 * 8)


def test_the_bonus_saves_misses_and_none_is_plain_top_k() -> None:
    slots = EXPERTS // 2
    trace = np.random.default_rng(1).standard_normal((400, EXPERTS)).astype(np.float32)
    lru, plain, drawn = by_lru(trace, slots), by_affinity(trace, slots, 0.0), by_affinity(trace, slots, 0.15)
    assert plain.misses == pytest.approx(lru.misses, rel=0.05)
    assert drawn.misses < 0.6 * lru.misses  # of logits that are all alike, about half
    assert plain.others == 0 < drawn.others < 0.4 * drawn.chosen
