"""Experts on disk: what is in memory stays within its budget and follows from the steps; answers are those without."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import cpu

if not cpu.available():
    pytest.skip(cpu.reason(), allow_module_level=True)

from kernels.backend import build_decoder
from kernels.cpu import _ext
from kernels.cpu.decoder import CpuDecoder
from kernels.decoder import Batch, DecoderSpec, DecoderWeights, ExpertMemory, MixtureSpec, MixtureWeights
from tests.oracles import random_decoder

EXPERTS, TOP_K, HIDDEN, WIDTH = 16, 3, 32, 64
EXPERT_BYTES = 3 * HIDDEN * WIDTH * 4
URGENT, NORMAL, PREFETCH = 0, 1, 2

Steps = list[list[list[int]]]
"""Of every step, the experts that each of its tokens chose."""


def steps() -> st.SearchStrategy[Steps]:
    chosen = st.lists(st.integers(0, EXPERTS - 1), min_size=TOP_K, max_size=TOP_K, unique=True)
    return st.lists(st.lists(chosen, min_size=1, max_size=6), max_size=25)


def follow(cache, step: Sequence[Sequence[int]]) -> list[tuple[int, bool, int]]:
    """A step as the pager runs it: admitted in as many waves as it takes, then one look ahead."""
    requests, wanted = [], sorted({expert for ids in step for expert in ids})
    for ids in step:
        cache.record(list(ids))
    while wanted:
        requests += cache.admit(wanted)
        ready = [expert for expert in wanted if cache.resident[expert]]
        assert ready
        wanted = [expert for expert in wanted if expert not in ready]
    return requests + cache.foresee()


@given(plan=steps(), slots=st.integers(1, EXPERTS + 3), spare=st.integers(0, 99))
def test_what_is_in_memory_never_exceeds_its_budget(plan: Steps, slots: int, spare: int) -> None:
    cache = _ext.ExpertCache(EXPERTS, 100, 100 * slots + spare)
    resident: set[int] = set()
    for step in plan:
        for expert, comes, urgency in follow(cache, step):
            assert (expert in resident) != comes  # nothing is read twice or dropped twice
            (resident.add if comes else resident.remove)(expert)
            assert 100 * len(resident) <= 100 * slots + spare
            assert urgency == NORMAL if not comes else urgency in (URGENT, PREFETCH)
        assert cache.cached_bytes == 100 * len(resident) == 100 * sum(cache.resident)
    hits, misses, decisions, paged_in, paged_out, foreseen = cache.counts
    assert hits + misses == TOP_K * decisions == TOP_K * sum(map(len, plan))
    assert paged_in - paged_out == len(resident)
    assert foreseen <= paged_in


@given(plan=steps(), slots=st.integers(1, EXPERTS))
def test_the_same_steps_are_decided_alike(plan: Steps, slots: int) -> None:
    one, other = (_ext.ExpertCache(EXPERTS, 100, 100 * slots) for _ in range(2))
    assert [follow(one, step) for step in plan] == [follow(other, step) for step in plan]
    assert one.affinity == other.affinity


@given(plan=steps())
def test_affinity_is_an_exponential_mean(plan: Steps) -> None:
    cache, wanted = _ext.ExpertCache(EXPERTS, 100, 300), np.zeros(EXPERTS)
    for ids in (ids for step in plan for ids in step):
        cache.record(ids)
        wanted *= 0.99
        wanted[ids] += 0.01
    np.testing.assert_allclose(cache.affinity, wanted, rtol=1e-9)


def test_the_one_chosen_longest_ago_makes_room_and_none_that_the_step_wants() -> None:
    cache = _ext.ExpertCache(4, 100, 300)
    for ids in ([2], [0], [1]):
        cache.record(ids)
        cache.admit(ids)
    cache.record([3])
    assert cache.admit([3]) == [(2, False, NORMAL), (3, True, URGENT)]
    cache.record([2])
    assert cache.admit([0, 2]) == [(1, False, NORMAL), (2, True, URGENT)]  # 0 was chosen longer ago, but is wanted


def test_of_experts_chosen_by_one_token_the_least_affine_makes_room() -> None:
    cache = _ext.ExpertCache(4, 100, 200)
    cache.record([0])
    cache.record([0, 1])
    cache.admit([0, 1])
    cache.record([3])
    assert cache.admit([3]) == [(1, False, NORMAL), (3, True, URGENT)]


def test_a_likely_expert_is_foreseen() -> None:
    cache = _ext.ExpertCache(4, 100, 100)
    cache.record([0])
    cache.admit([0])
    for _ in range(63):
        cache.record([1])
        assert cache.foresee() == []  # the other was chosen not long ago
    cache.record([1])
    assert cache.foresee() == [(0, False, NORMAL), (1, True, PREFETCH)]
    assert cache.foresee() == []


def test_room_that_is_free_is_filled_with_what_is_likely() -> None:
    cache = _ext.ExpertCache(4, 100, 200)
    cache.record([3])
    assert cache.foresee() == [(3, True, PREFETCH)]
    assert cache.foresee() == []  # no other was chosen


def test_a_budget_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="99 bytes of memory; one of them takes 100"):
        _ext.ExpertCache(4, 100, 99)
    with pytest.raises(ValueError, match="expert 4; accepted: 0 to 3"):
        _ext.ExpertCache(4, 100, 100).record([4])


def model(bits: int | None = None, layers: int = 3) -> tuple[DecoderSpec, DecoderWeights]:
    random = np.random.default_rng(5)
    spec, weights = random_decoder.model(bits=bits, layers=layers)

    def matrix(outputs: int, inputs: int):
        return random_decoder.matrix(random, outputs, inputs, bits)

    def mixture() -> MixtureWeights:
        experts = [(matrix(WIDTH, HIDDEN), matrix(WIDTH, HIDDEN), matrix(HIDDEN, WIDTH)) for _ in range(EXPERTS)]
        return MixtureWeights(random_decoder.matrix(random, EXPERTS, HIDDEN), experts)

    made = tuple(replace(layer, mixture=mixture(), gate=None, up=None, down=None) for layer in weights.layers)
    return replace(spec, mixture=MixtureSpec(EXPERTS, TOP_K, WIDTH, True)), replace(weights, layers=made)


def run(decoder: CpuDecoder, tokens: list[int], cuts: Sequence[int]) -> np.ndarray:
    """Logits of all tokens of a row, brought in pieces."""
    kv, out = decoder.allocate_kv(4, 16), []
    for begin, end in pairwise(cuts):
        batch = Batch(
            np.array(tokens[begin:end], np.int32),
            np.array([0, end - begin], np.int32),
            np.array([begin], np.int32),
            np.array([[2, 0, 3, 1]], np.int32),
            np.arange(end - begin, dtype=np.int32),
        )
        out.append(decoder.forward(batch, kv).copy())
    return np.concatenate(out)


TOKENS = np.random.default_rng(3).integers(0, 40, 60).tolist()
CUTS = [0, 33, *range(34, 50), 60]


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bits", [None, 4, 8])
@pytest.mark.parametrize("slots", [TOP_K, 8, EXPERTS])
def test_without_a_bonus_answers_are_those_with_all_in_memory(
    tmp_path: Path, slots: int, bits: int | None, layers: int
) -> None:
    spec, weights = model(bits, layers)
    whole = CpuDecoder(spec, weights)
    paged = CpuDecoder(spec, weights, experts=ExpertMemory(layers * slots * EXPERT_BYTES, 0.0, tmp_path))
    assert paged.weight_bytes < whole.weight_bytes
    assert whole.expert_counts is None
    np.testing.assert_array_equal(run(paged, TOKENS, CUTS), run(whole, TOKENS, CUTS))
    counts = paged.expert_counts
    assert counts is not None
    assert counts.decisions == layers * len(TOKENS)
    assert counts.hits + counts.misses == TOP_K * counts.decisions
    assert 0 < counts.cached_bytes <= layers * slots * EXPERT_BYTES
    if bits is None:
        assert (counts.paged_out == 0) == (slots == EXPERTS)
    assert not list(tmp_path.iterdir())  # the file has no name


def test_a_bonus_saves_reading_and_follows_from_the_steps(tmp_path: Path) -> None:
    spec, weights = model()
    made = [
        CpuDecoder(spec, weights, experts=ExpertMemory(3 * 6 * EXPERT_BYTES, bonus, tmp_path))
        for bonus in (0.0, 0.3, 0.3)
    ]
    plain, drawn, again = (run(decoder, TOKENS, CUTS) for decoder in made)
    np.testing.assert_array_equal(drawn, again)
    assert [decoder.isa_class.partition("-bonus")[2] for decoder in made] == ["", "0.3", "0.3"]
    assert not np.array_equal(drawn, plain)
    counts = [decoder.expert_counts for decoder in made]
    assert counts[1]._replace(decision_ns=0) == counts[2]._replace(decision_ns=0)
    assert counts[1].misses < counts[0].misses
    assert counts[1].bytes_in < counts[0].bytes_in


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    spec, weights = model()
    least = 3 * TOP_K * EXPERT_BYTES
    with pytest.raises(
        ValueError, match=f"{least - 1} bytes; accepted: {least} or more, 3 experts for each of 3 layers"
    ):
        CpuDecoder(spec, weights, experts=ExpertMemory(least - 1, 0.0, tmp_path))
    with pytest.raises(ValueError, match=r"bonus is 1\.5"):
        CpuDecoder(spec, weights, experts=ExpertMemory(least, 1.5, tmp_path))
    with pytest.raises(ValueError, match="the model has no experts"):
        CpuDecoder(*random_decoder.model(), experts=ExpertMemory(least, 0.0, tmp_path))
    with pytest.raises(ValueError, match="where MLX runs the model, all are in memory"):
        build_decoder(spec, weights, backend="mlx", experts=ExpertMemory(least, 0.0, tmp_path))
