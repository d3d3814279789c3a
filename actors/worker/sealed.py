"""A unit of KV as it lies on disk and travels to other workers: sealed under the cluster key, bound to what it is.

    magic and version (8)  length of the unit, little-endian (8)  salt (16)  piece 0  piece 1  ...

A piece is PIECE bytes of the unit (the last may be fewer), sealed by actors.base.keys with a context of this head, the
piece's number, and what the unit is: its key, the maker (model revision, instruction set, rounding) and the format. So
a file that was damaged, cut, renamed, or made for another model or under another key does not open, and the salt
keeps pieces of two files apart.
"""

import secrets
import struct
from collections.abc import Iterator

from actors.base.errors import InvalidArgument
from actors.base.keys import SEAL_BYTES, Keyring

KEY_BYTES = 16
PIECE = 64 << 10
"""Python's lock is held while a piece is sealed or opened (some 20 us), and may be had by others between two."""

_HEAD = struct.Struct("<8sQ16s")
_MAGIC = b"RussetK\x01"
"""The last byte counts up when this layout changes, or that of any format of KV in memory."""


def sealed_bytes(unit_bytes: int) -> int:
    """Bytes of a unit of `unit_bytes` once it is sealed."""
    return _HEAD.size + unit_bytes + -(-unit_bytes // PIECE) * SEAL_BYTES


class Sealer:
    """Seals and opens units. `maker` names whose values they are: units of another maker do not open."""

    def __init__(self, keyring: Keyring, maker: str) -> None:
        self._keyring = keyring
        self._maker = maker

    def seal(self, key: bytes, form: str, unit: memoryview) -> Iterator[bytes]:
        """What to write for `unit` (bytes), part by part."""
        head = _HEAD.pack(_MAGIC, len(unit), secrets.token_bytes(16))
        yield head
        for number, at in enumerate(range(0, len(unit), PIECE)):
            yield self._keyring.seal(unit[at : at + PIECE], self._context(head, number, key, form))

    def open(self, key: bytes, form: str, sealed: memoryview, into: memoryview) -> None:
        """Fill `into`, which has the unit's length. Raises InvalidArgument where `sealed` is anything else.

        `into` may then have been filled in part.
        """
        if len(sealed) != sealed_bytes(len(into)):
            raise InvalidArgument(f"{len(sealed)} bytes instead of {sealed_bytes(len(into))}")
        head = bytes(sealed[: _HEAD.size])
        magic, length, _ = _HEAD.unpack(head)
        if magic != _MAGIC or length != len(into):
            raise InvalidArgument(f"it begins with {magic!r} and {length} instead of {_MAGIC!r} and {len(into)}")
        at = _HEAD.size
        for number, filled in enumerate(range(0, length, PIECE)):
            size = min(PIECE, length - filled)
            piece = sealed[at : at + size + SEAL_BYTES]
            into[filled : filled + size] = self._keyring.open(piece, self._context(head, number, key, form))
            at += len(piece)

    def _context(self, head: bytes, number: int, key: bytes, form: str) -> bytes:
        what = f"{self._maker}\0{form}".encode()
        return b"russet kv unit\0" + head + number.to_bytes(8, "little") + key + what
