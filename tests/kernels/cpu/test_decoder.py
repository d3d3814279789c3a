"""The C++ decoder: right logits for random models of many shapes, and the same bits however the work is cut."""

from collections.abc import Iterator
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest

import kernels.cpu

if not kernels.cpu.available():
    pytest.skip(kernels.cpu.reason(), allow_module_level=True)

from kernels.cpu import _ext
from kernels.cpu.decoder import CpuDecoder, supports
from kernels.decoder import Activation, Batch, DecoderSpec, DecoderWeights, LayerWeights, Quantized, Rope, Weight

LLAMA_LIKE = {
    "layers": 2, "hidden": 96, "heads": 6, "kv_heads": 2, "head_dim": 32, "intermediate": 160, "vocab": 203,
    "context_length": 2048, "norm_eps": 1e-5,
}  # fmt: skip


@pytest.fixture(params=_ext.supported_isas(emulated=True))
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    _ext.set_isa(request.param)
    yield request.param
    _ext.set_isa("auto")


@pytest.fixture
def threads() -> Iterator[None]:
    yield
    _ext.set_threads(0)


def spec_of(interleaved: bool = True, **changes: object) -> DecoderSpec:
    dims = LLAMA_LIKE | changes
    pairs = int(str(dims["head_dim"])) // 2
    frequencies = tuple(float(f) for f in 10000.0 ** (-np.arange(pairs) / max(1, pairs)))
    return DecoderSpec(**({"rope": Rope(frequencies, interleaved)} | dims))  # type: ignore[arg-type]


def weights_of(spec: DecoderSpec, kind: str, tied: bool = True, seed: int = 0) -> DecoderWeights:
    """Random weights; kind: q4, q8, float32, bfloat16, float16, or mixed (quantized beside dense in one layer)."""
    random = np.random.default_rng(seed)
    made = 0

    def matrix(n: int, k: int) -> Weight:
        nonlocal made
        made += 1
        dense = mx.array(random.normal(0, k**-0.5, (n, k)).astype(np.float32))
        form = ("q4", "float32", "q8")[made % 3] if kind == "mixed" else kind
        if form in ("q4", "q8"):
            bits = int(form[1])
            return Quantized(*mx.quantize(dense, group_size=32, bits=bits), bits, 32)
        return dense.astype(getattr(mx, form))

    def vector(n: int, middle: float) -> mx.array:
        return mx.array((middle + 0.2 * random.normal(size=n)).astype(np.float32))

    q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    layers = tuple(
        LayerWeights(
            vector(spec.hidden, 1), matrix(q, spec.hidden), matrix(kv, spec.hidden), matrix(kv, spec.hidden),
            matrix(spec.hidden, q), vector(spec.hidden, 1), matrix(spec.intermediate, spec.hidden),
            matrix(spec.intermediate, spec.hidden), matrix(spec.hidden, spec.intermediate),
            *((vector(q, 0), vector(kv, 0), vector(kv, 0)) if spec.qkv_bias else ()),
        )
        for _ in range(spec.layers)
    )  # fmt: skip
    embedding = matrix(spec.vocab, spec.hidden)
    return DecoderWeights(
        embedding, layers, vector(spec.hidden, 1), embedding if tied else matrix(spec.vocab, spec.hidden)
    )


class Oracle:
    """The whole of a sequence's logits in float64 NumPy; K and V round to half, activations to 15 bits."""

    def __init__(self, spec: DecoderSpec, weights: DecoderWeights) -> None:
        self.spec, self.weights = spec, weights

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        s, w = self.spec, self.weights
        x = self._values(w.embedding)[tokens]
        for layer in w.layers:
            h = self._norm(x, layer.attention_norm)
            q, k, v = (
                (self._linear(h, weight) + (0 if bias is None else np.array(bias))).reshape(len(x), -1, s.head_dim)
                for weight, bias in ((layer.q, layer.q_bias), (layer.k, layer.k_bias), (layer.v, layer.v_bias))
            )
            k, v = (a.astype(np.float16).astype(np.float64) for a in (self._rope(k), v))
            x = x + self._linear(self._attend(self._rope(q), k, v), layer.o)
            h = self._norm(x, layer.mlp_norm)
            x = x + self._linear(self._act(self._linear(h, layer.gate)) * self._linear(h, layer.up), layer.down)
        return self._linear(self._norm(x, w.final_norm), w.head)

    def _values(self, weight: Weight) -> np.ndarray:
        if isinstance(weight, Quantized):
            weight = mx.dequantize(weight.weight, weight.scales, weight.biases, weight.group_size, weight.bits)
        return np.array(weight.astype(mx.float32)).astype(np.float64)

    def _linear(self, x: np.ndarray, weight: Weight) -> np.ndarray:
        if isinstance(weight, Quantized):
            groups = x.reshape(len(x), -1, 32)
            scale = np.abs(groups).max(axis=2, keepdims=True) / 16256
            x = (np.round(groups / scale) * scale).reshape(x.shape)
        return x @ self._values(weight).T

    def _norm(self, x: np.ndarray, weight: mx.array) -> np.ndarray:
        return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + self.spec.norm_eps) * np.array(weight)

    def _act(self, x: np.ndarray) -> np.ndarray:
        if self.spec.activation is Activation.SILU:
            return x / (1 + np.exp(-x))
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    def _rope(self, x: np.ndarray) -> np.ndarray:
        frequencies = np.array(self.spec.rope.frequencies)
        angles = np.arange(len(x))[:, None, None] * frequencies
        n = len(frequencies)
        first = 2 * np.arange(n) if self.spec.rope.interleaved else np.arange(n)
        second = first + (1 if self.spec.rope.interleaved else n)
        out, a, b = x.copy(), x[..., first], x[..., second]
        out[..., first], out[..., second] = (
            a * np.cos(angles) - b * np.sin(angles),
            a * np.sin(angles) + b * np.cos(angles),
        )
        return out

    def _attend(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        group = self.spec.heads // self.spec.kv_heads
        k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(self.spec.head_dim)
        scores = np.where(np.tril(np.ones(scores.shape[1:], bool)), scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        return np.einsum("hqk,khd->qhd", weights / weights.sum(axis=2, keepdims=True), v).reshape(len(q), -1)


class Row:
    """A sequence and its pages; `chunk` is the part of it that a batch brings."""

    def __init__(self, tokens: np.ndarray, pages: np.ndarray) -> None:
        self.tokens, self.pages = tokens.astype(np.int32), pages.astype(np.int32)


def batch_of(chunks: list[tuple[Row, int, int]], logits: str | list[int] = "all") -> Batch:
    """Tokens [begin, end) of each (row, begin, end); logits of all tokens, or of those at the given indices."""
    starts = np.cumsum([0, *(end - begin for _, begin, end in chunks)]).astype(np.int32)
    table = np.full((len(chunks), max(len(row.pages) for row, _, _ in chunks)), -1, np.int32)
    for r, (row, _, _) in enumerate(chunks):
        table[r, : len(row.pages)] = row.pages
    return Batch(
        np.concatenate([row.tokens[begin:end] for row, begin, end in chunks]),
        starts,
        np.array([begin for _, begin, _ in chunks], np.int32),
        table,
        np.arange(starts[-1], dtype=np.int32) if logits == "all" else np.array(logits, np.int32),
    )


def random_row(spec: DecoderSpec, seed: int, tokens: int, pages: np.ndarray) -> Row:
    return Row(np.random.default_rng(seed).integers(0, spec.vocab, tokens), pages)


MODELS = [
    ("float32", {}),
    ("bfloat16", {"interleaved": False, "heads": 4, "kv_heads": 4, "head_dim": 24}),
    ("float16", {"heads": 5, "kv_heads": 1, "head_dim": 10, "hidden": 70, "intermediate": 33, "qkv_bias": True}),
    ("q4", {"qkv_bias": True, "interleaved": False}),
    ("q8", {"activation": Activation.GELU_TANH}),
    ("q4", {"heads": 2, "kv_heads": 1, "head_dim": 64, "hidden": 64, "vocab": 1001}),
    ("mixed", {"qkv_bias": True}),
]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("kind", "changes"), MODELS)
def test_logits_match_the_oracle(isa: str, kind: str, changes: dict, tied: bool) -> None:
    spec = spec_of(**changes)
    weights = weights_of(spec, kind, tied)
    row = random_row(spec, 1, 37, np.array([4, 0, 2]))
    decoder = CpuDecoder(spec, weights)
    logits = decoder.forward(batch_of([(row, 0, 37)]), decoder.allocate_kv(5, 16))
    expected = Oracle(spec, weights).logits(row.tokens)
    # Dense weights: float32 against float64. Quantized: an activation that falls on the other side of a rounding
    # boundary moves by a step of 1/127 of its group's largest, which a few of them do.
    tolerance = 2e-3 if kind in ("float32", "bfloat16", "float16") else 3e-2
    error = np.abs(logits - expected).max() / np.abs(expected).max()
    assert error < tolerance, error


def test_quantized_model_stays_near_the_exact_product() -> None:
    spec = spec_of()
    weights = weights_of(spec, "q4")
    oracle = Oracle(spec, weights)
    oracle._linear = lambda x, weight: x @ oracle._values(weight).T  # no rounding of activations
    row = random_row(spec, 1, 64, np.arange(4))
    decoder = CpuDecoder(spec, weights)
    logits = decoder.forward(batch_of([(row, 0, 64)]), decoder.allocate_kv(4, 16))
    expected = oracle.logits(row.tokens)
    # Rounding to 127 steps of the largest of 32 normal values errs by 0.5 % rms; some fifteen products add theirs up.
    assert np.sqrt(((logits - expected) ** 2).mean() / (expected**2).mean()) < 0.03


@pytest.mark.parametrize("page_size", [1, 5, 16, 40])
def test_mixed_steps_match_the_oracle(page_size: int) -> None:
    """Prompt chunks beside decode rows, pages of odd sizes, logits of some tokens only."""
    spec = spec_of()
    weights = weights_of(spec, "float32")
    decoder, oracle = CpuDecoder(spec, weights), Oracle(spec, weights)
    count = -(-33 // page_size)
    order = np.random.default_rng(2).permutation(3 * count)
    a, b, c = (random_row(spec, 3 + i, 33, order[i * count : (i + 1) * count]) for i in range(3))
    kv = decoder.allocate_kv(3 * count, page_size)
    first = decoder.forward(batch_of([(a, 0, 32), (b, 0, 7)], [31]), kv)
    second = decoder.forward(batch_of([(b, 7, 20), (a, 32, 33), (c, 0, 3)], [12, 13, 16]), kv)
    expected = [oracle.logits(row.tokens) for row in (a, b, c)]
    np.testing.assert_allclose(first, expected[0][31:32], atol=2e-3)
    np.testing.assert_allclose(second, [expected[1][19], expected[0][32], expected[2][2]], atol=2e-3)


def test_no_logits_wanted_still_writes_the_kv() -> None:
    spec = spec_of()
    decoder = CpuDecoder(spec, weights_of(spec, "q4"))
    row, kv = random_row(spec, 1, 20, np.arange(2)), decoder.allocate_kv(4, 16)
    assert decoder.forward(batch_of([(row, 0, 19)], []), kv).shape == (0, spec.vocab)
    last = decoder.forward(batch_of([(row, 19, 20)]), kv)
    whole = decoder.forward(batch_of([(Row(row.tokens, np.array([2, 3])), 0, 20)]), kv)
    np.testing.assert_array_equal(last, whole[19:])


@pytest.mark.parametrize("kind", ["q4", "q8", "bfloat16", "mixed"])
def test_same_bits_however_the_work_is_cut(isa: str, threads: None, kind: str) -> None:
    """One chunk, chunks of any size, token by token, in a batch of 16, on any number of threads."""
    spec = spec_of()
    decoder = CpuDecoder(spec, weights_of(spec, kind))
    tokens = 290  # beyond one attention tile
    pages = 19
    row = random_row(spec, 1, tokens, np.arange(pages))
    whole = decoder.forward(batch_of([(row, 0, tokens)]), decoder.allocate_kv(pages, 16))

    for count, cuts in ((1, [0, 100, 290]), (3, [0, 1, 2, 19, 147, 288, 289, 290]), (2, [0, 16, 33, *range(270, 291)])):
        _ext.set_threads(count)
        kv = decoder.allocate_kv(pages, 16)
        pieces = [decoder.forward(batch_of([(row, a, b)]), kv) for a, b in pairwise(cuts)]
        np.testing.assert_array_equal(np.concatenate(pieces), whole)

    kv = decoder.allocate_kv(pages + 15 * 3, 16)
    others = [random_row(spec, 10 + i, 40, pages + 3 * i + np.arange(3)) for i in range(15)]
    decoder.forward(batch_of([(row, 0, 280), *((other, 0, 5 + i) for i, other in enumerate(others))]), kv)
    for step in range(10):
        chunks = [(other, 5 + i + step, 6 + i + step) for i, other in enumerate(others)]
        logits = decoder.forward(batch_of([*chunks[:7], (row, 280 + step, 281 + step), *chunks[7:]]), kv)
        np.testing.assert_array_equal(logits[7], whole[280 + step])


def test_copied_pages_continue_alike() -> None:
    spec = spec_of()
    decoder = CpuDecoder(spec, weights_of(spec, "q4"))
    row, kv = random_row(spec, 1, 30, np.array([0, 1])), decoder.allocate_kv(4, 16)
    whole = decoder.forward(batch_of([(row, 0, 30)]), kv)
    kv.copy_pages(np.array([1], np.int32), np.array([3], np.int32))
    fork = Row(row.tokens, np.array([0, 3]))
    np.testing.assert_array_equal(decoder.forward(batch_of([(fork, 29, 30)]), kv), whole[29:])


def test_logits_outlive_the_next_forward() -> None:
    spec = spec_of()
    decoder = CpuDecoder(spec, weights_of(spec, "q4"))
    kv, row = decoder.allocate_kv(4, 16), random_row(spec, 1, 40, np.arange(3))
    first = decoder.forward(batch_of([(row, 0, 10)]), kv)
    kept = first.copy()
    for begin in range(10, 40, 10):
        decoder.forward(batch_of([(row, begin, begin + 10)]), kv)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": [0, 203]}, r"tokens\[1\] is 203; the vocabulary is 0\.\.202"),
        ({"tokens": [0, -1]}, r"tokens\[1\] is -1"),
        ({"lengths": [2047]}, "row 0 would have 2049 tokens; the context holds 2048"),
        ({"lengths": [-3]}, r"lengths\[0\] is -3"),
        ({"lengths": [0, 0]}, "row_starts has 2 entries; 2 rows want 3"),
        ({"row_starts": [0, 3]}, "row_starts runs from 0 to 3"),
        ({"row_starts": [0, 5, 2], "lengths": [0, 0], "page_table": [[0], [1]]}, "row 1 brings -3 tokens"),
        ({"page_table": [[9]]}, r"page_table\[0, 0\] is 9; the slab has pages 0\.\.3"),
        ({"lengths": [16]}, "row 0 needs 2 pages; its page table has 1"),
        ({"logits_at": [2]}, r"logits_at\[0\] is 2"),
        ({"logits_at": [1, 1]}, r"logits_at\[1\] is 1; it must ascend"),
        ({"tokens": [0] * 65, "row_starts": [0, 65]}, "the batch has 65 tokens; max_step_tokens is 64"),
    ],
)
def test_a_bad_batch_is_refused_before_anything_is_written(change: dict, message: str) -> None:
    spec = spec_of()
    decoder = CpuDecoder(spec, weights_of(spec, "q4"), max_step_tokens=64)
    kv = decoder.allocate_kv(4, 16)
    row = random_row(spec, 1, 17, np.arange(2))
    before = decoder.forward(batch_of([(row, 0, 17)]), kv)[16:]
    good = {"tokens": [0, 1], "row_starts": [0, 2], "lengths": [0], "page_table": [[0]], "logits_at": [0]}
    with pytest.raises(ValueError, match=message):
        decoder.forward(Batch(**{k: np.array(v, np.int32) for k, v in (good | change).items()}), kv)
    np.testing.assert_array_equal(decoder.forward(batch_of([(row, 16, 17)]), kv), before)


