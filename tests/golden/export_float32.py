"""Writes a GGUF llama as a float32 Hugging Face directory, for stock engines to read.

    python -m tests.golden.export_float32 smollm2-135m-instruct /tmp/smollm2-float32

The weights go through the gguf package (not Russet's loader), so that what is computed from them is independent of
it; the tokenizer and the chat template are Russet's.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.numpy import save_file

from actors.worker.models import load_model, locate

_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def export(path_or_alias: str, target: Path) -> None:
    """Write config.json, model.safetensors, tokenizer.json and tokenizer_config.json into `target`."""
    target.mkdir(parents=True, exist_ok=True)
    reader = GGUFReader(locate(path_or_alias)[1])

    def number(key: str) -> float:
        return reader.fields["llama." + key].contents()

    heads, kv_heads = int(number("attention.head_count")), int(number("attention.head_count_kv"))
    tensors = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        module = tensor.name.removesuffix(".weight")
        if module.endswith(("attn_q", "attn_k")):
            values = _unpermuted(values, heads if module.endswith("attn_q") else kv_heads)
        if module.startswith("blk."):
            _, layer, name = module.split(".", 2)
            tensors[f"model.layers.{layer}.{_NAMES[name]}.weight"] = values
        else:
            tensors[_OUTER[module] + ".weight"] = values
    save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, target / "model.safetensors")

    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": int(number("embedding_length")),
        "num_hidden_layers": int(number("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": int(number("feed_forward_length")),
        "vocab_size": tensors["model.embed_tokens.weight"].shape[0],
        "max_position_embeddings": int(number("context_length")),
        "rms_norm_eps": float(number("attention.layer_norm_rms_epsilon")),
        "rope_theta": float(number("rope.freq_base")),
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        "hidden_act": "silu",
        "torch_dtype": "float32",
    }
    (target / "config.json").write_text(json.dumps(config, indent=1))
    vocabulary = load_model(path_or_alias).vocabulary
    (target / "tokenizer.json").write_bytes(vocabulary.tokenizer_json)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": vocabulary.chat_template,
        "clean_up_tokenization_spaces": False,
    }
    (target / "tokenizer_config.json").write_text(json.dumps(settings))


def _unpermuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """GGUF interleaves the two halves of each head's rotated rows; Hugging Face keeps them apart."""
    split = rows.reshape(heads, rows.shape[0] // heads // 2, 2, rows.shape[1])
    return split.swapaxes(1, 2).reshape(rows.shape)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="GGUF path or alias")
    parser.add_argument("target", type=Path, help="directory to write")
    arguments = parser.parse_args()
    export(arguments.model, arguments.target)
