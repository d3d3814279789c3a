"""The sampler: what it may draw, how often, and that its implementations agree."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import cpu, ops, reference, sampling
from kernels.sampling import SampleBatch

Sampler = Callable[[np.ndarray, SampleBatch], np.ndarray]

SAMPLERS = {
    "numpy": sampling.sample,
    "mlx": lambda logits, batch: reference.sample(mx.array(logits), batch),
    "ops": lambda logits, batch: ops.sample(mx.array(logits), batch),
}


@pytest.fixture(params=SAMPLERS)
def sample(request: pytest.FixtureRequest) -> Sampler:
    """The specification, its MLX twin, and what the engine calls (the compiled one, where it is installed)."""
    if request.param == "ops" and not cpu.available():
        pytest.skip(cpu.reason())
    return SAMPLERS[request.param]


def packed(allowed: set[int], vocab: int) -> np.ndarray:
    """A mask's words."""
    words = np.zeros(-(-vocab // 32), np.uint32)
    for i in allowed:
        words[i // 32] |= np.uint32(1 << i % 32)
    return words


def batch(
    rows: int = 1,
    *,
    seen: list[dict[int, int]] | None = None,
    bias: list[dict[int, float]] | None = None,
    masks: dict[int, np.ndarray] | None = None,
    **columns,
) -> SampleBatch:
    """Columns given as scalars or lists; `seen` maps an id to its count in the output, `bias` an id to its bias,
    `masks` a row to its mask's words."""
    values = {
        "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition": 1.0, "presence": 0.0,
        "frequency": 0.0, "seed": 0, "position": 0,
    } | columns  # fmt: skip
    types = {"top_k": np.int32, "seed": np.uint64, "position": np.int32}
    filled = {
        name: np.ascontiguousarray(np.broadcast_to(np.array(value, types.get(name, np.float32)), rows))
        for name, value in values.items()
    }
    seen, bias = seen or [{}] * rows, bias or [{}] * rows
    return SampleBatch(
        **filled,
        seen_starts=np.cumsum([0, *map(len, seen)], dtype=np.int32),
        seen_ids=np.array([i for row in seen for i in row], np.int32),
        seen_output_counts=np.array([count for row in seen for count in row.values()], np.int32),
        bias_starts=np.cumsum([0, *map(len, bias)], dtype=np.int32),
        bias_ids=np.array([i for row in bias for i in row], np.int32),
        bias_values=np.array([value for row in bias for value in row.values()], np.float32),
    )._replace(**_masks(masks or {}))


def _masks(masks: dict[int, np.ndarray]) -> dict[str, np.ndarray]:
    if not masks:
        return {}
    return {"masked_rows": np.array(list(masks), np.int32), "masks": np.stack(list(masks.values()))}


def random_logits(rows: int, vocab: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, vocab)) * 2).astype(np.float32)


def drawn(sample: Sampler, logits: list[float], draws: int = 400, **columns) -> np.ndarray:
    """Ids that one row of logits gives at positions 0, 1, ..."""
    rows = np.tile(np.array(logits, np.float32), (draws, 1))
    spans = {name: [columns.pop(name)] * draws for name in ("seen", "bias") if name in columns}
    if (allowed := columns.pop("allowed", None)) is not None:
        spans["masks"] = dict.fromkeys(range(draws), packed(allowed, len(logits)))
    return sample(rows, batch(draws, position=np.arange(draws), **spans, **columns))


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_known_answers(counter: list[int], key: list[int], words: list[int]) -> None:
    """Random123's kat_vectors for philox4x32, 10 rounds."""
    got = sampling.philox(np.array([counter], np.uint32), np.array([key], np.uint32))
    assert got[0].tolist() == words


def test_uniform_is_the_top_bits_of_the_first_word() -> None:
    assert sampling.uniform(np.zeros(1, np.uint64), np.zeros(1, np.int32))[0] == 0x6627E8D5 >> 8
    high = np.array([7 + (1 << 32), 7], np.uint64)
    assert len(set(sampling.uniform(high, np.zeros(2, np.int32)).tolist())) == 2


def test_greedy_takes_the_largest_and_the_lower_id_of_equals(sample: Sampler) -> None:
    logits = np.array([[1, 3, 2, 3], [-5, -5, -5, -5], [0, 0, 0, 1]], np.float32)
    assert sample(logits, batch(3, temperature=0)).tolist() == [1, 0, 3]


def test_greedy_follows_penalties_and_bias(sample: Sampler) -> None:
    logits = np.tile(np.array([1, 3, 2.5, -0.1], np.float32), (5, 1))
    seen = [{1: 1}, {1: 3}, {1: 2}, {1: 0}, {}]
    columns = {"presence": [0, 0, 0.6, 0.6, 0], "frequency": [0, 0.2, 0, 0, 0], "repetition": [1.5, 1, 1, 1, 1]}
    bias = [{}, {}, {}, {}, {1: -np.inf, 2: -np.inf, 3: 2.0}]
    got = sample(logits, batch(5, temperature=0, seen=seen, bias=bias, **columns))
    # 3 / 1.5 < 2.5; 3 - 3 * 0.2 < 2.5; 3 - 0.6 < 2.5; only in the prompt: 3 stays; -0.1 + 2 > 1
    assert got.tolist() == [2, 2, 2, 1, 3]


def test_repetition_lowers_negative_logits_too(sample: Sampler) -> None:
    got = sample(np.array([[-1, -1.5]], np.float32), batch(temperature=0, repetition=2, seen=[{0: 0}]))
    assert got.tolist() == [1]


def test_stages_come_in_their_order(sample: Sampler) -> None:
    """Repetition multiplies before presence subtracts and before the bias: 4 / 2 - 1 + 0.6 = 1.6, not (4 - 0.4) / 2."""
    logits = np.array([[4, 1.5], [4, 1.7]], np.float32)
    got = sample(logits, batch(2, temperature=0, repetition=2, presence=1, seen=[{0: 1}] * 2, bias=[{0: 0.6}] * 2))
    assert got.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("columns", "support"),
    [
        ({}, {0, 1, 2, 3}),
        ({"top_k": 1}, {0}),
        ({"top_k": 2}, {0, 1}),
        ({"top_k": 9}, {0, 1, 2, 3}),
        ({"top_p": 0.39}, {0}),
        ({"top_p": 0.41}, {0, 1}),
        ({"top_p": 0.71}, {0, 1, 2}),
        ({"top_p": 1e-9}, {0}),
        ({"min_p": 0.6}, {0, 1}),
        ({"min_p": 0.4}, {0, 1, 2}),
        ({"min_p": 1.0}, {0}),
        ({"top_k": 3, "top_p": 0.5}, {0, 1}),  # 0.4 of 0.9 is 0.44
        ({"top_k": 2, "top_p": 0.56}, {0}),  # 0.4 of 0.7 is 0.57: renormalised before top-p
        ({"bias": {0: -np.inf}, "top_k": 2}, {1, 2}),
        ({"temperature": 0.01}, {0}),
        ({"allowed": {1, 3}}, {1, 3}),
        ({"allowed": {1, 2, 3}, "top_k": 2}, {1, 2}),
        ({"allowed": {1, 2, 3}, "top_p": 0.49}, {1}),  # 0.3 of 0.6
        ({"allowed": {2, 3}, "min_p": 0.6}, {2}),  # of the largest that is allowed
        ({"allowed": {2, 3}, "temperature": 0}, {2}),
        ({"allowed": {1, 3}, "bias": {0: 100.0, 2: 9.0}}, {1, 3}),  # a bias does not lift the mask
        ({"allowed": {1, 3}, "bias": {0: np.inf}}, {1, 3}),
        ({"allowed": {1, 3}, "bias": {1: -np.inf}}, {3}),
        ({"allowed": {1, 3}, "seen": {0: 1, 2: 0}, "presence": -50, "repetition": 3}, {1, 3}),
    ],
    ids=str,
)
def test_support(sample: Sampler, columns: dict, support: set[int]) -> None:
    """Exactly the tokens that may be drawn are drawn, of probabilities 0.4, 0.3, 0.2, 0.1."""
    assert set(drawn(sample, np.log([0.4, 0.3, 0.2, 0.1]).tolist(), **columns).tolist()) == support


