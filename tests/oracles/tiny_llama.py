"""A random llama with two layers and a byte-level vocabulary, written as GGUF and as a safetensors directory.

GGUF keeps Q and K rows permuted for interleaved rotation, Hugging Face does not: both must mean the same model.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from actors.base.vocabulary import byte_of_character
from tests.oracles import gguf_writer

HIDDEN, HEADS, KV_HEADS, LAYERS, INTERMEDIATE, CONTEXT = 64, 4, 2, 2, 96, 128
HEAD_DIM = HIDDEN // HEADS
CHAT_TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"

TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_of_character(), "he", "ll", "Ġhe", "hell", "hello"]
MERGES = ["h e", "l l", "Ġ he", "he ll", "hell o"]
KINDS = np.array([3, 3, 3] + [1] * (len(TOKENS) - 3), np.int32)

Arrays = dict[str, np.ndarray]


def tensors(seed: int = 0, layers: int = LAYERS) -> Arrays:
    """Float32 weights by Hugging Face's names."""
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (random.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    def norm() -> np.ndarray:
        return random.uniform(0.5, 1.5, HIDDEN).astype(np.float32)

    arrays = {"model.embed_tokens.weight": matrix(len(TOKENS), HIDDEN), "model.norm.weight": norm()}
    for layer in range(layers):
        shapes = {
            "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
            "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
            "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
            "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
            "mlp.up_proj": (INTERMEDIATE, HIDDEN),
            "mlp.down_proj": (HIDDEN, INTERMEDIATE),
        }
        prefix = f"model.layers.{layer}."
        arrays |= {f"{prefix}{name}.weight": matrix(*shape) for name, shape in shapes.items()}
        arrays |= {f"{prefix}{name}.weight": norm() for name in ("input_layernorm", "post_attention_layernorm")}
    return arrays


def config() -> dict[str, Any]:
    """config.json."""
    return {
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "intermediate_size": INTERMEDIATE,
        "vocab_size": len(TOKENS),
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "eos_token_id": 2,
    }


def metadata() -> dict[str, Any]:
    """GGUF metadata."""
    return {
        "general.architecture": "llama",
        "llama.block_count": LAYERS,
        "llama.context_length": CONTEXT,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": INTERMEDIATE,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": KINDS,
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_tensors(arrays: Arrays) -> list[gguf_writer.Tensor]:
    """The same weights as F32 tensors by GGUF's names, Q and K rows permuted."""

    def described(name: str, values: np.ndarray) -> gguf_writer.Tensor:
        module, end = name.rsplit(".", 1)
        prefix = ""
        if module.startswith("model.layers."):
            _, _, layer, module = module.split(".", 3)
            prefix = f"blk.{layer}."
        if module in ("self_attn.q_proj", "self_attn.k_proj"):
            halves = values.reshape(-1, 2, HEAD_DIM // 2, HIDDEN)
            values = halves.swapaxes(1, 2).reshape(values.shape)
        return f"{prefix}{_GGUF_NAMES[module]}.{end}", values.shape, gguf_writer.F32, values.tobytes()

    return [described(name, values) for name, values in arrays.items()]


def write_gguf(path: Path, arrays: Arrays | None = None, **changes: Any) -> Path:
    """A GGUF file; `changes` to the metadata have "__" for a dot, None takes a key away."""
    values = metadata()
    for key, item in changes.items():
        values[key.replace("__", ".")] = item
    kept = {key: item for key, item in values.items() if item is not None}
    return gguf_writer.write(path, kept, gguf_tensors(tensors() if arrays is None else arrays))


def tokenizer_json() -> dict[str, Any]:
    """A byte-level tokenizer.json, digits split, written by hand."""
    return {
        "version": "1.0",
        "added_tokens": [
            {
                "id": index,
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for index, text in enumerate(TOKENS[:3])
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {token: index for index, token in enumerate(TOKENS)},
            "merges": [merge.split(" ") for merge in MERGES],
        },
    }


def write_directory(directory: Path, arrays: Arrays | None = None, **changes: Any) -> Path:
    """A safetensors directory; `changes` to config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors() if arrays is None else arrays, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config() | changes))
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    settings = {"chat_template": CHAT_TEMPLATE, "bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory
