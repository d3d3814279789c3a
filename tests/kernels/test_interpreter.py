"""The MLX decoder against a float64 oracle that knows nothing of pages, chunks or batches."""

import threading
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import interpreter, reference
from kernels.decoder import Activation, Batch, DecoderSpec, DecoderWeights, KvTier
from kernels.interpreter import MlxDecoder, MlxKv
from tests.oracles import float64, random_decoder

TOLERANCE = 2e-5
"""Of logits of about 1; float32 through two layers leaves a few 1e-6, an error of one slot or angle leaves 0.1."""


@dataclass
class Sequence:
    """A row: what is in its KV, and the pages it holds."""

    tokens: list[int]
    pages: list[int] = field(default_factory=list)
    length: int = 0


class Runner:
    """Feeds sequences to a decoder in whatever pieces, with pages handed out in a scrambled order."""

    def __init__(self, spec: DecoderSpec, weights: DecoderWeights, page_size: int = 4, pages: int = 64) -> None:
        self.decoder = MlxDecoder(spec, weights)
        self.kv = self.decoder.allocate_kv(pages, page_size)
        self.free = np.random.default_rng(5).permutation(pages).tolist()

    def step(self, rows: list[tuple[Sequence, int]]) -> list[np.ndarray]:
        """Compute the next `count` tokens of each row; the logits [count, vocab] of each."""
        for row, count in rows:
            while len(row.pages) * self.kv.page_size < row.length + count:
                row.pages.append(self.free.pop())
        table = np.full((len(rows), max(len(row.pages) for row, _ in rows)), -1, np.int32)
        for index, (row, _) in enumerate(rows):
            table[index, : len(row.pages)] = row.pages
        starts = np.cumsum([0, *(count for _, count in rows)], dtype=np.int32)
        tokens = [token for row, count in rows for token in row.tokens[row.length : row.length + count]]
        lengths = np.array([row.length for row, _ in rows], np.int32)
        wanted = np.arange(len(tokens), dtype=np.int32)
        logits = self.decoder.forward(Batch(np.array(tokens, np.int32), starts, lengths, table, wanted), self.kv)
        for row, count in rows:
            row.length += count
        return np.split(np.array(logits), starts[1:-1])


def random_sequence(length: int, seed: int = 0, vocab: int = 40) -> Sequence:
    return Sequence(np.random.default_rng(seed).integers(0, vocab, length).tolist())


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"kv_heads": 4},
        {"heads": 6, "kv_heads": 1},
        {"interleaved": False},
        {"pairs": 3, "interleaved": False},
        {"pairs": 3},
        {"activation": Activation.GELU_TANH},
        {"bias": True},
        {"tied": False},
        {"bits": 4},
        {"bits": 8, "bias": True, "tied": False},
        {"layers": 1, "vocab": 33, "head_dim": 10},
    ],
    ids=lambda variant: "-".join(f"{key}={value}" for key, value in variant.items()) or "plain",
)
def test_agrees_with_float64(variant: dict) -> None:
    spec, weights = random_decoder.model(**variant)
    sequence = random_sequence(13, vocab=spec.vocab)
    got = Runner(spec, weights).step([(sequence, 13)])[0]
    np.testing.assert_allclose(got, float64.decoder_logits(spec, weights, sequence.tokens), atol=TOLERANCE)


def test_far_positions_agree_with_float64() -> None:
    """Angles must not lose bits: at position 400 with frequency 1 a sloppy angle would show."""
    spec, weights = random_decoder.model(layers=1)
    sequence = random_sequence(400)
    runner = Runner(spec, weights, page_size=16)
    got = runner.step([(sequence, 400)])[0]
    want = float64.decoder_logits(spec, weights, sequence.tokens)
    np.testing.assert_allclose(got, want, atol=TOLERANCE)


