"""A random mixture of experts over the default model's tokens, and the routing traces of real text through it.

Random gates are nearly uniform: every expert is as likely as every other. Those of trained models are not, so there
is a second model whose gates are the centroids of clusters (k-means) of what the gates see on text: tokens alike go
through experts alike, and some clusters are larger than others. Experts stay random.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from actors.base.vocabulary import Vocabulary
from actors.worker.models import load_model
from kernels.decoder import (
    Batch,
    Decoder,
    DecoderSpec,
    DecoderWeights,
    Expert,
    LayerWeights,
    MixtureSpec,
    MixtureWeights,
    Quantized,
    Rope,
)
from kernels.interpreter import MlxDecoder
from kernels.paging import bucket
from kernels.reference import mixture
from tests.benchmarks.harness import ROOT

LAYERS, HIDDEN, HEADS, WIDTH, EXPERTS, TOP_K = 4, 64, 4, 64, 64, 8
ROW = 256
"""Tokens of a row at most."""

Floats = NDArray[np.float32]


class Model(NamedTuple):
    """A decoder's parts."""

    spec: DecoderSpec
    weights: DecoderWeights


def texts(rows: int) -> list[list[int]]:
    """Token ids of questions with their answers ($RUSSET_DATA/text), each as a row."""
    data = Path(os.environ.get("RUSSET_DATA", ROOT.parent / "shared" / "data")) / "text" / "gsm8k_train.jsonl"
    vocabulary = Vocabulary(load_model("smollm2-135m-instruct").vocabulary)
    with data.open() as lines:
        entries = [json.loads(line) for line, _ in zip(lines, range(rows), strict=False)]
    return [vocabulary.encode(f"{entry['question']}\n{entry['answer']}\n")[:ROW] for entry in entries]


def random_model(seed: int = 0) -> Model:
    """Experts are 4-bit, all else is float32."""
    random = np.random.default_rng(seed)
    vocab = load_model("smollm2-135m-instruct").spec.vocab
    frequencies = tuple(float(f) for f in 10_000.0 ** (-np.arange(HIDDEN // HEADS // 2) / (HIDDEN // HEADS // 2)))
    spec = DecoderSpec(
        LAYERS, HIDDEN, HEADS, HEADS, HIDDEN // HEADS, WIDTH, vocab, 2048, 1e-5, Rope(frequencies, interleaved=False),
        mixture=MixtureSpec(EXPERTS, TOP_K, WIDTH, normalize=True),
    )  # fmt: skip

    def matrix(rows: int, columns: int) -> mx.array:
        return mx.array((random.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32))

    def small(rows: int, columns: int) -> Quantized:
        return Quantized(*mx.quantize(matrix(rows, columns), 32, 4), 4, 32)

    def layer() -> LayerWeights:
        experts = [Expert(small(WIDTH, HIDDEN), small(WIDTH, HIDDEN), small(HIDDEN, WIDTH)) for _ in range(EXPERTS)]
        return LayerWeights(
            mx.ones(HIDDEN), *(matrix(HIDDEN, HIDDEN) for _ in range(4)), mx.ones(HIDDEN), None, None, None,
            mixture=MixtureWeights(matrix(EXPERTS, HIDDEN), experts),
        )  # fmt: skip

    layers = tuple(layer() for _ in range(LAYERS))
    return Model(spec, DecoderWeights(matrix(vocab, HIDDEN), layers, mx.ones(HIDDEN), matrix(vocab, HIDDEN)))


def shaped(model: Model, rows: list[list[int]]) -> Model:
    """The same with gates that are centroids of what each layer's gate sees, layer after layer."""
    for index in range(LAYERS):
        layer = model.weights.layers[index]
        assert layer.mixture is not None
        # The logits by unit rows are what the gate sees. (There are as many experts as it has inputs.)
        seeing = replace(layer.mixture, router=mx.eye(HIDDEN))
        with mock.patch.object(mixture, "choose", seen := _Seen()):
            _forward(MlxDecoder(model.spec, _with(model.weights, index, seeing)), rows)
        centroids = _k_means(np.concatenate(seen.logits[index::LAYERS]), EXPERTS)
        gates = mx.array(centroids / np.linalg.norm(centroids, axis=1, keepdims=True))
        model = Model(model.spec, _with(model.weights, index, replace(layer.mixture, router=gates)))
    return model


def trace(model: Model, rows: list[list[int]]) -> Floats:
    """Router logits [layers, tokens, experts] of the rows, one after the other."""
    with mock.patch.object(mixture, "choose", seen := _Seen()):
        _forward(MlxDecoder(*model), rows)
    return np.stack([np.concatenate(seen.logits[index::LAYERS]) for index in range(LAYERS)])


def _with(weights: DecoderWeights, index: int, changed: MixtureWeights) -> DecoderWeights:
    layers = list(weights.layers)
    layers[index] = replace(layers[index], mixture=changed)
    return replace(weights, layers=tuple(layers))


class _Seen:
    """Stands for reference.choose, and keeps the logits of real tokens."""

    def __init__(self) -> None:
        self.logits: list[Floats] = []
        self._choose = mixture.choose

    def __call__(self, logits: mx.array, *arguments, **named):
        self.logits.append(np.array(logits))
        return self._choose(logits, *arguments, **named)


def _forward(decoder: MlxDecoder, rows: list[list[int]]) -> None:
    pages = ROW // 16
    kv = decoder.allocate_kv(pages, 16)
    for row in rows:
        length = next(length for length in range(len(row), 0, -1) if bucket(length) == length)  # none is padding
        decoder.forward(batch(row[:length], 0, pages), kv)


def batch(tokens: list[int], before: int, pages: int) -> Batch:
    """Tokens of a row after `before` others, on pages 0, 1, ...; logits of them all."""
    return Batch(
        np.array(tokens, np.int32),
        np.array([0, len(tokens)], np.int32),
        np.array([before], np.int32),
        np.arange(pages, dtype=np.int32)[None],
        np.arange(len(tokens), dtype=np.int32),
    )


def told(decoder: Decoder, rows: list[list[int]]) -> Iterator[Floats]:
    """Logits [vocab] after each token, computed token by token as decoding does."""
    pages = ROW // 16
    kv = decoder.allocate_kv(pages, 16)
    for row in rows:
        for place, token in enumerate(row):
            yield np.array(decoder.forward(batch([token], place, pages), kv)[0])


def _k_means(points: Floats, clusters: int, rounds: int = 15) -> Floats:
    random = np.random.default_rng(0)
    centroids = points[random.choice(len(points), clusters, replace=False)]
    for _ in range(rounds):
        distances = (centroids**2).sum(1) - 2 * points @ centroids.T
        nearest = distances.argmin(1)
        for cluster in range(clusters):
            own = points[nearest == cluster]
            centroids[cluster] = own.mean(0) if len(own) else points[random.integers(len(points))]
    return centroids
