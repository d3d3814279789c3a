"""Models: files and directories as a decoder's spec, weights and vocabulary.

`load_model` is the way in. A family of models is a row of data in `families`; the formats are `gguf` (one file) and
`hugging_face` (a directory with safetensors, MLX's quantization included).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx

from actors.worker.models.catalogue import ALIASES, locate
from actors.worker.models.gguf import read_gguf
from actors.worker.models.gguf_llama import gguf_decoder
from actors.worker.models.gguf_tokenizer import vocabulary_message
from actors.worker.models.hugging_face import hugging_face_decoder, hugging_face_vocabulary
from kernels.decoder import DecoderSpec, DecoderWeights, MixtureWeights, Quantized, Weight
from protos.gen import worker_pb2

__all__ = ["ALIASES", "LoadedModel", "load_model", "locate"]


@dataclass(frozen=True)
class LoadedModel:
    """All that a worker needs of a model. info.kv_bytes_per_token is 0: the slab's format decides it."""

    spec: DecoderSpec
    weights: DecoderWeights
    vocabulary: worker_pb2.Vocabulary
    info: worker_pb2.ModelInfo


def load_model(path_or_alias: str) -> LoadedModel:
    """Load a GGUF file, a safetensors directory, or an alias of `ALIASES`.

    Raises NotFound where there is no such model; InvalidArgument, saying what is wrong and what is accepted, where
    the file is truncated, corrupt or not supported.
    """
    name, path = locate(path_or_alias)
    if path.is_dir():
        family, spec, weights, tensors = hugging_face_decoder(path)
        header, size = (path / "config.json").read_bytes() + tensors.header, tensors.size
        vocabulary = hugging_face_vocabulary(path, spec.vocab)
    else:
        file = read_gguf(path)
        family, spec, weights = gguf_decoder(file)
        header, size = file.header, file.size
        vocabulary = vocabulary_message(file.metadata, spec.vocab, path)
    info = worker_pb2.ModelInfo(
        id=name,
        family=family.name,
        revision=_revision(header, size),
        context_length=spec.context_length,
        weight_bytes=sum(count * _nbytes(weight) for weight, count in _distinct(weights)),
        parameters=sum(count * _count(weight) for weight, count in _distinct(weights)),
    )
    return LoadedModel(spec, weights, vocabulary, info)


def _revision(header: bytes, size: int) -> str:
    """SHA-256 over header bytes and size: names the weights without reading them all."""
    return hashlib.sha256(header + size.to_bytes(8, "little")).hexdigest()


def _distinct(weights: DecoderWeights) -> Iterator[tuple[Weight, int]]:
    """Every stored tensor once, and how many of its kind there are: a tied head is the embedding."""
    yield weights.embedding, 1
    yield weights.final_norm, 1
    if weights.head is not weights.embedding:
        yield weights.head, 1
    for layer in weights.layers:
        for value in vars(layer).values():
            if value is not None and not isinstance(value, MixtureWeights):
                yield value, 1
        if layer.mixture is None:
            continue
        yield layer.mixture.router, 1
        if layer.mixture.shared_gate is not None:
            yield layer.mixture.shared_gate, 1
        for matrix in layer.mixture.experts[0]:  # all are of one form
            yield matrix, len(layer.mixture.experts)


def _nbytes(weight: Weight) -> int:
    if isinstance(weight, mx.array):
        return weight.nbytes
    return weight.weight.nbytes + weight.scales.nbytes + weight.biases.nbytes


def _count(weight: Weight) -> int:
    if isinstance(weight, Quantized):
        rows, columns = weight.shape
        return rows * columns
    return weight.size
