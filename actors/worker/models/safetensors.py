"""Safetensors files: headers checked against the file before use, tensors mapped and copied into MLX when asked for.

Format: https://huggingface.co/docs/safetensors. Eight bytes of header length, a JSON header, the data. A directory
holds one model.safetensors, or several named by model.safetensors.index.json. MLX stores a quantized matrix as
NAME.weight (uint32), NAME.scales and NAME.biases.
"""

import json
import mmap
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

import mlx.core as mx
import numpy as np

from actors.base.errors import InvalidArgument
from kernels.decoder import Quantized, Weight

_MAX_HEADER = 100 << 20
_TYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "U32": np.uint32}
"""What is read. NumPy has no bfloat16: its bits are."""


@dataclass(frozen=True)
class Quantization:
    """Affine quantization as config.json gives it: of all matrices, and of some by module path (None: dense)."""

    bits: int
    group_size: int


@dataclass(frozen=True)
class _Stored:
    kind: str
    shape: tuple[int, ...]
    data: np.ndarray  # uint8


class SafetensorsTensors:
    """The tensors of a model directory. (A `families.TensorSource`.)

    quantization: of every matrix that has scales; overrides: of single ones, by module path.
    """

    def __init__(
        self, directory: Path, quantization: Quantization | None, overrides: dict[str, Quantization] | None = None
    ) -> None:
        self._stored: dict[str, _Stored] = {}
        self._quantization = quantization
        self._overrides = overrides or {}
        self._directory = directory
        headers: list[bytes] = []
        self.size = 0
        for path in _files(directory):
            header, stored = _read_file(path)
            twice = sorted(stored.keys() & self._stored.keys())
            if twice:
                _refuse(path, f"tensor {twice[0]!r} also lies in another file of the model")
            headers.append(header)
            self.size += path.stat().st_size
            self._stored |= stored
        self.header = b"".join(headers)
        # A quantized matrix goes by its .weight alone.
        parts = {
            module + end
            for name in self._stored
            if name.endswith(".scales")
            for module in [name.removesuffix(".scales")]
            for end in (".scales", ".biases")
        }
        self.names = frozenset(self._stored.keys() - parts)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of every tensor of the files, scales and biases too."""
        return {name: stored.data.nbytes for name, stored in self._stored.items()}

    def shape(self, name: str) -> tuple[int, ...]:
        """Slowest dimension first; of a quantized matrix as it stands for."""
        stored, quantization = self._stored[name], self._quantization_of(name)
        if quantization is None or len(stored.shape) < 2:
            return stored.shape
        return *stored.shape[:-1], stored.shape[-1] * 32 // quantization.bits

    def vector(self, name: str) -> mx.array:
        """A dense tensor as float32."""
        return self._dense(name).astype(mx.float32)

    def weight(self, name: str, index: int | None = None) -> Weight:
        """A matrix [N, K]: dense in its own type, or quantized; with an index, that one of a stack."""
        quantization = self._quantization_of(name)
        if quantization is None:
            return self._dense(name, index)
        module = name.removesuffix(".weight")
        *rows, columns = self.shape(name)
        groups = (*rows, columns // quantization.group_size)
        for part in (".scales", ".biases"):
            stored = self._stored.get(module + part)
            if stored is None or stored.shape != groups:
                found = "missing" if stored is None else f"of shape {stored.shape}"
                _refuse(self._directory, f"{module + part!r} is {found}; {groups} is accepted for {quantization}")
        if self._stored[name].kind != "U32":
            _refuse(self._directory, f"{name!r} has scales but is {self._stored[name].kind}; U32 is accepted")
        return Quantized(
            weight=self._array(name, index),
            scales=self._dense(module + ".scales", index),
            biases=self._dense(module + ".biases", index),
            bits=quantization.bits,
            group_size=quantization.group_size,
        )

    def _quantization_of(self, name: str) -> Quantization | None:
        module = name.removesuffix(".weight")
        if module + ".scales" not in self._stored:
            return None
        quantization = self._overrides.get(module, self._quantization)
        if quantization is None:
            _refuse(self._directory, f"{name!r} is quantized, but config.json has no quantization for it")
        return quantization

    def _dense(self, name: str, index: int | None = None) -> mx.array:
        if self._stored[name].kind == "U32":
            _refuse(self._directory, f"{name!r} is U32 without scales; F32, F16 or BF16 is accepted there")
        return self._array(name, index)

    def _array(self, name: str, index: int | None = None) -> mx.array:
        """A tensor as it is stored; with an index, that entry of its first dimension, and nothing else is read."""
        stored = self._stored[name]
        shape, data = stored.shape, stored.data
        if index is not None:
            shape, data = shape[1:], data.reshape(shape[0], -1)[index]
        # A copy, since the format does not align its data.
        array = mx.array(np.frombuffer(data.tobytes(), _TYPES[stored.kind]).reshape(shape))
        return array.view(mx.bfloat16) if stored.kind == "BF16" else array


def _files(directory: Path) -> list[Path]:
    """The model's files, in a fixed order. The index may only name files of the directory itself."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            _refuse(index, "no weight_map that names files")
        names = sorted({str(name) for name in weight_map.values()})
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                _refuse(index, f"names the file {name!r}; *.safetensors beside the index is accepted")
            if not (directory / name).is_file():
                _refuse(index, f"names the file {name!r}, which is missing. Download it again")
        return [directory / name for name in names]
    found = sorted(directory.glob("*.safetensors"))
    if not found:
        _refuse(directory, "no *.safetensors in this directory")
    return found


