"""Safetensors directories: the same model as its GGUF, MLX's quantization included, and bad ones refused by name."""

import json
import struct

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.base.errors import InvalidArgument
from actors.base.vocabulary import Vocabulary
from actors.worker.models import load_model
from actors.worker.models.rope import frequencies, llama3
from actors.worker.models.safetensors import SafetensorsTensors
from kernels.decoder import Quantized
from tests.oracles import decoder, tiny_llama

IDS = [5, 80, 3, 200, 17, 17, 99]


def logits(model) -> np.ndarray:
    return decoder.logits(model.spec, model.weights, [IDS])[0]


def change_config(directory, **changes) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(directory, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        load_model(str(directory))


def test_gguf_and_directory_of_the_same_weights_are_the_same_model(tmp_path):
    """The rotary conventions differ, the logits must not."""
    one = load_model(str(tiny_llama.write_gguf(tmp_path / "tiny.gguf")))
    other = load_model(str(tiny_llama.write_directory(tmp_path / "tiny")))
    assert one.spec.rope.interleaved
    assert not other.spec.rope.interleaved
    np.testing.assert_allclose(logits(one), logits(other), rtol=1e-4, atol=1e-4)
    assert one.info.id == other.info.id == "tiny"
    assert one.info.parameters == other.info.parameters == sum(array.size for array in tiny_llama.tensors().values())
    assert one.info.weight_bytes == 4 * one.info.parameters
    assert one.vocabulary.eos_ids == other.vocabulary.eos_ids == [0, 2]
    text = "hello 12 é<|im_end|>"
    assert Vocabulary(one.vocabulary).encode(text) == Vocabulary(other.vocabulary).encode(text)
    assert one.vocabulary.chat_template == other.vocabulary.chat_template == tiny_llama.CHAT_TEMPLATE


def quantized_directory(tmp_path, bits: int, group_size: int, dense_head: bool = False):
    """As mlx_lm.convert writes it: every matrix quantized by mx.quantize."""
    arrays, quantization = {}, {"bits": bits, "group_size": group_size}
    for name, values in tiny_llama.tensors().items():
        narrow = values.ndim == 1 or values.shape[1] % group_size
        if narrow or (dense_head and "embed" in name):
            arrays[name] = mx.array(values)
            if values.ndim == 2:
                quantization[name.removesuffix(".weight")] = False
            continue
        parts = mx.quantize(mx.array(values), group_size, bits)
        arrays |= dict(zip([name, name[:-6] + "scales", name[:-6] + "biases"], parts, strict=True))
    directory = tiny_llama.write_directory(tmp_path / "q", quantization=quantization)
    mx.save_safetensors(str(directory / "model.safetensors"), arrays)
    return directory, arrays


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [32, 64])
def test_mlx_quantization(tmp_path, bits, group_size):
    directory, arrays = quantized_directory(tmp_path, bits, group_size, dense_head=True)
    model = load_model(str(directory))
    gate = model.weights.layers[1].gate
    assert isinstance(gate, Quantized)
    assert gate.shape == (tiny_llama.INTERMEDIATE, tiny_llama.HIDDEN)
    assert isinstance(model.weights.embedding, mx.array)
    name = "model.layers.1.mlp.gate_proj."
    wanted = mx.dequantize(*(arrays[name + end] for end in ("weight", "scales", "biases")), group_size, bits)
    np.testing.assert_allclose(decoder.dense(gate), np.array(wanted), atol=1e-6)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_halves_stay_halves_and_norms_become_float32(tmp_path, dtype):
    directory = tiny_llama.write_directory(tmp_path / "half")
    arrays = {name: mx.array(values).astype(dtype) for name, values in tiny_llama.tensors().items()}
    mx.save_safetensors(str(directory / "model.safetensors"), arrays)
    weights = load_model(str(directory)).weights
    assert isinstance(weights.layers[0].q, mx.array)
    assert weights.layers[0].q.dtype == dtype
    assert mx.array_equal(weights.layers[0].q, arrays["model.layers.0.self_attn.q_proj.weight"])
    assert weights.final_norm.dtype == weights.layers[0].mlp_norm.dtype == mx.float32