def test_arrays_of_another_type_are_refused() -> None:
    spec = spec_of()
    decoder = CpuDecoder(spec, weights_of(spec, "q4"))
    batch = batch_of([(random_row(spec, 1, 4, np.arange(1)), 0, 4)])
    with pytest.raises(TypeError):
        decoder.forward(batch._replace(tokens=batch.tokens.astype(np.int64)), decoder.allocate_kv(1, 16))


def test_a_slab_of_another_model_is_refused() -> None:
    one, other = spec_of(), spec_of(layers=3)
    kv = CpuDecoder(other, weights_of(other, "q4")).allocate_kv(2, 16)
    decoder = CpuDecoder(one, weights_of(one, "q4"))
    with pytest.raises(ValueError, match="the KV slab is of another model"):
        decoder.forward(batch_of([(random_row(one, 1, 4, np.arange(1)), 0, 4)]), kv)


def test_slab_sizes() -> None:
    spec = spec_of()
    decoder = CpuDecoder(spec, weights_of(spec, "q4"))
    kv = decoder.allocate_kv(10, 16)
    assert (kv.pages, kv.page_size) == (10, 16)
    assert kv.nbytes == 10 * 16 * spec.kv_values_per_token * 2
    for pages in (1 << 30, 1 << 24):  # past the address space; past the memory
        with pytest.raises(MemoryError, match=rf"{pages} KV pages of 4096 tokens want [0-9]{{13,}} bytes"):
            decoder.allocate_kv(pages, 4096)
    with pytest.raises(ValueError, match="pages is 0"):
        decoder.allocate_kv(0, 16)


def test_what_is_not_supported_is_said() -> None:
    spec = spec_of()
    weights = weights_of(spec, "q4")
    assert supports(spec, weights) is None
    assert "do not divide" in str(supports(spec_of(heads=5, kv_heads=2), weights))
    three_bits = Quantized(*mx.quantize(mx.zeros((spec.vocab, 96)), group_size=32, bits=3), 3, 32)
    odd = DecoderWeights(three_bits, weights.layers, weights.final_norm, three_bits)
    assert "3-bit" in str(supports(spec, odd))
    with pytest.raises(ValueError, match="3-bit"):
        CpuDecoder(spec, odd)


def test_weights_that_do_not_fit_the_spec_are_named() -> None:
    spec = spec_of()
    with pytest.raises(ValueError, match=r"layer 0: gate has shape \[160, 96\]; the spec wants \[161, 96\]"):
        CpuDecoder(spec_of(intermediate=161), weights_of(spec, "q4"))