def test_ties_at_a_threshold_keep_the_lower_ids(sample: Sampler) -> None:
    assert set(drawn(sample, [0, 1, 1, 1, 0], top_k=2).tolist()) == {1, 2}
    assert set(drawn(sample, [1, 1, 1, 1], top_p=0.5).tolist()) == {0, 1}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_distribution_by_chi_square(sample: Sampler, temperature: float) -> None:
    logits = np.array([0.3, -1, 2, 0, 1, -0.5, 0.9, 1.4])
    expected = np.exp(logits / temperature)
    draws = 20000
    expected *= draws / expected.sum()
    counts = np.bincount(drawn(sample, logits.tolist(), draws, temperature=temperature, seed=11), minlength=8)
    assert ((counts - expected) ** 2 / expected).sum() < 24.3  # 7 degrees of freedom, p = 0.001; the seed is fixed


@pytest.mark.parametrize("temperature", [0.1, 1.0, 2.0])
def test_weights_are_the_softmax(temperature: float) -> None:
    logits = random_logits(1, 20000)[0] * 4
    exact = 2.0**30 * np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    got = sampling.weights(logits, sampling.rate(np.array([temperature], np.float32))[0])
    assert got.max() == 2**30
    rate_error = abs(float(np.float32(temperature)) / temperature - 1)
    assert (abs(got - exact) <= 0.5 + (3e-6 + 40 * rate_error) * exact).all()


