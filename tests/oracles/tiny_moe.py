"""Random mixtures of experts of every family: as a directory by expert or stacked, quantized as MLX does, and as GGUF.

    python -m tests.oracles.tiny_moe FOLDER

writes a directory of each family, for programs that know nothing of Russet (tests.golden.make_moe).
"""

import json
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from actors.worker.models import load_model
from tests.oracles import gguf_writer, tiny_llama
from tests.oracles.tiny_llama import HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LAYERS, Arrays

EXPERTS, TOP_K, WIDTH, SHARED = 8, 3, 32, 96
EXPERT_BYTES = 3 * HIDDEN * WIDTH // 2 + 3 * HIDDEN * WIDTH // 32 * 8
"""Of one that `quantized` made, in memory at most."""
FAMILIES = ("mixtral", "qwen2_moe", "qwen3_moe")
QUANTIZED = {"quantization": {"bits": 4, "group_size": 32}}
IDS = [5, 80, 3, 200, 17, 17, 99, 1, 254, 60]
_MIXTRAL_NAMES = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


def block(family: str) -> str:
    """What a family calls its feed-forward."""
    return "block_sparse_moe" if family == "mixtral" else "mlp"


def tensors(
    family: str, seed: int = 0, layers: int = LAYERS, experts: int = EXPERTS, vocab: int = len(tiny_llama.TOKENS)
) -> Arrays:
    """Float32 weights by Hugging Face's names, experts one by one."""
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (random.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    def vector(size: int) -> np.ndarray:
        return random.uniform(0.5, 1.5, size).astype(np.float32)

    arrays = {
        "model.embed_tokens.weight": matrix(vocab, HIDDEN),
        "model.norm.weight": vector(HIDDEN),
        "lm_head.weight": matrix(vocab, HIDDEN),
    }
    for layer in range(layers):
        at = f"model.layers.{layer}."
        for name, count in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            arrays[f"{at}self_attn.{name}_proj.weight"] = matrix(count * HEAD_DIM, HIDDEN)
            if family == "qwen2_moe":
                arrays[f"{at}self_attn.{name}_proj.bias"] = vector(count * HEAD_DIM) - 1
            if family == "qwen3_moe" and name != "v":
                arrays[f"{at}self_attn.{name}_norm.weight"] = vector(HEAD_DIM)
        arrays[f"{at}self_attn.o_proj.weight"] = matrix(HIDDEN, HEADS * HEAD_DIM)
        arrays |= {f"{at}{name}.weight": vector(HIDDEN) for name in ("input_layernorm", "post_attention_layernorm")}
        at += block(family) + "."
        arrays[f"{at}gate.weight"] = matrix(experts, HIDDEN)
        for expert in range(experts):
            for name in ("gate_proj", "up_proj", "down_proj"):
                shape = (HIDDEN, WIDTH) if name == "down_proj" else (WIDTH, HIDDEN)
                called = _MIXTRAL_NAMES[name] if family == "mixtral" else name
                arrays[f"{at}experts.{expert}.{called}.weight"] = matrix(*shape)
        if family == "qwen2_moe":
            arrays[f"{at}shared_expert_gate.weight"] = matrix(1, HIDDEN)
            arrays[f"{at}shared_expert.gate_proj.weight"] = matrix(SHARED, HIDDEN)
            arrays[f"{at}shared_expert.up_proj.weight"] = matrix(SHARED, HIDDEN)
            arrays[f"{at}shared_expert.down_proj.weight"] = matrix(HIDDEN, SHARED)
    return arrays


def stacked(family: str, arrays: Arrays) -> Arrays:
    """The experts in one tensor for each of their matrices, as mlx-lm writes them."""
    out = {name: values for name, values in arrays.items() if ".experts." not in name}
    experts = 1 + max(int(name.split(".experts.")[1].split(".")[0]) for name in arrays if ".experts." in name)
    for layer in range(1 + max(int(name.split(".")[2]) for name in arrays if name.startswith("model.layers."))):
        at = f"model.layers.{layer}.{block(family)}."
        for name in ("gate_proj", "up_proj", "down_proj"):
            called = _MIXTRAL_NAMES[name] if family == "mixtral" else name
            each = [arrays[f"{at}experts.{expert}.{called}.weight"] for expert in range(experts)]
            out[f"{at}switch_mlp.{name}.weight"] = np.stack(each)
    return out


def quantized(arrays: Arrays, bits: int = 4, group_size: int = 32) -> dict[str, mx.array]:
    """Every matrix as mlx_lm.convert quantizes it."""
    out = {}
    for name, values in arrays.items():
        if values.ndim == 1:
            out[name] = mx.array(values)
            continue
        parts = mx.quantize(mx.array(values), group_size, bits)
        out |= dict(zip((name, name[:-6] + "scales", name[:-6] + "biases"), parts, strict=True))
    return out


def config(family: str, **changes: Any) -> dict[str, Any]:
    """config.json."""
    values = tiny_llama.config() | {
        "model_type": family,
        "num_experts_per_tok": TOP_K,
        "tie_word_embeddings": False,
        "head_dim": HEAD_DIM,
    }
    if family == "mixtral":
        values |= {"num_local_experts": EXPERTS, "intermediate_size": WIDTH}
    else:
        values |= {"num_experts": EXPERTS, "moe_intermediate_size": WIDTH, "decoder_sparse_step": 1}
        values |= {"mlp_only_layers": [], "norm_topk_prob": family == "qwen3_moe"}
    if family == "qwen2_moe":
        values["shared_expert_intermediate_size"] = SHARED
    return values | changes


def write_directory(
    directory: Path, family: str, arrays: dict[str, mx.array] | Arrays | None = None, **changes: Any
) -> Path:
    """A safetensors directory; `changes` to config.json."""
    tiny_llama.write_directory(directory)
    held = tensors(family) if arrays is None else arrays
    mx.save_safetensors(str(directory / "model.safetensors"), {name: mx.array(values) for name, values in held.items()})
    (directory / "config.json").write_text(json.dumps(config(family, **changes)))
    return directory


def write_servable(directory: Path, family: str, seed: int = 0) -> Path:
    """One with the tokenizer and chat template of the default model."""
    known = load_model("smollm2-135m-instruct").vocabulary
    vocab = known.vocab_size
    changes = {"vocab_size": vocab, "max_position_embeddings": 2048, "eos_token_id": list(known.eos_ids)}
    write_directory(directory, family, quantized(tensors(family, seed, vocab=vocab)), **changes | QUANTIZED)
    (directory / "tokenizer.json").write_bytes(known.tokenizer_json)
    (directory / "tokenizer_config.json").write_text("{}")
    (directory / "chat_template.jinja").write_text(known.chat_template)
    return directory


_GGUF_ARCHITECTURES = {"mixtral": "llama", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe"}
_GGUF_NAMES = {
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "gate": "ffn_gate_inp",
    "switch_mlp.gate_proj": "ffn_gate_exps",
    "switch_mlp.up_proj": "ffn_up_exps",
    "switch_mlp.down_proj": "ffn_down_exps",
    "shared_expert_gate": "ffn_gate_inp_shexp",
    "shared_expert.gate_proj": "ffn_gate_shexp",
    "shared_expert.up_proj": "ffn_up_shexp",
    "shared_expert.down_proj": "ffn_down_shexp",
}


def write_gguf(path: Path, family: str, **changes: Any) -> Path:
    """The same weights as F32 tensors; `changes` to the metadata have "__" for a dot."""
    architecture = _GGUF_ARCHITECTURES[family]
    values: dict[str, Any] = {
        key.replace("llama.", architecture + "."): value for key, value in tiny_llama.metadata().items()
    }
    values |= {
        "general.architecture": architecture,
        f"{architecture}.expert_count": EXPERTS,
        f"{architecture}.expert_used_count": TOP_K,
        f"{architecture}.feed_forward_length": WIDTH,
    }
    if family == "qwen2_moe":
        values |= {
            "qwen2moe.expert_feed_forward_length": WIDTH,
            "qwen2moe.expert_shared_feed_forward_length": SHARED,
        }
    values |= {key.replace("__", "."): item for key, item in changes.items()}
    names = dict(_GGUF_NAMES)
    if family != "mixtral":  # only a llama's Q and K rows are permuted
        names |= {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    written: list[gguf_writer.Tensor] = []
    for name, array in stacked(family, tensors(family)).items():
        module, end = name.rsplit(".", 1)
        short = module.split(".", 3)[3].removeprefix(block(family) + ".") if ".layers." in module else ""
        if short in names:
            called = f"blk.{module.split('.')[2]}.{names[short]}.{end}"
            held = array.squeeze()  # as llama.cpp's converter does
            written.append((called, held.shape, gguf_writer.F32, held.tobytes()))
        else:
            written += tiny_llama.gguf_tensors({name: array})
    return gguf_writer.write(path, values, written)


if __name__ == "__main__":
    for each in FAMILIES:
        write_directory(Path(sys.argv[1]) / each, each, stacked(each, tensors(each)))
