"""GGUF files: the header, read with every count and size checked against the file before anything is allocated.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A file is magic, version, counts, metadata, tensor
descriptions, padding, data. Versions 2 and 3 (little-endian) are read. Values are parsed here, tensors in
`gguf_tensors`.
"""

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from actors.base.errors import InvalidArgument

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_MAX_KEY_BYTES = 65_535
_MAX_DIMENSIONS = 4
_SMALLEST_PAIR = 8 + 4 + 1
_SMALLEST_TENSOR = 8 + 4 + 8 + 4 + 8


@dataclass(frozen=True)
class GgmlType:
    """A tensor's storage: blocks of `block` values in `nbytes` bytes."""

    name: str
    block: int
    nbytes: int


GGML_TYPES = {
    0: GgmlType("F32", 1, 4),
    1: GgmlType("F16", 1, 2),
    2: GgmlType("Q4_0", 32, 18),
    3: GgmlType("Q4_1", 32, 20),
    8: GgmlType("Q8_0", 32, 34),
    30: GgmlType("BF16", 1, 2),
}
"""What is read, by ggml's number. Names of the others, to refuse them by: `_REFUSED_TYPES`."""

_REFUSED_TYPES = {
    6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K",
    16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS",
    24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies. shape: slowest dimension first (a matrix is [N outputs, K inputs])."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    start: int
    nbytes: int


@dataclass(frozen=True)
class GgufFile:
    """A parsed GGUF header and the mapped file.

    metadata: strings, numbers, booleans; arrays as lists of strings or as NumPy arrays.
    header: everything before the tensor data.
    """

    path: Path
    size: int
    version: int
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]
    header: bytes
    data: np.ndarray  # uint8 [size], mapped read-only


