"""Log-probabilities beside the draw: every sampler tells those of the raw logits, of exactly the rows that ask."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from kernels import cpu, logprobs, ops, reference, sampling
from kernels.sampling import SampleBatch

Sampler = Callable[[np.ndarray, SampleBatch], np.ndarray]

SAMPLERS = {
    "numpy": sampling.sample,
    "mlx": lambda logits, batch: reference.sample(mx.array(logits), batch),
    "fused": lambda logits, batch: ops.sample(mx.array(logits), batch),
}
TOLERANCE = 1e-4
"""Of the fused sampler's integer weights, over 50,000 ids."""


@pytest.fixture(params=SAMPLERS)
def sample(request: pytest.FixtureRequest) -> Sampler:
    if request.param == "fused" and not cpu.available():
        pytest.skip(cpu.reason())
    return SAMPLERS[request.param]


def batch(rows: int, wanted: logprobs.Logprobs | None, **columns: object) -> SampleBatch:
    values = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition": 1.0, "presence": 0.0}
    values |= {"frequency": 0.0, "seed": 5, "position": 3}
    types = {"top_k": np.int32, "seed": np.uint64, "position": np.int32}
    masks = {name: columns.pop(name) for name in ("masked_rows", "masks") if name in columns}
    filled = {name: np.full(rows, value, types.get(name, np.float32)) for name, value in (values | columns).items()}
    none, starts = np.zeros(0, np.int32), np.zeros(rows + 1, np.int32)
    return SampleBatch(
        **filled,
        seen_starts=starts, seen_ids=none, seen_output_counts=none,
        bias_starts=starts, bias_ids=none, bias_values=np.zeros(0, np.float32), logprobs=wanted, **masks,
    )  # fmt: skip


def asking(rows: dict[int, int]) -> logprobs.Logprobs:
    return logprobs.asked(np.array(list(rows), np.int32), np.array(list(rows.values()), np.int32))


