"""Every storage type means exactly what ggml's own dequantization and MLX's loader make of it."""

import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from actors.base.errors import InvalidArgument
from actors.worker.models.gguf import GGML_TYPES, read_gguf
from actors.worker.models.gguf_tensors import GgufTensors
from kernels.decoder import Quantized
from tests.oracles import decoder
from tests.oracles.gguf_writer import Q4_0, Q4_1, Q8_0, write

ROWS, COLUMNS = 6, 96
MATRIX = np.random.default_rng(3).standard_normal((ROWS, COLUMNS)).astype(np.float32)


def stored(kind: int) -> np.ndarray:
    return quantize(MATRIX, GGMLQuantizationType(kind))


def load(tmp_path, kind: int, raw: bytes):
    path = write(tmp_path / "m.gguf", {}, [("w.weight", (ROWS, COLUMNS), kind, raw)])
    return path, GgufTensors(read_gguf(path))


@pytest.mark.parametrize("kind", GGML_TYPES, ids=[known.name for known in GGML_TYPES.values()])
def test_values_are_ggmls(tmp_path, kind):
    blocks = stored(kind)
    _, tensors = load(tmp_path, kind, blocks.tobytes())
    assert tensors.shape("w.weight") == (ROWS, COLUMNS)
    weight = tensors.weight("w.weight")
    assert tuple(weight.shape) == (ROWS, COLUMNS)
    # scale * q + bias rounds once more than ggml's d * (q - 8): one unit in the last place of float32.
    np.testing.assert_allclose(
        decoder.dense(weight), dequantize(blocks, GGMLQuantizationType(kind)), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("kind", [Q4_0, Q4_1, Q8_0])
def test_layout_is_mlxs_bit_for_bit(tmp_path, kind):
    path, tensors = load(tmp_path, kind, stored(kind).tobytes())
    weight, arrays = tensors.weight("w.weight"), mx.load(str(path))
    assert isinstance(weight, Quantized)
    assert isinstance(arrays, dict)
    for ours, name in ((weight.weight, "w.weight"), (weight.scales, "w.scales"), (weight.biases, "w.biases")):
        assert ours.dtype == arrays[name].dtype
        assert mx.array_equal(ours, arrays[name])


@pytest.mark.parametrize("kind", [Q4_0, Q4_1, Q8_0])
@pytest.mark.parametrize("scale", [np.inf, np.nan, 60000.0])
def test_scales_that_are_no_weights_are_refused(tmp_path, kind, scale):
    blocks = stored(kind).reshape(-1, GGML_TYPES[kind].nbytes).copy()
    blocks[4, :2] = np.array([scale], np.float16).view(np.uint8)
    _, tensors = load(tmp_path, kind, blocks.tobytes())
    if kind == Q4_1 and scale == 60000.0:
        assert isinstance(tensors.weight("w.weight"), Quantized)  # its minimum is stored, not derived
        return
    with pytest.raises(InvalidArgument, match=r"w\.weight.*scale"):
        tensors.weight("w.weight")


def test_a_norm_may_not_be_quantized(tmp_path):
    _, tensors = load(tmp_path, Q8_0, stored(Q8_0).tobytes())
    with pytest.raises(InvalidArgument, match="Q8_0"):
        tensors.vector("w.weight")
