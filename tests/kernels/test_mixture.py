"""The choice of experts and the mixture's feed-forward, compiled and in MLX, beside their definition."""

from collections.abc import Iterator

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import cpu, reference

if not cpu.available():
    pytest.skip(cpu.reason(), allow_module_level=True)

from kernels.cpu import _ext
from kernels.cpu.decoder import CpuDecoder
from kernels.decoder import Batch, DecoderSpec, DecoderWeights, MixtureSpec, MixtureWeights, Rounding
from tests.oracles import float64, random_decoder

HIDDEN, WIDTH, EXPERTS, TOP_K = 32, 64, 12, 3
ISAS = _ext.supported_isas(emulated=True)


def compiled(logits, top_k, normalize=True, resident=None, bonus=0.0) -> tuple[np.ndarray, np.ndarray]:
    rows, experts = logits.shape
    flags = np.zeros(experts, np.uint8) if resident is None else resident.astype(np.uint8)
    ids, weights = np.empty((rows, top_k), np.int32), np.empty((rows, top_k), np.float32)
    _ext.choose_experts(logits.astype(np.float32), flags, top_k, normalize, bonus, ids, weights)
    return ids, weights


def in_mlx(logits, top_k, normalize=True, resident=None, bonus=0.0) -> tuple[np.ndarray, np.ndarray]:
    flags = None if resident is None else mx.array(resident)
    ids, weights = reference.choose(mx.array(logits.astype(np.float32)), top_k, normalize, flags, bonus)
    return np.array(ids), np.array(weights)


def defined(logits, top_k, normalize, resident, bonus) -> tuple[list[int], np.ndarray]:
    """One token's, in float64."""
    logits = logits.astype(np.float32).astype(np.float64)
    spread = logits.max() - logits.min()
    scores = (logits - logits.min()) / (spread or 1) + np.float64(np.float32(bonus)) * resident if bonus else logits
    ids = sorted(range(len(logits)), key=lambda expert: (-scores[expert], expert))[:top_k]
    powers = np.exp(logits - logits.max())
    return ids, powers[ids] / (powers[ids].sum() if normalize else powers.sum())


@pytest.mark.parametrize("choose", [compiled, in_mlx])
@given(
    seed=st.integers(0, 2**32 - 1),
    experts=st.integers(1, 130),
    bonus=st.sampled_from([0.0, 0.15, 1.0]),
    normalize=st.booleans(),
)
def test_the_choice_is_its_definition(choose, seed: int, experts: int, bonus: float, normalize: bool) -> None:
    random = np.random.default_rng(seed)
    logits = random.standard_normal((4, experts)) * 3
    resident, top_k = random.random(experts) < 0.5, int(random.integers(1, min(experts, 16) + 1))
    ids, weights = choose(logits, top_k, normalize, resident, bonus)
    for row, own in enumerate(logits):
        wanted, shares = defined(own, top_k, normalize, resident, bonus)
        assert ids[row].tolist() == wanted
        np.testing.assert_allclose(weights[row], shares, rtol=1e-5)


@pytest.mark.parametrize("choose", [compiled, in_mlx])
def test_ties_go_to_the_lower_id(choose) -> None:
    assert choose(np.zeros((1, 9)), 4)[0].tolist() == [[0, 1, 2, 3]]
    assert choose(np.array([[1, 2, 2, 0, 2.0]]), 3)[0].tolist() == [[1, 2, 4]]
    resident = np.array([0, 0, 1, 0, 1], bool)
    assert choose(np.zeros((1, 5)), 3, True, resident, 0.15)[0].tolist() == [[2, 4, 0]]


@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-20, 20), coarse=st.booleans())
def test_without_a_bonus_it_is_plain_top_k(seed: int, exponent: int, coarse: bool) -> None:
    random = np.random.default_rng(seed)
    logits = random.standard_normal((1, 64)).astype(np.float32) * np.float32(2.0**exponent)
    logits = np.round(logits, 1) if coarse else logits
    plain = np.argsort(-logits[0], kind="stable")[:8]
    for resident in (np.zeros(64, bool), np.ones(64, bool), random.random(64) < 0.5):
        assert compiled(logits, 8, True, resident, 0.0)[0][0].tolist() == plain.tolist()


@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-20, 20))
def test_what_the_bonus_does_does_not_depend_on_scale(seed: int, exponent: int) -> None:
    random = np.random.default_rng(seed)
    logits, resident = random.standard_normal((1, 64)).astype(np.float32), random.random(64) < 0.5
    ids, _ = compiled(logits, 8, True, resident, 0.15)
    scaled, _ = compiled(logits * np.float32(2.0**exponent), 8, True, resident, 0.15)
    assert ids.tolist() == scaled.tolist()