def test_chunked_prefill_equals_whole() -> None:
    spec, weights = random_decoder.model()
    sequence = random_sequence(23)
    runner = Runner(spec, weights)
    parts = [runner.step([(sequence, count)])[0] for count in (5, 1, 7, 4, 1, 1, 4)]
    want = float64.decoder_logits(spec, weights, sequence.tokens)
    np.testing.assert_allclose(np.concatenate(parts), want, atol=TOLERANCE)


@settings(max_examples=15)
@given(st.data())
def test_any_batching_agrees_with_float64(data: st.DataObject) -> None:
    """Rows join, advance by any counts and leave, prompt chunks and decode rows together."""
    spec, weights = random_decoder.model(bits=8)
    rows = [
        random_sequence(length, seed)
        for seed, length in enumerate(data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=5)))
    ]
    wants = [float64.decoder_logits(spec, weights, row.tokens) for row in rows]
    runner = Runner(spec, weights, page_size=data.draw(st.sampled_from([1, 3, 4])))
    while waiting := [index for index, row in enumerate(rows) if row.length < len(row.tokens)]:
        taken = data.draw(st.lists(st.sampled_from(waiting), min_size=1, unique=True))
        step = [(rows[i], data.draw(st.integers(1, len(rows[i].tokens) - rows[i].length))) for i in taken]
        before = [rows[i].length for i in taken]
        for index, start, (_, count), got in zip(taken, before, step, runner.step(step), strict=True):
            np.testing.assert_allclose(got, wants[index][start : start + count], atol=TOLERANCE)