def read_gguf(path: Path) -> GgufFile:
    """Map and parse a GGUF file.

    Raises InvalidArgument, naming the file, the offending value and what would be accepted, where the file is not GGUF,
    is truncated or corrupt, or stores tensors in a type that is not read; OSError where it cannot be opened.
    """
    size = path.stat().st_size
    if size < 24:
        _refuse(path, f"{size} bytes are too few for a GGUF header (24 or more): truncated? Download it again")
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    data = np.frombuffer(mapped, np.uint8)
    cursor = _Cursor(path, memoryview(mapped))
    version, tensor_count, pair_count = _read_preamble(cursor)

    metadata: dict[str, Any] = {}
    for _ in range(cursor.count(pair_count, _SMALLEST_PAIR, "metadata entries")):
        key = cursor.string("a metadata key", _MAX_KEY_BYTES)
        if key in metadata:
            _refuse(path, f"metadata key {key!r} appears twice")
        metadata[key] = _read_value(cursor, cursor.scalar("<I"), key)

    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        _refuse(path, f"general.alignment is {alignment!r}; a power of two is accepted")

    described = [
        _read_tensor(cursor) for _ in range(cursor.count(tensor_count, _SMALLEST_TENSOR, "tensor descriptions"))
    ]
    start = -(-cursor.at // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    for name, shape, kind, offset in described:
        nbytes = int(np.prod(shape, dtype=object)) // kind.block * kind.nbytes
        if name in tensors:
            _refuse(path, f"tensor {name!r} is described twice")
        if offset % alignment:
            _refuse(path, f"tensor {name!r} starts at offset {offset}, no multiple of the alignment {alignment}")
        if start + offset + nbytes > size:
            _refuse(
                path,
                f"tensor {name!r} ends at byte {start + offset + nbytes}, the file at {size}: truncated. "
                "Download it again",
            )
        tensors[name] = GgufTensor(name, shape, kind, start + offset, nbytes)
    return GgufFile(path, size, version, metadata, tensors, data[:start].tobytes(), data)


def _read_preamble(cursor: "_Cursor") -> tuple[int, int, int]:
    """(version, tensors, metadata entries) after the magic."""
    magic = cursor.take(4, "the magic")
    if magic != MAGIC:
        _refuse(cursor.path, f"the file begins with {bytes(magic)!r}, a GGUF file with {MAGIC!r}")
    version = cursor.scalar("<I")
    if version not in _VERSIONS:
        if int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS:
            _refuse(cursor.path, "the file is big-endian; little-endian GGUF is accepted")
        _refuse(cursor.path, f"GGUF version {version}; accepted are {_VERSIONS}")
    return version, cursor.scalar("<Q"), cursor.scalar("<Q")


def _read_value(cursor: "_Cursor", kind: int, key: str) -> Any:
    if kind == _STRING:
        return cursor.string(key)
    if kind == _ARRAY:
        return _read_array(cursor, key)
    if kind not in _SCALARS:
        _refuse(cursor.path, f"metadata {key!r} has value type {kind}; GGUF knows 0 to 12")
    return cursor.scalar(_SCALARS[kind])


def _read_array(cursor: "_Cursor", key: str) -> Any:
    kind = cursor.scalar("<I")
    declared = cursor.scalar("<Q")
    if kind == _STRING:
        return cursor.strings(cursor.count(declared, 8, f"strings in {key!r}"), key)
    if kind not in _SCALARS:
        _refuse(cursor.path, f"metadata {key!r} is an array of value type {kind}; numbers and strings are accepted")
    scalar = _SCALARS[kind]
    count = cursor.count(declared, struct.calcsize(scalar), f"values in {key!r}")
    return np.frombuffer(cursor.take(count * struct.calcsize(scalar), key), scalar).copy()


def _read_tensor(cursor: "_Cursor") -> tuple[str, tuple[int, ...], GgmlType, int]:
    """(name, shape slowest first, type, offset into the data)."""
    name = cursor.string("a tensor name", _MAX_KEY_BYTES)
    dimensions = cursor.scalar("<I")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        _refuse(cursor.path, f"tensor {name!r} has {dimensions} dimensions; 1 to {_MAX_DIMENSIONS} are accepted")
    fastest_first = [cursor.scalar("<Q") for _ in range(dimensions)]
    number = cursor.scalar("<I")
    kind = GGML_TYPES.get(number)
    if kind is None:
        accepted = ", ".join(known.name for known in GGML_TYPES.values())
        _refuse(
            cursor.path,
            f"tensor {name!r} is stored as {_REFUSED_TYPES.get(number, f'type {number}')}; accepted are {accepted}. "
            "Requantize the model (llama-quantize) or take another file of it",
        )
    if 0 in fastest_first or fastest_first[0] % kind.block:
        _refuse(
            cursor.path,
            f"tensor {name!r} is {fastest_first}; {kind.name} wants rows of a multiple of {kind.block}, none empty",
        )
    return name, tuple(reversed(fastest_first)), kind, cursor.scalar("<Q")


def _refuse(path: Path, problem: str) -> NoReturn:
    raise InvalidArgument(f"{path}: {problem}.", param="model")


class _Cursor:
    """Reads forward through a file; never past its end."""

    def __init__(self, path: Path, data: memoryview) -> None:
        self.path = path
        self.at = 0
        self._data = data

    def take(self, nbytes: int, what: str) -> memoryview:
        """The next bytes."""
        if nbytes > len(self._data) - self.at:
            _refuse(
                self.path,
                f"{what} at byte {self.at} wants {nbytes} bytes, {len(self._data) - self.at} are left: "
                "truncated or corrupt. Download it again",
            )
        self.at += nbytes
        return self._data[self.at - nbytes : self.at]

    def scalar(self, form: str) -> Any:
        """The next value of a struct format."""
        return struct.unpack(form, self.take(struct.calcsize(form), "a value"))[0]

    def count(self, declared: int, smallest: int, what: str) -> int:
        """`declared`, if that many things of at least `smallest` bytes fit into what is left."""
        left = len(self._data) - self.at
        if declared * smallest > left:
            _refuse(self.path, f"{declared} {what} are declared, but only {left} bytes are left: truncated or corrupt")
        return declared

    def string(self, what: str, most: int | None = None) -> str:
        """The next string: length and UTF-8."""
        nbytes = self.scalar("<Q")
        if most is not None and nbytes > most:
            _refuse(self.path, f"{what} at byte {self.at} is {nbytes} bytes long; {most} are accepted: corrupt")
        return self._text(self.take(nbytes, what), what)

    def strings(self, count: int, what: str) -> list[str]:
        """The next `count` strings: a vocabulary has 100,000, so this loop does nothing but read."""
        data, at, end = self._data, self.at, len(self._data)
        length: Callable[..., tuple[int]] = struct.Struct("<Q").unpack_from
        texts: list[str] = []
        for _ in range(count):
            if at + 8 > end or at + 8 + (nbytes := length(data, at)[0]) > end:
                _refuse(self.path, f"a string of {what} at byte {at} reaches past the end: truncated or corrupt")
            texts.append(self._text(data[at + 8 : at + 8 + nbytes], what))
            at += 8 + nbytes
        self.at = at
        return texts

    def _text(self, raw: memoryview, what: str) -> str:
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError as error:
            _refuse(self.path, f"{what} is not UTF-8 ({error}): corrupt")