@pytest.mark.parametrize("temperature", [1e-45, 1e-30, 1e30, 3e38])
def test_extreme_temperatures(sample: Sampler, temperature: float) -> None:
    support = set(drawn(sample, [0, 1, 3, 3, -np.inf], temperature=temperature).tolist())
    assert support == ({2, 3} if temperature < 1 else {0, 1, 2, 3})


def test_a_mask_ends_with_the_vocabulary(sample: Sampler) -> None:
    """Bits past the last id mean nothing, and words are read in order."""
    for vocab in (31, 32, 33, 64, 100):
        words = packed({vocab - 1}, vocab)
        if vocab % 32:
            words[-1] |= np.uint32(0xFFFFFFFF << vocab % 32 & 0xFFFFFFFF)
        logits = np.zeros((2, vocab), np.float32)
        assert sample(logits, batch(2, seed=4, masks={1: words}))[1] == vocab - 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_mask_that_allows_nothing_is_named(sample: Sampler, temperature: float) -> None:
    nothing = np.array([0, 0xFFFFFFF0], np.uint32)  # bits past the vocabulary allow nothing
    with pytest.raises(ValueError, match="row 2 has no token to draw: its mask allows none of the 36 ids"):
        sample(np.zeros((3, 36), np.float32), batch(3, temperature=temperature, masks={0: packed({3}, 36), 2: nothing}))


def test_a_mask_whose_ids_are_banned_is_nothing_to_draw(sample: Sampler) -> None:
    banned = batch(1, masks={0: packed({1}, 4)}, bias=[{1: -np.inf}])
    with pytest.raises(ValueError, match="row 0 has no token to draw: the largest of its logits is -inf"):
        sample(np.zeros((1, 4), np.float32), banned)


def test_seeds_are_independent_streams(sample: Sampler) -> None:
    """Uniforms of neighbouring seeds and positions must not move together."""
    logits = [0.0] * 16
    first, second = (drawn(sample, logits, 4000, seed=seed) for seed in (1, 2))
    assert abs(np.mean(first == second) - 1 / 16) < 0.02
    assert abs(np.mean(first[1:] == first[:-1]) - 1 / 16) < 0.02


@settings(max_examples=30)
@given(st.data())
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_row_draws_the_same_alone_and_in_any_batch(name: str, data: st.DataObject) -> None:
    if name == "ops" and not cpu.available():
        pytest.skip(cpu.reason())
    rows, vocab = data.draw(st.integers(1, 5)), data.draw(st.sampled_from([1, 2, 17, 257]))
    logits, whole = random_logits(rows, vocab, data.draw(st.integers(0, 99))), _any_batch(data, rows, vocab)
    together = SAMPLERS[name](logits, whole)
    alone = [SAMPLERS[name](logits[r : r + 1], _row(whole, r))[0] for r in range(rows)]
    assert together.tolist() == alone


