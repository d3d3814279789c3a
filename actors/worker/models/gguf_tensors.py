"""GGUF tensors as MLX arrays: dense types as they are, 4- and 8-bit blocks as affine groups of 32, bit for bit.

A block of 32 values is a float16 scale d (Q4_1: and a minimum m) and integers:
Q4_0: d * (q - 8), Q4_1: d * q + m, Q8_0: d * q with q signed. Each is scale * q + bias of `Quantized`.
"""

from dataclasses import replace

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from actors.base.errors import InvalidArgument
from actors.worker.models.gguf import GgufFile, GgufTensor
from kernels.decoder import Quantized, Weight

_GROUP = 32
_DENSE = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


class GgufTensors:
    """The tensors of one file, decoded when asked for. (A `families.TensorSource`.)"""

    def __init__(self, file: GgufFile) -> None:
        self.names = frozenset(file.tensors)
        self._file = file

    def shape(self, name: str) -> tuple[int, ...]:
        """Slowest dimension first."""
        return self._file.tensors[name].shape

    def vector(self, name: str) -> mx.array:
        """A dense tensor as float32."""
        tensor = self._file.tensors[name]
        if tensor.type.name not in _DENSE:
            raise InvalidArgument(
                f"{self._file.path}: tensor {name!r} is {tensor.type.name}; F32, F16 or BF16 is accepted there.",
                param="model",
            )
        return self._dense(tensor).astype(mx.float32)

    def weight(self, name: str, index: int | None = None) -> Weight:
        """A matrix [N, K]: dense in its own type, or quantized; with an index, that one of a stack."""
        tensor = self._file.tensors[name]
        if index is not None:
            nbytes = tensor.nbytes // tensor.shape[0]
            start = tensor.start + index * nbytes
            tensor = replace(tensor, shape=tensor.shape[1:], start=start, nbytes=nbytes)
        if tensor.type.name in _DENSE:
            return self._dense(tensor)
        rows, columns = tensor.shape
        blocks = self._bytes(tensor).reshape(-1, tensor.type.nbytes)
        scales = self._halves(blocks[:, 0:2], tensor)
        if tensor.type.name == "Q8_0":
            packed, biases, bits = _offset_signed(blocks[:, 2:]), _times(scales, -128), 8
        elif tensor.type.name == "Q4_0":
            packed, biases, bits = _pack_nibbles(blocks[:, 2:]), _times(scales, -8), 4
        else:
            packed, biases, bits = _pack_nibbles(blocks[:, 4:]), self._halves(blocks[:, 2:4], tensor), 4
        if not np.isfinite(biases).all():
            self._corrupt(tensor)
        groups = (rows, columns // _GROUP)
        return Quantized(
            weight=mx.array(packed.reshape(rows, -1)),
            scales=mx.array(scales.reshape(groups)),
            biases=mx.array(biases.reshape(groups)),
            bits=bits,
            group_size=_GROUP,
        )

    def _bytes(self, tensor: GgufTensor) -> NDArray[np.uint8]:
        return self._file.data[tensor.start : tensor.start + tensor.nbytes]

    def _dense(self, tensor: GgufTensor) -> mx.array:
        values = self._bytes(tensor).view(_DENSE[tensor.type.name]).reshape(tensor.shape)
        array = mx.array(values)
        return array.view(mx.bfloat16) if tensor.type.name == "BF16" else array

    def _halves(self, raw: NDArray[np.uint8], tensor: GgufTensor) -> NDArray[np.float16]:
        """float16 values, one per block; a weight that is no number is a corrupt file, not a model."""
        values = np.ascontiguousarray(raw).view(np.float16).reshape(-1)
        if not np.isfinite(values).all():
            self._corrupt(tensor)
        return values

    def _corrupt(self, tensor: GgufTensor) -> None:
        raise InvalidArgument(
            f"{self._file.path}: tensor {tensor.name!r} ({tensor.type.name}) has a scale that is not a finite float16: "
            "corrupt. Download it again.",
            param="model",
        )


def _times(scales: NDArray[np.float16], factor: int) -> NDArray[np.float16]:
    """Exact, being a power of two; infinite where float16 ends, which the caller refuses."""
    with np.errstate(over="ignore"):
        return scales * np.float16(factor)


def _pack_nibbles(blocks: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """[B, 16] bytes, value j in the low half of byte j and value j + 16 in its high half -> [B, 4] words, in order."""
    pairs = np.ascontiguousarray(blocks).view(np.uint64)
    return np.stack([_squeeze(pairs), _squeeze(pairs >> np.uint64(4))], axis=1).reshape(len(blocks), 4)


def _squeeze(bytes_: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """The low halves of 8 bytes as one word, the first lowest."""
    values = bytes_ & np.uint64(0x0F0F0F0F0F0F0F0F)
    values = (values | values >> np.uint64(4)) & np.uint64(0x00FF00FF00FF00FF)
    values = (values | values >> np.uint64(8)) & np.uint64(0x0000FFFF0000FFFF)
    return (values | values >> np.uint64(16)).astype(np.uint32)


def _offset_signed(blocks: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """[B, 32] signed bytes -> [B, 8] words of bytes 128 higher, unsigned."""
    return (np.ascontiguousarray(blocks) ^ np.uint8(0x80)).view(np.uint32)