def test_several_files_and_an_index(tmp_path):
    whole = load_model(str(tiny_llama.write_directory(tmp_path / "one")))
    directory = tiny_llama.write_directory(tmp_path / "two")
    (directory / "model.safetensors").unlink()
    arrays = {name: mx.array(values) for name, values in tiny_llama.tensors().items()}
    names = sorted(arrays)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, held in parts.items():
        mx.save_safetensors(str(directory / file), {name: arrays[name] for name in held})
    weight_map = {name: file for file, held in parts.items() for name in held}
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    np.testing.assert_array_equal(logits(load_model(str(directory))), logits(whole))

    index.write_text(json.dumps({"weight_map": weight_map | {"x": "../one/model.safetensors"}}))
    refused(directory, r"\.\./one/model\.safetensors")
    index.write_text(json.dumps({"weight_map": weight_map | {"x": "c.safetensors"}}))
    refused(directory, "'c.safetensors', which is missing")


def test_a_head_of_its_own_is_used(tmp_path):
    arrays = tiny_llama.tensors()
    arrays["lm_head.weight"] = np.roll(arrays["model.embed_tokens.weight"], 1, axis=0)
    model = load_model(str(tiny_llama.write_directory(tmp_path / "head", arrays, tie_word_embeddings=False)))
    tied = load_model(str(tiny_llama.write_directory(tmp_path / "tied")))
    np.testing.assert_allclose(logits(model), np.roll(logits(tied), 1, axis=1), atol=1e-5)
    same = load_model(str(tiny_llama.write_gguf(tmp_path / "head.gguf", arrays)))
    np.testing.assert_allclose(logits(same), logits(model), atol=1e-4)


def test_qwen2_has_biases(tmp_path):
    arrays = tiny_llama.tensors()
    for layer in range(tiny_llama.LAYERS):
        for part in "qkv":
            name = f"model.layers.{layer}.self_attn.{part}_proj."
            arrays[name + "bias"] = np.full(arrays[name + "weight"].shape[0], 0.5, np.float32)
    directory = tiny_llama.write_directory(tmp_path / "qwen", arrays, model_type="qwen2")
    model = load_model(str(directory))
    assert model.info.family == "qwen2"
    assert model.weights.layers[0].v_bias is not None
    assert not np.allclose(logits(model), logits(load_model(str(tiny_llama.write_directory(tmp_path / "llama")))))
    change_config(directory, model_type="llama")
    refused(directory, "bias")


def test_llama3_scaling_keeps_short_waves_and_stretches_long_ones(tmp_path):
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    directory = tiny_llama.write_directory(tmp_path / "l3", rope_scaling=scaling, rope_theta=500000.0)
    plain = frequencies(tiny_llama.HEAD_DIM, 500000.0)
    scaled = load_model(str(directory)).spec.rope.frequencies
    assert scaled == llama3(plain, 8.0, 1.0, 4.0, 8192)
    assert scaled[0] == plain[0]
    assert scaled[-1] == plain[-1] / 8
    assert all(before / 8 <= after <= before for before, after in zip(plain, scaled, strict=True))
    change_config(directory, rope_scaling={"type": "linear", "factor": 2.0})
    assert load_model(str(directory)).spec.rope.frequencies == tuple(value / 2 for value in plain)
    change_config(directory, rope_scaling={"rope_type": "yarn", "factor": 2.0})
    refused(directory, "yarn")