@settings(max_examples=60)
@given(st.data())
def test_implementations_agree(data: st.DataObject) -> None:
    """Id by id: their weights are the same integers."""
    rows, vocab = data.draw(st.integers(1, 5)), data.draw(st.sampled_from([1, 2, 17, 257]))
    logits, any_batch = random_logits(rows, vocab, data.draw(st.integers(0, 99))), _any_batch(data, rows, vocab)
    want = sampling.sample(logits, any_batch).tolist()
    assert SAMPLERS["mlx"](logits, any_batch).tolist() == want
    assert SAMPLERS["ops"](logits, any_batch).tolist() == want


def test_implementations_agree_on_a_large_vocabulary() -> None:
    logits = random_logits(6, 49152) * 2
    columns = {"top_p": [1, 0.9, 1, 0.95, 1, 1], "top_k": [0, 0, 40, 50, 0, 0], "min_p": [0, 0, 0, 0.05, 0.1, 0]}
    large = batch(
        6, temperature=[1, 0.7, 0.8, 1, 1.5, 0], seed=[1, 2, 3, 4, 1 << 63, 6], position=[9, 8, 7, 6, 5, 4], **columns
    )
    want = sampling.sample(logits, large).tolist()
    for name in ("mlx", "ops"):
        assert SAMPLERS[name](logits, large).tolist() == want


def test_the_logits_are_left_alone(sample: Sampler) -> None:
    logits = random_logits(2, 9)
    before = logits.copy()
    sample(logits, batch(2, repetition=2, seen=[{1: 1}, {2: 0}], bias=[{3: 1.0}, {}]))
    np.testing.assert_array_equal(logits, before)
    shared = mx.array(before)
    ops.sample(shared, batch(2, repetition=2, seen=[{1: 1}, {2: 0}], bias=[{3: 1.0}, {}]))
    reference.sample(shared, batch(2, repetition=2, seen=[{1: 1}, {2: 0}], bias=[{3: 1.0}, {}]))
    np.testing.assert_array_equal(np.array(shared), before)


def test_no_rows(sample: Sampler) -> None:
    got = sample(np.zeros((0, 5), np.float32), batch(0))
    assert (got.shape, got.dtype) == ((0,), np.int32)


@pytest.mark.parametrize("logits", [[[0, 1], [np.nan, np.nan]], [[0, 1], [-np.inf, -np.inf]]])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_with_nothing_to_draw_is_named(sample: Sampler, logits: list, temperature: float) -> None:
    with pytest.raises(ValueError, match="row 1 has no token to draw"):
        sample(np.array(logits, np.float32), batch(2, temperature=temperature))


def test_all_banned_is_nothing_to_draw(sample: Sampler) -> None:
    with pytest.raises(ValueError, match="row 0 has no token to draw"):
        sample(np.zeros((1, 2), np.float32), batch(bias=[{0: -np.inf, 1: -np.inf}]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seen_starts": np.array([0, 1], np.int32)}, "seen_starts must rise from 0 to 0"),
        ({"top_k": np.zeros(2, np.int32)}, "top_k has 2 rows"),
        (
            {
                "bias_ids": np.array([5], np.int32),
                "bias_values": np.zeros(1, np.float32),
                "bias_starts": np.array([0, 1], np.int32),
            },
            "bias_ids",
        ),
        ({"bias_values": np.zeros(1, np.float32)}, "bias has 0 ids but 1 values"),
        (_masks({0: np.ones(2, np.uint32)}), r"masks must be \[1, 1\], a row for each of masked_rows; got \[1, 2\]"),
        ({"masked_rows": np.zeros(1, np.int32)}, r"masks must be \[1, 1\].*; got \[0, 0\]"),
        (_masks({1: np.ones(1, np.uint32)}), r"masked_rows must rise within \[0, 1\)"),
        (_masks({-1: np.ones(1, np.uint32)}), r"masked_rows must rise within \[0, 1\)"),
        ({"temperature": np.array([-1], np.float32)}, r"temperature must lie in \[0, inf\), got -1.* in row 0"),
        ({"temperature": np.array([np.inf], np.float32)}, r"temperature must lie in \[0, inf\), got inf"),
        ({"top_k": np.array([-1], np.int32)}, r"top_k must lie in \[0, inf\), got -1"),
        ({"top_p": np.array([0], np.float32)}, r"top_p must lie in \(0, 1\], got 0"),
        ({"top_p": np.array([np.nan], np.float32)}, r"top_p must lie in \(0, 1\], got nan"),
        ({"min_p": np.array([1.5], np.float32)}, r"min_p must lie in \[0, 1\], got 1.5"),
    ],
)
def test_a_malformed_batch_is_refused(sample: Sampler, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(np.zeros((1, 5), np.float32), batch()._replace(**change))


def _any_batch(data: st.DataObject, rows: int, vocab: int) -> SampleBatch:
    def column(strategy: st.SearchStrategy) -> list:
        return data.draw(st.lists(strategy, min_size=rows, max_size=rows))

    ids = st.integers(0, vocab - 1)
    masked = data.draw(st.sets(st.integers(0, rows - 1)))
    masks = {row: packed(data.draw(st.sets(ids, min_size=1)), vocab) for row in sorted(masked)}
    return batch(
        rows,
        masks=masks,
        temperature=column(st.sampled_from([0, 0.3, 1, 1.7])),
        top_k=column(st.sampled_from([0, 1, 3, 300])),
        top_p=column(st.sampled_from([1, 0.9, 0.3])),
        min_p=column(st.sampled_from([0, 0.03, 0.2])),
        repetition=column(st.sampled_from([1, 1.3, 0.8])),
        presence=column(st.sampled_from([0, 0.5, -0.5])),
        frequency=column(st.sampled_from([0, 0.25])),
        seed=column(st.integers(0, 2**64 - 1)),
        position=column(st.integers(0, 2**31 - 1)),
        seen=column(st.dictionaries(ids, st.integers(0, 3), max_size=4)),
        bias=column(st.dictionaries(ids, st.sampled_from([1.5, -2.0]), max_size=3)),
    )


def _row(whole: SampleBatch, r: int) -> SampleBatch:
    others = [name for name in whole._fields if "_starts" in name or name == "logprobs"]
    columns = {name: value[r : r + 1] for name, value in whole._asdict().items() if name not in others}
    mine = whole.masked_rows == r
    seen = slice(whole.seen_starts[r], whole.seen_starts[r + 1])
    bias = slice(whole.bias_starts[r], whole.bias_starts[r + 1])
    return SampleBatch(**columns | {
        "seen_starts": np.array([0, seen.stop - seen.start], np.int32),
        "seen_ids": whole.seen_ids[seen],
        "seen_output_counts": whole.seen_output_counts[seen],
        "bias_starts": np.array([0, bias.stop - bias.start], np.int32),
        "bias_ids": whole.bias_ids[bias],
        "bias_values": whole.bias_values[bias],
        "masked_rows": np.zeros(mine.sum(), np.int32),
        "masks": whole.masks[mine],
    })  # fmt: skip


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_mask_that_leaves_no_choice_is_the_answer_whatever_the_logits(sample: Sampler, temperature: float) -> None:
    logits = random_logits(6, 70)
    logits[0], logits[1, 69], logits[2], logits[4, 3] = np.nan, -np.inf, np.inf, np.nan
    masks = {row: packed({69}, 70) for row in range(3)} | {4: packed({33}, 70)}
    columns = {"top_k": 3, "top_p": 0.5, "presence": 9.0, "seed": 7, "temperature": temperature}
    got = sample(logits, batch(6, masks=masks, seen=[{69: 2}] * 6, bias=[{69: -50.0}] * 6, **columns))
    assert got[[0, 1, 2, 4]].tolist() == [69, 69, 69, 33]
    free = batch(1, seen=[{69: 2}], bias=[{69: -50.0}], **columns)
    assert got[[3, 5]].tolist() == [sample(logits[row : row + 1], free)[0] for row in (3, 5)]


def test_with_a_choice_the_logits_must_be_finite(sample: Sampler) -> None:
    logits = np.full((1, 40), np.nan, np.float32)
    with pytest.raises(ValueError, match="row 0 has no token to draw: the largest of its logits is nan"):
        sample(logits, batch(1, masks={0: packed({3, 39}, 40)}))
