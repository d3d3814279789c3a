"""Mixtures of experts: every family's logits are mlx-lm's, however its file is laid out; bad files refused by name."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from actors.base.errors import InvalidArgument
from actors.worker.models import load_model
from kernels import cpu
from kernels.backend import build_decoder
from kernels.decoder import Batch, Quantized
from tests.oracles import float64, tiny_moe
from tests.oracles.tiny_moe import EXPERTS, FAMILIES, IDS, TOP_K, WIDTH

GOLDEN = np.load(Path(__file__).parents[3] / "golden" / "moe_logits.npz")
"""Logits [10, vocab] of IDS by each family, made by mlx-lm (tests.golden.make_moe)."""
BACKENDS = ["mlx", *(["cpu"] if cpu.available() else [])]


def written(tmp_path: Path, family: str, layout: str) -> str:
    if layout == "gguf":
        return str(tiny_moe.write_gguf(tmp_path / "m.gguf", family))
    arrays = tiny_moe.tensors(family)
    arrays = arrays if layout == "by expert" else tiny_moe.stacked(family, arrays)
    return str(tiny_moe.write_directory(tmp_path / "m", family, arrays))


def logits(model, backend: str) -> np.ndarray:
    ids = np.array(IDS, np.int32)
    starts, none = np.array([0, len(ids)], np.int32), np.zeros(1, np.int32)
    batch = Batch(ids, starts, none, np.array([[1, 0]], np.int32), np.arange(len(ids), dtype=np.int32))
    decoder = build_decoder(model.spec, model.weights, backend=backend)
    return np.array(decoder.forward(batch, decoder.allocate_kv(2, 16)))


@pytest.mark.parametrize("layout", ["by expert", "stacked", "gguf"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_mlx_lms(tmp_path: Path, family: str, layout: str) -> None:
    model = load_model(written(tmp_path, family, layout))
    assert model.info.family == family
    assert model.info.parameters == sum(array.size for array in tiny_moe.tensors(family).values())
    np.testing.assert_allclose(float64.decoder_logits(model.spec, model.weights, IDS), GOLDEN[family], atol=1e-5)
    for backend in BACKENDS:  # K and V of the compiled decoder are half precision
        np.testing.assert_allclose(logits(model, backend), GOLDEN[family], atol=5e-3 if backend == "cpu" else 1e-5)


@pytest.mark.parametrize("layout", ["by expert", "stacked"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bits", [4, 8])
def test_quantized(tmp_path: Path, bits: int, family: str, layout: str) -> None:
    arrays = tiny_moe.tensors(family)
    arrays = arrays if layout == "by expert" else tiny_moe.stacked(family, arrays)
    changes = {"quantization": {"bits": bits, "group_size": 32}}
    held = tiny_moe.quantized(arrays, bits)
    model = load_model(str(tiny_moe.write_directory(tmp_path / "m", family, held, **changes)))
    experts = model.weights.layers[1].mixture.experts
    assert len(experts) == EXPERTS
    assert isinstance(experts[EXPERTS - 1].down, Quantized)
    assert experts[0].gate.shape == (WIDTH, tiny_moe.HIDDEN)
    assert model.info.weight_bytes == sum(part.nbytes for part in held.values())
    want = float64.decoder_logits(model.spec, model.weights, IDS)
    for backend in BACKENDS:
        np.testing.assert_allclose(logits(model, backend), want, atol=0.02)


def test_a_dense_layer_among_mixtures(tmp_path: Path) -> None:
    arrays = tiny_moe.tensors("qwen3_moe")
    arrays = {name: values for name, values in arrays.items() if "layers.0.mlp" not in name}
    random = np.random.default_rng(1)
    for name, shape in (("gate", (96, 64)), ("up", (96, 64)), ("down", (64, 96))):
        arrays[f"model.layers.0.mlp.{name}_proj.weight"] = (random.standard_normal(shape) / 8).astype(np.float32)
    model = load_model(str(tiny_moe.write_directory(tmp_path / "m", "qwen3_moe", arrays, mlp_only_layers=[0])))
    assert [layer.mixture is None for layer in model.weights.layers] == [True, False]
    want = float64.decoder_logits(model.spec, model.weights, IDS)
    for backend in BACKENDS:
        np.testing.assert_allclose(logits(model, backend), want, atol=5e-3)


def test_weights_add_up_to_one_only_where_the_config_says_so(tmp_path: Path) -> None:
    plain = load_model(str(tiny_moe.write_directory(tmp_path / "a", "qwen3_moe", norm_topk_prob=False)))
    for backend in BACKENDS:
        want = float64.decoder_logits(plain.spec, plain.weights, IDS)
        np.testing.assert_allclose(logits(plain, backend), want, atol=5e-3)
        assert np.abs(want - GOLDEN["qwen3_moe"]).max() > 0.1


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("mixtral", {"num_local_experts": None}, "num_local_experts is None"),
        ("mixtral", {"num_local_experts": 9}, r"shape \(8, 64\); the model's numbers make it \(9, 64\)"),
        ("mixtral", {"num_local_experts": 7}, r"shape \(8, 64\)"),
        ("mixtral", {"num_experts_per_tok": 9}, "num_experts_per_tok is 9; a whole number from 1 to 8"),
        ("mixtral", {"num_experts_per_tok": 0}, "num_experts_per_tok is 0"),
        ("qwen3_moe", {"norm_topk_prob": 3}, "norm_topk_prob is 3"),
        ("qwen3_moe", {"moe_intermediate_size": 33}, r"shape \(32, 64\); the model's numbers make it \(33, 64\)"),
        ("qwen2_moe", {"shared_expert_intermediate_size": 32}, r"\(96, 64\)"),
        ("qwen3_moe", {"model_type": "qwen3"}, "'model.layers.0.mlp.gate_proj.weight' is missing"),
        ("qwen2_moe", {"model_type": "qwen3_moe"}, "q_norm"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, family: str, changes: dict, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        load_model(str(tiny_moe.write_directory(tmp_path / "m", family, **changes)))


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    arrays = tiny_moe.tensors("mixtral")
    del arrays["model.layers.1.block_sparse_moe.experts.5.w2.weight"]
    with pytest.raises(InvalidArgument, match=r"layers\.1\.block_sparse_moe\.experts\.5\.w2\.weight' is missing"):
        load_model(str(tiny_moe.write_directory(tmp_path / "m", "mixtral", arrays)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"llama__expert_used_count": 9}, "expert_used_count is 9"),
        ({"llama__expert_gating_func": 2}, r"expert_gating_func is 2; 1 \(softmax\) is accepted"),
        ({"llama__expert_weights_scale": 2.5}, "expert_weights_scale is 2.5"),
        ({"llama__expert_count": 0}, "ffn_gate.weight' is missing"),
    ],
)
def test_gguf_numbers_that_do_not_fit(tmp_path: Path, changes: dict, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        load_model(str(tiny_moe.write_gguf(tmp_path / "m.gguf", "mixtral", **changes)))


def test_experts_are_read_one_by_one(tmp_path: Path) -> None:
    arrays = tiny_moe.stacked("mixtral", tiny_moe.tensors("mixtral"))
    model = load_model(str(tiny_moe.write_directory(tmp_path / "m", "mixtral", arrays)))
    experts = model.weights.layers[1].mixture.experts
    name = "model.layers.1.block_sparse_moe.switch_mlp.up_proj.weight"
    assert mx.array_equal(experts[6].up, mx.array(arrays[name][6]))
    assert experts[6].up is not experts[6].up
    with pytest.raises(IndexError):
        experts[EXPERTS]
    assert model.spec.mixture.top_k == TOP_K
