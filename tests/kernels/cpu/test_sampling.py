"""The fused sampler draws the same ids as the NumPy specification (kernels/sampling.py), row by row."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kernels.cpu
from kernels import sampling
from kernels.sampling import SampleBatch

if not kernels.cpu.available():
    pytest.skip(kernels.cpu.reason(), allow_module_level=True)

from kernels.cpu import _ext


@pytest.fixture(scope="module", params=_ext.supported_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    _ext.set_isa(request.param)
    yield request.param
    _ext.set_isa("auto")


def fused(logits: np.ndarray, batch: SampleBatch) -> np.ndarray:
    out = np.full(len(logits), -7, np.int32)
    _ext.sample(logits, batch, out)
    return out


def batch_of(rows: list[dict]) -> SampleBatch:
    """A batch from one dict per row; what a row does not name is off."""
    off = {
        "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition": 1.0, "presence": 0.0,
        "frequency": 0.0, "seed": 0, "position": 0, "seen": {}, "bias": {}, "mask": None,
    }  # fmt: skip
    rows = [off | row for row in rows]

    def column(name: str, dtype: type) -> np.ndarray:
        return np.array([row[name] for row in rows], dtype)

    def spans(name: str, dtype: type) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        starts = np.cumsum([0, *(len(row[name]) for row in rows)]).astype(np.int32)
        ids = np.array([i for row in rows for i in row[name]], np.int32)
        return starts, ids, np.array([v for row in rows for v in row[name].values()], dtype)

    masked = [r for r, row in enumerate(rows) if row["mask"] is not None]
    masks = np.stack([rows[r]["mask"] for r in masked]) if masked else np.zeros((0, 0), np.uint32)
    return SampleBatch(
        column("temperature", np.float32), column("top_k", np.int32), column("top_p", np.float32),
        column("min_p", np.float32), column("repetition", np.float32), column("presence", np.float32),
        column("frequency", np.float32), column("seed", np.uint64), column("position", np.int32),
        *spans("seen", np.int32), *spans("bias", np.float32), np.array(masked, np.int32), masks,
    )  # fmt: skip


ROWS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.1, 0.7, 1.0, 1.9]),
        "top_k": st.sampled_from([0, 1, 2, 5, 40, 700, 100_000]),
        "top_p": st.sampled_from([1.0, 0.05, 0.5, 0.9, 0.99]),
        "min_p": st.sampled_from([0.0, 0.02, 0.3, 1.0]),
        "repetition": st.sampled_from([1.0, 1.3, 0.8]),
        "presence": st.sampled_from([0.0, 0.5, -1.0]),
        "frequency": st.sampled_from([0.0, 0.25]),
        "seed": st.integers(0, 2**64 - 1),
        "position": st.integers(0, 2**31 - 1),
        "seen": st.dictionaries(st.integers(0, 16), st.integers(0, 3), max_size=8),
        "bias": st.dictionaries(st.integers(0, 16), st.sampled_from([-np.inf, -3.0, 4.5, 100.0]), max_size=6),
    }
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(ROWS, min_size=1, max_size=5),
    vocab=st.sampled_from([17, 64, 65, 300, 1000, 5003]),
    kind=st.sampled_from(["normal", "steep", "coarse", "equal"]),
    seed=st.integers(0, 2**32 - 1),
    masked=st.sampled_from([0.0, 0.0, 0.02, 0.6]),
)
def test_same_ids_as_the_specification(
    isa: str, rows: list[dict], vocab: int, kind: str, seed: int, masked: float
) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (len(rows), vocab)).astype(np.float32)
    if kind == "steep":
        logits *= 40
    elif kind == "coarse":
        logits = np.round(logits)  # many ties
    elif kind == "equal":
        logits[:] = -2.5
    for row in rows[:3] if masked else []:
        allows = rng.random(-(-vocab // 32) * 32) >= masked
        allows[16] = not np.isneginf(row["bias"].get(16, 0))  # the biases ban no other than these
        row["mask"] = np.packbits(allows, bitorder="little").view(np.uint32)
    batch = batch_of(rows)
    np.testing.assert_array_equal(fused(logits, batch), sampling.sample(logits, batch))


@pytest.mark.parametrize("shape", ["flat", "peaked", "misleading", "coarse", "equal", "two levels"])
def test_large_vocabularies_of_any_shape(isa: str, shape: str) -> None:
    """Where a nucleus ends is guessed from a sample of every 17th weight: right, wrong, and where all are equal."""
    rng = np.random.default_rng(5)
    vocab = 50021
    logits = rng.normal(0, 1, vocab).astype(np.float32)
    if shape == "peaked":
        logits *= 4
        logits[rng.integers(0, vocab, 40)] += 12
    elif shape == "misleading":
        logits[::17] -= 3
    elif shape == "coarse":
        logits = np.round(logits * 2) / 2
    elif shape == "equal":
        logits[:] = 1.5
    elif shape == "two levels":
        logits = np.where(np.arange(vocab) % 17 == 0, np.float32(0), np.float32(-2.5))
    rows = [
        {"top_p": p, "temperature": t, "top_k": k, "seed": seed, "position": 3}
        for seed in (1, 2)
        for p, t, k in ((0.9, 1.0, 0), (0.9, 2.0, 0), (0.5, 0.5, 0), (0.999, 1.0, 0), (0.02, 1.0, 0), (1.0, 1.0, 900),
                        (0.9, 1.0, 20000), (0.9, 1.0, 45000))
    ]  # fmt: skip
    tiled, batch = np.tile(logits, (len(rows), 1)), batch_of(rows)
    np.testing.assert_array_equal(fused(tiled, batch), sampling.sample(tiled, batch))


def test_draws_do_not_depend_on_the_batch(isa: str) -> None:
    logits = np.random.default_rng(3).normal(0, 3, (16, 49152)).astype(np.float32)
    kinds = ({}, {"top_k": 50}, {"top_p": 0.9}, {"top_k": 9, "top_p": 0.5, "min_p": 0.1})
    rows = [{"seed": i * 2**40 + 1, "position": i, **kinds[i % 4]} for i in range(16)]
    together = fused(logits, batch_of(rows))
    alone = [fused(logits[i : i + 1], batch_of([rows[i]]))[0] for i in range(16)]
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, sampling.sample(logits, batch_of(rows)))


def test_frequencies_follow_the_probabilities() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], np.float32)).repeat(20_000, axis=0)
    drawn = fused(logits, batch_of([{"seed": 7, "position": i} for i in range(len(logits))]))
    shares = np.bincount(drawn, minlength=4) / len(drawn)
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.15, 0.05], atol=0.015)


def test_a_tie_at_the_top_goes_to_the_lower_id(isa: str) -> None:
    logits = np.zeros((1, 1000), np.float32)
    logits[0, [130, 700]] = 5
    assert fused(logits, batch_of([{"temperature": 0.0}])) == [130]
    assert fused(logits, batch_of([{"top_k": 1, "seed": 9}])) == [130]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
def test_a_row_without_a_token_is_named(isa: str, value: float, temperature: float) -> None:
    logits = np.zeros((3, 100), np.float32)
    logits[1] = value
    with pytest.raises(ValueError, match=r"row 1 has no token to draw: the largest of its logits is -?(nan|inf)"):
        fused(logits, batch_of([{"temperature": temperature}] * 3))


def test_one_nan_among_the_logits_is_found(isa: str) -> None:
    for place in (0, 63, 64, 99):
        logits = np.zeros((1, 100), np.float32)
        logits[0, place] = np.nan
        with pytest.raises(ValueError, match="row 0"):
            fused(logits, batch_of([{}]))


def test_malformed_batches_are_refused() -> None:
    logits, good = np.zeros((2, 10), np.float32), batch_of([{"seen": {3: 1}, "bias": {4: 1.0}}, {}])
    fused(logits, good)
    for change, message in (
        ({"temperature": good.temperature[:1]}, "temperature has 1 rows, the logits have 2"),
        ({"seen_ids": np.array([10], np.int32)}, r"seen_ids has 10; ids must lie in \[0, 10\)"),
        ({"bias_ids": np.array([-1], np.int32)}, "bias_ids has -1"),
        ({"seen_starts": np.array([0, 2, 1], np.int32)}, "seen_starts must rise from 0 to 1"),
        ({"bias_values": np.zeros(2, np.float32)}, "bias has 1 ids but 2 values"),
    ):
        with pytest.raises(ValueError, match=message):
            fused(logits, good._replace(**change))


def test_no_rows() -> None:
    assert fused(np.zeros((0, 10), np.float32), batch_of([])).size == 0