def _read_file(path: Path) -> tuple[bytes, dict[str, _Stored]]:
    """(length and header, tensors) of one file."""
    size = path.stat().st_size
    if size < 10:
        _refuse(path, f"{size} bytes are too few for safetensors: truncated? Download it again")
    with path.open("rb") as file:
        data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > min(_MAX_HEADER, size - 8):
        _refuse(path, f"the header is {length} bytes, the file {size}; up to {_MAX_HEADER} is accepted: corrupt")
    raw = data[: 8 + length].tobytes()
    start = 8 + length
    stored: dict[str, _Stored] = {}
    for name, entry in _parse_json(raw[8:], path).items():
        if name == "__metadata__":
            continue
        kind, shape, begin, end = _entry(name, entry, path)
        if end > size - start:
            _refuse(
                path, f"tensor {name!r} ends at byte {start + end}, the file at {size}: truncated. Download it again"
            )
        wanted = prod(shape) * np.dtype(_TYPES[kind]).itemsize
        if end - begin != wanted:
            _refuse(path, f"tensor {name!r} ({kind} {shape}) has {end - begin} bytes, not {wanted}: corrupt")
        stored[name] = _Stored(kind, shape, data[start + begin : start + end])
    return raw, stored


def _entry(name: str, entry: Any, path: Path) -> tuple[str, tuple[int, ...], int, int]:
    """(type, shape, first byte, end) of a header entry, each what it has to be."""
    kind = entry.get("dtype") if isinstance(entry, dict) else None
    if kind not in _TYPES:
        _refuse(path, f"tensor {name!r} has dtype {kind!r}; accepted are {', '.join(_TYPES)}")
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not _is_counts(shape) or not _is_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(path, f"tensor {name!r} has shape {shape!r} and data_offsets {offsets!r}: corrupt")
    return kind, tuple(shape), offsets[0], offsets[1]


def _is_counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bounded size. Raises InvalidArgument where it is none, NotFound by the caller."""
    size = path.stat().st_size
    if size > _MAX_HEADER:
        _refuse(path, f"{size} bytes; up to {_MAX_HEADER} are accepted")
    return _parse_json(path.read_bytes(), path)


def _parse_json(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        _refuse(path, f"no valid JSON ({error}): corrupt. Download it again")
    if not isinstance(value, dict):
        _refuse(path, f"the JSON is {type(value).__name__}; an object is accepted")
    return value


def _refuse(path: Path, problem: str) -> NoReturn:
    raise InvalidArgument(f"{path}: {problem}.", param="model")