def test_many_rows_of_uneven_length_in_small_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where scratch is scarce the batch is cut into many groups, and computes the same."""
    monkeypatch.setattr(interpreter, "SCRATCH_BYTES", 4096)
    spec, weights = random_decoder.model(layers=1)
    rows = [random_sequence(length, length) for length in (1, 30, 2, 17, 9, 29, 3, 3, 12)]
    runner = Runner(spec, weights)
    chunks = runner.step([(row, max(len(row.tokens) - 1, 1)) for row in rows])
    decoding = [row for row in rows if row.length < len(row.tokens)]
    decodes = iter(runner.step([(row, 1) for row in decoding]))
    for row, chunk in zip(rows, chunks, strict=True):
        got = np.concatenate([chunk, next(decodes)]) if row in decoding else chunk
        np.testing.assert_allclose(got, float64.decoder_logits(spec, weights, row.tokens), atol=TOLERANCE)


def test_only_the_wanted_logits_come_back() -> None:
    spec, weights = random_decoder.model()
    decoder = MlxDecoder(spec, weights)
    kv = decoder.allocate_kv(4, 4)
    tokens = np.arange(6, dtype=np.int32)
    starts, lengths, table = np.array([0, 6], np.int32), np.zeros(1, np.int32), np.array([[2, 0]], np.int32)
    every = decoder.forward(Batch(tokens, starts, lengths, table, tokens), kv)
    some = decoder.forward(Batch(tokens, starts, lengths, table, np.array([1, 4], np.int32)), kv)
    none = decoder.forward(Batch(tokens, starts, lengths, table, np.zeros(0, np.int32)), kv)
    np.testing.assert_allclose(np.array(some), np.array(every)[[1, 4]], atol=1e-6)
    assert none.shape == (0, spec.vocab)
    assert some.dtype == mx.float32


def test_empty_batch() -> None:
    spec, weights = random_decoder.model()
    decoder = MlxDecoder(spec, weights)
    none = np.zeros(0, np.int32)
    batch = Batch(none, np.zeros(1, np.int32), none, np.zeros((0, 0), np.int32), none)
    assert decoder.forward(batch, decoder.allocate_kv(1, 4)).shape == (0, spec.vocab)


def test_copied_page_continues_like_the_original() -> None:
    spec, weights = random_decoder.model()
    runner = Runner(spec, weights)
    original = random_sequence(9)
    runner.step([(original, 6)])
    fork = Sequence([*original.tokens[:6], 7, 8, 9], [original.pages[0], runner.free.pop()], 6)
    runner.kv.copy_pages(np.array([original.pages[1]], np.int32), np.array([fork.pages[1]], np.int32))
    got = runner.step([(fork, 3), (original, 3)])
    for row, logits in zip((fork, original), got, strict=True):
        np.testing.assert_allclose(logits, float64.decoder_logits(spec, weights, row.tokens)[6:], atol=TOLERANCE)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
@settings(max_examples=25)
def test_copies_happen_in_order(copies: list[tuple[int, int]]) -> None:
    spec, _ = random_decoder.model(layers=1)
    kv = MlxKv(spec, 6, 2, mx.float32)
    slots = mx.arange(12).astype(mx.float32)
    kv.k[0][:12] = mx.broadcast_to(slots[:, None, None], (12, spec.kv_heads, spec.head_dim))
    want = np.arange(12).reshape(6, 2)
    for source, target in copies:
        want[target] = want[source]
    kv.copy_pages(*np.array(copies, np.int32).reshape(-1, 2).T)
    np.testing.assert_array_equal(np.array(kv.k[0][:12, 0, 0]).reshape(6, 2), want)


def test_another_rows_poison_stays_its_own() -> None:
    """A page left full of NaN by one row and reused by a shorter one does not reach it, not even times 0."""
    spec, weights = random_decoder.model()
    runner = Runner(spec, weights)
    for arrays in (runner.kv.k, runner.kv.v):
        for array in arrays:
            array[: runner.kv.pages * runner.kv.page_size] = mx.nan
    sequence, other = random_sequence(6), random_sequence(11, 1)
    got = runner.step([(sequence, 5), (other, 10)])[0], runner.step([(sequence, 1), (other, 1)])[0]
    np.testing.assert_allclose(
        np.concatenate(got), float64.decoder_logits(spec, weights, sequence.tokens), atol=TOLERANCE
    )


def test_a_step_writes_the_slab_in_place() -> None:
    spec, weights = random_decoder.model(kv_heads=4, head_dim=32, layers=2)
    runner = Runner(spec, weights, page_size=16, pages=2048)
    sequence = random_sequence(12)
    runner.step([(sequence, 10)])
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    runner.step([(sequence, 1)])
    assert mx.get_peak_memory() - before < runner.kv.k[0].nbytes / 4


def test_the_fused_rotation_of_gpus_means_the_same() -> None:
    for interleaved in (False, True):
        spec, weights = random_decoder.model(pairs=3, interleaved=interleaved)
        sequence = random_sequence(20)
        runner = Runner(spec, weights)
        runner.decoder._fused_rope = True
        got = runner.step([(sequence, 20)])[0]
        np.testing.assert_allclose(got, float64.decoder_logits(spec, weights, sequence.tokens), atol=1e-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(mx.bfloat16, 0.15), (mx.float16, 0.02)])
@pytest.mark.parametrize("bits", [None, 4])
def test_half_precision_stays_near(dtype: mx.Dtype, tolerance: float, bits: int | None) -> None:
    spec, weights = random_decoder.model(bits=bits)
    runner = Runner(spec, weights)
    runner.decoder = MlxDecoder(spec, weights, dtype)
    runner.kv = runner.decoder.allocate_kv(64, 4)
    assert runner.kv.nbytes == 2 * spec.layers * (64 * 4 + 2) * spec.kv_heads * spec.head_dim * 2
    sequence = random_sequence(13)
    got = runner.step([(sequence, 13)])[0]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, float64.decoder_logits(spec, weights, sequence.tokens), atol=tolerance)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": [0, 40]}, r"tokens must lie in \[0, 40\), got 0..40"),
        ({"tokens": [0, -1]}, "tokens must lie in"),
        ({"row_starts": [0, 1]}, "row_starts must rise from 0 to 2"),
        ({"row_starts": [0, 2, 2], "lengths": [0, 0], "page_table": [[0], [1]]}, "row_starts must rise"),
        ({"lengths": [-1]}, "lengths must be at least 0"),
        ({"lengths": [3]}, r"page_table must be \[1, at least 2\]"),
        ({"page_table": [[-1]]}, r"pages in use must lie in \[0, 2\)"),
        ({"page_table": [[2]]}, r"pages in use must lie in \[0, 2\), got 2..2"),
        ({"logits_at": [2]}, r"logits_at must rise within \[0, 2\)"),
        ({"logits_at": [1, 1]}, "logits_at must rise"),
    ],
)
def test_a_malformed_batch_is_refused_before_anything_is_written(change: dict, message: str) -> None:
    spec, weights = random_decoder.model()
    decoder = MlxDecoder(spec, weights)
    kv = decoder.allocate_kv(2, 4)
    good = {"tokens": [0, 1], "row_starts": [0, 2], "lengths": [0], "page_table": [[0]], "logits_at": [1]}
    batch = Batch(**{name: np.array(value, np.int32) for name, value in (good | change).items()})
    with pytest.raises(ValueError, match=message):
        decoder.forward(batch, kv)
    assert not any(np.array(array).any() for array in (*kv.k, *kv.v))


def test_a_slab_too_large_says_how_many_bytes() -> None:
    spec, weights = random_decoder.model()
    with pytest.raises(MemoryError, match=r"want \d{13,} bytes"):
        MlxDecoder(spec, weights).allocate_kv(1 << 38, 16)


def test_copying_a_page_that_is_not_there_is_refused() -> None:
    spec, weights = random_decoder.model()
    kv = MlxDecoder(spec, weights).allocate_kv(2, 4)
    with pytest.raises(ValueError, match="page 2 is not in the slab; pages are 0 to 1"):
        kv.copy_pages(np.array([0], np.int32), np.array([2], np.int32))


def test_a_unit_is_read_and_written_by_another_thread() -> None:
    spec, weights = random_decoder.model()
    one, other = Runner(spec, weights), Runner(spec, weights)
    sequence = random_sequence(4, vocab=spec.vocab)
    one.step([(sequence, 4)])
    (tier,) = one.kv.tiers
    assert tier == KvTier("f16", 0, 64, 1, 4 * spec.kv_values_per_token * 4)
    buffer, target = bytearray(tier.unit_bytes), int(other.free[-1])

    def move() -> None:
        one.kv.read_unit(sequence.pages[0], buffer)
        other.kv.write_unit(target, bytes(buffer))

    mover = threading.Thread(target=move)
    mover.start()
    mover.join()
    moved = Sequence([*sequence.tokens, 3], [target], 4)
    other.free.remove(target)
    sequence.tokens.append(3)
    np.testing.assert_array_equal(other.step([(moved, 1)])[0], one.step([(sequence, 1)])[0])


def test_what_mlx_cannot_do_with_units_is_said() -> None:
    spec, weights = random_decoder.model()
    decoder = MlxDecoder(spec, weights)
    kv = decoder.allocate_kv(2, 4)
    with pytest.raises(ValueError, match=r"3 bytes for page 1: a unit of f16 has [0-9]+"):
        kv.read_unit(1, bytearray(3))
    with pytest.raises(ValueError, match="page 2 is not in the slab; pages are 0 to 1"):
        kv.write_unit(2, b"")
    with pytest.raises(ValueError, match="full-precision pages only"):
        kv.demote(np.array([0, 1], np.int32), np.array([2], np.int32))
    with pytest.raises(ValueError, match="full-precision pages only"):
        decoder.allocate_kv(2, 16, {"q8": 1})


def test_a_tied_head_is_stored_once() -> None:
    spec, weights = random_decoder.model(bits=4)
    decoder = MlxDecoder(spec, weights)
    assert decoder._weights.head is decoder._weights.embedding
    assert reference.dequantize(decoder._weights.head).shape == (spec.vocab, spec.hidden)
