"""The decoder's row operations against float64 NumPy, on every instruction set this machine has."""

from collections.abc import Iterator

import numpy as np
import pytest

import kernels.cpu

if not kernels.cpu.available():
    pytest.skip(kernels.cpu.reason(), allow_module_level=True)

from kernels.cpu import _ext

WIDTHS = [1, 3, 8, 15, 16, 17, 64, 100, 576, 1537]


@pytest.fixture(params=_ext.supported_isas(), autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    _ext.set_isa(request.param)
    yield request.param
    _ext.set_isa("auto")


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("n", WIDTHS)
@pytest.mark.parametrize("rows", [0, 1, 3])
def test_rms_norm(rows: int, n: int) -> None:
    x, w = normal(n, rows, n), normal(n + 1, n)
    wide = x.astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + 1e-5) * w
    np.testing.assert_allclose(_ext.rms_norm(x, w, 1e-5), expected, rtol=3e-6, atol=1e-7)


@pytest.mark.parametrize("n", WIDTHS)
@pytest.mark.parametrize("gelu", [False, True])
def test_gate(gelu: bool, n: int) -> None:
    x, up = 6 * normal(n, 2, n), normal(n + 1, 2, n)
    g = x.astype(np.float64)
    if gelu:
        expected = 0.5 * g * (1 + np.tanh(np.sqrt(2 / np.pi) * (g + 0.044715 * g**3))) * up
    else:
        expected = g / (1 + np.exp(-g)) * up
    # Far below zero the gelu is a difference of nearly equal numbers in the formula: absolute error decides there.
    np.testing.assert_allclose(_ext.gate(x, up, gelu), expected, rtol=2e-6, atol=1e-6)


def test_gate_of_extreme_values_stays_finite() -> None:
    x = np.array([[-1e30, -200.0, -88.0, 0.0, 88.0, 200.0, 1e18]], np.float32)
    expected = np.array([[0, 0, 0, 0, 88, 200, 1e18]], np.float32)
    np.testing.assert_allclose(_ext.gate(x, np.ones_like(x), False), expected, atol=1e-6)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("dim", "pairs"), [(64, 32), (80, 20), (6, 3), (64, 1)])
def test_rope(dim: int, pairs: int, interleaved: bool) -> None:
    x, positions = normal(dim, 3, 2, dim), np.array([0, 1, 8191], np.int32)
    frequencies = 1e5 ** (-np.arange(pairs) / pairs)
    angles = positions[:, None, None] * frequencies
    first = 2 * np.arange(pairs) if interleaved else np.arange(pairs)
    second = first + (1 if interleaved else pairs)
    expected = x.astype(np.float64)
    a, b = expected[..., first].copy(), expected[..., second].copy()
    expected[..., first] = a * np.cos(angles) - b * np.sin(angles)
    expected[..., second] = a * np.sin(angles) + b * np.cos(angles)
    np.testing.assert_allclose(_ext.rope(x, positions, list(frequencies), interleaved), expected, atol=1e-6)


def test_to_half_rounds_as_numpy_and_saturates() -> None:
    bits = np.arange(0x0000, 0x7C00, dtype=np.uint16)  # every finite half, and the places between neighbours
    halves = bits.view(np.float16).astype(np.float32)
    middles = (halves[1:] + halves[:-1]) / 2
    x = np.concatenate([halves, -halves, middles, np.nextafter(middles, 0), np.nextafter(middles, np.inf)])
    np.testing.assert_array_equal(_ext.to_half(x), x.astype(np.float16).view(np.uint16))
    large = np.array([65519.0, 65520.0, 1e9, -1e9, np.inf], np.float32)
    np.testing.assert_array_equal(_ext.to_half(large).view(np.float16), [65504, 65504, 65504, -65504, 65504])


def test_mismatched_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="3 weights"):
        _ext.rms_norm(normal(0, 2, 4), normal(0, 3), 1e-5)
    with pytest.raises(ValueError, match="position per token"):
        _ext.rope(normal(0, 2, 1, 4), np.zeros(3, np.int32), [1.0], False)
