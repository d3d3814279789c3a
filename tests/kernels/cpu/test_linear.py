"""Packed linear layers against a float64 oracle, on every instruction set this machine has."""

import mlx.core as mx
import numpy as np
import pytest

from kernels import cpu

if not cpu.available():
    pytest.skip(cpu.reason(), allow_module_level=True)

from kernels.cpu import _ext

ROWS = (1, 2, 5, 12, 17, 64)
SHAPES = ((1, 128), (15, 256), (16, 128), (33, 384), (50, 640), (131, 128))  # N, K: blocks of 16 with tails


@pytest.fixture(params=_ext.supported_isas(emulated=True))
def isa(request):
    _ext.set_isa(request.param)
    yield request.param
    _ext.set_isa("auto")


@pytest.fixture(autouse=True)
def threads():
    yield
    _ext.set_threads(0)


def activations(rows, k, seed=0):
    x = np.random.default_rng(seed).standard_normal((rows, k)).astype(np.float32)
    return x * np.float32(10.0) ** np.random.default_rng(seed + 1).integers(-2, 3, (rows, 1)).astype(np.float32)


def affine(n, k, bits, group, *, symmetric=False, scale_type=np.float16, seed=0):
    """MLX's layout, with the float64 matrix that it stands for."""
    rng = np.random.default_rng(seed)
    q = rng.integers(0, 2**bits, (n, k))
    scales = (rng.uniform(0.5, 2.0, (n, k // group)) * 0.01).astype(scale_type)
    if symmetric:
        biases = (scales * scale_type(-(2 ** (bits - 1)))).astype(scale_type)
    else:
        biases = rng.normal(0, 0.05, (n, k // group)).astype(scale_type)
    per_word = 32 // bits
    words = (q.reshape(n, -1, per_word).astype(np.uint32) << (bits * np.arange(per_word, dtype=np.uint32))).sum(-1)
    dense = np.repeat(scales.astype(np.float64), group, 1) * q + np.repeat(biases.astype(np.float64), group, 1)
    packed = _ext.pack_affine(mx.array(words.astype(np.uint32)), mx.array(scales), mx.array(biases), bits, group)
    return packed, dense


def rounded(x, fine=True):
    """Activations as the kernels see them: 15 bits per 32 inputs or 8, by the definition in linear_kernels.h."""
    groups = x.reshape(x.shape[0], -1, 32)
    most = np.abs(groups).max(-1, keepdims=True)
    q = np.rint(groups * (np.float32(16256.0) / most))
    if not fine:
        coarse = most <= 1.75 * most.mean(1, keepdims=True)
        q = np.where(coarse, 128 * np.rint(groups * (np.float32(127.0) / most)), q)
    return (q.astype(np.float64) * (most / np.float32(16256.0))).reshape(x.shape)


def product(x, packed, fine=True):
    return np.array(_ext.linear(mx.array(x), packed, fine))


def outlying(rows, k, seed=0):
    """Activations of which some groups are fine when rounding is mixed: others in each row, and in some rows none."""
    rng = np.random.default_rng([rows, k, seed])
    x = rng.standard_normal((rows, k)).astype(np.float32)
    return x * np.where(rng.random((rows, k)) < 0.01, 20, 1).astype(np.float32)


def assert_close(y, x, w, relative=2e-6):
    """Each output within `relative` of the sum of its terms' magnitudes, from the float64 product."""
    assert (np.abs(y - x @ w.T) <= relative * (np.abs(x) @ np.abs(w).T) + 1e-30).all()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_product_is_the_exact_product_of_the_rounded_activations(isa, bits, group, symmetric):
    for n, k in SHAPES:
        packed, w = affine(n, k, bits, group, symmetric=symmetric, seed=n)
        for rows in ROWS:
            x = activations(rows, k, seed=rows)
            assert_close(product(x, packed), rounded(x), w)


@pytest.mark.parametrize("bits", [4, 8])
def test_mixed_rounding_is_coarse_where_a_group_is_not_far_above_its_row(isa, bits):
    for n, k in SHAPES:
        packed, w = affine(n, k, bits, 32, seed=n)
        for rows in ROWS:
            x = outlying(rows, k)
            assert_close(product(x, packed, fine=False), rounded(x, fine=False), w)


def test_mixed_rounding_of_a_row_depends_on_that_row_alone(isa):
    packed, _ = affine(48, 256, 4, 32)
    x = outlying(19, 256)
    together = product(x, packed, fine=False)
    assert (together == np.concatenate([product(x[i : i + 1], packed, fine=False) for i in range(19)])).all()
    assert not (together == product(x, packed)).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_product_is_that_of_the_unrounded_activations_to_five_digits(isa, bits):
    """Error beside the norms of row and weights: at most 2e-5 with 15 bits, 8e-4 and more with 8."""
    for n, k in SHAPES:
        packed, w = affine(n, k, bits, 32, seed=n)
        x = activations(17, k).astype(np.float64)
        error = np.abs(product(x.astype(np.float32), packed) - x @ w.T)
        share = error / (np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(w, axis=1))
        assert share.max() < 1e-4


@pytest.mark.parametrize("scale_type", [np.float16, np.float32])
def test_scales_keep_their_precision(isa, scale_type):
    packed, w = affine(40, 256, 4, 32, scale_type=scale_type)
    x = activations(3, 256)
    assert_close(product(x, packed), rounded(x), w)


def test_bfloat16_scales(isa):
    q, scales, biases = mx.quantize(mx.random.normal((24, 128), key=mx.random.key(1)), group_size=32, bits=4)
    scales, biases = scales.astype(mx.bfloat16), biases.astype(mx.bfloat16)
    w = mx.dequantize(q, scales.astype(mx.float32), biases.astype(mx.float32), group_size=32, bits=4)
    x = activations(4, 128)
    packed = _ext.pack_affine(q, scales, biases, 4, 32)
    assert_close(product(x, packed), rounded(x), np.array(w, dtype=np.float64), 1e-5)


@pytest.mark.parametrize("bits", [4, 8])
def test_largest_integers_do_not_saturate(isa, bits):
    for q in (0, 1, 2**bits - 1):
        word = sum(q << bits * i for i in range(32 // bits))
        ones = mx.ones((17, 2), dtype=mx.float32)
        packed = _ext.pack_affine(mx.full((17, 64 * bits // 32), word, dtype=mx.uint32), ones, 0 * ones, bits, 32)
        for signs in (np.ones(64), -np.ones(64), np.where(np.arange(64) % 2, 1, -1)):
            x = (16256 * signs).astype(np.float32)[None]
            assert (product(x, packed) == q * x.sum()).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_every_integer_is_split_and_multiplied_exactly(isa, bits):
    """Inputs that are their own integers (the largest is 16256) against one weight at a time: no rounding anywhere."""
    words = np.zeros((32, 32 * bits // 32), np.uint32)
    for i in range(32):  # output i is input i, times the largest weight
        words[i, i * bits // 32] = (2**bits - 1) << (i * bits % 32)
    ones = mx.ones((32, 1), dtype=mx.float32)
    packed = _ext.pack_affine(mx.array(words), ones, 0 * ones, bits, 32)
    integers = np.arange(-16256, 16257)
    x = np.resize(integers, (-(-len(integers) // 31), 31)).astype(np.float32)
    x = np.concatenate([x, np.full((len(x), 1), 16256, np.float32)], axis=1)
    assert np.array_equal(product(x, packed), x * (2**bits - 1))


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_dense_product(isa, dtype):
    for n, k in ((1, 1), (15, 7), (33, 64), (70, 129)):
        weight = mx.random.normal((n, k), key=mx.random.key(n)).astype(dtype)
        packed = _ext.pack_dense(weight)
        for rows in ROWS:
            x = activations(rows, k)
            assert_close(
                product(x, packed), x.astype(np.float64), np.array(weight.astype(mx.float32), np.float64), 1e-5
            )


def every_kind(n, k):
    yield affine(n, k, 4, 32)[0]
    yield affine(n, k, 8, 64, symmetric=True)[0]
    yield _ext.pack_dense(mx.random.normal((n, k), key=mx.random.key(0)).astype(mx.bfloat16))


def test_a_row_does_not_depend_on_the_others_nor_on_the_threads(isa):
    x = activations(128, 256)
    for packed in every_kind(203, 256):
        alone = np.concatenate([product(x[i : i + 1], packed) for i in range(128)])
        for rows in (2, 7, 33, 128):
            for threads in (1, 2, 5):
                _ext.set_threads(threads)
                assert np.array_equal(product(x[:rows], packed), alone[:rows])


@pytest.mark.parametrize("fine", [True, False])
def test_all_instruction_sets_compute_the_same_bits(fine):
    x = outlying(43, 384)
    for packed in every_kind(77, 384):
        results = []
        for name in _ext.supported_isas(emulated=True):
            _ext.set_isa(name)
            results.append(product(x, packed, fine))
        _ext.set_isa("auto")
        assert all(np.array_equal(result, results[0]) for result in results)


def test_no_rows_and_leading_dimensions(isa):
    packed, w = affine(20, 64, 4, 32)
    assert _ext.linear(mx.zeros((0, 64)), packed).shape == (0, 20)
    x = activations(6, 64)
    y = _ext.linear(mx.array(x).reshape(2, 3, 64), packed)
    assert y.shape == (2, 3, 20)
    assert_close(np.array(y).reshape(6, 20), rounded(x), w)


def test_a_transposed_view_is_read_in_its_own_order(isa):
    packed, w = affine(20, 64, 8, 32)
    x = activations(5, 64)
    y = np.array(_ext.linear(mx.array(np.ascontiguousarray(x.T)).T, packed))
    assert_close(y, rounded(x), w)


def test_zero_tiny_and_non_finite_activations(isa):
    packed, _ = affine(16, 64, 4, 32)
    x = np.zeros((5, 64), np.float32)
    x[1] = 1e-38
    x[2, 40] = np.inf
    x[3, 3] = np.nan
    x[4] = 1e35
    y = product(x, packed)
    assert (y[:2] == 0).all()
    assert np.isnan(y[2:4]).all()
    assert np.isfinite(y[4]).all()


def test_embedding_rows_are_mlx_own_dequantization():
    weight = mx.random.normal((37, 128), key=mx.random.key(3))
    ids = mx.array([[0, 36], [5, 5]])
    for bits in (4, 8):
        for group in (32, 64, 128):
            parts = mx.quantize(weight, group_size=group, bits=bits)
            expected = mx.dequantize(*parts, group_size=group, bits=bits)[ids]
            assert mx.array_equal(_ext.embedding(ids, _ext.pack_affine(*parts, bits, group)), expected)
    half = weight.astype(mx.float16)
    assert mx.array_equal(_ext.embedding(ids, _ext.pack_dense(half)), half[ids].astype(mx.float32))
    for wrong in (-1, 37):
        with pytest.raises(IndexError, match=f"id {wrong}; accepted: 0 to 36"):
            _ext.embedding(mx.array([wrong]), _ext.pack_dense(half))


def test_gradient_of_the_activations():
    packed, w = affine(30, 64, 8, 32)
    x, target = mx.array(activations(7, 64)), mx.array(activations(7, 30, seed=5))
    gradient = np.array(mx.grad(lambda x: (_ext.linear(x, packed) * target).sum())(x))
    assert_close(gradient, np.array(target, np.float64), w.T, 1e-5)
    # And of the gradient, as a loss through linear_transposed needs.
    y = mx.array(activations(2, 30))
    back = np.array(mx.grad(lambda y: _ext.linear_transposed(y, packed).sum())(y))
    assert_close(back, np.ones((2, 64)), w, 1e-2)


def test_symmetric_biases_are_not_stored():
    with_bias, without = affine(16, 128, 8, 32)[0], affine(16, 128, 8, 32, symmetric=True)[0]
    assert with_bias.nbytes - without.nbytes == 16 * 4 * 2
    assert without.nbytes == 16 * 128 + 16 * 4 * 2


def test_refusals_name_what_is_accepted():
    packed, _ = affine(16, 64, 4, 32)
    with pytest.raises(ValueError, match="last dimension of the input is 32; accepted: 64"):
        _ext.linear(mx.zeros((2, 32)), packed)
    words, scales = mx.zeros((16, 8), dtype=mx.uint32), mx.zeros((16, 2))
    with pytest.raises(ValueError, match="bits is 3; accepted: 4 or 8"):
        _ext.pack_affine(words, scales, scales, 3, 32)
    with pytest.raises(ValueError, match=r"accepted: \[N, K / group_size\]"):
        _ext.pack_affine(words, scales, scales, 4, 64)
    with pytest.raises(ValueError, match="group is 16; accepted: 32, 64 or 128"):
        _ext.pack_affine(words, mx.zeros((16, 4)), mx.zeros((16, 4)), 4, 16)
    with pytest.raises(ValueError, match="accepted: float32, bfloat16, float16"):
        _ext.pack_dense(words)