def test_the_bonus_draws_towards_residents_and_leaves_weights_alone() -> None:
    logits = np.array([[1.0, 0.99, 0.5, 0.0]])
    resident = np.array([0, 1, 0, 0], bool)
    ids, weights = compiled(logits, 1, False, resident, 0.15)
    assert ids.tolist() == [[1]]
    np.testing.assert_allclose(weights, [[np.exp(0.99) / np.exp(logits).sum()]], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_an_error(bad: float) -> None:
    logits = np.zeros((2, 8))
    logits[1, 5] = bad
    with pytest.raises(ValueError, match="row 1 are not finite"):
        compiled(logits, 2)


@pytest.mark.parametrize(
    ("top_k", "resident", "bonus", "said"),
    [
        (0, 8, 0.0, "top_k is 0; accepted: 1 to 8"),
        (9, 8, 0.0, "top_k is 9"),
        (2, 7, 0.0, "7 entries"),
        (2, 8, -1.0, "0 to 1"),
    ],
)
def test_what_cannot_be_chosen(top_k: int, resident: int, bonus: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        compiled(np.zeros((1, 8)), top_k, True, np.zeros(resident, bool), bonus)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    _ext.set_isa(request.param)
    yield request.param
    _ext.set_isa("auto")


def model(bits: int | None, shared: bool, normalize: bool) -> tuple[DecoderSpec, DecoderWeights]:
    """A decoder of two layers, both mixtures."""
    from dataclasses import replace

    random = np.random.default_rng(5)
    spec, weights = random_decoder.model(bits=bits, head_dim=8)

    def matrix(outputs: int, inputs: int):
        return random_decoder.matrix(random, outputs, inputs, bits)

    def mixture() -> MixtureWeights:
        experts = [(matrix(WIDTH, HIDDEN), matrix(WIDTH, HIDDEN), matrix(HIDDEN, WIDTH)) for _ in range(EXPERTS)]
        router = random_decoder.matrix(random, EXPERTS, HIDDEN)  # dense, also where the experts are not
        return MixtureWeights(router, experts, matrix(1, HIDDEN) if shared else None)

    nothing = {} if shared else {"gate": None, "up": None, "down": None}
    layers = tuple(replace(layer, mixture=mixture(), **nothing) for layer in weights.layers)
    shape = MixtureSpec(EXPERTS, TOP_K, WIDTH, normalize, 64 if shared else 0)
    return replace(spec, mixture=shape), replace(weights, layers=layers)


def batch(rows: list[tuple[list[int], int, list[int]]]) -> Batch:
    """Rows of (tokens, length before, pages), logits of all tokens."""
    starts = np.cumsum([0, *(len(tokens) for tokens, _, _ in rows)]).astype(np.int32)
    return Batch(
        np.concatenate([tokens for tokens, _, _ in rows]).astype(np.int32),
        starts,
        np.array([length for _, length, _ in rows], np.int32),
        np.array([pages for _, _, pages in rows], np.int32),
        np.arange(starts[-1], dtype=np.int32),
    )


@pytest.mark.parametrize("rounding", ["fine", "mixed"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("bits", [None, 4, 8])
def test_logits_match_the_oracle(isa: str, bits: int | None, shared: bool, rounding: Rounding) -> None:
    spec, weights = model(bits, shared, normalize=not shared)
    tokens = np.random.default_rng(1).integers(0, spec.vocab, 30).tolist()
    decoder = CpuDecoder(spec, weights, rounding=rounding)
    got = decoder.forward(batch([(tokens, 0, [1, 0])]), decoder.allocate_kv(2, 16))
    want = float64.decoder_logits(spec, weights, tokens)
    # Now and then a rounded activation tips a choice between two experts of nearly one logit.
    near = np.abs(got - want).max(axis=1) < (0.02 if rounding == "fine" else 0.25)
    assert near.mean() > 0.9


@pytest.mark.parametrize("bits", [None, 4])
def test_a_row_is_the_same_bits_in_any_batch(isa: str, bits: int | None) -> None:
    """Whole, in chunks, token by token, beside other rows, on one thread and on three."""
    spec, weights = model(bits, shared=True, normalize=True)
    decoder = CpuDecoder(spec, weights)
    random = np.random.default_rng(2)
    tokens, other = random.integers(0, spec.vocab, 40).tolist(), random.integers(0, spec.vocab, 90).tolist()
    whole = decoder.forward(batch([(tokens, 0, [0, 1, 2, -1, -1, -1])]), decoder.allocate_kv(9, 16))
    for threads in (1, 3):
        _ext.set_threads(threads)
        kv, rows, at = decoder.allocate_kv(9, 16), [], 0
        for size in (1, 2, 17, 1, 1, 18):
            beside = other[2 * at : 2 * (at + size)]
            chunks = [(beside, 2 * at, [3, 4, 5, 6, 7, 8]), (tokens[at : at + size], at, [0, 1, 2, -1, -1, -1])]
            rows.append(decoder.forward(batch(chunks), kv)[len(beside) :].copy())
            at += size
        np.testing.assert_array_equal(np.concatenate(rows), whole)
    _ext.set_threads(0)


def test_a_row_without_numbers_spoils_no_other() -> None:
    spec, weights = model(None, shared=False, normalize=True)
    table = np.array(weights.embedding)
    table[7] = np.nan
    from dataclasses import replace

    decoder = CpuDecoder(spec, replace(weights, embedding=mx.array(table), head=mx.array(table[:, :])))
    alone = decoder.forward(batch([([3, 4], 0, [0])]), decoder.allocate_kv(2, 16))
    both = decoder.forward(batch([([7, 7], 0, [1]), ([3, 4], 0, [0])]), decoder.allocate_kv(2, 16))
    np.testing.assert_array_equal(both[2:], alone)
    assert np.isnan(both[:2]).all()
