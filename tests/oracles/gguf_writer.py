"""Writes GGUF files, so that tests can make any file, and any mistake in one."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 4, 5, 6, 7, 8, 9, 10
ALIGNMENT = 32
F32, F16, Q4_0, Q4_1, Q8_0, BF16 = 0, 1, 2, 3, 8, 30

Tensor = tuple[str, Sequence[int], int, bytes]
"""(name, shape slowest first, ggml type, data)"""


def string(text: str) -> bytes:
    """Length and UTF-8."""
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(item: Any) -> bytes:
    """Type and value: bool, int (uint32), float, str, list of str, or an array of int32 or float32."""
    if isinstance(item, bool):
        return struct.pack("<I?", BOOL, item)
    if isinstance(item, int):
        return struct.pack("<II", UINT32, item)
    if isinstance(item, float):
        return struct.pack("<If", FLOAT32, item)
    if isinstance(item, str):
        return struct.pack("<I", STRING) + string(item)
    if isinstance(item, np.ndarray):
        kind = {np.dtype(np.int32): INT32, np.dtype(np.float32): FLOAT32}[item.dtype]
        return struct.pack("<IIQ", ARRAY, kind, item.size) + item.tobytes()
    return struct.pack("<IIQ", ARRAY, STRING, len(item)) + b"".join(map(string, item))


def _pieces(metadata: Mapping[str, Any], tensors: Sequence[Tensor], version: int) -> Iterator[bytes]:
    head = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(metadata))
    head += b"".join(string(key) + value(item) for key, item in metadata.items())
    offset = 0
    for name, shape, kind, raw in tensors:
        head += string(name) + struct.pack("<I", len(shape))
        head += struct.pack(f"<{len(shape)}Q", *reversed(shape)) + struct.pack("<IQ", kind, offset)
        offset += len(raw) + -len(raw) % ALIGNMENT
    yield head + bytes(-len(head) % ALIGNMENT)
    for _, _, _, raw in tensors:
        yield raw
        yield bytes(-len(raw) % ALIGNMENT)


def gguf_bytes(metadata: Mapping[str, Any], tensors: Sequence[Tensor] = (), version: int = 3) -> bytes:
    """A whole file, data aligned to 32 bytes."""
    return b"".join(_pieces(metadata, tensors, version))


def write(path: Path, metadata: Mapping[str, Any], tensors: Sequence[Tensor] = ()) -> Path:
    """Write the file tensor by tensor, return its path."""
    with path.open("wb") as file:
        file.writelines(_pieces(metadata, tensors, 3))
    return path
