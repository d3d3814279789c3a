"""A BERT-style sentence encoder as data: its shape, its values, and how both are read from a checkpoint."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder described as data."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocab: int
    positions: int
    max_tokens: int
    """Longer texts are cut, special tokens included."""
    norm_eps: float


@dataclass(frozen=True)
class EncoderLayer:
    """One block's values, float32. Matrices are [outputs, inputs]; q, k and v are one matrix [3 * hidden, hidden]."""

    qkv: mx.array
    qkv_bias: mx.array
    output: mx.array
    output_bias: mx.array
    attention_norm: mx.array
    attention_norm_bias: mx.array
    up: mx.array
    up_bias: mx.array
    down: mx.array
    down_bias: mx.array
    mlp_norm: mx.array
    mlp_norm_bias: mx.array


@dataclass(frozen=True)
class EncoderWeights:
    """All values, float32."""

    words: mx.array  # [vocab, hidden]
    positions: mx.array  # [positions, hidden], the embedding of token type 0 added: there is only one segment
    norm: mx.array
    norm_bias: mx.array
    layers: tuple[EncoderLayer, ...]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def read_spec(directory: Path) -> EncoderSpec:
    """The encoder that a directory describes. Raises ValueError for one that is not of this kind."""
    config = _read_json(directory / "config.json")
    for key, wanted in (("model_type", "bert"), ("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
        if config.get(key, wanted) != wanted:
            raise ValueError(f"{directory / 'config.json'} says {key} = {config[key]!r}; accepted: {wanted!r}")
    pooling = directory / "1_Pooling" / "config.json"
    if pooling.is_file() and not _read_json(pooling).get("pooling_mode_mean_tokens"):
        raise ValueError(f"{pooling} asks for another pooling than the mean of the tokens, the only one accepted")
    sentence = directory / "sentence_bert_config.json"
    limit = _read_json(sentence).get("max_seq_length") if sentence.is_file() else None
    positions = config["max_position_embeddings"]
    return EncoderSpec(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=config["num_attention_heads"],
        intermediate=config["intermediate_size"],
        vocab=config["vocab_size"],
        positions=positions,
        max_tokens=min(limit or positions, positions),
        norm_eps=config["layer_norm_eps"],
    )


def read_weights(arrays: dict[str, mx.array], spec: EncoderSpec) -> EncoderWeights:
    """Values by their names in a checkpoint. Raises KeyError for one that is missing, ValueError for a wrong shape."""
    hidden, inner = spec.hidden, spec.intermediate

    def take(name: str, *shape: int) -> mx.array:
        array = arrays[name] if name in arrays else arrays[f"bert.{name}"]
        if array.shape != shape:
            raise ValueError(f"{name} has the shape {array.shape}; the configuration wants {shape}")
        array = array.astype(mx.float32)
        mx.eval(array)
        return array

    def layer(index: int) -> EncoderLayer:
        at = f"encoder.layer.{index}"
        parts = [f"{at}.attention.self.{part}" for part in ("query", "key", "value")]
        qkv = mx.concatenate([take(f"{part}.weight", hidden, hidden) for part in parts])
        qkv_bias = mx.concatenate([take(f"{part}.bias", hidden) for part in parts])
        mx.eval(qkv, qkv_bias)
        return EncoderLayer(
            qkv=qkv,
            qkv_bias=qkv_bias,
            output=take(f"{at}.attention.output.dense.weight", hidden, hidden),
            output_bias=take(f"{at}.attention.output.dense.bias", hidden),
            attention_norm=take(f"{at}.attention.output.LayerNorm.weight", hidden),
            attention_norm_bias=take(f"{at}.attention.output.LayerNorm.bias", hidden),
            up=take(f"{at}.intermediate.dense.weight", inner, hidden),
            up_bias=take(f"{at}.intermediate.dense.bias", inner),
            down=take(f"{at}.output.dense.weight", hidden, inner),
            down_bias=take(f"{at}.output.dense.bias", hidden),
            mlp_norm=take(f"{at}.output.LayerNorm.weight", hidden),
            mlp_norm_bias=take(f"{at}.output.LayerNorm.bias", hidden),
        )

    positions = take("embeddings.position_embeddings.weight", spec.positions, hidden)
    positions = positions + take("embeddings.token_type_embeddings.weight", 2, hidden)[0]
    mx.eval(positions)
    return EncoderWeights(
        words=take("embeddings.word_embeddings.weight", spec.vocab, hidden),
        positions=positions,
        norm=take("embeddings.LayerNorm.weight", hidden),
        norm_bias=take("embeddings.LayerNorm.bias", hidden),
        layers=tuple(map(layer, range(spec.layers))),
    )