def exact(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("vocab", [5, 300, 49152])
def test_they_are_the_log_softmax_of_the_raw_logits(sample: Sampler, vocab: int) -> None:
    logits = np.random.default_rng(vocab).normal(0, 3, (6, vocab)).astype(np.float32)
    tops = {0: 0, 2: min(5, vocab), 3: 1, 5: min(20, vocab)}
    wanted = asking(tops)
    # Temperature and filters change what is drawn, never what is told.
    drawn = sample(logits, batch(6, wanted, temperature=0.7, top_p=0.9, top_k=50))
    truth = exact(logits)
    np.testing.assert_allclose(wanted.chosen, truth[list(tops), drawn[list(tops)]], atol=TOLERANCE)
    for index, (row, top) in enumerate(tops.items()):
        likeliest = np.argsort(-logits[row], kind="stable")[:top]
        assert wanted.top_ids[index, :top].tolist() == likeliest.tolist()
        np.testing.assert_allclose(wanted.top_values[index, :top], truth[row, likeliest], atol=TOLERANCE)


def test_penalties_bias_and_masks_do_not_show(sample: Sampler) -> None:
    logits = np.random.default_rng(1).normal(0, 1, (1, 64)).astype(np.float32)
    best = int(logits[0].argmax())
    wanted = asking({0: 1})
    plain = batch(1, wanted, temperature=0.0)
    words = np.full((1, 2), 0xFFFFFFFF, np.uint32)
    words[0, best // 32] &= np.uint32(~(1 << best % 32) & 0xFFFFFFFF)
    altered = plain._replace(
        bias_starts=np.array([0, 1], np.int32),
        bias_ids=np.array([(best + 1) % 64], np.int32),
        bias_values=np.array([50], np.float32),
        masked_rows=np.zeros(1, np.int32),
        masks=words,
    )
    drawn = sample(logits, altered)
    assert drawn[0] == (best + 1) % 64
    assert wanted.top_ids[0, 0] == best
    np.testing.assert_allclose(wanted.chosen[0], exact(logits)[0, drawn[0]], atol=TOLERANCE)


def test_all_of_them_together_are_one_and_never_more(sample: Sampler) -> None:
    logits = np.random.default_rng(2).normal(0, 4, (8, 20)).astype(np.float32)
    wanted = asking(dict.fromkeys(range(8), 20))
    sample(logits, batch(8, wanted))
    np.testing.assert_allclose(np.exp(wanted.top_values.astype(np.float64)).sum(axis=1), 1, atol=TOLERANCE)


def test_equal_logits_come_lower_id_first(sample: Sampler) -> None:
    logits = np.zeros((1, 200), np.float32)
    wanted = asking({0: 20})
    sample(logits, batch(1, wanted))
    assert wanted.top_ids[0].tolist() == list(range(20))


def test_what_is_all_but_impossible_is_a_number(sample: Sampler) -> None:
    logits = np.array([[0.0, -np.inf, -50_000.0]], np.float32)
    wanted = asking({0: 3})
    sample(logits, batch(1, wanted, temperature=0.0))
    assert wanted.top_values[0].tolist() == [0.0, logprobs.LEAST, logprobs.LEAST]


def test_a_row_is_told_the_same_alone_and_in_a_batch(sample: Sampler) -> None:
    logits = np.random.default_rng(3).normal(0, 3, (16, 5000)).astype(np.float32)
    wanted = asking({row: row % 7 for row in range(16)})
    drawn = sample(logits, batch(16, wanted))
    for row in range(16):
        alone = asking({0: row % 7})
        assert sample(logits[row : row + 1], batch(1, alone))[0] == drawn[row]
        assert alone.chosen[0] == wanted.chosen[row]
        np.testing.assert_array_equal(alone.top_values[0], wanted.top_values[row, : row % 7])


@pytest.mark.parametrize(
    ("rows", "tops"),
    [([1, 0], [1, 1]), ([0, 4], [1, 1]), ([0], [9]), ([0], [-1])],
    ids=["order", "past", "many", "less"],
)
def test_what_cannot_be_told_is_refused(sample: Sampler, rows: list[int], tops: list[int]) -> None:
    wanted = logprobs.asked(np.array(rows, np.int32), np.abs(np.array(tops, np.int32)))
    wanted = wanted._replace(tops=np.array(tops, np.int32))
    with pytest.raises(ValueError, match="logprobs"):
        sample(np.zeros((4, 8), np.float32), batch(4, wanted))


def test_parts_of_a_batch_are_gathered_in_its_order() -> None:
    logits = np.random.default_rng(4).normal(0, 1, (3, 50)).astype(np.float32)
    parts = []
    for row, top in ((0, 2), (2, 5)):
        wanted = asking({0: top})
        logprobs.tell(logits[row : row + 1], np.array([7], np.int32), wanted)
        parts.append((row, wanted))
    whole = logprobs.gathered(parts)
    together = asking({0: 2, 2: 5})
    logprobs.tell(logits, np.full(3, 7, np.int32), together)
    assert whole is not None
    for got, want in zip(whole, together, strict=True):
        np.testing.assert_array_equal(got, want)
    assert logprobs.gathered([]) is None


def test_of_an_id_that_is_given_instead_of_the_one_drawn(sample: Sampler) -> None:
    logits = np.random.default_rng(6).normal(0, 2, (3, 100)).astype(np.float32)
    wanted = logprobs.asked(np.arange(3, dtype=np.int32), np.full(3, 2, np.int32), np.array([-1, 42, 0], np.int32))
    drawn = sample(logits, batch(3, wanted, temperature=0.0))
    truth = exact(logits)
    np.testing.assert_allclose(wanted.chosen, [truth[0, drawn[0]], truth[1, 42], truth[2, 0]], atol=TOLERANCE)
    with pytest.raises(ValueError, match="given"):
        sample(logits, batch(3, wanted._replace(given=np.array([0, 0, 100], np.int32))))


def test_of_a_token_without_a_choice(sample: Sampler) -> None:
    """Told like any other's; and where the logits are no numbers, nothing is likely."""
    logits = np.random.default_rng(7).normal(0, 2, (4, 100)).astype(np.float32)
    logits[1], logits[2, 5] = np.nan, np.inf
    words = np.zeros((3, 4), np.uint32)
    words[:, 1] = 1 << 8  # id 40
    wanted = asking({0: 2, 1: 3, 2: 2, 3: 1})
    drawn = sample(logits, batch(4, wanted, masked_rows=np.arange(3, dtype=np.int32), masks=words))
    assert drawn[:3].tolist() == [40, 40, 40]
    truth = exact(logits[[0, 3]])
    np.testing.assert_allclose(wanted.chosen[[0, 3]], [truth[0, 40], truth[1, drawn[3]]], atol=TOLERANCE)
    np.testing.assert_allclose(wanted.top_values[0, :2], np.sort(truth[0])[:-3:-1], atol=TOLERANCE)
    assert wanted.chosen[1:3].tolist() == [logprobs.LEAST] * 2
    assert wanted.top_ids[1].tolist() == [0, 1, 2]
    assert wanted.top_values[1:3, :2].tolist() == [[logprobs.LEAST] * 2] * 2
