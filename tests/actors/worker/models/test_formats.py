"""Every storage format, from its file to products on every instruction set, without being unpacked on the way."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from kernels import cpu

if not cpu.available():
    pytest.skip(cpu.reason(), allow_module_level=True)

from actors.worker.models import load_model
from actors.worker.models.gguf import GGML_TYPES, read_gguf
from actors.worker.models.gguf_tensors import GgufTensors
from actors.worker.models.safetensors import Quantization, SafetensorsTensors
from kernels.backend import build_decoder
from kernels.cpu import _ext
from kernels.decoder import Batch, Quantized, Weight
from tests.oracles import float64, gguf_writer, tiny_llama
from tests.oracles.gguf_writer import BF16, F16, F32, Q4_0, Q4_1, Q8_0

N, K = 48, 384
MATRIX = np.random.default_rng(3).standard_normal((N, K)).astype(np.float32)
ISAS = _ext.supported_isas(emulated=True)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest):
    _ext.set_isa(request.param)
    yield request.param
    _ext.set_isa("auto")


def pack(weight: Weight):
    if not isinstance(weight, Quantized):
        return _ext.pack_dense(weight)
    return _ext.pack_affine(weight.weight, weight.scales, weight.biases, weight.bits, weight.group_size)


def assert_runs_packed(weight: Weight, file_bytes: int, wanted: np.ndarray) -> None:
    """It takes no more memory than in the file, and its products are those of `wanted` to 15 bits of each input."""
    packed = pack(weight)
    assert packed.nbytes == file_bytes
    for rows in (1, 3, 12, 21):  # one row; AMX takes from 9, with NEON's smmla two at a time
        x = np.random.default_rng(rows).standard_normal((rows, K)).astype(np.float32)
        error = np.abs(np.array(_ext.linear(mx.array(x), packed)) - x.astype(np.float64) @ wanted.T)
        share = error / (np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(wanted, axis=1))
        assert share.max() < 1e-4


@pytest.mark.parametrize("kind", [Q4_0, Q4_1, Q8_0, BF16, F16, F32], ids=lambda kind: GGML_TYPES[kind].name)
def test_gguf(isa: str, tmp_path: Path, kind: int) -> None:
    blocks = quantize(MATRIX, GGMLQuantizationType(kind))
    raw = blocks.tobytes()
    path = gguf_writer.write(tmp_path / "m.gguf", {}, [("w.weight", (N, K), kind, raw)])
    wanted = dequantize(blocks, GGMLQuantizationType(kind)).astype(np.float64)
    assert_runs_packed(GgufTensors(read_gguf(path)).weight("w.weight"), len(raw), wanted)


@pytest.mark.parametrize("scale_type", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
def test_mlx(isa: str, tmp_path: Path, bits: int, group_size: int, scale_type: mx.Dtype) -> None:
    parts = mx.quantize(mx.array(MATRIX).astype(scale_type), group_size, bits)
    arrays = dict(zip(("w.weight", "w.scales", "w.biases"), parts, strict=True))
    mx.save_safetensors(str(tmp_path / "model.safetensors"), arrays)
    weight = SafetensorsTensors(tmp_path, Quantization(bits, group_size)).weight("w.weight")
    assert isinstance(weight, Quantized)
    wide = [part.astype(mx.float32) for part in parts[1:]]
    wanted = np.array(mx.dequantize(parts[0], *wide, group_size, bits)).astype(np.float64)
    assert_runs_packed(weight, sum(part.nbytes for part in parts), wanted)


def test_a_model_of_every_format_is_the_oracles(isa: str, tmp_path: Path) -> None:
    kinds = [Q4_0, Q4_1, Q8_0, BF16]
    tensors = []
    for index, (name, shape, kind, raw) in enumerate(tiny_llama.gguf_tensors(tiny_llama.tensors())):
        stored_as = kinds[index % len(kinds)] if len(shape) == 2 else kind
        values = np.frombuffer(raw, np.float32).reshape(shape)
        tensors.append((name, shape, stored_as, quantize(values, GGMLQuantizationType(stored_as)).tobytes()))
    assert {kind for _, _, kind, _ in tensors} == {*kinds, F32}
    model = load_model(str(gguf_writer.write(tmp_path / "all.gguf", tiny_llama.metadata(), tensors)))
    tokens = np.arange(3, 23, dtype=np.int32)
    batch = Batch(
        tokens,
        row_starts=np.array([0, 20], np.int32),
        lengths=np.zeros(1, np.int32),
        page_table=np.array([[1, 0]], np.int32),
        logits_at=np.arange(20, dtype=np.int32),
    )
    decoder = build_decoder(model.spec, model.weights, backend="cpu", isa=isa)
    got = decoder.forward(batch, decoder.allocate_kv(2, 16))
    want = float64.decoder_logits(model.spec, model.weights, tokens.tolist())
    np.testing.assert_allclose(np.array(got), want, atol=0.02)  # K and V are half precision