def test_context_ends_where_a_sliding_window_would_begin(tmp_path):
    directory = tiny_llama.write_directory(tmp_path / "m", model_type="mistral", sliding_window=32)
    assert load_model(str(directory)).spec.context_length == 32
    change_config(directory, sliding_window=None)
    assert load_model(str(directory)).spec.context_length == tiny_llama.CONTEXT


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "mamba"}, "'mamba'; supported are llama, mistral, mixtral, qwen2, qwen2_moe, qwen3, qwen3_moe"),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"hidden_size": -4}, "hidden_size is -4"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers is '2'"),
        ({"num_hidden_layers": 3}, r"'model\.layers\.2\.input_layernorm\.weight' is missing"),
        ({"num_hidden_layers": 1}, r"none of this architecture's, first 'model\.layers\.1"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3; a divisor of the 4 heads"),
        ({"intermediate_size": 95}, r"shape \(96, 64\); the model's numbers make it \(95, 64\)"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"tie_word_embeddings": False}, "lm_head"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"quantization": {"bits": 3, "group_size": 64}}, "bits is 3"),
        ({"quantization": {"bits": 4, "group_size": 7}}, "group_size is 7"),
        ({"quantization": {"bits": 4, "group_size": 32, "mode": "mxfp4"}}, "mxfp4"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, changes, said):
    refused(tiny_llama.write_directory(tmp_path / "m", **changes), said)


def test_missing_parts(tmp_path):
    directory = tiny_llama.write_directory(tmp_path / "m")
    for file in ("tokenizer.json", "model.safetensors", "config.json"):
        (directory / file).rename(directory / "away")
        refused(directory, r"no (tokenizer\.json|\*\.safetensors|config\.json)")
        (directory / "away").rename(directory / file)
    load_model(str(directory))


def test_a_template_file_wins(tmp_path):
    directory = tiny_llama.write_directory(tmp_path / "m")
    (directory / "chat_template.jinja").write_text("{{ x }}")
    assert load_model(str(directory)).vocabulary.chat_template == "{{ x }}"
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates" / "tool_use.jinja").write_text("{{ y }}")
    with_tools = load_model(str(directory)).vocabulary.chat_template
    assert with_tools == "{% if tools %}{{ y }}{% else %}{{ x }}{% endif %}"


@pytest.mark.parametrize(
    ("settings", "template"),
    [
        (
            {"chat_template": [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]},
            "{% if tools %}a{% else %}b{% endif %}",
        ),
        ({"chat_template": [{"name": "rag", "template": "a"}, {"name": "default", "template": "b"}]}, "b"),
        ({"chat_template": None, "eos_token": 7, "bos_token": None}, ""),
        ({"chat_template": 7}, None),
    ],
)
def test_tokenizer_settings(tmp_path, settings, template):
    directory = tiny_llama.write_directory(tmp_path / "m")
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    if template is None:
        refused(directory, "chat_template is int")
    else:
        assert load_model(str(directory)).vocabulary.chat_template == template


@pytest.mark.parametrize("ids", [["2"], [10_000], -1, [[2]]])
def test_end_ids_that_are_none(tmp_path, ids):
    refused(tiny_llama.write_directory(tmp_path / "m", eos_token_id=ids), "special token ids")


def test_truncated_data(tmp_path):
    directory = tiny_llama.write_directory(tmp_path / "m")
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    refused(directory, "truncated")


def header(entries, data=b"") -> bytes:
    raw = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(raw)) + raw + data


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "0 bytes"),
        (struct.pack("<Q", 2**60) + bytes(8), "the header is"),
        (header(b"[1, 2]"), "list"),
        (header(b"{]"), "JSON"),
        (header({"a": 3}), "dtype None"),
        (header({"a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)), "'F64'; accepted are F32"),
        (header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)), "has 4 bytes, not 8"),
        (header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)), "corrupt"),
        (header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, bytes(4)), "corrupt"),
        (header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, bytes(4)), "corrupt"),
    ],
)
def test_corrupt_files(tmp_path, raw, said):
    (tmp_path / "model.safetensors").write_bytes(raw)
    with pytest.raises(InvalidArgument, match=said):
        SafetensorsTensors(tmp_path, None)


@given(data=st.data())
@settings(max_examples=200)
def test_damage_anywhere_is_an_error_or_harmless(data, tmp_path_factory):
    entries = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
    raw = bytearray(header(entries, bytes(16)))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    directory = tmp_path_factory.mktemp("m")
    (directory / "model.safetensors").write_bytes(raw)
    try:
        tensors = SafetensorsTensors(directory, None)
    except InvalidArgument:
        return
    for name in tensors.names:
        assert tensors.shape(name) is not None
